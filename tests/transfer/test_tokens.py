"""Token classification: rows are labelled tokens, split by sentence, for every method."""

import copy

import numpy as np
import pytest
import torch
from datasets import Sequence, Value
from peft import AutoPeftModelForTokenClassification, LoraConfig, TaskType
from torch.nn.functional import cross_entropy
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast

from merlin_hf import METHODS, MerlinTrainer
from merlin_hf.heads import get_head
from merlin_hf.transfer.labels import class_names, has_token_labels, infer_num_labels, label_values
from merlin_hf.transfer.model import TransferModel
from merlin_hf.transfer.tokens import TOKENS, take_tokens
from tests.methods.support import NO_STEPS, PLAIN_SGD, SAME_LABELS, assert_same_weights, build
from tests.tiny import (
    NUM_LABELS,
    TINY_CLASSIFIERS,
    pad_tagged,
    tagged_dataset,
    tiny_bert,
    tiny_dataset,
    tiny_token_bert,
)


SOURCE_TAGS = 5


def source_rows(num_labels=SOURCE_TAGS):
    return tagged_dataset(rows=40, num_labels=num_labels, seed=1, longest=14)


def make(output_dir, method="merlin", **options):
    source = source_rows(NUM_LABELS if method in SAME_LABELS else SOURCE_TAGS)
    defaults = {
        "model": tiny_token_bert(),
        "target": tagged_dataset(),
        "source": source if METHODS[method].takes_source else False,
        "data_collator": pad_tagged,
        "eval_dataset": tagged_dataset(rows=7, seed=2),
    }
    return build(method, output_dir, **{**defaults, **options})


# The data


def test_labels_of_tokens_are_those_of_all_rows():
    rows = tagged_dataset()
    flat = [label for labels in rows["labels"] for label in labels]
    assert has_token_labels(rows) and label_values(rows).tolist() == flat
    assert class_names(rows) == ["O", "B-PER", "I-PER"] and infer_num_labels(rows) == NUM_LABELS
    plain = rows.cast_column("labels", Sequence(Value("int64")))
    assert class_names(plain) is None and infer_num_labels(plain) == NUM_LABELS


def test_lists_of_labels_of_a_row_are_none_of_tokens():
    rows = tiny_dataset().remove_columns("label").add_column("labels", [[0, 1, 1]] * 24)
    assert not has_token_labels(rows) and label_values(rows).shape == (24, 3)


def test_a_batch_without_labels_keeps_one_token():
    labels = torch.full((2, 3), -100)
    inputs, flat = take_tokens({"input_ids": labels}, labels)
    assert flat.tolist() == [-100] and inputs[TOKENS].sum() == 1


# A step


def labelled(features, labels):
    """The features and labels of labelled tokens, one by one, and the sentences that they are of."""
    places = [(row, at) for row in range(len(labels)) for at in range(labels.shape[1]) if labels[row, at] != -100]
    rows, at = zip(*places, strict=True)
    return features[rows, at], labels[rows, at], torch.tensor(rows)


@pytest.mark.parametrize("split", ["half", "kfold"])
def test_a_step_of_merlin_is_the_formula(tmp_path, split):
    """In float64: loss, and gradients of all weights, by heads fit on the tokens of some sentences."""
    splits = []

    class Recording(MerlinTrainer):
        def split(self, labels, present=None):
            splits.append(super().split(labels, present))
            return splits[-1]

    taken = []

    class Traced(Recording):
        def adds_class_prior(self, problem_type):
            return False  # which the head below is not told

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            taken.append(copy.deepcopy(dict(inputs)))
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    trainer = make(
        tmp_path,
        trainer_class=Traced,
        model=tiny_token_bert(dropout=0.0).double(),
        **{**PLAIN_SGD, "max_steps": 1, "rho": 0.7, "balance_gradients": False},
        split=split,
        num_splits=3,
    )
    trainer.build_transfer_model().double()
    model, source_head = copy.deepcopy(trainer.model), copy.deepcopy(trainer.transfer_model.source_head)
    trainer.train()

    batch = taken[0]
    source = batch.pop("__source_inputs__")
    assert source["input_ids"].shape[1] != batch["input_ids"].shape[1], "padded to lengths of their own"

    def tokens_of(batch):
        states = model.bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        return labelled(states, batch["labels"])

    features, labels, _ = tokens_of(source)
    loss = cross_entropy(source_head(features), labels)
    features, labels, sentences = tokens_of(batch)
    solver, losses = get_head("centroid"), []
    train, validation = splits[0]
    for fit_on, judged in zip(train, validation, strict=True):
        assert not set(sentences[fit_on].tolist()) & set(sentences[judged].tolist())
        assert fit_on.any() and judged.any()
        head = solver.fit(features[fit_on], torch.eye(NUM_LABELS).double()[labels[fit_on]], solver.default_l2)
        logits = head(features[judged]) * solver.default_logit_scale
        losses.append(cross_entropy(logits, labels[judged], reduction="none"))
    loss = loss + 0.7 * torch.cat(losses).mean()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)

    parameters = {f"model.{n}": p for n, p in model.named_parameters() if not n.startswith("classifier")}
    parameters |= {f"source_head.{n}": p for n, p in source_head.named_parameters()}
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    found = dict(trainer.transfer_model.named_parameters())
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        expected = parameter - (0 if gradient is None else 0.1 * gradient)
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12, msg=name)


