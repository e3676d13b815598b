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

    The first pass runs the backbone. Later passes, which iterative solvers make, read the features back from memory
    (`n * hidden_size` floats on the CPU), as another pass of the backbone would cost far more.

    Args:
        dataloader (`torch.utils.data.DataLoader`): batches with `labels`, each row on one rank only.
        features (`Callable`): maps a batch without labels to features `(n, hidden_size)`.
        encode (`Callable`): maps labels to targets `(n, num_labels)` and sample weights `(n,)`.
        prepare_inputs (`Callable`): moves a batch to the device.
        keep (`bool`): keep features for later passes.
        sample_size (`int`): rows that `sample` has at least, the first ones, after a pass.
    """

    def __init__(
        self,
        dataloader: DataLoader,
        features: Callable[[Mapping[str, Any]], Tensor],
        encode: Callable[[Tensor], tuple[Tensor, Tensor]],
        prepare_inputs: Callable[[Any], Any],
        keep: bool = False,
        sample_size: int = 10_000,
    ):
        self.dataloader = dataloader
        self.features = features
        self.encode = encode
        self.prepare_inputs = prepare_inputs
        self.keep = keep
        self.sample_size = sample_size
        self.sample: list[tuple[Tensor, Tensor, Tensor]] = []
        self._kept: list[tuple[Tensor, Tensor, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, rows = [], 0
        for batch in self.dataloader:
            inputs, labels = split_labels(self.prepare_inputs(batch))
            batch = (self.features(inputs), *self.encode(labels))
            if self.keep or rows < self.sample_size:
                kept.append(tuple(tensor.cpu() for tensor in batch))
                rows += len(labels)
            yield batch
        self.sample = kept
        if self.keep:
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
