"""Without a source, MerlinTrainer is Trainer: every argument, log, file, weight and prediction, to the bit."""

import inspect
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, default_data_collator

from merlin_hf import MerlinTrainer
from merlin_hf.utils.manifest import MANIFEST_NAME
from tests.tiny import tiny_bert, tiny_dataset


TIMES = ("runtime", "_per_second")


class Events(TrainerCallback):
    """The order of events, with what the state says at each."""

    def __init__(self):
        self.seen = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda args, state, control, **kwargs: self.seen.append(
            (name, state.global_step, state.epoch, sorted(kwargs))
        )


def accuracy(prediction):
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float((np.asarray(logits).argmax(-1) == prediction.label_ids).mean()), "size": len(logits)}


def summed(outputs, labels, num_items_in_batch=None):
    return cross_entropy(outputs.logits, labels, reduction="sum") / (num_items_in_batch or len(labels))


def smaller_first(logits, labels):
    return -logits


def adam_with_schedule():
    model = tiny_bert()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return {"model": model, "optimizers": (optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5))}


def streaming():
    return {"train_dataset": tiny_dataset().to_iterable_dataset()}


# Each gives keyword arguments of the constructor, or of the training arguments.
CASES = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "compute_loss_func": lambda: {"compute_loss_func": summed},
    "compute_loss_func and accumulation": lambda: {"compute_loss_func": summed, "gradient_accumulation_steps": 3},
    "compute_metrics": lambda: {"compute_metrics": accuracy, "eval_strategy": "steps", "eval_steps": 2},
    "preprocess_logits_for_metrics": lambda: {
        "compute_metrics": accuracy,
        "preprocess_logits_for_metrics": smaller_first,
    },
    "optimizers": adam_with_schedule,
    "optimizer_cls_and_kwargs": lambda: {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.3, "momentum": 0.9})},
    "data_collator": lambda: {"data_collator": lambda rows: default_data_collator(rows[::-1])},
    "model_init": lambda: {"model": None, "model_init": lambda: tiny_bert(seed=3)},
    "callbacks": lambda: {
        "callbacks": [EarlyStoppingCallback(1)],
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "save_steps": 1,
        "learning_rate": 0.3,
    },
    "save_total_limit": {"save_steps": 1, "save_total_limit": 2},
    "save_only_model": {"save_only_model": True},
    "epochs": {"max_steps": -1, "num_train_epochs": 2},
    "streaming": streaming,
    "gradient checkpointing": {"gradient_checkpointing": True},
    "bf16": {"bf16": True},
    "evaluation on start": {"eval_on_start": True},
    "several evaluation sets": lambda: {
        "eval_dataset": {"a": tiny_dataset(rows=6, seed=2), "b": tiny_dataset(rows=9, seed=3)}
    },
    "NEFTune": {"neftune_noise_alpha": 5.0},
    "workers": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
    "full determinism": {"full_determinism": True},
}


def run(trainer_class, output_dir, case):
    given = {"model": tiny_bert(), "train_dataset": tiny_dataset(), "eval_dataset": tiny_dataset(rows=12, seed=2)}
    given.update(case() if callable(case) else case)
    options = {
        "max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "logging_steps": 1,
        "save_strategy": "steps", "save_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    arguments = inspect.signature(TrainingArguments).parameters
    options.update({name: given.pop(name) for name in list(given) if name in arguments})
    events = Events()
    trainer = trainer_class(args=TrainingArguments(str(output_dir), **options), **given)
    trainer.add_callback(events)
    model = trainer.model
    trained = trainer.train()
    assert trainer.model is model or "model_init" in given
    metrics = trainer.evaluate()
    predicted = trainer.predict(tiny_dataset(rows=7, seed=5).remove_columns("label"))
    trainer.save_model()
    files = sorted(
        os.path.relpath(os.path.join(folder, name), output_dir)
        for folder, _, names in os.walk(output_dir)
        for name in names
        if name != MANIFEST_NAME  # which our checkpoints have beside Trainer's files
    )
    state = {k: v for k, v in vars(trainer.state).items() if k != "best_model_checkpoint"}
    best = trainer.state.best_model_checkpoint
    return {
        "metrics": [without_times(m) for m in (trained.metrics, metrics, predicted.metrics)],
        "state": {**state, "log_history": [without_times(entry) for entry in trainer.state.log_history]},
        "best": best and os.path.relpath(best, output_dir),
        "files": files,
        "events": events.seen,
        "predictions": predicted.predictions.tolist(),
        "weights": {name: value.tolist() for name, value in load_file(output_dir / "model.safetensors").items()},
        "class": type(trainer.model).__name__,
        "generator": torch.get_rng_state().tolist(),
    }


def without_times(metrics):
    return {name: value for name, value in metrics.items() if not name.endswith(TIMES)}


@pytest.mark.parametrize("case", CASES)
def test_without_a_source_it_is_trainer(tmp_path, case):
    theirs, ours = (run(c, tmp_path / c.__name__, CASES[case]) for c in (Trainer, MerlinTrainer))
    for part, value in theirs.items():
        assert ours[part] == value, part


def test_the_constructor_takes_trainers_arguments_in_trainers_order(tmp_path):
    names = list(inspect.signature(Trainer.__init__).parameters)[1:]
    collator, func, metrics, callback = default_data_collator, summed, accuracy, Events()
    given = {
        "model": tiny_bert(), "args": TrainingArguments(str(tmp_path), report_to="none", use_cpu=True),
        "data_collator": collator, "train_dataset": tiny_dataset(), "eval_dataset": tiny_dataset(seed=1),
        "processing_class": None, "model_init": None,
        "compute_loss_func": func, "compute_metrics": metrics, "callbacks": [callback], "optimizers": (None, None),
        "optimizer_cls_and_kwargs": None, "preprocess_logits_for_metrics": smaller_first,
    }  # fmt: skip
    assert set(names) == set(given), "a new argument of Trainer belongs in this test"
    trainer = MerlinTrainer(*(given[name] for name in names))
    assert trainer.model is given["model"] and trainer.args is given["args"] and trainer.data_collator is collator
    assert trainer.train_dataset is given["train_dataset"] and trainer.eval_dataset is given["eval_dataset"]
    assert trainer.compute_loss_func is func and trainer.compute_metrics is metrics
    assert trainer.preprocess_logits_for_metrics is smaller_first and callback in trainer.callback_handler.callbacks


def test_our_own_training_arguments_change_nothing_without_a_source(tmp_path):
    from merlin_hf import MerlinTrainingArguments

    results = []
    for arguments in (TrainingArguments, MerlinTrainingArguments):
        options = arguments(str(tmp_path), max_steps=3, report_to="none", use_cpu=True, save_strategy="no")
        trainer = MerlinTrainer(tiny_bert(), options, train_dataset=tiny_dataset())
        results.append((trainer.train().training_loss, torch.get_rng_state().tolist()))
    assert results[0] == results[1]


def test_the_signature_tells_all_arguments():
    names = list(inspect.signature(MerlinTrainer).parameters)
    trainers = list(inspect.signature(Trainer).parameters)
    assert names[: len(trainers)] == trainers and {"source_dataset", "peft_config"} <= set(names[len(trainers) :])


def test_weight_decay_of_a_users_module_called_scalars(tmp_path):
    model = tiny_bert()
    model.scalars = torch.nn.Linear(2, 2)
    arguments = TrainingArguments(str(tmp_path), weight_decay=0.1, report_to="none", use_cpu=True)
    decayed = (c(model, arguments).get_decay_parameter_names(model) for c in (Trainer, MerlinTrainer))
    assert len(set(map(tuple, decayed))) == 1