def test_chunks_of_the_target_change_nothing(tmp_path):
    runs = [
        make(tmp_path / str(size), model=tiny_token_bert(dropout=0.0), max_steps=2, target_chunk_size=size)
        for size in (None, 3)
    ]
    for run in runs:
        run.train()
    assert_same_weights(*runs, exact=False, tolerance=1e-5)


def test_sentences_without_a_label_count_for_nothing(tmp_path):
    """A whole batch of them has no meta loss, and the gradient is that of the source."""
    rows = tagged_dataset(rows=16)
    without = [[-100] * len(labels) if place < 8 else labels for place, labels in enumerate(rows["labels"])]
    rows = rows.remove_columns("labels").add_column("labels", without)
    trainer = make(tmp_path, target=rows, max_steps=4, train_sampling_strategy="sequential")
    trainer.train()
    losses = [entry["meta_loss"] for entry in trainer.state.log_history if "meta_loss" in entry]
    assert [loss == 0 for loss in losses] == [True, False, True, False]
    assert np.isfinite(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize("name", ["roberta", "distilbert", "deberta_v2", "modernbert", "gpt2", "llama", "t5"])
def test_the_last_layer_of_other_models_reads_these_features(name):
    config = TINY_CLASSIFIERS[name]().config
    model = AutoModelForTokenClassification.from_config(config).eval()
    transfer_model = TransferModel(model, SOURCE_TAGS)
    batch = pad_tagged(list(tagged_dataset(5)))
    inputs, _ = take_tokens(batch, batch.pop("labels"))
    with torch.no_grad(), transfer_model.feature_mode():
        logits = transfer_model.head(transfer_model.features(inputs))
    with torch.no_grad():
        torch.testing.assert_close(logits, model(**batch).logits[inputs[TOKENS]])


# The whole run


def test_the_saved_model_is_plain_and_gives_the_logits_of_predict(tmp_path):
    trainer = make(tmp_path)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    found = trainer.predict(trainer.eval_dataset)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "saved").eval()
    batch = pad_tagged(list(trainer.eval_dataset))
    with torch.no_grad():
        output = model(**batch)
    real = batch["attention_mask"].bool().numpy()
    np.testing.assert_allclose(output.logits.numpy()[real], found.predictions[real], atol=1e-5)
    assert found.metrics["test_loss"] == pytest.approx(output.loss.item(), rel=1e-4)


def test_the_final_head_is_fit_to_all_labelled_tokens(tmp_path):
    trainer = make(tmp_path, head="ridge", refit_l2=0.5, learn_logit_scale=False, max_steps=1)
    trainer.train()
    batch = pad_tagged(list(trainer.train_dataset))
    model = trainer.model.eval()
    with torch.no_grad():
        states = model.bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        features, labels, _ = labelled(states, batch["labels"])
        expected = get_head("ridge").fit(features, torch.eye(NUM_LABELS)[labels], 0.5)
        logits = model.classifier(features)
    scale = get_head("ridge").default_logit_scale
    torch.testing.assert_close(logits, scale * expected(features), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("stochnorm", "merlin")])
