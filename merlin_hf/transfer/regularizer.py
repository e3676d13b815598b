"""A loss that a method adds to that of the target's rows, computed within the model's forward pass."""

import contextlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.utils import ModelOutput


class Regularizer(nn.Module):
    """
    An extra loss on a batch of the target.

    [`~merlin_hf.transfer.model.TransferModel`] calls it at the end of its forward, so that all parameters it reads,
    and its own, are used under the wrapper of distributed training. Its parameters are trained with the heads. Other
    tensors that it keeps from one step to the next belong in the dictionary `kept`: checkpoints have them, and no
    wrapper broadcasts them.

    Class attributes:
        stores_model_copy: whether it keeps a copy of the model's weights.
        supports_sharding: `False` where it reads whole weights, or keeps tensors, which go into plain checkpoints.
        uses_hidden_states: whether it reads the classifier's hidden states; target rows then go through it at once.
        batch_size: target rows of a full micro-batch on one rank, kept up to date by the trainer.

    Args:
        weight (`float`): factor of the loss.
    """

    stores_model_copy: ClassVar[bool] = False
    supports_sharding: ClassVar[bool] = True
    uses_hidden_states: ClassVar[bool] = False
    batch_size: int = 0

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight
        self.kept: dict[str, Tensor] = {}

    def start(self, trainer: Trainer) -> None:
        """Prepare for training on the target, before its first step; a run that is resumed later does not call it."""

    def record_activations(self, transfer_model: nn.Module) -> contextlib.AbstractContextManager:
        """Return a context for the pass that computes the target's features; override it to record hidden states."""
        return contextlib.nullcontext()

    def forward(
        self, transfer_model: nn.Module, inputs: Mapping[str, Any], labels: Tensor, output: ModelOutput
    ) -> Tensor:
        """
        Return the mean loss over the rows of a micro-batch, times `weight`.

        Args:
            transfer_model: the model whose forward calls this.
            inputs (`Mapping[str, Any]`): its arguments for the target rows, without labels.
            labels (`torch.Tensor` of shape `(n,)` or `(n, num_labels)`).
            output: with `target_features` `(n, hidden_size)` and `target_logits` `(n, num_labels)`.

        Returns:
            `torch.FloatTensor` of shape `()`.
        """
        raise NotImplementedError

    def extra_state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint keeps beside parameters; none before [`Regularizer.start`]."""
        return dict(self.kept)

    def load_extra_state(self, transfer_model: Any, tensors: dict[str, Tensor]) -> None:
        """Restore the tensors of [`Regularizer.extra_state`], in place of [`Regularizer.start`]."""
        device = transfer_model.head.weight.device
        self.kept = {name: tensor.to(device) for name, tensor in tensors.items()}


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor, in float32 where its precision is lower."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
