"""Fit a head of a classification loss on a whole data set: scipy's L-BFGS over passes through the rows."""

from __future__ import annotations

import math
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
    hash_of_rows,
    warn_of_small_l2,
)


COARSE_GRID = L2_GRID[::2]  # 1e-3 ... 1e4, one value a decade: a fit of this loss costs many passes
MAX_PASSES = 500
FIRST_ROUND = 30  # iterations
COARSE = 1e-3  # of the first gradient
CHUNK = 4096  # rows computed at once


@dataclass(frozen=True, eq=False)
class Rows:
    """
    The rows of this rank, on the CPU.

    Attributes:
        features: `(n, d)`, less the mean of all rows, in units of their root mean squared distance to it.
        targets: `(n, C)`; weight: `(n,)`; fold: `(n,)`; sampled: `(n,)`, whether a row belongs to the sample.
    """

    features: Tensor
    targets: Tensor
    weight: Tensor
    fold: Tensor
    sampled: Tensor

    def chunks(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Tensor, ...]]:
        """Yield a few thousand rows at a time, on a device and in a precision."""
        parts = (self.features, self.targets, self.weight, self.fold, self.sampled)
        for start in range(0, len(self.features), CHUNK):
            features, targets, weight, fold, sampled = (part[start : start + CHUNK].to(device) for part in parts)
            yield features.to(dtype), targets.to(dtype), weight.to(dtype), fold, sampled


