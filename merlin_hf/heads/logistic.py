"""
Logistic regression, solved to convergence by Newton's method in the dual, with the implicit gradient.

With K the kernel (inner products of the rows, divided by the regulariser) and H the second derivative of the weighted
loss in the logits, both a Newton step and the gradient of the solution ask, given `target` and `total`,
for t and v with

    t = H (target + 1 v^T - K t)    and    1^T t = total.

v is the change of the bias; without a bias v = 0 and the second equation is dropped. The system is solved exactly for
small problems and by conjugate gradients for large ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Batch, HeadSolver, LinearHead, Reduce, register_head
from .linalg import centre, centred_gram, centred_rows, identity_like, scale_of_rows, weight_from_dual
from .losses import HIDDEN, Loss, SigmoidLoss, SoftmaxLoss, without_mean
from .whole_set import fit_loss_batches


HALVINGS = 12  # of a step, at most
LEAST_L2_PER_ROW = 1e-9  # below, the rounding of float64 shows in the products of rows divided by l2
# Numbers in the C blocks of n x n of an exact step. Above, conjugate gradients were faster on a CPU (measured); where
# launching a kernel costs more than running it, fewer and larger operations pay for longer (not measured).
EXACT_MAX_ENTRIES = {"cpu": 2**16, "other": 2**22}


@register_head("logistic")
class LogisticHead(HeadSolver):
    """
    Logistic regression: multinomial (softmax) for single-label targets, one binary problem a label for multi-label.

    It minimises `sum_i w_i loss(y_i, W x_i + b) + l2 * s / 2 * ||W||^2`. With `s` the weighted mean of
    `||x_i - mean(x)||^2` this is scikit-learn's `LogisticRegression(C=1 / (l2 * s))`; for two classes, where
    scikit-learn fits one column and this class two that are opposite, `C=2 / (l2 * s)`. The targets may be soft: rows
    that sum to 1, or for multi-label any numbers in [0, 1]; gradients flow to them. The softmax ignores a constant
    added to all logits of a row: the head returned has biases that sum to 0 before centring is undone, and weights
    that sum to 0.

    A class without rows would have a bias of minus infinity. It gets weight 0 and the bias of half a row.
    Separable classes have a finite solution as `l2 > 0`.

    It is solved over the n dual coefficients of each column, from the Gram matrix, until the stationarity residual
    `max |a + w dloss/df| / max |a|` is below `tolerance`; the gradient comes from the implicit function theorem, by
    one more linear system, so memory does not grow with the number of steps and no step is differentiated.

    - Small problems (`C n^2` up to 2^16 on a CPU, 2^22 elsewhere) factorise exactly: `O(C n^3)` a step, 5 to 10 steps.
    - Larger ones use conjugate gradients: `O(n min(n, d) C)` an iteration, some tens in all.

    `fit` never raises on a solve that did not converge: the head's `info` has `solver_residual`, the largest residual,
    and `solver_unconverged`, the number of heads above the tolerance.

    Args:
        max_iter: Newton steps at most; `None` is 20, or 100 with `early_stop`: separable classes under a small l2 need
            one for each unit that their logits have to grow.
        tolerance: of the stationarity residual; `None` is 1e-8 in float64 and 1e-5 in float32.
        dtype: of the solve; `None` is float64, since the second derivative of a confident head is a difference of
            nearly equal numbers. `torch.float32` is faster on a GPU and good to about 1e-4 where `l2 >= 0.1`.
        early_stop: stop when converged, which reads a number from the device in each step (and in each tenth conjugate
            gradient iteration); `None` does so on the CPU and in large problems. Where False, all `max_iter` steps are
            made without waiting for the device.
        max_cg: conjugate gradient iterations in a step at most.
        problem_type, fit_intercept, check_finite: as in `HeadSolver`.

    The gradient is differentiable once. Under `torch.compile` the solve runs uncompiled.
    """

    problem_types = ("single_label_classification", "multi_label_classification")
    default_l2 = 1.0

    @property
    def loss(self) -> Loss:
        """Return the loss of such labels."""
        return SoftmaxLoss() if self.problem_type == "single_label_classification" else SigmoidLoss()

    def __init__(
        self,
        *,
        max_iter: int | None = None,
        tolerance: float | None = None,
        early_stop: bool | None = None,
        max_cg: int = 200,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if (max_iter is not None and max_iter < 1) or max_cg < 1:
            raise ValueError(f"max_iter={max_iter} and max_cg={max_cg} must be at least 1.")
        if tolerance is not None and not tolerance > 0:
            raise ValueError(f"tolerance={tolerance} must be positive, or None.")
        self.max_iter = max_iter
        self.tolerance = tolerance
        self.early_stop = early_stop
        self.max_cg = max_cg

    def _working_dtype(self, features: Tensor, l2: float, rows: int) -> torch.dtype:
        return torch.float64

    def _options(self, features: Tensor, classes: int) -> NewtonOptions:
        n = features.shape[-2]
        tolerance = self.tolerance or (1e-8 if features.dtype == torch.float64 else 1e-5)
        on_cpu = features.device.type == "cpu"
        exact = classes * n * n <= EXACT_MAX_ENTRIES["cpu" if on_cpu else "other"]
        early_stop = (on_cpu or not exact) if self.early_stop is None else self.early_stop
        max_iter = self.max_iter or (100 if early_stop else 20)
        return NewtonOptions(tolerance, max_iter, exact, early_stop, self.max_cg)

    @torch.compiler.disable
    def _fit(self, features: Tensor, targets: Tensor, l2: float, sample_weight: Tensor) -> LinearHead:
        n, d = features.shape[-2:]
        if l2 < LEAST_L2_PER_ROW * n:
            least = LEAST_L2_PER_ROW * n
            raise ValueError(f"l2={l2:g} is too small for logistic regression on {n} rows: use at least {least:.0e}.")
        options = self._options(features, targets.shape[-1])
        centred = centre(features, targets, sample_weight, self.fit_intercept, reads=self._reads(features))
        if options.exact or n <= d:
            gram, scale = centred_gram(centred)
            design, is_rows = gram / l2, False
        else:
            rows = centred_rows(centred)
            scale = scale_of_rows(rows, centred)
            design, is_rows = rows * (scale.varies / (scale.value * l2)).sqrt(), True
        leading = torch.broadcast_shapes(design.shape[:-2], targets.shape[:-2], sample_weight.shape[:-1])
        given = (t.expand(*leading, *t.shape[-2:]) for t in (design, targets, sample_weight.unsqueeze(-1)))
        coef, bias, residual = _Fit.apply(*given, is_rows, self.loss, self.fit_intercept, options)
        if self.loss.coupled:
            # The same added to all classes changes no probability; targets that sum to 1 but for rounding must not
            # move it.
            rows = targets.detach() * sample_weight.detach().unsqueeze(-1)
            coef = without_mean(coef, (rows.sum(-2, keepdim=True) > 0) | (not self.fit_intercept))
        weight = weight_from_dual(coef, centred, scale) / l2
        unconverged = (~(residual <= options.tolerance)).sum()
        info = {"solver_residual": residual.amax(), "solver_unconverged": unconverged}
        return centred.head(weight, bias.squeeze(-2), info)

    def fit_batches(
        self, batches: Iterable[Batch], l2: float | str = "auto", reduce: Reduce | None = None
    ) -> LinearHead:
        """
        Fit on a whole data set by Newton's method; see `HeadSolver.fit_batches`. Each rank keeps its rows on its CPU.

        `l2="auto"` takes the one of 8 values from 1e-3 to 1e4 with the least loss in 5-fold cross-validation, and
        reports it in the head's `info["l2"]`.
        """
        return fit_loss_batches(batches, l2, reduce, self.loss, self.fit_intercept)


@dataclass(frozen=True)
class NewtonOptions:
    """The options of `LogisticHead` with their defaults filled in; `exact`: factorise, or conjugate gradients."""

    tolerance: float
    max_iter: int
    exact: bool
    early_stop: bool
    max_cg: int


class _Fit(torch.autograd.Function):
    """
    Minimise `sum_i w_i loss(f_i, y_i) + <a, K a> / 2` over `f = K a + b`, with K or its rows Z as `design`.

    At the optimum `a = -w dloss/df` and, with a bias, the columns of `a` sum to 0. Return a `(..., n, C)`, b
    `(..., 1, C)` and the residual `(...)`, see `_relative`. The backward solves a linear system, once differentiable.
    """

    @staticmethod
    def forward(ctx, design, targets, weight, is_rows, loss: Loss, intercept: bool, options: NewtonOptions):
        bias, active = loss.start(targets, weight)
        if not intercept:
            bias, active = torch.zeros_like(bias), torch.ones_like(active)
        problem = Problem(Kernel(design, is_rows), targets, weight, active.to(targets), loss, intercept)
        method = _newton if options.exact else _newton_cg
        coef, bias, logits, gap = method(problem, bias, options)
        ctx.save_for_backward(design, targets, weight, problem.active, coef, logits)
        ctx.settings = is_rows, loss, intercept, options
        ctx.mark_non_differentiable(gap)
        return coef, bias, gap

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_coef, grad_bias, _):
        design, targets, weight, active, coef, logits = ctx.saved_tensors
        is_rows, loss, intercept, options = ctx.settings
        kernel = Kernel(design, is_rows)
        problem = Problem(kernel, targets, weight, active, loss, intercept)
        with torch.autocast(design.device.type, enabled=False):
            system = _system(problem, logits, options)
            tolerance = 1e-10 if design.dtype == torch.float64 else 1e-6
            grad_coef, grad_bias = grad_coef * active, grad_bias * active
            if loss.coupled:
                # The bias is defined up to a constant and returned with mean 0.
                grad_bias = without_mean(grad_bias, active)
            dual, shift = system.solve(grad_coef, grad_bias, tolerance)
            if loss.coupled:
                shift = without_mean(shift, active)
            adjoint = active * (grad_coef + shift - kernel @ dual)
            if is_rows:
                grad_design = -(dual @ (coef.mT @ design) + coef @ (dual.mT @ design))
            else:
                grad_design = -dual @ coef.mT
            grad_targets = weight * adjoint
            residual = problem.loss.residual(problem.shown(logits), targets)
            grad_weight = (adjoint * residual).sum(-1, keepdim=True)
        return grad_design, grad_targets, grad_weight, None, None, None, None


def _system(problem: Problem, logits: Tensor, options: NewtonOptions, factor: Tensor | None = None):
    if options.exact:
        return (ExactCoupled if problem.loss.coupled else ExactSeparable)(problem, logits)
    check_every = 1 if logits.device.type == "cpu" else 10
    factor = problem.kernel.factor() if factor is None else factor
    return ConjugateGradients(problem, logits, factor, options.max_cg, options.early_stop, check_every)


def _newton(problem: Problem, bias: Tensor, options: NewtonOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute coefficients a `(..., n, C)`, bias, logits and stationarity residual at the optimum, by exact steps."""
    kernel = problem.kernel
    coef = torch.zeros_like(problem.targets)
    logits = bias.expand_as(coef)
    for iteration in range(options.max_iter + 1):
        missing = problem.residual(logits) - coef
        gap = _relative(missing, coef, problem)
        done = options.early_stop and bool((gap <= options.tolerance).all())
        if done or iteration == options.max_iter:
            break
        dual, shift = _system(problem, logits, options).solve(kernel @ missing, missing.sum(-2, keepdim=True), 0.0)
        step = missing - dual
        of_kernel = kernel @ step
        size = _step_size(
            problem, logits, of_kernel + shift, _dot(coef, of_kernel), _dot(step, of_kernel), options.early_stop
        )
        coef, bias = coef + size * step, bias + size * shift
        logits = kernel @ coef + bias
    return coef, bias, logits, gap


