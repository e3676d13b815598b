"""Fit a head of a classification loss on a whole data set: Newton's method, each step by conjugate gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Batch, LinearHead, Reduce, check_l2
from .losses import HIDDEN, Loss, without_mean
from .statistics import (
    L2_GRID,
    NUM_FOLDS,
    Moments,
    check_auto,
    clean_batches,
    collect_moments,
    constant_below,
    fold_of_rows,
    warn_of_small_l2,
)


COARSE_GRID = L2_GRID[::2]  # 1e-3 ... 1e4, one value a decade: a fit of this loss costs many passes
MAX_STEPS = 100
MAX_CG = 200  # in a step
HALVINGS = 12  # of a step, at most


@dataclass(frozen=True, eq=False)
class Rows:
    """
    The rows of this rank, on the CPU in float64, and what is known of those of all ranks.

    Attributes:
        features: `(n, d + 1)`, less the mean of all rows, in units of their root mean squared distance to it, rotated
            so that columns are uncorrelated, and a 1 for the bias, or a 0 where there is none.
        targets: `(n, C)`; weight: `(n, 1)`; fold: `(n, 1)`.
        moments: of all rows, around an origin.
        mean: `(1, d)` of the rows around the origin, 0 without a bias; rotation: `(d, d)`, with the units.
        start: `(C, d + 1)`, the head to begin with; active: `(C,)`, see `Loss.start`.
    """

    features: Tensor
    targets: Tensor
    weight: Tensor
    fold: Tensor
    moments: Moments
    mean: Tensor
    rotation: Tensor
    start: Tensor
    active: Tensor

    @classmethod
    def of(cls, batches: Iterable[Batch], reduce: Reduce | None, loss: Loss, intercept: bool) -> Rows:
        """Read the batches, once."""
        kept: list[tuple[Tensor, ...]] = []

        def keep() -> Iterator[Batch]:
            for features, targets, weight, _ in clean_batches(batches):
                kept.append((features.cpu(), targets.cpu(), weight.cpu().unsqueeze(-1)))
                yield features, targets, weight

        moments = collect_moments(keep(), reduce=reduce, shift=intercept)
        total = moments.weight[0]
        mean = moments.x / total * intercept
        covariance = moments.xx[0] / total - mean.mT @ mean
        spread = covariance.trace()
        varies = spread > constant_below(mean[0])
        unit = torch.where(varies, spread, 1.0).rsqrt() * varies
        rotation = torch.linalg.eigh(covariance * unit.square())[1] * unit
        bias, active = loss.start(moments.y / total, total.reshape(1, 1))
        start = torch.cat([torch.zeros_like(moments.xy[0]), bias * intercept]).mT.cpu()

        none = [torch.zeros(0, width) for width in (mean.shape[-1], len(start), 1)]
        features, targets, weight = (torch.cat(parts).double() for parts in zip(none, *kept, strict=True))
        features = (features - (moments.origin + mean).cpu()) @ rotation.cpu()
        features = torch.cat([features, torch.full_like(weight, float(intercept))], -1)
        fold = fold_of_rows(0, len(features), NUM_FOLDS).unsqueeze(-1)
        active = active[0].cpu() | (not intercept)
        return cls(features, targets, weight, fold, moments, mean, rotation, start, active)

    def head(self, found: Tensor, info: dict[str, Tensor]) -> LinearHead:
        """Return the head of the given features from `found` `(C, d + 1)`."""
        found = found.to(self.mean)
        weight = found[:, :-1] @ self.rotation.mT
        return self.moments.head(weight, found[:, -1] - (weight @ self.mean.mT).squeeze(-1), info)


class Objective:
    """
    The penalised loss of m heads `(m, C, d + 1)`, summed over all rows, of weight `(m, n, 1)`, of all ranks.

    As the rows are standardised, the penalty of half the squared weights is `l2` itself.
    """

    def __init__(self, rows: Rows, loss: Loss, reduce: Reduce | None, weight: Tensor, l2: float) -> None:
        self.rows, self.loss, self.reduce, self.weight = rows, loss, reduce, weight
        self.penalty = torch.full_like(rows.start[0], l2)
        self.penalty[-1] = 0.0

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Add up what each rank has."""
        return values if self.reduce is None else self.reduce(values.to(self.rows.mean.device)).to(values)

    def logits(self, heads: Tensor) -> Tensor:
        """Compute logits `(m, n, C)`."""
        return (heads.flatten(0, 1) @ self.rows.features.mT).unflatten(0, heads.shape[:2]).mT

    def shown(self, logits: Tensor) -> Tensor:
        """Return logits as the loss sees them, classes without rows hidden."""
        return logits + ~self.rows.active * HIDDEN if self.loss.coupled else logits

    def of_heads(self, of_logits: Tensor, features: Tensor | None = None) -> Tensor:
        """Compute a derivative in the heads `(m, C, d + 1)` from that in the logits `(m, n, C)`."""
        features = self.rows.features if features is None else features
        found = self.sum_over_ranks((of_logits.mT.flatten(0, 1) @ features).unflatten(0, of_logits.mT.shape[:2]))
        return found * self.rows.active.unsqueeze(-1)

    def value(self, logits: Tensor, heads: Tensor) -> float:
        """Compute the penalised loss of all heads."""
        loss = self.sum_over_ranks((self.weight * self.loss.value(self.shown(logits), self.rows.targets)).sum())
        return float(loss + (self.penalty * heads.square()).sum() / 2)

    def gradient(self, logits: Tensor, heads: Tensor) -> Tensor:
        """Compute the gradient of the penalised loss in the heads."""
        residual = self.weight * self.loss.residual(self.shown(logits), self.rows.targets)
        gradient = self.penalty * heads - self.of_heads(residual)
        return self.changing(gradient)

    def changing(self, change: Tensor) -> Tensor:
        """
        Return what changes a probability: not the same for all classes of a softmax.

        Neither rounding of targets that sum to 1 nor that of a solve must move it.
        """
        return without_mean(change.mT, self.rows.active).mT if self.loss.coupled else change

    def newton_step(self, logits: Tensor, gradient: Tensor, tolerance: float) -> tuple[Tensor, float]:
        """
        Solve `H step = -gradient` until the preconditioned norm of what is left is `tolerance` times what it was.

        Returns:
            The step `(m, C, d + 1)`, and the norm of the gradient in coordinates in which H is near the identity.
        """
        curvature = self.rows.active * self.loss.curvature(self.shown(logits), self.rows.targets)
        diagonal = self.weight * curvature * (1 - curvature if self.loss.coupled else 1.0)
        diagonal = self.of_heads(diagonal, self.rows.features.square()) + self.penalty
        curved = diagonal > torch.finfo(diagonal.dtype).tiny
        inverse = curved / torch.where(curved, diagonal, 1.0)

        step, left = torch.zeros_like(gradient), -gradient
        direction = inverse * left
        size = first = float((left * direction).sum())
        for _ in range(MAX_CG):
            changes = curvature * self.logits(direction)
            if self.loss.coupled:
                changes = changes - curvature * changes.sum(-1, keepdim=True)
            product = self.of_heads(self.weight * changes) + self.penalty * direction
            along = float((direction * product).sum())
            if along <= 0:  # nothing is left, or rounding alone
                break
            step, left = step + size / along * direction, left - size / along * product
            scaled = inverse * left
            before, size = size, float((left * scaled).sum())
            if size <= tolerance**2 * first:
                break
            direction = scaled + size / before * direction
        return self.changing(step), first**0.5

    def minimise(self, heads: Tensor, tolerance: float) -> tuple[Tensor, float, bool]:
        """
        Make Newton steps from `heads` until converged, stopped by rounding, or `MAX_STEPS` are used up.

        Return the heads, the norm of their gradient relative to the first, and whether that is below the tolerance,
        and the last step small too. It is large under a small l2 as long as the weights of separable classes have to
        grow.
        """
        logits = self.logits(heads)
        first, residual, flat = 0.0, 1.0, 0
        for _ in range(MAX_STEPS):
            gradient = self.gradient(logits, heads)
            step, norm = self.newton_step(logits, gradient, min(0.1, residual))
            # A start at the minimum has a gradient of rounding alone: then measure by the number of rows.
            first = first or max(norm, 1e-4 * float(self.rows.moments.weight.sum()) ** 0.5)
            residual = norm / first
            parts = [(step[..., part].norm(), heads[..., part].norm()) for part in (slice(-1), slice(-1, None))]
            moved = max(float(change / size.clamp_min(1e-3)) for change, size in parts)
            if residual <= tolerance and moved <= 1e-3 or flat > 2:
                break
            value, changes = self.value(logits, heads), self.logits(step)
            factor, slope = 1.0, -float((gradient * step).sum())
            rounding = 16 * torch.finfo(heads.dtype).eps * (abs(value) + 1)
            for _ in range(HALVINGS):
                gain = value - self.value(logits + factor * changes, heads + factor * step)
                if gain >= 1e-4 * factor * slope - rounding:
                    break
                factor /= 2
            flat += gain <= rounding
            heads, logits = heads + factor * step, logits + factor * changes
        return heads, residual, residual <= tolerance and moved <= 1e-3