@dataclass(frozen=True, eq=False)
class Objective:
    """
    The penalised loss of m heads, summed over all rows of all ranks, one pass over the rows for each evaluation.

    As the rows are standardised, the penalty of half the squared weights is `l2` itself.

    Attributes:
        moments: of all rows, around an origin.
        mean: `(1, d)` of the rows around the origin, 0 without a bias; unit: `()`, 0 where the rows do not differ.
        start: `(C,)`, the bias to begin with; active: `(C,)`, see `Loss.start`.
    """

    rows: Rows
    reduce: Reduce | None
    loss: Loss
    intercept: bool
    moments: Moments
    mean: Tensor
    unit: Tensor
    start: Tensor
    active: Tensor

    @classmethod
    def of(cls, batches: Iterable[Batch], reduce: Reduce | None, loss: Loss, intercept: bool) -> Objective:
        """Read the batches, once."""
        kept: list[tuple[Tensor, ...]] = []

        def keep() -> Iterator[Batch]:
            for features, targets, weight, _ in clean_batches(batches):
                kept.append((features.cpu(), targets.cpu(), weight.cpu()))
                yield features, targets, weight

        moments = collect_moments(keep(), reduce=reduce, full=False, shift=intercept)
        total = moments.weight[0]
        mean = moments.x / total * intercept
        spread = moments.xx[0] / total - mean.square().sum()
        varies = spread > constant_below(mean[0])
        unit = torch.where(varies, spread, 1.0).rsqrt() * varies
        start, active = loss.start(moments.y / total, total.reshape(1, 1))
        if not intercept:
            start, active = torch.zeros_like(start), torch.ones_like(active)
        rows = cls._standardise(kept, moments, mean, unit)
        return cls(rows, reduce, loss, intercept, moments, mean, unit, start[0], active[0])

    @staticmethod
    def _standardise(kept: list[tuple[Tensor, ...]], moments: Moments, mean: Tensor, unit: Tensor) -> Rows:
        origin, mean, unit = moments.origin.cpu(), mean.cpu(), unit.cpu()
        empty = [torch.zeros(0, k, dtype=moments.dtype) for k in (mean.shape[-1], moments.y.shape[-1])]
        parts = [((x - origin - mean) * unit).to(moments.dtype) for x, *_ in kept]
        features = torch.cat([empty[0], *parts])
        targets = torch.cat([empty[1], *(y for _, y, _ in kept)])
        weight = torch.cat([empty[0][:, 0], *(w for *_, w in kept)])
        stride = max(1, int(moments.weight[0] // max(8 * mean.shape[-1], 4096)))
        fold, sampled = fold_of_rows(0, len(features), NUM_FOLDS), hash_of_rows(0, len(features)) % stride == 0
        return Rows(features, targets, weight, fold, sampled)

    def sum_over_ranks(self, *tensors: Tensor) -> list[Tensor]:
        """Add up what each rank has, in one message."""
        if self.reduce is None:
            return list(tensors)
        flat = self.reduce(torch.cat([t.reshape(-1) for t in tensors])).split([t.numel() for t in tensors])
        return [new.view_as(old) for new, old in zip(flat, tensors, strict=True)]

    def evaluate(
        self, weight: Tensor, bias: Tensor, l2: float, folds: list[int], dtype: torch.dtype, held_out: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Compute values `(m,)` and gradients in weight `(m, C, d)` and bias `(m, C)` of the penalised loss.

        Head j has the rows outside fold `folds[j]`, all if that is -1; with `held_out` those inside, and no penalty.
        """
        models, classes, d = weight.shape
        hidden = ~self.active * HIDDEN * self.loss.coupled * (not held_out)
        fold = torch.tensor(folds, device=weight.device)
        value, of_weight, of_bias = weight.new_zeros(models), torch.zeros_like(weight), torch.zeros_like(bias)
        columns, offset = weight.reshape(-1, d).mT.to(dtype), (bias + hidden).unsqueeze(-2).to(dtype)
        for x, y, w, fold_of_row, _ in self.rows.chunks(weight.device, dtype):
            logits = (x @ columns).view(len(x), models, classes).transpose(0, 1)
            logits = logits + offset
            row_weight = (w * ((fold_of_row == fold.unsqueeze(-1)) == held_out)).unsqueeze(-1)
            value += (row_weight * self.loss.value(logits, y)).double().sum((-2, -1))
            residual = row_weight * self.loss.residual(logits, y)
            of_weight -= (residual.transpose(0, 1).reshape(len(x), -1).mT @ x).view_as(weight)
            of_bias -= residual.sum(-2)
        value, of_weight, of_bias = self.sum_over_ranks(value, of_weight, of_bias)
        if self.loss.coupled:
            # The same added to all classes changes no probability; targets that sum to 1 but for rounding must not
            # move it.
            of_weight = without_mean(of_weight.mT, self.active).mT
            of_bias = without_mean(of_bias, self.active)
        if held_out:
            return value, of_weight, of_bias
        return value + l2 / 2 * weight.square().sum((-2, -1)), of_weight + l2 * weight, of_bias

    def coordinates(self, weight: Tensor, bias: Tensor, l2: float) -> Coordinates:
        """Choose coordinates around a head `(C, d)`, `(C,)`, by the curvature of the loss on a sample of the rows."""
        gram = weight.new_zeros(weight.shape[1], weight.shape[1])
        by_class, sampled_weight = torch.zeros_like(bias), bias.new_zeros(1)
        for x, y, w, _, sampled in self.rows.chunks(weight.device, weight.dtype):
            x, y, w = x[sampled], y[sampled], w[sampled]
            curvature = self.loss.curvature(x @ weight.mT + bias + ~self.active * HIDDEN * self.loss.coupled, y)
            if self.loss.coupled:
                curvature = curvature * (1 - curvature)
            curvature = curvature * self.active * w.unsqueeze(-1)
            gram += (x * curvature.mean(-1, keepdim=True)).mT @ x
            by_class += curvature.sum(0)
            sampled_weight += w.sum()
        gram, by_class, sampled_weight = self.sum_over_ranks(gram, by_class, sampled_weight)
        total = self.moments.weight[0]
        factor = total / sampled_weight.clamp_min(torch.finfo(weight.dtype).tiny)
        values, rotation = torch.linalg.eigh(gram * factor)
        by_class = by_class * factor
        share = (by_class / by_class.mean().clamp_min(torch.finfo(weight.dtype).tiny)).clamp_min(1e-3)
        spread = share.unsqueeze(-1) * values.clamp_min(0) + l2
        weight_scale = spread.rsqrt() * self.active.unsqueeze(-1) * (self.unit > 0)
        bias_scale = by_class.clamp_min(1e-6 * total).rsqrt() * self.active * self.intercept
        return Coordinates(rotation, weight_scale, bias_scale)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """
    Coordinates of changes of a head in which the second derivative of the objective is near the identity.

    With the eigenvectors Q and eigenvalues e of the rows' covariance, weighted by the curvature of the loss, the
    change of the weight of class c is `Q diag((r_c e + l2)^-1/2)` times its coordinates, `r_c` being the class's share
    of the curvature.

    Attributes:
        rotation: Q; weight_scale: `(C, d)`; bias_scale: `(C,)`.
    """

    rotation: Tensor
    weight_scale: Tensor
    bias_scale: Tensor

    def change(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Compute changes of weights `(m, C, d)` and biases `(m, C)` of points `(m, C, d + 1)`."""
        return (points[..., :-1] * self.weight_scale) @ self.rotation.mT, points[..., -1] * self.bias_scale

    def gradient(self, of_weight: Tensor, of_bias: Tensor) -> Tensor:
        """Compute the gradient `(m, C, d + 1)` in the coordinates, from that in weight and bias."""
        return torch.cat(
            [of_weight @ self.rotation * self.weight_scale, (of_bias * self.bias_scale).unsqueeze(-1)], -1
        )


@dataclass(eq=False)
class Search:
    """
    The minimisation of the objective for some heads, by rounds of L-BFGS in new coordinates.

    Attributes:
        weight: `(m, C, d)` and bias: `(m, C)`, of standardised rows.
        residual: norm of the gradient relative to the first.
        step: size of a Newton step relative to that of the weights and biases.
        passes: evaluations so far.
    """

    objective: Objective
    weight: Tensor
    bias: Tensor
    folds: list[int]
    first: float = 0.0
    residual: float = float("inf")
    step: float = float("inf")
    passes: int = 0

    def minimise(self, l2: float, tolerance: float) -> bool:
        """
        Go on until converged, stopped by rounding, or `MAX_PASSES` are used up.

        In rounds, each twice as long as the one before and in the coordinates of where that ended: in the precision of
        the rows until the gradient is `COARSE` of the first, then in float64.

        Returns whether the residual is below the tolerance, and the step small too. It is large under a small l2 as
        long as the weights of separable classes have to grow.
        """
        iterations, coarse = FIRST_ROUND, self.objective.rows.features.dtype != torch.float64
        while self.passes < MAX_PASSES:
            before = self.residual, self.step
            around = self._look_around(l2)
            if self.residual <= tolerance and self.step <= 1e-3:
                return True
            stalled = self.residual > before[0] / 2 and self.step > before[1] / 2
            if stalled and not coarse:
                return False
            coarse = coarse and not stalled and self.residual > COARSE
            goal = COARSE if coarse else tolerance if self.residual > tolerance else 0.0
            self._descend(
                around, l2, goal, iterations, self.objective.rows.features.dtype if coarse else torch.float64
            )
            iterations *= 2
        return False

    def approach(self, l2: float) -> None:
        """Come near enough to the minimum to tell this l2 from others."""
        dtype = self.objective.rows.features.dtype
        self._descend(self._look_around(l2), l2, 1e-2, FIRST_ROUND, dtype)

    def _look_around(self, l2: float) -> Coordinates:
        """Measure where the search is, and return coordinates for the next round."""
        around = self.objective.coordinates(self.weight.mean(0), self.bias.mean(0), l2)
        _, *gradients = self.objective.evaluate(self.weight, self.bias, l2, self.folds, torch.float64)
        gradient = around.gradient(*gradients)
        self.passes += 1
        # Where the start is the solution but for rounding, its gradient is no measure.
        self.first = self.first or max(
            float(gradient.norm()), 1e-4 * float(self.objective.moments.weight.sum()) ** 0.5
        )
        self.residual = float(gradient.norm()) / self.first
        moved = torch.stack([change.norm() for change in around.change(gradient)])
        size = torch.stack([self.weight.norm(), self.bias.norm()])
        self.step = float((moved / size.clamp_min(1e-3)).max())
        return around

    def _descend(self, around: Coordinates, l2: float, goal: float, iterations: int, dtype: torch.dtype) -> None:
        from scipy.optimize import minimize  # a second to import, and only needed here

        shape = (*self.weight.shape[:-1], self.weight.shape[-1] + 1)
        size = math.prod(shape)

        def head(point) -> tuple[Tensor, Tensor]:
            of_weight, of_bias = around.change(torch.from_numpy(point).view(shape).to(self.weight))
            return self.weight + of_weight, self.bias + of_bias

        def evaluate(point):
            self.passes += 1
            value, *gradients = self.objective.evaluate(*head(point), l2, self.folds, dtype)
            return float(value.sum()), around.gradient(*gradients).reshape(-1).cpu().numpy()

        options = {
            "maxiter": iterations,
            "maxfun": max(1, MAX_PASSES - self.passes),
            "ftol": 4 * torch.finfo(dtype).eps * (dtype != torch.float64),
            "gtol": goal * self.first / size**0.5,
        }
        found = minimize(evaluate, torch.zeros(size).double().numpy(), jac=True, method="L-BFGS-B", options=options)
        self.weight, self.bias = head(found.x)


@torch.no_grad()
def fit_loss_batches(
    batches: Iterable[Batch], l2: float | Tensor | str, reduce: Reduce | None, loss: Loss, intercept: bool
) -> LinearHead:
    """
    Fit a head of a classification loss on a whole data set.

    L-BFGS in coordinates that a sample of the rows gives (see `Coordinates`), so that it needs few passes. Each pass
    costs `O(n d C)` and one call of `reduce`, each change of coordinates `O(d^3)`. `l2="auto"` first fits all of
    `COARSE_GRID`, from the largest, on all 5 folds to a coarse tolerance, and takes the value with the least loss on
    the rows left out. Memory: the rows of each rank on its CPU, `O(d^2)`, and for each of the heads fit together (1,
    or 5 for "auto") 20 copies of `(C, d)`.

    Ranks take the same decisions because they compute the same from the same sums, which asks for like hardware.

    Returns:
        A head whose `info` has the gradient norm relative to the first `solver_residual`, `solver_unconverged`
        (0 or 1), the `solver_passes`, and the `l2` chosen.
    """
    objective = Objective.of(batches, reduce, loss, intercept)
    classes, d = len(objective.start), objective.mean.shape[-1]
    chosen, info, passes = 0.0, {}, 1

    def search(folds: list[int]) -> Search:
        weight = objective.start.new_zeros(len(folds), classes, d)
        return Search(objective, weight, objective.start.expand(len(folds), -1), folds)

    if check_auto(l2):
        of_folds, losses = search([*range(NUM_FOLDS)]), {}
        for value in reversed(COARSE_GRID):
            of_folds.approach(value)
            head = of_folds.weight, of_folds.bias
            loss_of_folds, *_ = objective.evaluate(*head, 0.0, of_folds.folds, torch.float64, held_out=True)
            losses[value] = float(loss_of_folds.sum())
        chosen = min(losses, key=losses.__getitem__)
        passes += of_folds.passes
        info["l2"] = torch.tensor(chosen, dtype=torch.float64)
    else:
        chosen = float(check_l2(l2))
        warn_of_small_l2(chosen, 1e-9 * float(objective.moments.weight.sum()))
    moments = objective.moments
    tolerance = 1e-8 if moments.dtype == torch.float64 else 1e-7
    found = search([-1])
    converged = found.minimise(chosen, tolerance)
    (weight,), (bias,) = found.weight, found.bias
    if loss.coupled:
        # The classes have scales of their own in the search, so that a little of what changes no probability comes in.
        weight = without_mean(weight.mT, objective.active).mT
        bias = torch.where(objective.active, without_mean(bias, objective.active), bias)
    info["solver_residual"] = torch.tensor(found.residual)
    info["solver_unconverged"] = torch.tensor(int(not converged))
    info["solver_passes"] = torch.tensor(passes + found.passes)
    weight = weight * objective.unit
    return moments.head(weight, bias - (weight @ objective.mean.mT).squeeze(-1), info)
