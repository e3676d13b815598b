"""The classification losses, as value, negative gradient and curvature in the logits."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


HIDDEN = -1e30  # added to the logit of a class that no row has: its probability is 0, and sums stay finite


class Loss(Protocol):
    """
    A loss of logits and targets `(..., n, C)`.

    Attributes:
        coupled: whether a row's logits act on one another (softmax) or each column is a problem of its own.
    """

    coupled: bool

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss `(..., n, C)`, or `(..., n, 1)` when coupled."""

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute minus the gradient in the logits, `(..., n, C)`."""

    def curvature(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the second derivative `(..., n, C)`; when coupled, the probabilities p, for diag(p) - p p^T."""

    def start(self, targets: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bias `(..., 1, C)` to start from, and which columns `(..., 1, C)` have a finite one."""


class SoftmaxLoss:
    """Multinomial cross-entropy; the rows of the targets sum to 1."""

    coupled = True

    def value(self, logits, targets):
        """Compute the loss."""
        return torch.logsumexp(logits, -1, keepdim=True) - (targets * logits).sum(-1, keepdim=True)

    def residual(self, logits, targets):
        """Compute minus the gradient in the logits."""
        return targets - logits.softmax(-1)

    def curvature(self, logits, targets):
        """Compute the second derivative in the logits."""
        return logits.softmax(-1)

    def start(self, targets, weight):
        """Return the bias to start from, and which columns have a finite one."""
        counts = (targets * weight).sum(-2, keepdim=True)
        active = counts > 0
        # A class without rows is given the bias it would have with half a row.
        bias = torch.where(active, counts, 0.5).log()
        mean = (bias * active).sum(-1, keepdim=True) / active.sum(-1, keepdim=True).clamp_min(1)
        return bias - mean, active


class SigmoidLoss:
    """Binary cross-entropy of every column; targets in [0, 1]."""

    coupled = False

    def value(self, logits, targets):
        """Compute the loss."""
        return F.softplus(logits) - targets * logits

    def residual(self, logits, targets):
        """Compute minus the gradient in the logits."""
        return targets - logits.sigmoid()

    def curvature(self, logits, targets):
        """Compute the second derivative in the logits."""
        return logits.sigmoid() * (-logits).sigmoid()

    def start(self, targets, weight):
        """Return the bias to start from, and which columns have a finite one."""
        positive = (targets * weight).sum(-2, keepdim=True)
        negative = ((1 - targets) * weight).sum(-2, keepdim=True)
        active = (positive > 0) & (negative > 0)
        smooth = torch.where(active, 0.0, 0.5)
        return (positive + smooth).log() - (negative + smooth).log(), active


def without_mean(values: Tensor, active: Tensor) -> Tensor:
    """Return the active entries of values `(..., 1, C)` less their mean, 0 elsewhere."""
    mean = (values * active).sum(-1, keepdim=True) / active.sum(-1, keepdim=True).clamp_min(1)
    return active * (values - mean)
