"""Baselines that train little or nothing on the target, and labels that source and target share by name."""

import numpy as np
import pytest
import torch
from datasets import Value, concatenate_datasets
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from merlin_hf.methods.embeddings import L2, ScikitLearnHead
from merlin_hf.transfer.shared_labels import match_labels
from tests.methods.support import (
    a_pretrained_bert,
    build,
    features_of,
    inputs_of,
    partly_labelled,
    source_rows,
    source_rows_of_same_labels,
    weights,
)
from tests.tiny import tiny_bert, tiny_dataset


def spread(features):
    return (features - features.mean(0)).var(0).sum()


# Embeddings


def check_equals_scikit_learn(trainer, features, labels):
    """The predictions and the probabilities of the trainer's model, and the regulariser that it has chosen."""
    prediction = trainer.predict(trainer.train_dataset)
    l2 = prediction.metrics["test_head_l2"]
    fitted = LogisticRegression(C=1 / (l2 * spread(features)), tol=1e-10, max_iter=10_000).fit(features, labels)
    logits = torch.tensor(prediction.predictions).double()
    assert logits.argmax(-1).tolist() == fitted.predict(features).tolist()
    np.testing.assert_allclose(logits.softmax(-1).numpy(), fitted.predict_proba(features), atol=1e-4)
    return l2


def test_embeddings_are_logistic_regression_on_the_features(tmp_path):
    target = tiny_dataset(rows=45)
    model = a_pretrained_bert(dropout=0.1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    features, labels = features_of(model, target), np.array(target["label"])
    trainer = build("embeddings", tmp_path, model=model, target=target)
    generator = torch.get_rng_state()
    trainer.train()
    assert torch.equal(torch.get_rng_state(), generator)
    after = model.state_dict()
    assert {n for n, w in before.items() if not torch.equal(w, after[n])} == {"classifier.weight", "classifier.bias"}
    assert trainer.state.global_step == 0
    l2 = check_equals_scikit_learn(trainer, features, labels)

    # The choice of the regulariser, written out.
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    losses = []
    for candidate in L2:
        model = LogisticRegression(C=1 / (candidate * spread(features)), max_iter=10_000, tol=1e-8)
        losses.append(log_loss(labels, cross_val_predict(model, features, labels, cv=folds, method="predict_proba")))
    assert l2 == pytest.approx(L2[int(np.argmin(losses))])


@pytest.mark.parametrize("kind", ["two classes", "some unlabelled", "a class of one row", "a class without rows"])
def test_embeddings_of_other_targets(tmp_path, kind):
    """Whatever classes there are, the head has all outputs, and those without rows are never predicted."""
    target, model = tiny_dataset(rows=30), a_pretrained_bert()
    labels = np.array(target["label"])
    if kind == "two classes":
        model.num_labels = model.config.num_labels = 2
        model.classifier = torch.nn.Linear(32, 2)
        labels = labels % 2
    elif kind == "a class of one row":
        labels[labels == 2] = 1
        labels[0] = 2
    elif kind == "a class without rows":
        labels = np.where(labels == 1, 0, labels)
    if kind == "some unlabelled":
        target = partly_labelled(target)
        labels = np.array(target["label"])
    else:
        target = target.remove_columns("label").add_column("label", labels.tolist())
    trainer = build("embeddings", tmp_path, model=model, target=target, eval_dataset=target)
    trainer.train()
    known, features = labels != -100, features_of(model, target)
    prediction = trainer.predict(target)
    l2 = prediction.metrics["test_head_l2"]
    assert np.isclose(l2, L2).any()
    fitted = LogisticRegression(C=1 / (l2 * spread(features[known])), tol=1e-10, max_iter=10_000)
    fitted.fit(features[known], labels[known])
    assert prediction.predictions.argmax(-1).tolist() == fitted.predict(features).tolist()


def test_embeddings_of_real_labels_are_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    y = x[:, :1] + 3 + torch.randn(40, 1, generator=generator, dtype=torch.float64) / 4
    head = ScikitLearnHead(problem_type="regression").fit_batches([(x[:25], y[:25], None), (x[25:], y[25:], None)])
    alphas = np.array(L2) * spread(x.numpy())
    fitted = RidgeCV(alphas).fit(x.numpy(), y.numpy().ravel())
    np.testing.assert_allclose(head(x).numpy().ravel(), fitted.predict(x.numpy()), rtol=1e-6)


def test_several_labels_are_a_regression_each():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    y = (x[:, :2] + torch.randn(60, 2, generator=generator, dtype=torch.float64) / 2 > 0).double()
    head = ScikitLearnHead(problem_type="multi_label_classification").fit_batches([(x, y, None)], 0.1)
    for column in range(2):
        fitted = LogisticRegression(C=1 / (0.1 * spread(x.numpy())), tol=1e-10, max_iter=10_000).fit(x, y[:, column])
        np.testing.assert_allclose(head(x)[:, column], fitted.decision_function(x), atol=1e-5)


# The source alone


def test_the_source_probe_takes_no_gradient_from_the_target(tmp_path):
    target = tiny_dataset(rows=30)
    shuffled = target.remove_columns("label").add_column("label", target["label"][::-1])
    trainers = []
    for rows in (target, shuffled):
        model = a_pretrained_bert(dropout=0.1)
        trainer = build("source_probe", tmp_path, model=model, target=rows, max_steps=5, learning_rate=1e-2)
        trainer.train()
        trainers.append(trainer)
    one, other = (weights(trainer) for trainer in trainers)
    head = {"model.classifier.weight", "model.classifier.bias"}
    assert {name for name in one if not torch.equal(one[name], other[name])} == head
    assert not torch.equal(one["model.bert.pooler.dense.weight"], a_pretrained_bert().bert.pooler.dense.weight)
    features = features_of(trainers[0].model, target)
    check_equals_scikit_learn(trainers[0], features, np.array(target["label"]))
    entries = [entry for entry in trainers[0].state.log_history if "loss" in entry]
    assert all(entry["loss"] == pytest.approx(entry["source_loss"], rel=1e-3) for entry in entries)


@pytest.mark.parametrize("names", [("class2", "class0", "class1"), ("Class2", "CLASS0", "class1")])
def test_zero_shot_is_the_source_model_with_permuted_outputs(tmp_path, caplog, names):
    source = source_rows_of_same_labels(names)
    trainer = build("zero_shot", tmp_path, model=a_pretrained_bert(), source=source, max_steps=5, learning_rate=1e-2)
    trainer.train()
    trainer.save_model()
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    rows = tiny_dataset(rows=12, seed=2)
    with torch.no_grad():
        logits = trainer.transfer_model.source_head(torch.tensor(features_of(trainer.model, rows)).float())
        found = saved(**inputs_of(rows)).logits
    torch.testing.assert_close(found, logits[:, [1, 2, 0]], rtol=1e-5, atol=1e-5)
    assert any("upper and lower case" in r.message for r in caplog.records) == (names[0] == "Class2")


def without_names(dataset):
    return dataset.cast_column("label", Value("int64"))


@pytest.mark.parametrize("method", ["zero_shot", "pooled"])
@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        (source_rows(), tiny_dataset(), r"\['class0', 'class1', 'class2', 'class3'\], the target \['class0'"),
        (without_names(source_rows_of_same_labels()), tiny_dataset(), "no names"),
        (source_rows_of_same_labels(["a", "b", "c"]), tiny_dataset(), r"\['a', 'b', 'c'\]"),
        (source_rows_of_same_labels(), without_names(tiny_dataset()), "LABEL_0"),
    ],
)
def test_other_labels_are_refused(tmp_path, method, source, target, told):
    with pytest.raises(ValueError, match=f"needs a source whose labels have the names of the target's.*{told}"):
        build(method, tmp_path, source=source, target=target)


