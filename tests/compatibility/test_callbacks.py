"""Callbacks and repeated training, in a run with a source."""

import json
from functools import partial

import pytest
import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from merlin_hf import MerlinTrainer
from tests.compatibility.test_training_features import BOTH, RATES
from tests.support import SOURCE_LABELS, losses, make_args, make_trainer, recording
from tests.tiny import tiny_bert, tiny_dataset


# What callbacks see


class Watching(TrainerCallback):
    """Checks at each event that it is told of a plain model and a state that agrees with the files, and notes it."""

    def __init__(self):
        self.trainer = None
        self.events, self.logs, self.metrics, self.optimizers = [], [], [], set()

    def note(self, event, args, state, control, model=None, logs=None, metrics=None, **kwargs):
        self.events.append((event, state.global_step))
        assert type(model).__name__ == "BertForSequenceClassification"
        if event == "on_init_end":
            return
        assert (model, args, state) == (self.trainer.model, self.trainer.args, self.trainer.state)
        optimizer, lr_scheduler = kwargs["optimizer"], kwargs["lr_scheduler"]
        self.optimizers.add((id(optimizer), id(lr_scheduler)))
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert {id(p) for p in self.trainer.transfer_model.source_head.parameters()} < trained
        assert len(lr_scheduler.get_last_lr()) == len(optimizer.param_groups)
        if logs is not None:
            self.logs.append(dict(logs))
        if metrics is not None:
            self.metrics.append(metrics)
        if event == "on_save":
            with open(f"{args.output_dir}/checkpoint-{state.global_step}/trainer_state.json") as file:
                saved = json.load(file)
            assert saved["global_step"] == state.global_step
            assert sum("meta_loss" in entry for entry in saved["log_history"]) == state.global_step


def noting(event):
    return lambda self, args, state, control, **kwargs: self.note(event, args, state, control, **kwargs)


for event in dir(TrainerCallback):
    if event.startswith("on_"):
        setattr(Watching, event, noting(event))


