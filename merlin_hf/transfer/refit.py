"""The final head, fit on all target rows with the backbone as it is."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..heads import LinearHead
from .distributed import write
from .labels import split_labels


class FeatureBatches:
    """
    A data set as the features that enter a head: iterating gives `(features, targets, sample_weight)`.

    The first pass runs the backbone. Later passes, which iterative solvers make, read the features back from memory
    (`n * hidden_size` floats on the CPU), as another pass of the backbone would cost far more.

    Args:
        batches (`Callable`): starts a pass over batches with `labels`, each row on one rank only, and whether they are this
            rank's own.
        features (`Callable`): maps a batch without labels to features `(n, hidden_size)`.
        encode (`Callable`): maps labels to targets `(n, num_labels)` and sample weights `(n,)`.
        prepare_inputs (`Callable`): moves a batch to the device.
        keep (`bool`): keep features for later passes.
        sample_size (`int`): rows that `sample` has at least, the first ones, after a pass.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[tuple[Any, bool]]],
        features: Callable[[Mapping[str, Any]], Tensor],
        encode: Callable[[Tensor], tuple[Tensor, Tensor]],
        prepare_inputs: Callable[[Any], Any],
        keep: bool = False,
        sample_size: int = 10_000,
    ):
        self.batches = batches
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
        for batch, is_own in self.batches():
            inputs, labels = split_labels(self.prepare_inputs(batch))
            batch = (self.features(inputs), *self.encode(labels))
            if not is_own:
                continue
            if self.keep or rows < self.sample_size:
                kept.append(tuple(tensor.cpu() for tensor in batch))
                rows += len(labels)
            yield batch
        self.sample = kept
        if self.keep:
            self._kept = kept


def write_head(layer: nn.Linear, head: LinearHead, scale: float = 1.0) -> None:
    """
    Put a fitted head into a model's last layer.

    Args:
        layer (`torch.nn.Linear`): with `weight` of shape `(num_labels, hidden_size)`, with or without a bias.
        head ([`~merlin_hf.heads.LinearHead`]): of the same shape.
        scale (`float`): factor of the logits, so that their softmax is calibrated; predictions do not depend on it.
    """
    write(layer.weight, head.weight * scale)
    if layer.bias is not None:
        write(layer.bias, head.bias * scale)