def test_the_names_of_the_models_outputs_count(tmp_path):
    """Where the target's data set has none."""
    model = tiny_bert()
    model.config.id2label = {0: "class1", 1: "class2", 2: "class0"}
    model.config.label2id = {name: id for id, name in model.config.id2label.items()}
    options = {"max_steps": 2, "learning_rate": 1e-9, "eval_dataset": without_names(tiny_dataset(rows=12))}
    target, source = without_names(tiny_dataset()), source_rows_of_same_labels()
    trainer = build("sequential", tmp_path, model=model, source=source, target=target, **options)
    trainer.train()
    head = trainer.transfer_model.source_head.weight
    torch.testing.assert_close(model.classifier.weight, head[[2, 0, 1]], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "target", "places"),
    [
        (["a", "b"], ["b", "a"], [1, 0]),
        (["a", "b"], ["a", "b", "c"], None),
        (["a", "b"], ["a", "c"], None),
        (["0", "1"], ["0", "1"], None),
        (["LABEL_0", "LABEL_1"], ["LABEL_0", "LABEL_1"], None),
        (None, ["a"], None),
        (["Yes", "no"], ["no", "yes"], [1, 0]),
    ],
)
def test_names_are_matched(source, target, places):
    assert match_labels(source, target) == places


# One head


def test_pooled_is_one_trainer_on_the_concatenated_rows(tmp_path):
    target, source = tiny_dataset(), source_rows_of_same_labels()
    trainer = build("pooled", tmp_path / "a", model=tiny_bert(dropout=0.1), target=target, source=source, max_steps=8)
    trainer.train()
    renamed = [[2, 0, 1][label] for label in source["label"]]
    renamed = source.remove_columns("label").add_column("label", renamed, feature=target.features["label"])
    plain = Trainer(
        tiny_bert(dropout=0.1),
        TrainingArguments(
            str(tmp_path / "b"), per_device_train_batch_size=8, max_steps=8, learning_rate=1e-3, logging_steps=1,
            report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no",
        ),
        train_dataset=concatenate_datasets([target, renamed]),
    )  # fmt: skip
    plain.train()
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, trainer.model.state_dict()[name]), name
    losses = [[e["loss"] for e in one.state.log_history if "loss" in e] for one in (trainer, plain)]
    assert losses[0] == losses[1] and trainer.train_dataset is not None and len(trainer.train_dataset) == 24


