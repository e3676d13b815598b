"""What a method adds to the loss of the target's rows, evaluated within the model's forward pass."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.utils import ModelOutput


class Regularizer(nn.Module):
    """
    An extra loss on a batch of the target.

    [`~merlin_hf.transfer.model.TransferModel`] calls it at the end of its forward, so that all parameters it reads, and its own, are
    used under the wrapper of distributed training. Its parameters are trained with the heads. Other tensors that it keeps from
    one step to the next belong in [`Regularizer.extra_state`]: checkpoints have them, and no wrapper broadcasts them.

    Args:
        weight (`float`): factor of the loss.
    """

    stores_model_copy: ClassVar[bool] = False  # of the model's weights
    supports_sharding: ClassVar[bool] = (
        True  # False where it reads whole weights, or keeps tensors, which go into plain checkpoints
    )
    uses_hidden_states: ClassVar[bool] = (
        False  # of the classifier, which the target's rows then go through in one piece
    )
    batch_size: int = 0  # target rows of a full micro-batch on one rank, kept up to date by the trainer

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def start(self, trainer: Trainer) -> None:
        """Called once, when training on the target begins; not in a run that is resumed later than that."""

    def record_activations(self, transfer_model: nn.Module) -> contextlib.AbstractContextManager:
        """A context for the pass that computes the target's features, for regularizers that need more of it."""
        return contextlib.nullcontext()

    def forward(
        self, transfer_model: nn.Module, inputs: Mapping[str, Any], labels: Tensor, output: ModelOutput
    ) -> Tensor:
        """
        The mean over the rows of a micro-batch, times `weight`.

        Args:
            transfer_model: the model whose forward this is called in.
            inputs (`Mapping[str, Any]`): its arguments for the target rows, without labels.
            labels (`torch.Tensor` of shape `(n,)` or `(n, num_labels)`).
            output: with `target_features` `(n, hidden_size)` and `target_logits` `(n, num_labels)`.

        Returns:
            `torch.FloatTensor` of shape `()`.
        """
        raise NotImplementedError

    def extra_state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside parameters; nothing before [`Regularizer.start`]."""
        return {}

    def load_extra_state(self, transfer_model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Takes back what [`Regularizer.extra_state`] gave, in place of [`Regularizer.start`]."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it has less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class FrozenCopy:
    """
    A copy of a [`~merlin_hf.transfer.model.TransferModel`] as it is now, for a method that compares with it.

    It is no module: neither an optimizer, nor a wrapper, nor a checkpoint finds its weights.

    Args:
        transfer_model: attached, as in training.
        training (`bool`): whether the copy keeps dropout and batch statistics.
    """

    def __init__(self, transfer_model: nn.Module, training: bool = False):
        regularizer, transfer_model.regularizer = transfer_model.regularizer, None
        try:
            self.model = copy.deepcopy(transfer_model)
        finally:
            transfer_model.regularizer = regularizer
        self.model.requires_grad_(False).train(training)

    @torch.no_grad()
    def features(self, inputs: Mapping[str, Any]) -> Tensor:
        """What enters its last layer, `(n, hidden_size)`."""
        return self.model.features(inputs)

    @torch.no_grad()
    def source_logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """What its source head says of rows of either task, `(n, num_source_labels)`."""
        return self.model.source_head(self.model.features(inputs))

    def extra_state(self) -> dict[str, Tensor]:
        """All its weights; those that layers share once, as a file of safetensors has them."""
        names: dict[int, str] = {}
        state = self.model.state_dict(keep_vars=True)
        return {f"copy.{name}": t for name, t in state.items() if names.setdefault(id(t), name) == name}

    @torch.no_grad()
    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what [`FrozenCopy.extra_state`] gave."""
        for name, tensor in self.extra_state().items():
            tensor.copy_(tensors[name])