def _newton_cg(problem: Problem, bias: Tensor, options: NewtonOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """
    Compute the same as `_newton` by truncated steps, in coordinates V of the kernel's factor Z: `logits = Z V + b`.

    There a truncated step decreases the objective. The stationarity residual is what the last step took away from the
    weighted residuals, an upper bound of what is left.
    """
    factor = problem.kernel.factor()
    logits = bias.expand_as(problem.targets)
    point = torch.zeros_like(times(factor.mT, logits))
    for _ in range(options.max_iter):
        residual = problem.residual(logits)
        system = _system(problem, logits, options, factor)
        step, shift = system.solve_coordinates(
            times(factor.mT, residual) - point, residual.sum(-2, keepdim=True) * problem.intercept, tolerance=1e-3
        )
        direction = times(factor, step) + shift
        gap = _relative(system.hessian(direction), residual, problem)
        size = _step_size(problem, logits, direction, _dot(point, step), _dot(step, step), options.early_stop)
        point, bias = point + size * step, bias + size * shift
        logits = times(factor, point) + bias
        if options.early_stop and bool((gap <= options.tolerance).all()):
            break
    if problem.loss.coupled:
        bias = torch.where(problem.active > 0, without_mean(bias, problem.active), bias)
    return problem.residual(logits), bias, logits, gap


def _relative(missing: Tensor, coef: Tensor, problem: Problem) -> Tensor:
    """
    Compute the largest of `missing` `(..., n, C)`, relative to the largest coefficient.

    Where all coefficients are smaller than rounding can tell, as those of separable classes under a small l2, it is
    relative to that part of the largest weight.
    """
    info = torch.finfo(coef.dtype)
    least = 4e8 * info.eps if coef.dtype == torch.float64 else 1.0
    weight = problem.weight.amax((-2, -1)).clamp_min(info.tiny)
    return missing.abs().amax((-2, -1)) / torch.maximum(coef.abs().amax((-2, -1)), least * weight)


def _step_size(
    problem: Problem, logits: Tensor, direction: Tensor, linear: Tensor, quadratic: Tensor, early_stop: bool
) -> Tensor:
    """
    Find the largest of 1, 1/2, 1/4, ... with a sufficient decrease (Armijo), for each problem of the batch.

    Along `direction` the penalty changes by `size * linear + size^2 / 2 * quadratic`.
    """
    value = problem.value(logits)
    slope = linear - _dot(problem.residual(logits), direction)
    # Rounding must not refuse the full step near the optimum, where it is what converges.
    slack = 16 * torch.finfo(logits.dtype).eps * (value.abs() + linear.abs() + 1)

    def accepted(size: float | Tensor) -> Tensor:
        change = problem.value(logits + size * direction) - value + size * linear + size**2 / 2 * quadratic
        return change <= 1e-4 * size * slope + slack

    if not early_stop:  # all at once
        sizes = 0.5 ** torch.arange(HALVINGS, dtype=logits.dtype, device=logits.device)
        sizes = sizes.reshape(-1, *[1] * logits.dim())
        return (sizes * accepted(sizes)).amax(0).clamp_min(0.5**HALVINGS)
    chosen = torch.zeros_like(value)
    for halvings in range(HALVINGS):
        chosen = torch.maximum(chosen, accepted(0.5**halvings) * 0.5**halvings)
        if bool((chosen > 0).all()):
            break
    return chosen.clamp_min(0.5**HALVINGS)


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Compute `matrix @ vectors` for few vectors, in the order that BLAS does up to 6 times faster (1024 x 768, 3)."""
    return (vectors.mT @ matrix.mT).mT


@dataclass(frozen=True, eq=False)
class Kernel:
    """`K = Z Z^T`, given as the matrix `(..., n, n)` or, if `is_rows`, by its rows Z `(..., n, d)` when n > d."""

    design: Tensor
    is_rows: bool

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return times(self.design, times(self.design.mT, vectors)) if self.is_rows else times(self.design, vectors)

    def matrix(self) -> Tensor:
        """Return K itself."""
        return self.design @ self.design.mT if self.is_rows else self.design

    def factor(self) -> Tensor:
        """Return Z, or a Cholesky factor in its place (of K shifted by rounding, since centring makes K singular)."""
        if self.is_rows:
            return self.design
        trace = torch.diagonal(self.design, dim1=-2, dim2=-1).sum(-1)
        shift = (8 * torch.finfo(self.design.dtype).eps * trace + torch.finfo(self.design.dtype).tiny)[..., None, None]
        return torch.linalg.cholesky_ex(self.design + shift * identity_like(self.design))[0]


@dataclass(frozen=True, eq=False)
class Problem:
    """
    A problem to fit: kernel, targets `(..., n, C)`, row weights `(..., n, 1)`, and the loss.

    `active`, `(..., 1, C)` of 0 and 1, are the columns that have a finite solution.
    """

    kernel: Kernel
    targets: Tensor
    weight: Tensor
    active: Tensor
    loss: Loss
    intercept: bool

    def shown(self, logits: Tensor) -> Tensor:
        """Return logits as the loss sees them, classes without rows hidden."""
        return logits if not self.loss.coupled else logits + (1 - self.active) * HIDDEN

    def residual(self, logits: Tensor) -> Tensor:
        """Compute minus the gradient of the weighted loss."""
        return self.weight * self.active * self.loss.residual(self.shown(logits), self.targets)

    def curvature(self, logits: Tensor) -> Tensor:
        """Compute the curvature of the unweighted loss."""
        return self.active * self.loss.curvature(self.shown(logits), self.targets)

    def value(self, logits: Tensor) -> Tensor:
        """Compute the weighted loss, one number for each problem of the batch, `(..., 1, 1)`."""
        weight = self.weight if self.loss.coupled else self.weight * self.active
        return (weight * self.loss.value(self.shown(logits), self.targets)).sum((-2, -1), keepdim=True)


class ExactCoupled:
    """
    Softmax: C factorisations of n x n instead of one of nC x nC.

    `H = diag(D) - Pi Pi^T` has a block for each class plus rank n, which gives `H (I + K H)^-1` in closed form:
    Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, section 3.5 and algorithm 3.3; the bias is
    eliminated by a C x C system. Time `O(C n^3)`, memory `O(C n^2)`.
    """

    def __init__(self, problem: Problem, logits: Tensor) -> None:
        kernel = problem.kernel.matrix().unsqueeze(-3)
        root_p = problem.curvature(logits).mT.sqrt()
        self.root_w = problem.weight.mT.sqrt()
        inner = root_p * self.root_w
        eye = identity_like(kernel)
        blocks = eye + inner.unsqueeze(-1) * kernel * inner.unsqueeze(-2)
        blocks = torch.cholesky_inverse(torch.linalg.cholesky_ex(blocks)[0])
        self.blocks = root_p.unsqueeze(-1) * blocks * root_p.unsqueeze(-2)
        common = self.blocks.sum(-3)
        # Where the probabilities are all 0 and 1 but for rounding, nothing else keeps the sum positive.
        jitter = 8 * torch.finfo(common.dtype).eps * torch.diagonal(common, dim1=-2, dim2=-1).mean(-1)
        jitter = jitter + torch.finfo(common.dtype).tiny
        self.common = torch.linalg.cholesky_ex(common + jitter[..., None, None] * eye)[0]
        self.intercept = problem.intercept
        if self.intercept:
            ones = (self.blocks @ self.root_w.unsqueeze(-1)).squeeze(-1)
            schur = torch.diag_embed((ones * self.root_w).sum(-1)) - ones @ torch.cholesky_solve(ones.mT, self.common)
            # A constant added to all biases changes nothing; the solution without one is wanted.
            size = torch.diagonal(schur, dim1=-2, dim2=-1).mean(-1)[..., None, None] + torch.finfo(schur.dtype).tiny
            active = problem.active
            self.schur = schur + size * active.mT * active / active.sum(-1, keepdim=True).clamp_min(1)
            self.schur = self.schur + size * torch.diag_embed(1 - active.squeeze(-2))
            self.active = active

    def _apply(self, vectors: Tensor) -> Tensor:
        """Compute `H (I + K H)^-1 vectors`."""
        columns = self.blocks @ (self.root_w * vectors.mT).unsqueeze(-1)
        common = torch.cholesky_solve(columns.sum(-3), self.common)
        return self.root_w.mT * (columns - self.blocks @ common.unsqueeze(-3)).squeeze(-1).mT

    def solve(self, target: Tensor, total: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """Return t `(..., n, C)` and v `(..., 1, C)` of the system at the top of this file."""
        solution = self._apply(target)
        if not self.intercept:
            return solution, torch.zeros_like(total)
        missing = (total - solution.sum(-2, keepdim=True)) * self.active
        missing = without_mean(missing, self.active)
        shift = torch.linalg.solve_ex(self.schur, missing.mT)[0].mT
        return solution + self._apply(shift.expand_as(target)), shift


class ExactSeparable:
    """One n x n factorisation for each column. Time `O(C n^3)`, memory `O(C n^2)`."""

    def __init__(self, problem: Problem, logits: Tensor) -> None:
        kernel = problem.kernel.matrix().unsqueeze(-3)
        self.root = (problem.weight * problem.curvature(logits)).mT.sqrt().unsqueeze(-1)
        blocks = identity_like(kernel) + self.root * kernel * self.root.mT
        self.factor = torch.linalg.cholesky_ex(blocks)[0]
        self.intercept = problem.intercept
        if self.intercept:
            self.ones = self._apply(torch.ones_like(logits))
            self.schur = self.ones.sum(-2, keepdim=True)

    def _apply(self, vectors: Tensor) -> Tensor:
        columns = torch.cholesky_solve(self.root * vectors.mT.unsqueeze(-1), self.factor)
        return (self.root * columns).squeeze(-1).mT

    def solve(self, target: Tensor, total: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """Return t `(..., n, C)` and v `(..., 1, C)` of the system at the top of this file."""
        solution = self._apply(target)
        if not self.intercept:
            return solution, torch.zeros_like(total)
        curved = self.schur > torch.finfo(target.dtype).tiny
        shift = (total - solution.sum(-2, keepdim=True)) / torch.where(curved, self.schur, 1.0) * curved
        return solution + self.ones * shift, shift


class ConjugateGradients:
    """
    The same system as `(I + Z^T H Z) U + Z^T H 1 v = ...` in the coordinates of Z, for large n C.

    Jacobi-preconditioned. Time `O(n min(n, d) C)` for each iteration, of which the square root of the condition
    number, at most about `(n / l2)^(1/2)`, are needed; memory `O(n C)` beyond Z.
    """

    def __init__(
        self, problem: Problem, logits: Tensor, factor: Tensor, max_iter: int, early_stop: bool, check_every: int
    ) -> None:
        self.coupled, self.intercept = problem.loss.coupled, problem.intercept
        self.factor, self.max_iter, self.early_stop, self.check_every = factor, max_iter, early_stop, check_every
        self.weight, self.curvature, self.active = problem.weight, problem.curvature(logits), problem.active
        diagonal = self.weight * self.curvature * ((1 - self.curvature) if self.coupled else 1)
        self.precondition = 1 / (1 + times(factor.square().mT, diagonal))
        of_bias = diagonal.sum(-2, keepdim=True)
        curved = of_bias > torch.finfo(logits.dtype).tiny
        self.precondition_bias = curved * self.intercept / torch.where(curved, of_bias, 1.0)

    def hessian(self, logits: Tensor) -> Tensor:
        """Compute the second derivative of the weighted loss times a change of the logits."""
        product = self.curvature * logits
        if self.coupled:
            product = product - self.curvature * product.sum(-1, keepdim=True)
        return self.weight * product

    def solve(self, target: Tensor, total: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """Return t `(..., n, C)` and v `(..., 1, C)` of the system at the top of this file."""
        rhs = self.hessian(target)
        u, v = self.solve_coordinates(times(self.factor.mT, rhs), rhs.sum(-2, keepdim=True) - total, tolerance)
        return self.hessian(target - times(self.factor, u) - v), -v

    def solve_coordinates(self, r: Tensor, s: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """
        Solve `(I + Z^T H Z) u + Z^T H 1 v = r` and `1^T H (Z u + 1 v) = s`, from 0.

        Until the preconditioned norm of what is left is `tolerance` times that of the right-hand side. Stopping early
        on a gradient gives a direction of descent.
        """
        z = self.factor
        if self.coupled:
            # Biases that all change alike are the null space; rounding must not put anything there.
            s = without_mean(s, self.active)
        u, v = torch.zeros_like(r), torch.zeros_like(s)
        p: Tensor | float = 0.0
        q: Tensor | float = 0.0
        rho_old = goal = None
        for iteration in range(self.max_iter):
            y, w = self.precondition * r, self.precondition_bias * s
            rho = _dot(y, r) + _dot(w, s)
            goal = tolerance**2 * rho if goal is None else goal
            if self.early_stop and iteration % self.check_every == 0 and bool((rho <= goal).all()):
                break
            beta = 0.0 if rho_old is None else _ratio(rho, rho_old)
            p, q = y + beta * p, w + beta * q
            curved = self.hessian(times(z, p) + q)
            ap, aq = p + times(z.mT, curved), curved.sum(-2, keepdim=True)
            # A problem of the batch that is done stops here; going on would only stir its rounding errors.
            alpha = _ratio(rho, _dot(p, ap) + _dot(q, aq)) * (rho > goal)
            u, v, r, s = u + alpha * p, v + alpha * q, r - alpha * ap, s - alpha * aq
            rho_old = rho
        return u, v


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    positive = b > 0
    return torch.where(positive, a / torch.where(positive, b, 1.0), 0.0)
