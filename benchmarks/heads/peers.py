"""
What the heads are compared with: the same objective, differentiated by other means.

Every method maps (features, targets, l2) to the logits of the same features under the head fit on them, from which the
benchmark takes a loss and its gradient in the features.
"""

from __future__ import annotations

import higher
import torch
import torch.nn.functional as F
import torchopt
from torch import Tensor, nn

from merlin_hf.heads import get_head


def ours(name: str, **settings):
    solver = get_head(name, **settings)

    def logits(features, targets, l2):
        return solver.fit(features, targets, l2)(features)

    return logits


def spread(features: Tensor) -> Tensor:
    """Return the scale s of the relative regulariser."""
    return (features - features.mean(0)).square().sum(1).mean()


# Ridge


def r2d2(features: Tensor, targets: Tensor, l2: float) -> Tensor:
    """
    Solve as published for R2-D2 (bertinetto/r2d2, `fewshots/models/lrd2.py` and `ridge`).

    A column of ones, so that the bias is penalised too, and an explicit inverse of n x n (Woodbury) or d x d. Another
    objective than ours, of the same size.
    """
    n, d = features.shape
    rows = torch.cat([features, features.new_ones(n, 1)], 1)
    penalty = l2 * spread(features)
    if n > d + 1:
        weight = torch.linalg.inv(rows.T @ rows + penalty * torch.eye(d + 1)) @ rows.T @ targets
    else:
        weight = rows.T @ torch.linalg.inv(rows @ rows.T + penalty * torch.eye(n)) @ targets
    return rows @ weight


def ridge_autograd(features: Tensor, targets: Tensor, l2: float) -> Tensor:
    """Our objective, as one would write it: centred, `torch.linalg.solve`, differentiated by autograd."""
    n, d = features.shape
    mean, target_mean = features.mean(0), targets.mean(0)
    rows, penalty = features - mean, l2 * spread(features)
    if n > d:
        weight = torch.linalg.solve(rows.T @ rows + penalty * torch.eye(d), rows.T @ (targets - target_mean))
    else:
        weight = rows.T @ torch.linalg.solve(rows @ rows.T + penalty * torch.eye(n), targets - target_mean)
    return rows @ weight + target_mean


# Logistic


def objective(weight: Tensor, bias: Tensor, features: Tensor, targets: Tensor, l2: float) -> Tensor:
    loss = -(targets * F.log_softmax(features @ weight.T + bias, -1)).sum()
    return loss + l2 * spread(features) / 2 * weight.square().sum()


def step_size(features: Tensor, l2: float) -> float:
    """One over a bound of the objective's second derivative."""
    with torch.no_grad():
        vector = torch.ones(features.shape[1]) / features.shape[1] ** 0.5
        for _ in range(10):
            vector = F.normalize(features.T @ (features @ vector), dim=0)
        largest = (features @ vector).square().sum() + len(features)
        return float(1 / (0.5 * largest + l2 * spread(features)))


def unrolled(steps: int):
    """Gradient descent from 0, differentiated through its steps (torch.func)."""

    def logits(features, targets, l2):
        size = step_size(features, l2)
        params = torch.zeros(targets.shape[1], features.shape[1]), torch.zeros(targets.shape[1])
        gradient = torch.func.grad(objective, argnums=(0, 1))
        for _ in range(steps):
            change = gradient(*params, features, targets, l2)
            params = tuple(p - size * g for p, g in zip(params, change, strict=True))
        return features @ params[0].T + params[1]

    return logits


def higher_unrolled(steps: int):
    """The same by `higher`."""

    def logits(features, targets, l2):
        head = nn.Linear(features.shape[1], targets.shape[1])
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
        optimizer = torch.optim.SGD(head.parameters(), lr=step_size(features, l2))
        with higher.innerloop_ctx(head, optimizer) as (functional, differentiable):
            for _ in range(steps):
                differentiable.step(objective(functional.weight, functional.bias, features, targets, l2))
            return functional(features)

    return logits


def torchopt_implicit(features: Tensor, targets: Tensor, l2: float) -> Tensor:
    """Use torchopt's implicit differentiation: `custom_root`, conjugate gradients, torch's L-BFGS as solver."""

    def gradient(params, features):
        return torch.func.grad(lambda p: objective(*p, features, targets, l2))(params)

    @torchopt.diff.implicit.custom_root(
        gradient, argnums=1, solve=torchopt.linear_solve.solve_cg(maxiter=500, rtol=1e-6, atol=0.0)
    )
    def solve(params, features):
        params = [p.clone().requires_grad_() for p in params]
        fixed = features.detach()
        optimizer = torch.optim.LBFGS(
            params, max_iter=500, tolerance_grad=1e-5, tolerance_change=0.0, line_search_fn="strong_wolfe"
        )

        def closure():
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = objective(*params, fixed, targets, l2)
                loss.backward()
            return loss

        optimizer.step(closure)
        return tuple(p.detach() for p in params)

    start = torch.zeros(targets.shape[1], features.shape[1]), torch.zeros(targets.shape[1])
    weight, bias = solve(start, features)
    return features @ weight.T + bias


RIDGE = {
    "ours ridge": ours("ridge"),
    "autograd through solve": ridge_autograd,
    "R2-D2": r2d2,
}
LOGISTIC = {
    "ours logistic": ours("logistic"),
    "ours logistic, float32": ours("logistic", dtype=torch.float32),
    "torchopt implicit": torchopt_implicit,
    "torch.func unrolled 5": unrolled(5),
    "torch.func unrolled 50": unrolled(50),
    "higher unrolled 5": higher_unrolled(5),
    "higher unrolled 50": higher_unrolled(50),
}
