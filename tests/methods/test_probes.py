"""Heads that are fit: the linear probe, LP-FT that starts at it, and MeRLin-FT that starts at MeRLin's."""

import json
import os

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, EarlyStoppingCallback, TrainerCallback

from merlin_hf import METHODS
from tests.methods.support import a_pretrained_bert, build, features_of, partly_labelled, weights
from tests.tiny import TINY_CLASSIFIERS, tiny_dataset


@pytest.mark.parametrize("labels", ["all", "some"])
def test_the_probe_is_logistic_regression_on_the_features(tmp_path, labels):
    target = tiny_dataset() if labels == "all" else partly_labelled(tiny_dataset())
    model = a_pretrained_bert(dropout=0.1).double()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = build("linear_probe", tmp_path, model=model, target=target, probe_l2="0.05")
    generator = torch.get_rng_state()
    trainer.train()
    after = model.state_dict()
    assert {n for n, w in before.items() if not torch.equal(w, after[n])} == {"classifier.weight", "classifier.bias"}
    assert torch.equal(torch.get_rng_state(), generator)

    y = np.array(target["label"])
    x = features_of(model, target)[y != -100]
    spread = (x - x.mean(0)).var(0).sum()  # of which the regulariser is a multiple
    fitted = LogisticRegression(C=1 / (0.05 * spread), tol=1e-12, max_iter=10_000).fit(x, y[y != -100])
    np.testing.assert_allclose(model.classifier.weight.detach().numpy(), fitted.coef_, rtol=1e-3, atol=1e-5)
    bias = model.classifier.bias.detach().numpy()
    np.testing.assert_allclose(bias - bias.mean(), fitted.intercept_ - fitted.intercept_.mean(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("head", "l2"), [("ridge", "0.1"), ("centroid", "1.0"), (None, "auto")])
def test_other_probes(tmp_path, head, l2):
    trainer = build("linear_probe", tmp_path, model=a_pretrained_bert(dropout=0.1), probe_head=head, probe_l2=l2)
    trainer.train()
    prediction = trainer.predict(trainer.train_dataset)
    assert (prediction.predictions.argmax(-1) == prediction.label_ids).mean() > 0.9
    assert prediction.metrics["test_head_l2"] > 0


def test_a_probe_of_real_labels_is_ridge_regression(tmp_path):
    target = tiny_dataset().remove_columns("label").add_column("label", [float(i % 3) - 7 for i in range(24)])
    model = a_pretrained_bert(dropout=0.1).double()
    model.classifier = torch.nn.Linear(32, 1).double()
    model.num_labels = model.config.num_labels = 1
    trainer = build("linear_probe", tmp_path, model=model, target=target, probe_l2="0.05")
    trainer.train()
    x, y = features_of(model, target), np.array(target["label"])
    centred = x - x.mean(0)
    gram = centred.T @ centred
    penalty = 0.05 * np.trace(gram) / len(x)
    expected = np.linalg.solve(gram + penalty * np.eye(32), centred.T @ (y - y.mean()))
    np.testing.assert_allclose(model.classifier.weight.detach().numpy()[0], expected, rtol=1e-5, atol=1e-8)
    assert model.classifier.bias.item() == pytest.approx(y.mean() - x.mean(0) @ expected, rel=1e-6)


def test_a_probe_makes_no_step_and_works_with_what_trainer_has(tmp_path):
    events = []

    class Watching(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            events.append("begin")

        def on_step_end(self, args, state, control, **kwargs):
            events.append("step")

        def on_train_end(self, args, state, control, model=None, **kwargs):
            events.append(("end", model.classifier.weight.detach().clone()))

    model = a_pretrained_bert(dropout=0.1)
    first = model.classifier.weight.detach().clone()
    trainer = build(
        "linear_probe",
        tmp_path,
        model=model,
        callbacks=[Watching(), EarlyStoppingCallback(1)],
        max_steps=50,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="loss",
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    output = trainer.train()
    assert output.global_step == 0 and [e if isinstance(e, str) else e[0] for e in events] == ["begin", "end"]
    assert torch.equal(events[-1][1], model.classifier.weight), "what callbacks save at the end has the head"
    assert not torch.equal(first, model.classifier.weight)
    assert trainer.args.max_steps == 50, "the arguments stay the user's"
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] < 1.0 and 0 <= metrics["eval_head_train_accuracy"] <= 1
    trainer.save_model()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    again = weights(trainer)
    trainer.train()
    assert all(torch.equal(weight, again[name]) for name, weight in weights(trainer).items())


@pytest.mark.parametrize("name", ["gpt2", "distilbert"])
def test_a_probe_of_other_models(tmp_path, name):
    """A head without a bias, and layers before the head that are as they came."""
    model = TINY_CLASSIFIERS[name]()
    before = {n: w.clone() for n, w in model.state_dict().items()}
    build("linear_probe", tmp_path, model=model).train()
    changed = {n for n, w in model.state_dict().items() if not torch.equal(w, before[n])}
    assert changed == ({"score.weight"} if name == "gpt2" else {"classifier.weight", "classifier.bias"})


# LP-FT


def snapshots(trainer_class, seen):
    class Watching(trainer_class):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            if model.training:
                seen.append({name: weight.clone() for name, weight in self.model.state_dict().items()})
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    return Watching


@pytest.mark.parametrize("accumulation", [1, 2])
def test_lp_ft_starts_at_the_probe(tmp_path, accumulation):
    probe = build("linear_probe", tmp_path, model=a_pretrained_bert(dropout=0.1))
    probe.train()
    seen = []
    trainer = build(
        "lp_ft",
        tmp_path,
        model=a_pretrained_bert(dropout=0.1),
        trainer_class=snapshots(METHODS["lp_ft"], seen),
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=4,
    )
    trainer.train()
    assert len(seen) == 4 * accumulation
    for name, weight in probe.model.state_dict().items():
        assert torch.equal(seen[0][name], weight), name
    same = [name for name, w in trainer.model.named_parameters() if torch.equal(w, seen[0][name])]
    assert same == [], "then all is trained"
    assert trainer.head_metrics == {} and not any("head_l2" in entry for entry in trainer.state.log_history)


def test_lp_ft_without_a_learning_rate_is_the_probe(tmp_path):
    runs = {}
    for method in ("linear_probe", "lp_ft"):
        runs[method] = build(method, tmp_path, model=a_pretrained_bert(dropout=0.1), learning_rate=0.0)
        runs[method].train()
    for name, weight in runs["linear_probe"].model.state_dict().items():
        assert torch.equal(runs["lp_ft"].model.state_dict()[name], weight), name


# MeRLin-FT


class AtStep(TrainerCallback):
    """Keeps the weights as they are after some step."""

    def __init__(self, step):
        self.step = step
        self.weights = None

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.weights = {name: weight.clone() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("source_labels", [True, False], ids=["with a source", "without"])
def test_merlin_ft_is_merlin_and_then_fine_tunes_its_head(tmp_path, source_labels):
    """In its own schedule MeRLin takes the same steps to the bit; without a source both are Trainer."""
    options = {"learning_rate": 1e-2, "warmup_steps": 1, "source": source_labels}
    if not source_labels:
        runs = []
        for method in ("merlin", "merlin_ft"):
            trainer = build(method, tmp_path, max_steps=3, **options)
            trainer.train()
            runs.append(trainer.model.state_dict())
        assert all(torch.equal(weight, runs[1][name]) for name, weight in runs[0].items())
        return
    merlin = build("merlin", tmp_path, max_steps=3, **options)
    merlin.train()

    seen, switch = [], AtStep(3)
    trainer = build(
        "merlin_ft",
        tmp_path,
        max_steps=6,
        first_phase_fraction=0.5,
        callbacks=[switch],
        trainer_class=snapshots(METHODS["merlin_ft"], seen),
        **options,
    )
    first_head = trainer.model.classifier.weight.clone()
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.0, 1e-2, 5e-3] * 2, abs=1e-8)
    assert len(seen) == 6
    for name, weight in merlin.model.state_dict().items():
        is_head = name.startswith("classifier")
        assert torch.equal(switch.weights[name], weight) != is_head, "the head is untouched until the switch"
        assert torch.equal(seen[3][name], weight), f"{name}: the second phase starts at MeRLin's backbone and head"
    assert torch.equal(switch.weights["classifier.weight"], first_head)
    for name, value in merlin.transfer_model.scalars.items():
        assert torch.equal(trainer.transfer_model.scalars[name], value)
    assert torch.equal(trainer.transfer_model.source_head.weight, merlin.transfer_model.source_head.weight)
    unchanged = [name for name, weight in trainer.model.named_parameters() if torch.equal(weight, seen[3][name])]
    assert unchanged == []
    assert [("meta_loss" in e, "target_loss" in e) for e in trainer.state.log_history[:6]] == [(True, False)] * 3 + [
        (False, True)
    ] * 3


def test_a_checkpoint_of_the_first_phase_of_merlin_ft_has_a_head_that_fits(tmp_path):
    options = {"learn_logit_scale": False, "save_strategy": "steps", "save_steps": 1}
    trainer = build("merlin_ft", tmp_path, max_steps=4, first_phase_fraction=0.5, **options)
    trainer.train()
    for step in (1, 2):
        saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        merlin = build("merlin", tmp_path / "merlin", model=saved, learn_logit_scale=False)
        head = saved.classifier.weight.clone()
        merlin.refit_head()
        torch.testing.assert_close(saved.classifier.weight, head, rtol=1e-3, atol=1e-4)
    with open(os.path.join(tmp_path, "checkpoint-2", "trainer_state.json")) as file:
        assert json.load(file)["global_step"] == 2