def test_callbacks_see_the_plain_model_and_a_consistent_state_at_every_event(tmp_path):
    watching = Watching()
    trainer = make_trainer(
        tmp_path,
        trainer_class=partial(MerlinTrainer, callbacks=[watching]),
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        max_steps=-1,
        per_device_train_batch_size=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    assert [event for event, _ in watching.events] == ["on_init_end"]
    watching.events.clear()
    watching.trainer = trainer
    trainer.train()

    step = ["on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log"]
    evaluation = ["on_prediction_step"] * 2 + ["on_log", "on_evaluate", "on_save"]
    epoch = ["on_epoch_begin", *step, *step, *evaluation, "on_epoch_end"]
    assert [event for event, _ in watching.events] == ["on_train_begin", *epoch, *epoch, "on_log", "on_train_end"]
    ends = [number for event, number in watching.events if event == "on_step_end"]
    begins = [number for event, number in watching.events if event == "on_step_begin"]
    assert ends == [1, 2, 3, 4] and begins == [0, 1, 2, 3]
    assert [number for event, number in watching.events if event == "on_save"] == [2, 4]
    assert len(watching.optimizers) == 1
    training_logs = [logs for logs in watching.logs if "loss" in logs]
    assert len(training_logs) == 4 and all({"source_loss", "meta_loss", "rho"} < set(logs) for logs in training_logs)
    assert [metrics["eval_loss"] for metrics in watching.metrics] == [
        entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry
    ]
    assert len(watching.metrics) == 2


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@BOTH
def test_a_callback_stops_training_and_the_model_is_whole(tmp_path, trainer_class):
    stopped = make_trainer(tmp_path, trainer_class=partial(trainer_class, callbacks=[StopAt(2)]), max_steps=6)
    model = stopped.model
    stopped.train()
    assert stopped.state.global_step == 2 and len(losses(stopped)) == 2
    straight = make_trainer(tmp_path, trainer_class=trainer_class, max_steps=6)
    straight.train()
    assert losses(stopped) == losses(straight)[:2]
    assert stopped.model is model and all(parameter.requires_grad for parameter in model.parameters())
    assert not model.classifier._forward_hooks
    head = model.classifier.weight.clone()
    stopped.refit_head()
    torch.testing.assert_close(model.classifier.weight, head)


def test_callbacks_are_added_and_taken_out(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=6)
    trainer.add_callback(StopAt(1))
    trainer.train()
    assert trainer.state.global_step == 1
    assert isinstance(trainer.pop_callback(StopAt), StopAt)
    trainer.train()
    assert trainer.state.global_step == 6
    trainer.add_callback(StopAt(3))
    trainer.remove_callback(StopAt)
    trainer.train()
    assert trainer.state.global_step == 6


def test_callbacks_that_evaluate_and_save_when_they_like(tmp_path):
    class Asking(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_evaluate = control.should_save = state.global_step == 3

    trainer = make_trainer(tmp_path, trainer_class=partial(MerlinTrainer, callbacks=[Asking()]))
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [3]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


@pytest.mark.parametrize(("disable_tqdm", "shown_by"), [(False, ProgressCallback), (True, PrinterCallback)])
def test_the_progress_bar_shows_both_losses(tmp_path, capsys, disable_tqdm, shown_by):
    trainer = make_trainer(tmp_path, disable_tqdm=disable_tqdm, max_steps=2)
    assert any(isinstance(callback, shown_by) for callback in trainer.callback_handler.callbacks)
    trainer.train()
    shown = [line for line in capsys.readouterr().out.splitlines() if "'loss'" in line]
    assert len(shown) == 2 and all("'source_loss'" in line and "'meta_loss'" in line for line in shown)


# Training more than once


@BOTH
def test_model_init_gives_the_same_run_twice(tmp_path, trainer_class):
    seen = []
    trainer = recording(trainer_class, seen)(
        model_init=lambda: tiny_bert(),
        args=make_args(tmp_path, **RATES),
        train_dataset=tiny_dataset(),
        source_dataset=tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1),
    )
    runs = []
    for _ in range(2):
        trainer.train()
        runs.append(
            (losses(trainer), {name: value.clone() for name, value in trainer.transfer_model.state_dict().items()})
        )
        assert trainer.transfer_model.model is trainer.model
    assert seen[:4] == seen[4:] and len(seen) == 8
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())
    names = {name for name, _ in trainer.transfer_model.named_parameters()}
    assert ("scalars.log_logit_scale" in names) == (trainer_class is MerlinTrainer)


@BOTH
@pytest.mark.slow
def test_training_twice_goes_on_from_the_weights_with_a_new_schedule(tmp_path, trainer_class):
    seen, rates = [], []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            rates.append([group["lr"] for group in optimizer.param_groups])

    trainer = make_trainer(
        tmp_path,
        model=tiny_bert(dropout=0.0),
        trainer_class=partial(recording(trainer_class, seen), callbacks=[Rates()]),
        max_steps=12,
        save_strategy="steps",
        save_steps=6,
        **RATES,
    )
    model = trainer.model
    trainer.train()
    first = losses(trainer)
    transfer_model = trainer.transfer_model
    trainer.train()
    second = losses(trainer)
    assert trainer.model is model and trainer.transfer_model is transfer_model
    assert seen[:12] == seen[12:], "the same batches in the same order"
    assert rates[:12] == rates[12:] and len(rates) == 24
    assert len(second) == 12 and second[0] < first[0]

    resumed = make_trainer(
        tmp_path / "resumed", trainer_class=trainer_class, model=tiny_bert(dropout=0.0), max_steps=12, **RATES
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert losses(resumed) == second


class SaveAtTheEnd(TrainerCallback):
    """As integrations do that upload the model."""

    def on_train_end(self, args, state, control, model=None, **kwargs):
        model.save_pretrained(args.output_dir)


def test_a_model_that_a_callback_saves_at_the_end_has_its_head(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.add_callback(SaveAtTheEnd())
    trainer.train()
    saved = type(trainer.model).from_pretrained(tmp_path)
    assert torch.equal(saved.classifier.weight, trainer.model.classifier.weight)
    trainer.refit_head()
    torch.testing.assert_close(saved.classifier.weight, trainer.model.classifier.weight)
