"""Trainer's ways to evaluate, predict, keep checkpoints and report, in a run with a source."""

import os
from functools import partial

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator
from transformers import AutoModelForSequenceClassification, EarlyStoppingCallback
from transformers.trainer_pt_utils import EvalLoopContainer

from merlin_hf import MerlinTrainer, get_method
from merlin_hf.utils.manifest import MANIFEST_NAME
from tests.compatibility.test_callbacks import StopAt
from tests.compatibility.test_training_features import BOTH
from tests.support import losses, make_trainer
from tests.tiny import NUM_LABELS, tiny_bert, tiny_dataset


EACH_STEP = {"eval_strategy": "steps", "eval_steps": 1}


def build(output_dir, trainer_class=MerlinTrainer, eval_dataset=None, dropout=0.1, trainer_kwargs=None, **kwargs):
    trainer = make_trainer(
        output_dir,
        trainer_class=partial(trainer_class, **(trainer_kwargs or {})),
        model=tiny_bert(dropout=dropout),
        **kwargs,
    )
    trainer.eval_dataset = eval_dataset or trainer.eval_dataset
    return trainer


def logits_of(model, dataset):
    columns = {name: torch.tensor(dataset[name][:]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model.eval()(**columns).logits


def values(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def checkpoints(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("checkpoint-"))


# When to evaluate


@BOTH
@pytest.mark.parametrize("options", [EACH_STEP, {"eval_on_start": True}], ids=["each step", "on start"])
def test_evaluating_does_not_change_the_run(tmp_path, trainer_class, options):
    # Trainer's evaluation draws a seed for its DataLoader, so dropout would differ.
    quiet = build(tmp_path, trainer_class, dropout=0.0, max_steps=7)
    quiet.train()
    busy = build(tmp_path, trainer_class, dropout=0.0, max_steps=7, **options)
    busy.train()
    assert len(values(busy, "eval_loss")) == (1 if "eval_on_start" in options else 7)
    if "eval_on_start" in options:
        assert "eval_loss" in busy.state.log_history[0] and busy.state.log_history[0]["step"] == 0
    assert losses(busy) == losses(quiet)
    for name, value in quiet.transfer_model.state_dict().items():
        assert torch.equal(value, busy.transfer_model.state_dict()[name]), name


@BOTH
@pytest.mark.parametrize("option", [None, "bf16", "bf16_full_eval"])
def test_a_model_can_be_evaluated_before_it_is_trained(tmp_path, trainer_class, option):
    options = {} if option is None else {option: True}
    first = build(tmp_path, trainer_class, dropout=0.0, **options)
    before = first.evaluate()["eval_loss"]
    first.train()
    assert first.evaluate()["eval_loss"] < before
    straight = build(tmp_path, trainer_class, dropout=0.0, **options)
    straight.train()
    # Evaluated in bfloat16, the model has lost the rest of its float32 weights.
    assert losses(first) == pytest.approx(losses(straight), rel=0.05 if option == "bf16_full_eval" else 0.0)


class Scripted:
    """Metrics that go as told, whatever the model does."""

    def __init__(self, scores):
        self.scores = iter(scores)

    def __call__(self, prediction):
        return {"score": next(self.scores)}


@BOTH
@pytest.mark.parametrize(
    ("callback", "steps"),
    [(partial(EarlyStoppingCallback, early_stopping_patience=2), 8), (partial(StopAt, 5), 5)],
    ids=["early stopping", "a last step after the last evaluation"],
)
def test_the_best_model_at_the_end(tmp_path, trainer_class, callback, steps):
    trainer = build(
        tmp_path,
        trainer_class,
        trainer_kwargs={"compute_metrics": Scripted([1.0, 3.0, 2.0, 2.5]), "callbacks": [callback()]},
        max_steps=9,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        eval_strategy="steps",
        eval_steps=2,
    )
    trainer.train()
    assert trainer.state.global_step == steps
    assert trainer.state.best_global_step == 4
    assert checkpoints(tmp_path) == ["checkpoint-4"]
    best = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4").state_dict()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, best[name]), name
    # Nothing that comes later fits the head to it anew.
    loss = values(trainer, "eval_loss")[1]
    trainer.compute_metrics = None
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-6)
    trainer.save_model(tmp_path / "final")
    final = AutoModelForSequenceClassification.from_pretrained(tmp_path / "final").state_dict()
    assert all(torch.equal(final[name], best[name]) for name in best)


def test_saving_when_the_metric_is_best(tmp_path):
    scores = Scripted([2.0, 1.0, 3.0, 0.0])
    trainer = build(
        tmp_path,
        trainer_kwargs={"compute_metrics": scores},
        save_strategy="best",
        metric_for_best_model="score",
        **EACH_STEP,
    )
    trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-3"]


def test_several_evaluation_datasets_share_one_head(tmp_path):
    fits = []

    class Counting(MerlinTrainer):
        def refit_head(self):
            fits.append(self.state.global_step)
            super().refit_head()

    easy, hard = tiny_dataset(rows=12, seed=2), tiny_dataset(rows=12, seed=3)
    hard = hard.map(lambda row: {"label": (row["label"] + 1) % NUM_LABELS})
    trainer = build(tmp_path, Counting, eval_dataset={"easy": easy, "hard": hard}, eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert fits == [2, 4]
    assert len(values(trainer, "eval_easy_loss")) == len(values(trainer, "eval_hard_loss")) == 2
    for name, dataset in (("easy", easy), ("hard", hard)):
        loss = torch.nn.functional.cross_entropy(logits_of(trainer.model, dataset), torch.tensor(dataset["label"][:]))
        assert values(trainer, f"eval_{name}_loss")[-1] == pytest.approx(loss.item(), rel=1e-4)


# What evaluation computes


DATASET = tiny_dataset(rows=12, seed=2)


def test_predict_on_unlabelled_data(tmp_path):
    trainer = build(tmp_path)
    trainer.train()
    prediction = trainer.predict(DATASET.remove_columns("label"))
    assert prediction.label_ids is None and "test_loss" not in prediction.metrics
    torch.testing.assert_close(torch.tensor(prediction.predictions), logits_of(trainer.model, DATASET))


def seen_metrics(output_dir, **kwargs):
    """What `compute_metrics` got in the last evaluation of a run that evaluates at each step, and the trainer."""
    seen = []

    def compute_metrics(prediction, compute_result=None):
        seen.append((prediction, compute_result))
        return {"calls": float(len(seen))}

    trainer_kwargs = {"compute_metrics": compute_metrics, **kwargs.pop("trainer_kwargs", {})}
    trainer = build(
        output_dir, trainer_kwargs=trainer_kwargs, per_device_eval_batch_size=5, max_steps=2, **EACH_STEP, **kwargs
    )
    trainer.train()
    return trainer, seen


@pytest.mark.parametrize("options", [{}, {"eval_accumulation_steps": 1}], ids=["at once", "accumulated"])
def test_compute_metrics_gets_the_logits_of_the_model(tmp_path, monkeypatch, options):
    moved = []
    to_cpu = EvalLoopContainer.to_cpu_and_numpy
    monkeypatch.setattr(EvalLoopContainer, "to_cpu_and_numpy", lambda self: (moved.append(self), to_cpu(self)))
    trainer, seen = seen_metrics(tmp_path, **options)
    assert len(moved) == (4 if options else 1) * len(set(moved)), "after each of three batches too, or only at the end"
    assert values(trainer, "eval_calls") == [1.0, 2.0]
    prediction, _ = seen[-1]
    torch.testing.assert_close(torch.tensor(prediction.predictions), logits_of(trainer.model, DATASET))
    assert prediction.label_ids.tolist() == DATASET["label"][:]
    assert prediction.inputs is None and prediction.losses is None


def test_include_for_metrics(tmp_path):
    trainer, seen = seen_metrics(tmp_path, include_for_metrics=["inputs", "loss"])
    prediction, _ = seen[-1]
    assert prediction.inputs.tolist() == DATASET["input_ids"][:]
    assert prediction.losses.mean() == pytest.approx(values(trainer, "eval_loss")[-1], rel=1e-5)


def test_batch_eval_metrics(tmp_path):
    trainer, seen = seen_metrics(tmp_path, batch_eval_metrics=True)
    rows = [len(prediction.predictions) for prediction, _ in seen]
    assert rows == [5, 5, 2] * 2
    assert [compute_result for _, compute_result in seen] == [False, False, True] * 2
    assert values(trainer, "eval_calls") == [3.0, 6.0]


def test_preprocess_logits_for_metrics(tmp_path):
    def argmax(logits, labels):
        assert logits.shape[0] == labels.shape[0]
        return logits.argmax(-1)

    trainer, seen = seen_metrics(tmp_path, trainer_kwargs={"preprocess_logits_for_metrics": argmax})
    assert seen[-1][0].predictions.tolist() == logits_of(trainer.model, DATASET).argmax(-1).tolist()


def test_prediction_loss_only(tmp_path):
    trainer, seen = seen_metrics(tmp_path, prediction_loss_only=True)
    assert seen == [] and len(values(trainer, "eval_loss")) == 2
    assert trainer.predict(DATASET).predictions is None


# What is kept


def test_save_only_model(tmp_path):
    trainer = build(tmp_path, save_strategy="steps", save_steps=4, save_only_model=True)
    trainer.train()
    files = set(os.listdir(tmp_path / "checkpoint-4"))
    assert files == {"config.json", "model.safetensors", "trainer_state.json", "training_args.bin", MANIFEST_NAME}
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4")
    predictions = trainer.predict(DATASET).predictions
    torch.testing.assert_close(logits_of(loaded, DATASET), torch.tensor(predictions))


@BOTH
def test_save_total_limit(tmp_path, trainer_class):
    trainer = build(tmp_path, trainer_class, max_steps=5, save_strategy="steps", save_steps=1, save_total_limit=2)
    trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-4", "checkpoint-5"]


# What is reported


@BOTH
@pytest.mark.parametrize("filtered", [True, False])
def test_logging_nan_inf_filter(tmp_path, trainer_class, filtered):
    class Diverging(trainer_class):
        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            return loss + float("nan") if self.state.global_step == 2 else loss  # whose gradient is as before

    trainer = build(tmp_path, Diverging, logging_nan_inf_filter=filtered, logging_steps=4)
    trainer.train()
    assert np.isfinite(losses(trainer)).all() == filtered
    assert np.isfinite(values(trainer, "source_loss")).all()


def test_logging_nan_inf_filter_is_for_the_parts_of_the_loss_too(tmp_path):
    class Diverging(MerlinTrainer):
        def source_loss(self, *args):
            return super().source_loss(*args) + (float("nan") if self.state.global_step == 2 else 0.0)

    trainer = build(tmp_path, Diverging, logging_steps=4)
    trainer.train()
    assert np.isfinite(losses(trainer)).all() and np.isfinite(values(trainer, "source_loss")).all()


def test_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    trainer = build(tmp_path, report_to="tensorboard", **EACH_STEP)
    trainer.train()
    events = event_accumulator.EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    for name in ("loss", "source_loss", "meta_loss", "rho", "head_validation_accuracy", "logit_scale"):
        written = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert written == list(zip([1, 2, 3, 4], map(pytest.approx, values(trainer, name)), strict=True))
    assert len(events.Scalars("eval/loss")) == 4


def test_trackio(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    logged = []
    monkeypatch.setattr(trackio, "log", lambda metrics, *args, **kwargs: logged.append(metrics))
    build(tmp_path, report_to="trackio", max_steps=2).train()
    assert sum({"train/source_loss", "train/meta_loss"} <= set(metrics) for metrics in logged) == 2


@BOTH
def test_memory_metrics(tmp_path, trainer_class):
    trainer = build(tmp_path, trainer_class, skip_memory_metrics=False, **EACH_STEP)
    metrics = trainer.train().metrics
    assert {"init_mem_cpu_alloc_delta", "train_mem_cpu_alloc_delta", "train_mem_cpu_peaked_delta"} <= set(metrics)
    assert {"eval_mem_cpu_alloc_delta"} <= set(trainer.evaluate())
    assert {"test_mem_cpu_alloc_delta"} <= set(trainer.predict(DATASET).metrics)


@pytest.mark.parametrize("method", ["merlin", "merlin_ft"])
def test_evaluating_on_start_has_a_head_that_fits_the_pretrained_features(tmp_path, method):
    trainer = build(tmp_path, get_method(method), dropout=0.0, eval_on_start=True, max_steps=4)
    trainer.train()
    first = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    untrained = build(tmp_path / "again", get_method(method), dropout=0.0)
    plain = untrained.evaluate()
    assert first["step"] == 0 and first["eval_head_train_accuracy"] > 1.5 / NUM_LABELS
    assert first["eval_loss"] < plain["eval_loss"] and "eval_head_train_accuracy" not in plain
