"""Ridge regression on the target rows, in closed form."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .base import Batch, HeadSolver, LinearHead, Reduce, check_head, check_l2, register_head, result_dtype
from .linalg import (
    Centred,
    Scale,
    centre,
    centred_gram,
    centred_rows,
    identity_like,
    scale_of_rows,
    solve_spd,
    weight_from_dual,
)
from .statistics import (
    L2_GRID,
    NUM_FOLDS,
    Moments,
    check_auto,
    collect_moments,
    constant_below,
    warn_of_small_l2,
)


# At this l2 per row a float32 solve is off by up to 6e-5 (measured, n = d = 64, a spectrum over three decades; less
# for all other shapes tried, and ten times as much at a tenth of it).
FLOAT32_L2_PER_ROW = 1e-4
# Below this l2 per row rounding decides what is left of a residual.
LEAVE_ONE_OUT_L2_PER_ROW = 1e-7
# Below this l2 per row the products of the rows, rounded in float64, would be off by more than 1e-5 of l2.
CHOLESKY_L2_PER_ROW = 1e-8


@register_head("ridge")
class RidgeHead(HeadSolver):
    """
    Least squares with a relative L2 penalty, `min sum_i w_i ||y_i - W x_i - b||^2 + l2 * s * ||W||^2`.

    With `s` the weighted mean of `||x_i - mean(x)||^2` this is scikit-learn's `Ridge(alpha=l2 * s)`, and on targets of
    zeros and ones the ridge classifier of R2-D2 (Bertinetto et al. 2019, https://arxiv.org/abs/1805.08136, section
    3.1) with a bias that is not penalised.

    `fit` solves n equations when n <= d and d otherwise: `O(n d min(n, d) + min(n, d)^3)` time for each set of
    weights, of which the product `X X^T` is shared when only `sample_weight` has leading dimensions and n <= d. Memory
    `O(min(n, d)^2)` beyond the features. The gradient costs two more triangular solves; it can be differentiated
    again.

    Precision: float32, or float64 where the features are, where `dtype` says so, or where `l2` is below 1e-4 n. Below
    1e-8 n the rows are decomposed (`torch.linalg.svd`) in place of their products, which is slower, and its gradient
    is differentiable once. If TF32 matrix products are switched on they are used here too, unless in float64.
    """

    # On halves of 16 rows in 384 dimensions 10 and 30 validate alike and better than 1 (films to editorials,
    # examples/demo.py).
    default_l2 = 10.0
    default_logit_scale = 10.0
    decision_threshold = 0.5  # it estimates the targets 0 and 1 themselves

    def _working_dtype(self, features: Tensor, l2: float, rows: int) -> torch.dtype:
        if l2 < FLOAT32_L2_PER_ROW * rows:
            return torch.float64
        return super()._working_dtype(features, l2, rows)

    def _fit(self, features: Tensor, targets: Tensor, l2: float, sample_weight: Tensor) -> LinearHead:
        reads = self._reads(features)
        centred = centre(features, targets, sample_weight, self.fit_intercept, reads=reads)
        if l2 < CHOLESKY_L2_PER_ROW * features.shape[-2]:
            return _fit_by_svd(centred, l2)
        rhs = centred.root * centred.targets
        if features.shape[-2] <= features.shape[-1]:
            system, scale = _dual_system(centred, l2)
            solution, failures = solve_spd(system, rhs)
            weight = weight_from_dual(centred.root * solution, centred, scale)
        else:
            rows, system, scale = _primal_system(centred, l2)
            solution, failures = solve_spd(system, rows.mT @ rhs)
            weight = (solution * (scale.varies / scale.value)).mT
        if reads and failures > 0:
            return _fit_by_svd(centred, l2)
        return centred.head(weight, centred.target_mean.squeeze(-2), {"solver_failures": failures})

    def leave_one_out(
        self, features: Tensor, targets: Tensor, l2: float, sample_weight: Tensor | None = None
    ) -> Tensor:
        """
        Compute the logits of every row by the head fit on all the other rows, from one factorisation.

        Exact, with the bias refit too, for a penalty held at `l2 * s` of the whole batch (`s` is not recomputed
        without the row). Allen's PRESS identity `y_i - f_{-i}(x_i) = (y_i - f(x_i)) / (1 - h_ii)`, weighted. A row of
        weight 0 is not in the fit, so its logits are the head's own; a row that has all the weight gets logits 0.

        Cost: as `fit` with n right-hand sides, `O(n d min(n, d))`. As the judge of features that are being trained it
        is weaker than a half of the batch: a head that was fit on nearly all rows has little left to prove.

        Args and raises: as in `fit`.

        Returns:
            logits `(..., n, C)`, differentiable as `fit` is.
        """
        if l2 < LEAVE_ONE_OUT_L2_PER_ROW * features.shape[-2]:
            raise ValueError(
                f"l2={l2:g} is too small to leave out one of {features.shape[-2]} rows: use at least "
                f"{LEAVE_ONE_OUT_L2_PER_ROW * features.shape[-2]:.0e}."
            )
        # What is left of a row's residual is divided by what is left of its weight, both as small as l2.
        is_small = l2 < 100 * FLOAT32_L2_PER_ROW * features.shape[-2]
        features = features.to(result_dtype(features))  # once: gradients of 16 bits would not add up
        inputs = self._prepare(features, targets, l2, sample_weight, torch.float64 if is_small else None)
        with torch.autocast(features.device.type, enabled=False):
            head, remains = self._fit_and_leverage(*inputs)
            if self._reads(features):
                check_head(head, features)
            # A row of weight 0 was blanked for the fit, but not for its prediction.
            fitted = head(features)
            alone = remains <= 8 * torch.finfo(remains.dtype).eps
            factor = (1 / torch.where(alone, 1.0, remains)).unsqueeze(-1)
            logits = torch.where(inputs[3].unsqueeze(-1) > 0, inputs[1] - (inputs[1] - fitted) * factor, fitted)
            return torch.where(alone.unsqueeze(-1), 0.0, logits).to(result_dtype(features))

    def _fit_and_leverage(self, features, targets, l2, sample_weight) -> tuple[LinearHead, Tensor]:
        """Compute the head, and one minus the leverage `(..., n)` of every row."""
        centred = centre(features, targets, sample_weight, self.fit_intercept, reads=self._reads(features))
        rhs = centred.root * centred.targets
        if features.shape[-2] <= features.shape[-1]:
            system, scale = _dual_system(centred, l2)
            inverse, _ = solve_spd(system, identity_like(system))
            solution = inverse @ rhs
            weight = weight_from_dual(centred.root * solution, centred, scale)
            # `direction` is an eigenvector of the system with eigenvalue 1 + l2, and not part of the fit.
            remains = torch.diagonal(inverse, dim1=-2, dim2=-1) - centred.direction.squeeze(-1).square() / (1 + l2)
            remains = l2 * remains
        else:
            rows, system, scale = _primal_system(centred, l2)
            inverse_rows, _ = solve_spd(system, rows.mT)
            solution = inverse_rows @ rhs
            weight = (solution * (scale.varies / scale.value)).mT
            leverage = (inverse_rows * rows.mT).sum(-2) * (scale.varies / scale.value).squeeze(-1)
            remains = 1 - leverage - centred.direction.squeeze(-1).square()
        return centred.head(weight, centred.target_mean.squeeze(-2)), remains

    @torch.no_grad()
    def fit_batches(
        self, batches: Iterable[Batch], l2: float | str = "auto", reduce: Reduce | None = None
    ) -> LinearHead:
        """
        Fit on a whole data set in one pass, from sums of products in float64; see `HeadSolver.fit_batches`.

        `l2="auto"` takes the one of 15 values from 1e-3 to 1e4 (`statistics.L2_GRID`) with the least squared error in
        5-fold cross-validation, each fold fit and scored from sums alone, and reports it in the head's `info["l2"]`.
        Rows go to folds by a hash of their position.

        Cost: `O(n d (d + C))` for the sums, and a d x d factorisation for each fold and grid value; memory
        `O(d^2 + d C)` in float64, 5 times that for "auto".
        """
        automatic = check_auto(l2)
        moments = collect_moments(batches, NUM_FOLDS if automatic else 1, reduce, shift=self.fit_intercept)
        info = {}
        if automatic:
            chosen = L2_GRID[int(cross_validated_errors(moments, self.fit_intercept).argmin())]
            info["l2"] = torch.tensor(chosen, dtype=torch.float64)
        else:
            chosen = check_l2(l2)
        total = moments.total()
        weight, bias = ridge_from_moments(total, chosen, self.fit_intercept)
        return total.head(weight[0], bias[0], info)


def _dual_system(centred: Centred, l2: float):
    """
    Compute `root K root + l2 I`, n x n, and the scale by which K is divided.

    The outer product of `direction` is added: centring leaves that direction empty, the right-hand side has nothing in
    it, and so it does not change the solution, but keeps rounding errors from being divided by a small l2.
    """
    gram, scale = centred_gram(centred)
    system = centred.root * gram * centred.root.mT + centred.direction * centred.direction.mT
    return system + l2 * identity_like(system), scale


def _primal_system(centred: Centred, l2: float):
    """Compute weighted centred rows A, `A^T A / s + l2 I`, d x d, and the scale s, the mean of their squared norms."""
    rows = centred.root * centred_rows(centred)
    gram = rows.mT @ rows
    total = centred.root.square().sum((-2, -1))
    spread = torch.diagonal(gram, dim1=-2, dim2=-1).sum(-1) / torch.where(total > 0, total, 1.0)
    scale = Scale.of(spread)
    gram = gram * (scale.varies / scale.value)
    return rows, gram + l2 * identity_like(gram), scale


def _fit_by_svd(centred: Centred, l2: float) -> LinearHead:
    """Compute the head for an l2 that is too small beside the rounding of products of the rows."""
    rows = centred_rows(centred)
    scale = scale_of_rows(rows, centred)
    rows = centred.root * rows * (scale.varies / scale.value.sqrt())
    rhs = centred.root * centred.targets
    leading = torch.broadcast_shapes(rows.shape[:-2], rhs.shape[:-2])
    rows, rhs = (t.expand(*leading, *t.shape[-2:]) for t in (rows, rhs))
    weight = (_RidgeBySvd.apply(rows, rhs, l2) * (scale.varies / scale.value.sqrt())).mT
    return centred.head(
        weight, centred.target_mean.squeeze(-2), {"solver_failures": weight.new_zeros((), dtype=torch.long)}
    )


class _RidgeBySvd(torch.autograd.Function):
    """`W = argmin ||y - X W||^2 + l2 ||W||^2` by singular values of X, with its gradient in X and y."""

    @staticmethod
    def forward(ctx, rows: Tensor, targets: Tensor, l2: float) -> Tensor:
        u, sigma, v = torch.linalg.svd(rows, full_matrices=False)
        weight = v.mT @ ((sigma / (sigma.square() + l2)).unsqueeze(-1) * (u.mT @ targets))
        ctx.save_for_backward(rows, targets, sigma, v, weight)
        ctx.l2 = l2
        return weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        rows, targets, sigma, v, weight = ctx.saved_tensors
        # (X^T X + l2)^-1 grad; in directions that no row has, which X maps to 0, it is grad / l2.
        seen = v @ grad
        inside = v.mT @ (seen / (sigma.square() + ctx.l2).unsqueeze(-1))
        adjoint = inside + (grad - v.mT @ seen) / ctx.l2
        of_targets = rows @ inside
        of_rows = (targets - rows @ weight) @ adjoint.mT - of_targets @ weight.mT
        return of_rows, of_targets, None


# Whole data sets


def ridge_from_moments(moments: Moments, l2: float, fit_intercept: bool) -> tuple[Tensor, Tensor]:
    """Compute weight `(F, C, d)` and bias `(F, C)`, at the origin, of the ridge head of every fold."""
    total = moments.weight.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    x_mean, y_mean = moments.x / total, moments.y / total
    gram, cross = moments.xx, moments.xy
    if fit_intercept:
        gram = gram - moments.x.unsqueeze(-1) * x_mean.unsqueeze(-2)
        cross = cross - moments.x.unsqueeze(-1) * y_mean.unsqueeze(-2)
    scale = torch.diagonal(gram, dim1=-2, dim2=-1).sum(-1) / total.squeeze(-1)
    varies = (scale > constant_below(x_mean * fit_intercept))[:, None, None]
    scale = torch.where(varies, scale[:, None, None], 1.0)
    weight = _solve(torch.where(varies, gram / scale, 0.0), torch.where(varies, cross / scale, 0.0), l2).mT
    if not fit_intercept:
        return weight, torch.zeros_like(y_mean)
    return weight, y_mean - (weight @ x_mean.unsqueeze(-1)).squeeze(-1)


def _solve(gram: Tensor, cross: Tensor, l2: float) -> Tensor:
    """Compute `(gram + l2 I)^-1 cross`, without directions in which a tiny l2 would only magnify rounding."""
    trace = torch.diagonal(gram, dim1=-2, dim2=-1).sum(-1)
    if l2 >= 1e-11 * trace.max():
        solution, failures = solve_spd(gram + l2 * identity_like(gram), cross)
        if failures == 0:
            return solution
    else:
        warn_of_small_l2(l2, 1e-11 * float(trace.max()))
    values, vectors = torch.linalg.eigh(gram)
    values = values.unsqueeze(-1)
    seen = values > 8 * torch.finfo(gram.dtype).eps * trace[:, None, None]
    return vectors @ torch.where(seen, vectors.mT @ cross / (values.clamp_min(0) + l2), 0.0)


def cross_validated_errors(moments: Moments, fit_intercept: bool) -> Tensor:
    """Compute the sum of squared errors `(len(L2_GRID),)` of every fold under the head fit on the others."""
    train = moments.without_each_fold()
    errors = []
    for l2 in L2_GRID:
        weight, bias = ridge_from_moments(train, l2, fit_intercept)
        fitted = weight @ moments.xx + 2 * bias.unsqueeze(-1) * moments.x.unsqueeze(-2)
        error = moments.yy - 2 * (weight.mT * moments.xy).sum((-2, -1)) + (fitted * weight).sum((-2, -1))
        error = error + (moments.weight[:, None] * bias.square() - 2 * bias * moments.y).sum(-1)
        errors.append(error.sum())
    return torch.stack(errors)
