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


# Where a source batch travels in the inputs of `training_step`; no model has an argument of this name. It is there in
# every training step, and `None` in those without a source batch.
SOURCE_INPUTS = "__source_inputs__"
