"""What a training step is given."""

from typing import Any, NamedTuple

from torch import Tensor


class Batches(NamedTuple):
    """
    A micro-batch of each task: the model's arguments without labels, and the labels.

    Those of the source are `None` in a step that draws none, see [`TransferTrainer.draws_source`].
    """

    source_inputs: dict[str, Any] | None
    source_labels: Tensor | None
    target_inputs: dict[str, Any]
    target_labels: Tensor


# Where the name of one of several sources travels in the inputs of its batch; the model takes it out again.
SOURCE_NAME = "__source_name__"

# Where a source batch travels in the inputs of `training_step`; no model has an argument of this name. It is there in
# every training step, and `None` in those without a source batch.
SOURCE_INPUTS = "__source_inputs__"


def not_taken_error() -> ValueError:
    """
    Return the error for a training step that did not use the batches of the method, and so neither its source nor its
    loss.
    """
    return ValueError(
        "A training step did not take the batches of both tasks: `compute_loss`, `training_step` or "
        "`get_batch_samples` has been replaced, and the source and the method would have no part in training. Give a "
        "loss of the target as `compute_loss_func=` and one of the source as `source_compute_loss_func=`, or begin "
        "`compute_loss` with `batches = self.take_batches(inputs)`."
    )


def no_batch_error(trainer: Any) -> ValueError:
    """Return the error for a target that gives no batch."""
    rows = f"{len(trainer.train_dataset)} rows" if hasattr(trainer.train_dataset, "__len__") else "no rows"
    size = trainer._train_batch_size * trainer.args.world_size
    remedy = "Check what the data set or its sampler yields."
    if trainer.args.dataloader_drop_last:
        remedy = "Leave out `dataloader_drop_last`, which drops a batch that is not full, or lower `per_device_train_batch_size`."
    return ValueError(
        f"`train_dataset` gives no batch, so that nothing would be trained: {rows}, batches of {size}. {remedy}"
    )
