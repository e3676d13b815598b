"""Averages of what a step reports, kept on the device until they are logged."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class MetricAverager:
    """
    Running means of named scalars.

    [`MetricAverager.add`] never reads a value back from the device; [`MetricAverager.pop`] does so once for all of them.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget everything added so far."""
        # By the names that come together, so that a step adds one vector for all of them.
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, values: Mapping[str, Tensor], finite_only: bool = False) -> None:
        """
        Add scalar tensors of one micro-batch; every rank adds the same names.

        Args:
            finite_only (`bool`): count NaN and infinity as the mean so far, as Trainer's `logging_nan_inf_filter` does; 0 where these
                names come together for the first time.
        """
        if not values:
            return
        names = tuple(values)
        added = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        count = self._counts.get(names, 0)
        if finite_only:
            so_far = self._sums[names] / count if count else torch.zeros_like(added)
            added = torch.where(added.isfinite(), added, so_far)
        self._sums[names] = self._sums[names] + added if count else added
        self._counts[names] = count + 1

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over micro-batches and ranks since the last call; a collective, so every rank calls it."""
        if not self._sums:
            return {}
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for group, values in self._sums.items():
            for name, value in zip(group, values, strict=True):
                sums[name] = sums.get(name, 0) + value
                counts[name] = counts.get(name, 0) + self._counts[group]
        names = sorted(sums)
        means = torch.stack([sums[name] / counts[name] for name in names])
        means = accelerator.reduce(means, reduction="mean").tolist()
        self.reset()
        return dict(zip(names, means, strict=True))
