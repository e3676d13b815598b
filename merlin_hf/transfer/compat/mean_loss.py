"""
Training losses that are means over the batch, for every model.

transformers 5.10 to 5.24: Trainer passes `num_items_in_batch` to any forward with `**kwargs` and takes the loss for
scaled, but BERT, RoBERTa, DistilBERT, ResNet and others drop it: four accumulation steps then give four times the
gradient, two processes twice (huggingface/transformers#47688). Before 5.19 it divides no loss where there is a
`compute_loss_func`. A trainer that has `loss_is_scaled_for_ga = False` and returns means is divided by the
accumulation steps in all of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class MeanLoss:
    """
    A user's `compute_loss_func` as a mean over the batch, whether it divides by `num_items_in_batch` or takes a mean.

    Args:
        function (`Callable`): maps `(outputs, labels, num_items_in_batch)` to a loss, as in [`~transformers.Trainer`].
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function

    def __call__(self, outputs: Any, labels: Tensor | None) -> Tensor:
        """Return the loss of these rows, divided by their number and not by that of all micro-batches."""
        items = None if labels is None else (torch.as_tensor(labels) != -100).sum().clamp(min=1)
        return self.function(outputs, labels, num_items_in_batch=items)
