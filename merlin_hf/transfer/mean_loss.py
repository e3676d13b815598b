"""Training losses that are means over the rows at hand, for every model and every release of transformers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..trainer_base import TrainerBase


class MeanLoss:
    """
    A user's `compute_loss_func` as a mean over the rows at hand, whether it divides by `num_items_in_batch` or takes a mean.

    Args:
        function (`Callable`): maps `(outputs, labels, num_items_in_batch)` to a loss, as in [`~transformers.Trainer`].
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function

    def __call__(self, outputs: Any, labels: Tensor | None) -> Tensor:
        """The loss of these rows, divided by their number and not by that of all micro-batches."""
        items = None if labels is None else (torch.as_tensor(labels) != -100).sum().clamp(min=1)
        return self.function(outputs, labels, num_items_in_batch=items)


class MeanLossMixin(TrainerBase):
    """
    For a [`~transformers.Trainer`]: `compute_loss` returns a mean over the micro-batch, which Trainer divides by the
    accumulation steps.

    Stock Trainer (5.23) passes `num_items_in_batch` to any forward with `**kwargs` and takes the loss for scaled, but BERT,
    RoBERTa, DistilBERT, ResNet and others drop it: four accumulation steps then give four times the gradient, two processes
    twice (huggingface/transformers#47688). Before 5.19 it divides no loss where there is a `compute_loss_func`.
    """

    compute_loss_func: Callable[..., Tensor] | None
    target_compute_loss_func: MeanLoss | None = None

    def use_mean_loss(self) -> None:
        """To be called after Trainer's own constructor."""
        self.loss_is_scaled_for_ga = False
        if self.compute_loss_func is not None:
            self.target_compute_loss_func, self.compute_loss_func = MeanLoss(self.compute_loss_func), None

    def mean_loss(self, model, inputs, return_outputs: bool = False):
        """Trainer's `compute_loss` as a mean over the rows at hand."""
        if self.target_compute_loss_func is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch=None)
        labels = inputs.pop("labels", None)
        outputs = model(**inputs)
        loss = self.target_compute_loss_func(outputs, labels)
        return (loss, outputs) if return_outputs else loss