@pytest.mark.parametrize("argument", ["source_collator", "source_compute_loss_func"])
def test_pooled_has_one_collator_and_one_loss(tmp_path, argument):
    from merlin_hf.methods import PooledTrainer

    with pytest.raises(ValueError, match=f"leave out `{argument}`"):
        PooledTrainer(
            tiny_bert(),
            PooledTrainer.training_args_class(str(tmp_path), use_cpu=True, report_to="none"),
            train_dataset=tiny_dataset(),
            source_dataset=source_rows_of_same_labels(),
            **{argument: lambda *given: None},
        )


# Going on with the source's head


@pytest.mark.parametrize("starts", [True, False])
def test_sequential_training_goes_on_with_the_sources_head(tmp_path, starts):
    """With a learning rate that moves nothing to see, the target's head is the source's, or what it was."""
    model = tiny_bert()
    first = model.classifier.weight.detach().clone()
    trainer = build(
        "sequential", tmp_path, model=model, target=tiny_dataset(), source=source_rows_of_same_labels(),
        max_steps=4, learning_rate=1e-9, start_from_source_head=starts,
    )  # fmt: skip
    trainer.train()
    expected = trainer.transfer_model.source_head.weight[[1, 2, 0]] if starts else first
    torch.testing.assert_close(model.classifier.weight, expected, rtol=0, atol=1e-6)


# Weights in between


@pytest.mark.parametrize("source", ["none", "other labels", "same labels"])
@pytest.mark.parametrize("mix", ["0", "1", "0.25"])
def test_mixed_weights(tmp_path, source, mix):
    """Before is what fine-tuning started from, and after what it led to."""
    seen = {}

    class Watching(build("wise_ft", tmp_path, source=False).__class__):
        def start_phase(self, phase):
            super().start_phase(phase)
            seen["before"] = {name: w.clone() for name, w in self.model.state_dict().items()}

        def mix_weights(self):
            if not self._is_mixed:
                seen["after"] = {name: w.clone() for name, w in self.model.state_dict().items()}
            super().mix_weights()

    rows = {"none": False, "other labels": source_rows(), "same labels": source_rows_of_same_labels()}[source]
    trainer = build(
        "wise_ft", tmp_path, model=a_pretrained_bert(0.1), target=tiny_dataset(), source=rows,
        trainer_class=Watching, mix=mix, max_steps=6, learning_rate=1e-2, save_strategy="steps", save_steps=6,
    )  # fmt: skip
    trainer.train()
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6").state_dict()
    changed = 0
    for name, weight in trainer.model.state_dict().items():
        before, after = seen["before"][name], seen["after"][name]
        changed += not torch.equal(before, after)
        torch.testing.assert_close(weight, before + float(mix) * (after - before), rtol=1e-6, atol=1e-7)
        assert torch.equal(weight, {"0": before, "1": after}.get(mix, weight)) and torch.equal(saved[name], weight)
    assert changed > 10
    if source == "same labels":
        start = trainer.transfer_model.source_head.weight[[1, 2, 0]]
        torch.testing.assert_close(seen["before"]["classifier.weight"], start)


def test_the_mix_is_chosen_by_rows_that_are_not_trained_on(tmp_path):
    """Of each class alike; the head that fine-tuning starts from does not see them either."""
    seen, losses = [], []

    class Watching(build("wise_ft", tmp_path, source=False).__class__):
        def start_phase(self, phase):
            seen.append((len(self.train_dataset), len(self.held_out)))
            super().start_phase(phase)

        def held_out_loss(self):
            losses.append(super().held_out_loss())
            return losses[-1]

    target = tiny_dataset(rows=30)
    trainer = build(
        "wise_ft", tmp_path, model=a_pretrained_bert(), target=target, source=False, trainer_class=Watching,
        max_steps=8, learning_rate=1e-2,
    )  # fmt: skip
    trainer.train()
    assert seen == [(24, 6)] and len(trainer.train_dataset) == 30 and len(losses) == 11
    assert sorted(trainer.held_out["label"]) == [0, 0, 1, 1, 2, 2]
    assert trainer.chosen_mix == int(np.argmin(losses)) / 10
    held = trainer.held_out
    with torch.no_grad():
        logits = trainer.model.eval()(**inputs_of(held)).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(held["label"][:]))
    assert loss.item() == pytest.approx(min(losses), rel=1e-5)


def test_the_best_model_would_replace_the_mix(tmp_path):
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        build("wise_ft", tmp_path, eval_strategy="steps", save_strategy="steps", load_best_model_at_end=True)
