"""Trainers on tiny models and data, as the tests of the whole package make them."""

import torch

from merlin_hf import MerlinTrainer, MerlinTrainingArguments
from merlin_hf.transfer.trainer import SOURCE_INPUTS
from tests.tiny import tiny_bert, tiny_dataset


SOURCE_LABELS = 4

# Both losses in every step: what most tests of the objective are about; tests/transfer/test_mixing.py has the default.
EVERY_STEP = {"mix_weights": False, "rho": 0.3, "balance_gradients": True}


def make_args(output_dir, **kwargs):
    defaults = {
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        **EVERY_STEP,
    }
    return MerlinTrainingArguments(str(output_dir), **{**defaults, **kwargs})


def make_trainer(
    output_dir,
    model=None,
    trainer_class=MerlinTrainer,
    target=None,
    source=None,
    evaluation=None,
    without_source=False,
    compute_metrics=None,
    **kwargs,
):
    source = source or tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1)
    return trainer_class(
        model=model or tiny_bert(),
        args=make_args(output_dir, **kwargs),
        train_dataset=target or tiny_dataset(),
        eval_dataset=evaluation or tiny_dataset(rows=12, seed=2),
        **({} if compute_metrics is None else {"compute_metrics": compute_metrics}),
        **({} if without_source else {"source_dataset": source}),
    )


def one_step_inputs(trainer):
    """A target batch with a source batch, as `compute_loss` gets them."""
    trainer._prepare_for_training(1, trainer.get_train_dataloader(), None)
    batches, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, torch.device("cpu"))
    return {**batches[0], SOURCE_INPUTS: trainer._source_batches.popleft()}


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def recording(trainer_class, seen):
    class Recording(trainer_class):
        def training_step(self, model, inputs, num_items_in_batch=None):
            source = self._source_batches[0]["input_ids"].tolist() if getattr(self, "_source_batches", None) else None
            seen.append((inputs["input_ids"].tolist(), source))
            return super().training_step(model, inputs, num_items_in_batch)

    return Recording


def warnings_of(caplog) -> list[str]:
    """Return the messages that were logged at WARNING or above."""
    return [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]
