"""A sample of the rows of a data set, and the loss's curvature on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Batch
from .statistics import Moments, clean_batches, hash_of_rows


@dataclass(frozen=True, eq=False)
class Sample:
    """
    Rows of this rank, at most `2 * size`, taken by a hash of their position.

    Attributes:
        features: `(m, d)`; targets: `(m, C)`; weight: `(m,)`, of the row and those that it stands for.
        total: weight of all rows of all ranks.
    """

    features: Tensor
    targets: Tensor
    weight: Tensor
    total: Tensor

    @classmethod
    def of(cls, batches: Iterable[Batch], moments: Moments) -> Sample:
        """One pass; whenever there are too many rows, half of them are dropped."""
        d, classes = moments.x.shape[1], moments.y.shape[1]
        size = min(max(8 * d, 2048), 16384)
        device = moments.x.device
        kept = [torch.zeros(0, k, dtype=moments.dtype, device=device) for k in (d, classes, 1)]
        hashes, below, seen = torch.zeros(0, dtype=torch.int64), 2**32, 0
        for features, targets, weight, _ in clean_batches(batches, moments.dtype, device):
            new = hash_of_rows(seen, len(features))
            seen += len(features)
            rows = (new < below).nonzero().squeeze(-1)
            hashes = torch.cat([hashes, new[rows]])
            rows = rows.to(device)
            parts = zip(kept, (features, targets, weight.unsqueeze(-1)), strict=True)
            kept = [torch.cat([old, t[rows]]) for old, t in parts]
            while len(hashes) > 2 * size:
                below //= 2
                rows = (hashes < below).nonzero().squeeze(-1)
                hashes, kept = hashes[rows], [t[rows.to(device)] for t in kept]
        features, targets, weight = kept
        return cls(features, targets, weight.squeeze(-1).double() * (2**32 / below), moments.weight[0])

    def curvature(self, objective, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """
        The loss's curvature at a head for centred rows, over all ranks: averaged over classes, as a `(d, d)` covariance
        of the rows, and of each class `(C,)`, summed over rows.
        """
        rows = self.features - objective.mean.to(self.features.dtype)
        logits = rows @ weight.mT.to(rows.dtype) + (bias + objective.hidden).to(rows.dtype)
        curvature = objective.loss.curvature(logits, self.targets)
        if objective.loss.coupled:
            curvature = curvature * (1 - curvature)
        curvature = curvature * objective.active * self.weight.unsqueeze(-1)
        gram = (rows * curvature.mean(-1, keepdim=True).to(rows.dtype)).mT @ rows
        gram, by_class = gram.double(), curvature.sum(0)
        if objective.reduce is not None:
            flat = objective.reduce(torch.cat([gram.reshape(-1), by_class]))
            gram, by_class = flat[: gram.numel()].view_as(gram), flat[gram.numel() :]
        return gram, by_class
