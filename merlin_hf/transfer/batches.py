"""The batches of a training step, and the check that the step used them."""

from typing import Any, NamedTuple

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Batches(NamedTuple):
    """
    A micro-batch of each task: the model's arguments without labels, and the labels.

    Those of the source are `None` in a step that draws none, see [`TransferTrainer.draws_source`].
    """

    source_inputs: dict[str, Any] | None
    source_labels: Tensor | None
    target_inputs: dict[str, Any]
    target_labels: Tensor


# The key of the name of one of several sources in the inputs of its batch; the model removes it.
SOURCE_NAME = "__source_name__"

# The key of the source batch in the inputs of `training_step`; no model has an argument of this name. Every training
# step has it, with `None` where no source batch is drawn.
SOURCE_INPUTS = "__source_inputs__"


def not_taken_error() -> ValueError:
    """Return the error for a training step that did not use the method's batches."""
    return ValueError(
        "A training step did not take the batches of both tasks: `compute_loss`, `training_step` or "
        "`get_batch_samples` has been replaced, and the source and the method would have no part in training. Give a "
        "loss of the target as `compute_loss_func=` and one of the source as `source_compute_loss_func=`, or begin "
        "`compute_loss` with `batches = self.take_batches(inputs)`."
    )


def no_batch_error(trainer: Trainer) -> ValueError:
    """Return the error for a target that yields no batch."""
    rows = f"{len(trainer.train_dataset)} rows" if hasattr(trainer.train_dataset, "__len__") else "no rows"
    size = trainer._train_batch_size * trainer.args.world_size
    remedy = "Check what the data set or its sampler yields."
    if trainer.args.dataloader_drop_last:
        remedy = (
            "Leave out `dataloader_drop_last`, which drops a batch that is not full, or lower "
            "`per_device_train_batch_size`."
        )
    return ValueError(
        f"`train_dataset` gives no batch, so that nothing would be trained: {rows}, batches of {size}. {remedy}"
    )


class TransferCallback(TrainerCallback):
    """
    Checks before each update, and the end of the phases and the refit at the end of training.

    It is the first of a trainer's callbacks, so that the others find a head that fits the backbone.

    Args:
        trainer ([`~merlin_hf.transfer.trainer.TransferTrainer`]): a trainer whose method is in use.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """
        Check that the gradients are those of the method's batches, and of the model that will be saved.

        Raises:
            ValueError: a method of the trainer or its model has been replaced.
        """
        trainer = self.trainer
        if not 0 < trainer.micro_batches <= trainer.batches_taken:
            raise not_taken_error()
        trainer.batches_taken = trainer.micro_batches = 0
        if trainer.model is not trainer.transfer_model.model and not trainer.is_sharded:  # FSDP replaces it
            raise ValueError(
                "`trainer.model` has been replaced during training, by a callback perhaps: what is trained would not "
                "be what is evaluated and saved. Replace it before `train()`, or give `model_init=`."
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the method finish after the last update, before evaluation and saving."""
        if state.global_step >= state.max_steps:
            self.trainer.finish_phases()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the method finish a run that is stopped early, before Trainer looks for the best checkpoint."""
        if control.should_training_stop:
            self.trainer.finish_phases()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refit the head, as other callbacks may save the model now; the best checkpoint has its own head."""
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self.trainer._head_needs_refit, self.trainer.head_metrics = False, {}
        else:
            self.trainer.finish_phases()  # of a run whose data ended before its steps
            self.trainer.refit_head_if_stale()
