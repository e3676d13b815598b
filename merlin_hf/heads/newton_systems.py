"""
The linear system of a Newton step and of the implicit gradient, solved exactly or by conjugate gradients.

With K the kernel (inner products of the rows, divided by the regulariser) and H the second derivative of the weighted
loss in the logits, both a Newton step and the gradient of the solution ask, given `target` and `total`, for t and v with

    t = H (target + 1 v^T - K t)    and    1^T t = total.

v is the change of the bias; without a bias v = 0 and the second equation is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .linalg import identity_like
from .losses import HIDDEN, Loss


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """`matrix @ vectors` for few vectors, in the order that BLAS does up to 6 times faster (measured, 1024 x 768, 3)."""
    return (vectors.mT @ matrix.mT).mT


@dataclass(frozen=True, eq=False)
class Kernel:
    """
    `K = Z Z^T`, given as the matrix `(..., n, n)` or by its rows Z `(..., n, d)` when n > d.

    Attributes:
        design: the matrix or the rows.
        is_rows: which of the two.
    """

    design: Tensor
    is_rows: bool

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return times(self.design, times(self.design.mT, vectors)) if self.is_rows else times(self.design, vectors)

    def matrix(self) -> Tensor:
        """K itself."""
        return self.design @ self.design.mT if self.is_rows else self.design

    def factor(self) -> Tensor:
        """Z, or a Cholesky factor in its place (of K shifted by rounding, since centring makes K singular)."""
        if self.is_rows:
            return self.design
        trace = torch.diagonal(self.design, dim1=-2, dim2=-1).sum(-1)
        shift = (8 * torch.finfo(self.design.dtype).eps * trace + torch.finfo(self.design.dtype).tiny)[..., None, None]
        return torch.linalg.cholesky_ex(self.design + shift * identity_like(self.design))[0]


@dataclass(frozen=True, eq=False)
class Problem:
    """
    What is fit: kernel, targets `(..., n, C)`, row weights `(..., n, 1)`, and how.

    Attributes:
        active: `(..., 1, C)` of 0 and 1, the columns that have a finite solution.
        intercept: whether there is a bias.
    """

    kernel: Kernel
    targets: Tensor
    weight: Tensor
    active: Tensor
    loss: Loss
    intercept: bool

    def shown(self, logits: Tensor) -> Tensor:
        """Logits as the loss sees them, classes without rows hidden."""
        return logits if not self.loss.coupled else logits + (1 - self.active) * HIDDEN

    def residual(self, logits: Tensor) -> Tensor:
        """Minus the gradient of the weighted loss."""
        return self.weight * self.active * self.loss.residual(self.shown(logits), self.targets)

    def curvature(self, logits: Tensor) -> Tensor:
        """Curvature of the unweighted loss."""
        return self.active * self.loss.curvature(self.shown(logits), self.targets)

    def value(self, logits: Tensor) -> Tensor:
        """The weighted loss, one number for each problem of the batch, `(..., 1, 1)`."""
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
        self.common = torch.linalg.cholesky_ex(self.blocks.sum(-3))[0]
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
        """`H (I + K H)^-1 vectors`."""
        columns = self.blocks @ (self.root_w * vectors.mT).unsqueeze(-1)
        common = torch.cholesky_solve(columns.sum(-3), self.common)
        return self.root_w.mT * (columns - self.blocks @ common.unsqueeze(-3)).squeeze(-1).mT

    def solve(self, target: Tensor, total: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        solution = self._apply(target)
        if not self.intercept:
            return solution, torch.zeros_like(total)
        missing = (total - solution.sum(-2, keepdim=True)) * self.active
        missing = missing - self.active * missing.sum(-1, keepdim=True) / self.active.sum(-1, keepdim=True).clamp_min(
            1
        )
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
        solution = self._apply(target)
        if not self.intercept:
            return solution, torch.zeros_like(total)
        curved = self.schur > torch.finfo(target.dtype).tiny
        shift = (total - solution.sum(-2, keepdim=True)) / torch.where(curved, self.schur, 1.0) * curved
        return solution + self.ones * shift, shift


class ConjugateGradients:
    """
    The same system as `(I + Z^T H Z) U + Z^T H 1 v = ...` in the coordinates of Z, for large n C.

    Jacobi-preconditioned. Time `O(n min(n, d) C)` for each iteration, of which the square root of the condition number,
    at most about `(n / l2)^(1/2)`, are needed; memory `O(n C)` beyond Z.
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
        """The second derivative of the weighted loss times a change of the logits."""
        product = self.curvature * logits
        if self.coupled:
            product = product - self.curvature * product.sum(-1, keepdim=True)
        return self.weight * product

    def solve(self, target: Tensor, total: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
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


def without_mean(values: Tensor, active: Tensor) -> Tensor:
    """The active entries of values `(..., 1, C)` less their mean, 0 elsewhere."""
    mean = (values * active).sum(-1, keepdim=True) / active.sum(-1, keepdim=True).clamp_min(1)
    return active * (values - mean)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    positive = b > 0
    return torch.where(positive, a / torch.where(positive, b, 1.0), 0.0)
