"""Limited-memory BFGS that asks for evaluations, so that many problems can share a pass over the data."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class Lbfgs:
    """
    Minimise a smooth convex function; Nocedal & Wright 2006, Numerical Optimization, algorithm 7.4.

    Evaluate the function and its gradient at `point`, pass both to `tell`, and go on until `done`. Steps are halved
    until they decrease the function enough (Armijo).

    Args:
        point: where to start, in coordinates in which the second derivative is near the identity.
        tolerance: of the gradient's norm, relative to `first`.
        rounding: relative error of the values told.
        first: the norm that others are relative to; `None` is the first told.
        memory: pairs kept.

    Attributes:
        point: where to evaluate next.
        done: whether the search has ended.
        residual: the gradient's norm relative to `first`.
        converged: whether `residual` is below the tolerance.
    """

    def __init__(
        self, point: Tensor, tolerance: float, rounding: float, first: float | None = None, memory: int = 10
    ) -> None:
        self.point = point
        self.tolerance, self.rounding = tolerance, rounding
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=memory)
        self.done = self.converged = False
        self.residual = float("inf")
        self.value: float | None = None
        self.gradient = self.direction = self.origin = point  # until a value is told
        self.first, self.slope, self.step = first, 0.0, 0.0

    @property
    def best(self) -> Tensor:
        """The best point seen, `point` itself being one that is still to be tried."""
        return self.origin

    def tell(self, value: float, gradient: Tensor) -> None:
        """Take in the function's value and gradient at `point`, and move on."""
        if self.value is not None:
            allowed = self.value + 1e-4 * self.step * self.slope + self.rounding * abs(self.value)
            if not value <= allowed:
                self.step /= 2
                self.point = self.origin + self.step * self.direction
                self.done = self.step < 1e-6
                return
            moved, bent = self.point - self.origin, gradient - self.gradient
            curvature = float((moved * bent).sum())
            if curvature > 1e-12 * float(moved.square().sum()):
                self.pairs.append((moved, bent, curvature))
        self.value, self.gradient, self.origin = value, gradient, self.point
        norm = float(gradient.norm())
        self.first = norm if self.first is None else self.first
        self.residual = norm / self.first if self.first > 0 else 0.0
        self.done = self.converged = self.residual <= self.tolerance
        if not self.done:
            self._aim()

    def _aim(self) -> None:
        direction = -self.gradient
        factors = []
        for moved, bent, curvature in reversed(self.pairs):
            factor = float((moved * direction).sum()) / curvature
            direction = direction - factor * bent
            factors.append(factor)
        if self.pairs:
            _, bent, curvature = self.pairs[-1]
            direction = direction * (curvature / float(bent.square().sum()))
        for (moved, bent, curvature), factor in zip(self.pairs, reversed(factors), strict=True):
            direction = direction + (factor - float((bent * direction).sum()) / curvature) * moved
        self.direction, self.step = direction, 1.0
        self.slope = float((direction * self.gradient).sum())
        self.point = self.origin + direction


def stack_points(problems: list[Lbfgs]) -> Tensor:
    """The points of several problems as one tensor."""
    return torch.stack([problem.point for problem in problems])
