"""The final head, fit on all target rows with the backbone as it is."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..heads import LinearHead
from .labels import split_labels


class FeatureBatches:
    """
    A data set as the features that enter a head: iterating gives `(features, targets, sample_weight)`.

    The first pass runs the backbone. Later passes, which iterative solvers and metrics make, read the features back from
    memory (`n * hidden_size` floats on the CPU), as another pass of the backbone would cost far more.

    Args:
        dataloader (`torch.utils.data.DataLoader`): batches with `labels`, each row on one rank only.
        features (`Callable`): maps a batch without labels to features `(n, hidden_size)`.
        encode (`Callable`): maps labels to targets `(n, num_labels)` and sample weights `(n,)`.
        prepare_inputs (`Callable`): moves a batch to the device.
    """

    def __init__(
        self,
        dataloader: DataLoader,
        features: Callable[[Mapping[str, Any]], Tensor],
        encode: Callable[[Tensor], tuple[Tensor, Tensor]],
        prepare_inputs: Callable[[Any], Any],
    ):
        self.dataloader = dataloader
        self.features = features
        self.encode = encode
        self.prepare_inputs = prepare_inputs
        self._kept: list[tuple[Tensor, Tensor, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept = []
        for batch in self.dataloader:
            inputs, labels = split_labels(self.prepare_inputs(batch))
            batch = (self.features(inputs), *self.encode(labels))
            kept.append(tuple(tensor.cpu() for tensor in batch))
            yield batch
        self._kept = kept


@torch.no_grad()
def write_head(layer: nn.Linear, head: LinearHead, scale: float = 1.0) -> None:
    """
    Put a fitted head into a model's last layer.

    Args:
        layer (`torch.nn.Linear`): with `weight` of shape `(num_labels, hidden_size)`, with or without a bias.
        head ([`~merlin_hf.heads.LinearHead`]): of the same shape.
        scale (`float`): factor of the logits, so that their softmax is calibrated; predictions do not depend on it.
    """
    layer.weight.copy_(head.weight * scale)
    if layer.bias is not None:
        layer.bias.copy_(head.bias * scale)
