"""Whole-set fits of the classification losses: L-BFGS over passes through the rows, many fits in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Batch, LinearHead, Reduce, check_l2
from .lbfgs import Lbfgs
from .losses import HIDDEN, Loss
from .newton_systems import without_mean
from .sampled import Sample
from .statistics import NUM_FOLDS, Moments, check_auto, clean_batches, collect_moments, fold_of_rows


L2_GRID = tuple(10.0**power for power in range(-3, 5))
MAX_PASSES = 500
FIRST_ROUND = 12
CHUNK = 2**22  # logits computed at once


@dataclass(frozen=True, eq=False)
class Objective:
    """
    The penalised loss of m heads, summed over all rows of all ranks, one pass over the rows for each evaluation.

    Attributes:
        mean: `(d,)` of the rows, 0 without a bias; penalty: `(m,)`, of half the squared weight.
        start: `(C,)`, the bias to begin with; active: `(C,)`, see `Loss.start`; varies: whether the rows differ.
    """

    batches: Iterable[Batch]
    reduce: Reduce | None
    loss: Loss
    intercept: bool
    mean: Tensor
    penalty: Tensor
    start: Tensor
    active: Tensor
    varies: Tensor

    @classmethod
    def of(cls, batches, reduce, loss: Loss, intercept: bool, moments: Moments, l2: list[float]) -> Objective:
        """From moments of the rows and an l2 for each head."""
        total = moments.weight[0]
        mean = moments.x[0] / total * intercept
        spread = moments.xx[0] / total - mean.square().sum()
        info = torch.finfo(torch.float64)
        varies = spread > 16 * info.eps * mean.square().sum() + 1e6 * info.tiny
        start, active = loss.start(moments.y / total, total.reshape(1, 1))
        if not intercept:
            start, active = torch.zeros_like(start), torch.ones_like(active)
        penalty = torch.tensor(l2, dtype=torch.float64, device=mean.device) * torch.where(varies, spread, 1.0)
        return cls(batches, reduce, loss, intercept, mean, penalty, start[0], active[0], varies)

    @property
    def hidden(self) -> Tensor:
        """Added to the logits, hides classes without rows from the softmax."""
        return ~self.active * HIDDEN * self.loss.coupled

    def evaluate(
        self, weight: Tensor, bias: Tensor, which: list[int], folds: list[int | None], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Values `(m,)` and gradients in weight `(m, C, d)` and bias `(m, C)`, where the rows are centred.

        Head j has the penalty of `which[j]`, and the rows outside fold `folds[j]`, all if None.
        """
        value, grad_weight, grad_bias = self._sum(weight, bias, folds, dtype, held_out=False)
        penalty = self.penalty[which]
        value = value + penalty / 2 * weight.square().sum((-2, -1))
        grad_weight = grad_weight - grad_bias.unsqueeze(-1) * self.mean + penalty[:, None, None] * weight
        return value, grad_weight, grad_bias

    def held_out(self, weight: Tensor, bias: Tensor, folds: list[int | None], dtype: torch.dtype) -> Tensor:
        """Loss `(m,)` of head j on the rows in fold `folds[j]`."""
        return self._sum(weight, bias, folds, dtype, held_out=True)[0]

    def _sum(self, weight, bias, folds, dtype, held_out: bool) -> tuple[Tensor, ...]:
        models, classes, _ = weight.shape
        value = torch.zeros(models, dtype=torch.float64, device=weight.device)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        # For rows as they are, not centred.
        offset = bias - weight @ self.mean + (0.0 if held_out else self.hidden)
        low_weight, offset = weight.to(dtype), offset.to(dtype)
        fold = torch.tensor([-1 if f is None else f for f in folds], device=weight.device)
        size, seen = max(1, CHUNK // (models * classes)), 0
        for batch in clean_batches(self.batches, dtype, weight.device):
            for x, y, w in zip(*(t.split(size) for t in batch[:3]), strict=True):
                in_fold = fold_of_rows(seen, len(x), NUM_FOLDS).to(fold.device) == fold.unsqueeze(-1)
                seen += len(x)
                row_weight = (w * (in_fold == held_out)).unsqueeze(-1)
                logits = (low_weight @ x.mT).mT + offset.unsqueeze(-2)
                value += (row_weight * self.loss.value(logits, y)).double().sum((-2, -1))
                if not held_out:
                    residual = row_weight * self.loss.residual(logits, y)
                    grad_weight -= residual.mT @ x
                    grad_bias -= residual.sum(-2)
        if self.reduce is not None:
            parts = (value, grad_weight, grad_bias)
            flat = self.reduce(torch.cat([t.reshape(-1) for t in parts])).split([t.numel() for t in parts])
            value, grad_weight, grad_bias = (new.view_as(old) for new, old in zip(flat, parts, strict=True))
        return value, grad_weight, grad_bias


@dataclass(frozen=True, eq=False)
class Coordinates:
    """
    Coordinates of m heads in which the second derivative of the objective is near the identity.

    With the eigenvectors Q and eigenvalues e of the rows' covariance, weighted by the curvature of the loss at `weight`
    and `bias` and estimated on a sample of the rows, the weight of class c is `weight + Q diag((r_c e + penalty)^-1/2)`
    times its coordinates, `r_c` being the class's share of the curvature.

    Attributes:
        weight: `(C, d)` and bias: `(C,)`, the origin; rotation: Q; weight_scale: `(m, C, d)`; bias_scale: `(C,)`.
    """

    weight: Tensor
    bias: Tensor
    rotation: Tensor
    weight_scale: Tensor
    bias_scale: Tensor

    @classmethod
    def around(cls, objective: Objective, sample: Sample, weight: Tensor, bias: Tensor) -> Coordinates:
        """Around a head for centred rows. Calls `reduce` once."""
        gram, curvature = sample.curvature(objective, weight, bias)
        values, rotation = torch.linalg.eigh(gram)
        share = curvature / curvature.mean().clamp_min(torch.finfo(curvature.dtype).tiny)
        share = share.clamp_min(1e-3)
        spread = share[:, None] * values.clamp_min(0) + objective.penalty[:, None, None]
        weight_scale = spread.rsqrt() * objective.active[:, None] * objective.varies
        bias_scale = curvature.clamp_min(1e-6 * sample.total).rsqrt() * objective.active * objective.intercept
        return cls(weight, bias, rotation, weight_scale, bias_scale)

    def head(self, points: Tensor, which: list[int]) -> tuple[Tensor, Tensor]:
        """Weight and bias of points `(m, C, d + 1)`."""
        weight = self.weight + (points[..., :-1] * self.weight_scale[which]) @ self.rotation.mT
        return weight, self.bias + points[..., -1] * self.bias_scale

    def gradient(self, weight: Tensor, bias: Tensor, which: list[int]) -> Tensor:
        """Gradient `(m, C, d + 1)` in the coordinates, from that in weight and bias."""
        of_weight = weight @ self.rotation * self.weight_scale[which]
        return torch.cat([of_weight, (bias * self.bias_scale).unsqueeze(-1)], dim=-1)


def minimise(
    objective: Objective,
    coordinates: Coordinates,
    folds: list[int | None],
    problems: list[Lbfgs],
    which: list[int],
    passes: int,
    dtype: torch.dtype,
) -> int:
    """
    Solve all problems, each pass shared by those that are not done; at most `passes`. Returns how many.

    Problem j has the penalty `which[j]` and leaves out the rows of fold `folds[j]`.
    """
    for count in range(passes):
        todo = [j for j, problem in enumerate(problems) if not problem.done]
        if not todo:
            return count
        penalties = [which[j] for j in todo]
        weight, bias = coordinates.head(torch.stack([problems[j].point for j in todo]), penalties)
        value, of_weight, of_bias = objective.evaluate(weight, bias, penalties, [folds[j] for j in todo], dtype)
        slopes = coordinates.gradient(of_weight, of_bias, penalties)
        for j, number, slope in zip(todo, value.tolist(), slopes, strict=True):
            problems[j].tell(number, slope)
    return passes


def choose_l2(objective: Objective, sample: Sample, dtype: torch.dtype) -> tuple[int, int]:
    """
    The position of the penalty with the least loss on rows left out, and how many passes that took.

    All fits are made together, to a coarse tolerance.
    """
    grid = len(objective.penalty)
    which = [position for position in range(grid) for _ in range(NUM_FOLDS)]
    folds: list[int | None] = [*range(NUM_FOLDS)] * grid
    origin = torch.zeros(len(objective.start), len(objective.mean)).to(objective.mean), objective.start
    coordinates = Coordinates.around(objective, sample, *origin)
    start = torch.zeros(origin[0].shape[0], origin[0].shape[1] + 1).to(origin[0])
    problems = [Lbfgs(start, 1e-3, 4 * torch.finfo(dtype).eps) for _ in which]
    count = minimise(objective, coordinates, folds, problems, which, MAX_PASSES, dtype)
    weight, bias = coordinates.head(torch.stack([problem.best for problem in problems]), which)
    errors = objective.held_out(weight, bias, folds, dtype).view(grid, NUM_FOLDS).sum(1)
    return int(errors.argmin()), count + 1


def solve(objective: Objective, sample: Sample, which: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Lbfgs, int]:
    """
    Weight and bias for centred rows, the last state of the search, and the passes made.

    In rounds, each twice as long as the one before and in the coordinates of where that ended: in precision `dtype`
    until the gradient is 1e-5 of the first, then in float64.
    """
    weight = torch.zeros(len(objective.start), len(objective.mean)).to(objective.mean)
    bias, first, count, stalled, length = objective.start, None, 0, 0, FIRST_ROUND
    fine = 1e-8 if dtype == torch.float64 else 1e-7
    while True:
        coarse = dtype != torch.float64
        coordinates = Coordinates.around(objective, sample, weight, bias)
        start = torch.zeros(weight.shape[0], weight.shape[1] + 1).to(weight)
        problem = Lbfgs(start, 1e-5 if coarse else fine, 4 * torch.finfo(dtype).eps, first)
        count += minimise(objective, coordinates, [None], [problem], [which], length, dtype)
        (weight,), (bias,) = coordinates.head(problem.best.unsqueeze(0), [which])
        first = problem.first
        length *= 2
        if coarse and problem.done:
            dtype = torch.float64
            continue
        stalled += problem.done
        if problem.converged or stalled == 2 or count >= MAX_PASSES:
            return weight, bias, problem, count


@torch.no_grad()
def fit_loss_batches(
    batches: Iterable[Batch], l2: float | Tensor | str, reduce: Reduce | None, loss: Loss, intercept: bool
) -> LinearHead:
    """
    Fit a head of a classification loss on a whole data set.

    L-BFGS in coordinates that a sample of the rows gives (see `Coordinates`), so that it needs few passes. Each pass
    costs `O(n d C)` and one call of `reduce`, each change of coordinates `O(d^3)`. `l2="auto"` first fits all of
    `L2_GRID` on all 5 folds to a coarse tolerance, together in the same passes, and takes the value with the least loss
    on the rows left out. Memory: the sample (8 d rows, at least 2048 and at most 16384), `O(d^2)`, and for each of the
    problems fit together (1, or 40 for "auto") 20 copies of `(C, d)`.

    Ranks take the same decisions because they compute the same from the same sums, which asks for like hardware.

    Returns:
        A head whose `info` has the gradient norm relative to the first `solver_residual`, `solver_unconverged`
        (0 or 1), the `solver_passes`, and the `l2` chosen.
    """
    automatic = check_auto(l2)
    grid = list(L2_GRID) if automatic else [float(check_l2(l2))]
    moments = collect_moments(batches, reduce=reduce, full=False)
    objective = Objective.of(batches, reduce, loss, intercept, moments, grid)
    sample = Sample.of(batches, moments)
    best, info, count = 0, {}, 2
    if automatic:
        best, more = choose_l2(objective, sample, moments.dtype)
        count += more
        info["l2"] = torch.tensor(grid[best], dtype=torch.float64)
    weight, bias, problem, more = solve(objective, sample, best, moments.dtype)
    if loss.coupled:
        # The same added to all classes changes no probability; the optimum has none of it, and it converges last.
        weight = without_mean(weight.mT, objective.active).mT
        bias = torch.where(objective.active, without_mean(bias, objective.active), bias)
    bias = bias - weight @ objective.mean
    info["solver_residual"] = torch.tensor(problem.residual)
    info["solver_unconverged"] = torch.tensor(int(not problem.converged))
    info["solver_passes"] = torch.tensor(count + more)
    return LinearHead(weight.to(moments.dtype), bias.to(moments.dtype), info)
