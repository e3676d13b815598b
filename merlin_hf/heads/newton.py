"""Newton's method in the dual, and the implicit gradient of its solution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import Loss
from .newton_systems import ConjugateGradients, ExactCoupled, ExactSeparable, Kernel, Problem, times, without_mean


HALVINGS = 12  # of a step, at most


@dataclass(frozen=True)
class NewtonOptions:
    """
    How to solve.

    Attributes:
        tolerance: of the stationarity residual, see `fit_dual`.
        max_iter: Newton steps.
        exact: factorise (True) or conjugate gradients (False).
        early_stop: read the residual to stop when it is small; costs a synchronisation on a GPU.
        max_cg: conjugate gradient iterations in a step.
    """

    tolerance: float
    max_iter: int
    exact: bool
    early_stop: bool
    max_cg: int


class _Fit(torch.autograd.Function):
    """Dual coefficients and bias of the optimum; the backward solves one linear system, once differentiable."""

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
            grad_targets = weight * adjoint if loss.soft else None
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
    """Coefficients a `(..., n, C)`, bias, logits and stationarity residual at the optimum, by exact steps."""
    kernel = problem.kernel
    coef = torch.zeros_like(problem.targets)
    logits = bias.expand_as(coef)
    largest = _largest(problem)
    for iteration in range(options.max_iter + 1):
        missing = problem.residual(logits) - coef
        gap = (missing / largest).abs().amax((-2, -1))
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
    As `_newton`, in the coordinates V of the kernel's factor Z, `logits = Z V + b`, by truncated steps.

    There a truncated step decreases the objective. The stationarity residual is what the last step took away from the
    weighted residuals, an upper bound of what is left.
    """
    factor = problem.kernel.factor()
    logits = bias.expand_as(problem.targets)
    point = torch.zeros_like(times(factor.mT, logits))
    largest = _largest(problem)
    for _ in range(options.max_iter):
        residual = problem.residual(logits)
        system = _system(problem, logits, options, factor)
        step, shift = system.solve_coordinates(
            times(factor.mT, residual) - point, residual.sum(-2, keepdim=True) * problem.intercept, tolerance=1e-3
        )
        direction = times(factor, step) + shift
        gap = (system.hessian(direction) / largest).abs().amax((-2, -1))
        size = _step_size(problem, logits, direction, _dot(point, step), _dot(step, step), options.early_stop)
        point, bias = point + size * step, bias + size * shift
        logits = times(factor, point) + bias
        if options.early_stop and bool((gap <= options.tolerance).all()):
            break
    if problem.loss.coupled:
        bias = torch.where(problem.active > 0, without_mean(bias, problem.active), bias)
    return problem.residual(logits), bias, logits, gap


def _largest(problem: Problem) -> Tensor:
    return problem.weight.amax(-2, keepdim=True).clamp_min(torch.finfo(problem.weight.dtype).tiny)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)


def _step_size(
    problem: Problem, logits: Tensor, direction: Tensor, linear: Tensor, quadratic: Tensor, early_stop: bool
) -> Tensor:
    """
    The largest of 1, 1/2, 1/4, ... with a sufficient decrease (Armijo), for each problem of the batch.

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


def fit_dual(
    design: Tensor,
    is_rows: bool,
    targets: Tensor,
    sample_weight: Tensor,
    loss: Loss,
    intercept: bool,
    options: NewtonOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Minimise `sum_i w_i loss(f_i, y_i) + <a, K a> / 2` over `f = K a + b`.

    At the optimum `a = -w dloss/df` and, with a bias, the columns of `a` sum to 0. The *stationarity residual* is the
    largest `|a + w dloss/df| / max(w)`: the error in units of one row's gradient, whatever the scale of features or l2.

    Args:
        design: the kernel K `(..., n, n)`, or rows Z `(..., n, d)` with `K = Z Z^T` when `is_rows`.
        targets: `(..., n, C)`; sample_weight: `(..., n)`.

    Returns:
        a `(..., n, C)`, b `(..., 1, C)`, differentiable in design, targets and sample_weight by the implicit function
        theorem (memory does not grow with the number of steps), and the stationarity residual `(...)`.
    """
    leading = torch.broadcast_shapes(design.shape[:-2], targets.shape[:-2], sample_weight.shape[:-1])
    weight = sample_weight.unsqueeze(-1)
    design, targets, weight = (t.expand(*leading, *t.shape[-2:]) for t in (design, targets, weight))
    return _Fit.apply(design, targets, weight, is_rows, loss, intercept, options)