@torch.no_grad()
def fit_loss_batches(
    batches: Iterable[Batch], l2: float | str, reduce: Reduce | None, loss: Loss, intercept: bool
) -> LinearHead:
    """
    Fit a head of a classification loss on a whole data set.

    The rows are rotated so that few conjugate gradients make a Newton step. Each of them costs `O(n d C)` and one call
    of `reduce`, the rotation `O(n d^2 + d^3)`. `l2="auto"` first fits all of `COARSE_GRID`, from the largest, on all 5
    folds to a coarse tolerance, and takes the value with the least loss on the rows left out. Memory: the rows of each
    rank on its CPU in float64, `O(d^2)`, and some numbers for each row, class and head that is fit (1, or 5 for
    "auto").

    Ranks take the same decisions because they compute the same from the same sums, which asks for like hardware.

    Returns:
        A head whose `info` has the gradient norm relative to the first `solver_residual`, `solver_unconverged`
        (0 or 1), and the `l2` chosen.
    """
    rows = Rows.of(batches, reduce, loss, intercept)
    info = {}
    if check_auto(l2):
        folds = rows.fold == torch.arange(NUM_FOLDS).reshape(-1, 1, 1)
        heads, losses = rows.start.expand(NUM_FOLDS, -1, -1), {}
        for value in reversed(COARSE_GRID):
            heads, *_ = Objective(rows, loss, reduce, rows.weight * ~folds, value).minimise(heads, 1e-2)
            held_out = Objective(rows, loss, reduce, rows.weight * folds, 0.0)
            losses[value] = held_out.value(held_out.logits(heads), heads)
        l2 = min(losses, key=losses.__getitem__)
        info["l2"] = torch.tensor(l2, dtype=torch.float64)
    else:
        l2 = check_l2(l2)
        warn_of_small_l2(l2, 1e-9 * float(rows.moments.weight.sum()))
    objective = Objective(rows, loss, reduce, rows.weight.unsqueeze(0), float(l2))
    tolerance = 1e-8 if rows.moments.dtype == torch.float64 else 1e-7
    (found,), residual, converged = objective.minimise(rows.start.unsqueeze(0), tolerance)
    info["solver_residual"] = torch.tensor(residual)
    info["solver_unconverged"] = torch.tensor(int(not converged))
    return rows.head(found, info)
