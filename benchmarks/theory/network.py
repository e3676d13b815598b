"""
The network f(x) = sum_j a_j (w_j . x)^2 and how its weights are found, for many networks at once.

N networks that differ in seed, rows and regulariser are trained as one: their weights have a leading dimension N,
their losses are summed, and Adam treats every weight by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from merlin_hf.heads import get_head


WIDTH = 30
RATE = 1e-2


class Rows(NamedTuple):
    """Labelled rows of N networks: inputs `(N, n, d)`, labels `(N, n)`."""

    inputs: Tensor
    labels: Tensor


class Weights(NamedTuple):
    """Backbone `(N, m, d)`, whose rows are the w_j, and the heads a `(N, m)` of both tasks."""

    backbone: Tensor
    source_head: Tensor
    target_head: Tensor


def initial_weights(seeds: list[int], dimension: int, width: int = WIDTH) -> Weights:
    """As `torch.nn.Linear` draws its own: uniform, up to one over the root of the number of inputs."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(10_000 + seed)
        backbone = (2 * torch.rand(width, dimension, generator=generator) - 1) / dimension**0.5
        heads = (2 * torch.rand(2, width, generator=generator) - 1) / width**0.5
        drawn.append((backbone, *heads))
    return Weights(*(torch.stack(tensors) for tensors in zip(*drawn, strict=True)))


def features_of(backbone: Tensor, inputs: Tensor) -> Tensor:
    """`(w_j . x)^2`, `(N, n, m)`: what the heads see."""
    return (inputs @ backbone.mT).square()


def form_of(backbone: Tensor, head: Tensor) -> Tensor:
    """The quadratic form `sum_j a_j w_j w_j^T`, `(N, d, d)`."""
    return backbone.mT @ (head.unsqueeze(-1) * backbone)


def outputs_of(form: Tensor, inputs: Tensor) -> Tensor:
    """`x^T Q x`, `(N, n)`."""
    return ((inputs @ form) * inputs).sum(-1)


def squared_error(backbone: Tensor, head: Tensor, rows: Rows) -> Tensor:
    """Mean squared error `(N,)` of a trained head on its rows."""
    outputs = (features_of(backbone, rows.inputs) @ head.unsqueeze(-1)).squeeze(-1)
    return (outputs - rows.labels).square().mean(-1)


def size_of(*weights: Tensor) -> Tensor:
    """The penalty `||W||_F^2 + ||a||^2`, `(N,)`."""
    return sum(weight.square().flatten(1).sum(1) for weight in weights)


def ridge(features: Tensor, labels: Tensor, l2: Tensor, fit_on: Tensor | None = None) -> Tensor:
    """
    A head `(N, m)` in closed form on those of the features `(N, n, m)` that `fit_on` `(N, n)` marks, all by default.

    Every network has its own `l2` `(N,)`, where the solver takes one for all: rows that count 1 / l2 times beside a
    penalty of one have the same solution. The network has no bias, so neither has its head.
    """
    fit_on = torch.ones_like(labels) if fit_on is None else fit_on.to(labels)
    solver = get_head("ridge", problem_type="regression", fit_intercept=False, check_finite=False)
    return solver.fit(features, labels.unsqueeze(-1), 1.0, fit_on / l2.unsqueeze(-1)).weight.squeeze(-2)


def minimise(
    loss: Callable[[int], Tensor],
    weights: list[Tensor],
    steps: int,
    rate: float = RATE,
    after: Callable[[int], None] | None = None,
) -> None:
    """
    Adam on the losses `(N,)` of N networks; changes `weights` in place.

    Args:
        loss: of the number of the step.
        rate: learning rate, constant in the first half and falling to 0 in the second.
        after: called with the number of steps made, after each.
    """
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.Adam(weights, lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        loss(step).sum().backward()
        optimizer.step()
        if after is not None:
            after(step + 1)
    for weight in weights:
        weight.requires_grad_(False)
