"""Support vector machine with the squared hinge loss."""

from __future__ import annotations

from .base import register_head
from .logistic import DualNewtonHead
from .losses import SquaredHingeLoss


@register_head("svm")
class SquaredHingeHead(DualNewtonHead):
    """
    One-vs-rest support vector machine with the squared hinge loss, `max(0, 1 - y (W x + b))^2` with y = -1 or 1.

    With `s` the weighted mean of `||x_i - mean(x)||^2` this is scikit-learn's `LinearSVC(C=1 / (l2 * s))`, but with a
    bias that is not penalised. The targets are zeros and ones; no gradient flows to them. The loss has a second
    derivative almost everywhere, and Newton's method ends when the set of rows inside the margin no longer changes.

    Everything else as in `DualNewtonHead`, but up to 50 steps, since that set can take long to settle when l2 is small.
    """

    loss = SquaredHingeLoss()

    def __init__(self, *, max_iter: int = 50, **kwargs) -> None:
        super().__init__(max_iter=max_iter, **kwargs)
