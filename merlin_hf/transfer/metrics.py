"""Averages of what a step reports, kept on the device until they are logged."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class MetricAverager:
    """
    Running means of named scalars.

    [`MetricAverager.add`] never reads a value back from the device; [`MetricAverager.pop`] does so once for all of
    them.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget everything added so far."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], finite_only: bool = False) -> None:
        """
        Add scalar tensors of one micro-batch; every rank adds the same names.

        Args:
            finite_only (`bool`): count NaN and infinity as the mean so far, as Trainer's `logging_nan_inf_filter`
                does.
        """
        for name, value in values.items():
            value = value.detach().float().reshape(())
            if finite_only:
                so_far = self._sums[name] / self._counts[name] if name in self._sums else torch.zeros_like(value)
                value = torch.where(value.isfinite(), value, so_far)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over micro-batches and ranks since the last call; a collective, so every rank calls it."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        means = accelerator.reduce(means, reduction="mean").tolist()
        self.reset()
        return dict(zip(names, means, strict=True))