def test_every_method_trains(tmp_path, method):
    trainer = make(tmp_path, method, learning_rate=1e-2, max_steps=3)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    metrics = trainer.evaluate()
    assert np.isfinite(metrics["eval_loss"])
    changed = {name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert "classifier.weight" in changed
    assert ("bert.encoder.layer.0.output.dense.weight" in changed) == (method not in NO_STEPS)


@pytest.mark.parametrize("method", ["merlin", "joint"])
def test_resuming_is_never_stopping(tmp_path, method):
    whole = make(tmp_path / "whole", method, save_strategy="steps", save_steps=2)
    whole.train()
    resumed = make(tmp_path / "resumed", method)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same_weights(whole, resumed)


def test_several_sources_and_a_loss_of_ones_own(tmp_path):
    shapes = []

    def loss(outputs, labels, num_items_in_batch=None):
        shapes.append((outputs.logits.ndim, labels.ndim))
        return cross_entropy(outputs.logits, labels)

    trainer = MerlinTrainer(
        model=tiny_token_bert(),
        args=make(tmp_path, max_steps=4).args,
        train_dataset=tagged_dataset(),
        eval_dataset=tagged_dataset(rows=7, seed=2),
        source_dataset={"news": source_rows(), "mail": source_rows(NUM_LABELS)},
        source_compute_loss_func=loss,
        compute_loss_func=loss,
        data_collator=pad_tagged,
    )
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    assert set(shapes) == {(2, 1)}
    assert any("source_loss_mail" in entry for entry in trainer.state.log_history)


def test_the_default_collator_pads_labels(tmp_path, tokenizer):
    trainer = MerlinTrainer(
        model=tiny_token_bert(),
        args=make(tmp_path, max_steps=1).args,
        train_dataset=tagged_dataset(),
        source_dataset=source_rows(),
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 1


def test_an_adapter(tmp_path):
    tiny_token_bert().save_pretrained(tmp_path / "base")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "base")
    adapter = LoraConfig(task_type=TaskType.TOKEN_CLS, r=2, target_modules=["query"])
    trainer = make(tmp_path / "out", model=model, peft_config=adapter, max_steps=2)
    trainer.train()
    found = trainer.predict(trainer.eval_dataset).predictions
    trainer.save_model()
    loaded = AutoPeftModelForTokenClassification.from_pretrained(tmp_path / "out", num_labels=NUM_LABELS).eval()
    batch = pad_tagged(list(trainer.eval_dataset))
    with torch.no_grad():
        logits = loaded(batch["input_ids"], batch["attention_mask"]).logits.numpy()
    real = batch["attention_mask"].bool().numpy()
    np.testing.assert_allclose(logits[real], found[real], atol=1e-5)


def test_streams(tmp_path):
    streams = {"target": tagged_dataset().to_iterable_dataset(), "source": source_rows().to_iterable_dataset()}
    trainer = make(tmp_path, num_source_labels=SOURCE_TAGS, **streams)
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    with pytest.raises(ValueError, match="`source_dataset` has labels such as 4, .* class ids in 0 ... 3"):
        make(tmp_path, num_source_labels=4, **streams).train()


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models

    words = {"[PAD]": 0, "[UNK]": 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")), pad_token="[PAD]", unk_token="[UNK]"
    )


# Errors


def texts(rows):
    names = ["O", "B-PER", "I-PER"]
    return rows.remove_columns("labels").add_column(
        "labels", [[names[max(label, 0)] for label in labels] for labels in rows["labels"]]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target": texts(tagged_dataset())},
            r"`train_dataset` are lists of text, such as .*Sequence\(datasets",
        ),
        ({"source": tiny_dataset(rows=40)}, "classifies tokens, and `source_dataset` has one label for each row"),
        ({"target": tiny_dataset()}, "classifies tokens, and `train_dataset` has one label for each row"),
        ({"model": tiny_bert()}, "`source_dataset` has a list of class ids .* `AutoModelForTokenClassification`"),
        ({"split": "loo", "head": "ridge"}, "leaves one token out.*divide sentences"),
        ({"per_device_train_batch_size": 1}, "A target batch of 1 sentence is too small to split"),
        ({"target": tagged_dataset(num_labels=5)}, r"label ids \[3, 4\] outside 0 ... 2"),
        (
            {"data_collator": lambda rows: {**pad_tagged(rows), "labels": torch.zeros(len(rows), 2).long()}},
            r"tokens of shape \(2, \d+\) and labels of shape \(2, 2\).*DataCollatorForTokenClassification",
        ),
    ],
    ids=["text", "source of rows", "target of rows", "model of rows", "loo", "one sentence", "outside", "collator"],
)
def test_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **options).train()


def test_a_list_of_rows_with_one_label_each(tmp_path):
    rows = [{**row, "labels": row.pop("label")} for row in tiny_dataset()]
    collate = lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}  # noqa: E731
    with pytest.raises(ValueError, match="classifies tokens, and a batch has one label for each row"):
        take_tokens({}, torch.zeros(2))
    with pytest.raises(ValueError, match="classifies tokens, and `source_dataset` has one label for each row"):
        make(tmp_path, target=rows, data_collator=collate, source=[dict(row) for row in rows], num_source_labels=3)
