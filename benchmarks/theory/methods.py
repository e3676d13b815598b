"""
The methods: each takes target rows and settings for N networks, and returns the forms that it arrives at.

All know the whole source distribution (`Problem.source_error`), all have `||W||_F^2 + ||a||^2` as their penalty, and
all start from the same weights for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from network import (
    Rows,
    Weights,
    features_of,
    form_of,
    initial_weights,
    minimise,
    ridge,
    size_of,
    squared_error,
)
from problem import Problem
from torch import Tensor

from merlin_hf.transfer.splits import split_by_class


DECAYS = (1e-4, 1e-3, 1e-2, 3e-2)
L2 = (1e-3, 1e-2, 1e-1, 1.0)
NUM_SPLITS = 128  # halves drawn for each seed; a step takes the next


@dataclass(frozen=True)
class Effort:
    """Steps of training: `steps` for every method, `long` for pre-training that runs until it stands still."""

    steps: int = 1500
    long: int = 15_000


class Fitted(NamedTuple):
    """The quadratic forms `(N, d, d)` of the target's model, and of the source's where the method has one."""

    target_form: Tensor
    source_form: Tensor | None = None


Settings = Mapping[str, Tensor]  # each (N,)
Fit = Callable[[Problem, Rows, list[int], Settings, Effort], Fitted]


class Method(NamedTuple):
    """A method, and the values among which held-out target rows choose."""

    label: str
    fit: Fit
    grid: Mapping[str, tuple[float, ...]]


def trainable(weights: Weights) -> Weights:
    return Weights(*(weight.clone() for weight in weights))


def target_only(problem: Problem, rows: Rows, seeds: list[int], settings: Settings, effort: Effort) -> Fitted:
    """The target rows and the penalty, no source."""
    backbone, _, head = trainable(initial_weights(seeds, problem.dimension))

    def loss(step: int) -> Tensor:
        return squared_error(backbone, head, rows) + settings["decay"] * size_of(backbone, head)

    minimise(loss, [backbone, head], effort.steps)
    return Fitted(form_of(backbone, head))


def pretrain(
    problem: Problem,
    seeds: list[int],
    decay: Tensor,
    steps: int,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Weights:
    """
    The source and the penalty, no target.

    Args:
        decay: `(N,)`, of networks that start from the seeds `(N,)`.
        watch: called after each step, with how many were made and the source's form `(N, d, d)`.
    """
    weights = trainable(initial_weights(seeds, problem.dimension))
    backbone, head, _ = weights

    def loss(step: int) -> Tensor:
        return problem.source_error(form_of(backbone, head)) + decay * size_of(backbone, head)

    def after(done: int) -> None:
        if watch is not None:
            watch(done, form_of(backbone.detach(), head.detach()))

    minimise(loss, [backbone, head], steps, after=after)
    return weights


# Pre-training does not look at the target: each of its networks is trained once in a run.
_PRETRAINED: dict[tuple, tuple[Tensor, ...]] = {}


def pretrained(problem: Problem, seeds: list[int], decay: Tensor, steps: int) -> Weights:
    """`pretrain`, but those of the networks that were trained before are remembered."""
    problem = replace(problem, noise=0.0)  # which is the target's
    keys = [(problem, steps, seed, value) for seed, value in zip(seeds, decay.tolist(), strict=True)]
    missing = list(dict.fromkeys(key for key in keys if key not in _PRETRAINED))
    if missing:
        remember(missing, pretrain(problem, [k[2] for k in missing], torch.tensor([k[3] for k in missing]), steps))
    return Weights(*(torch.stack(tensors) for tensors in zip(*(_PRETRAINED[key] for key in keys), strict=True)))


def remember(keys: list[tuple], weights: Weights) -> None:
    """Keep pre-trained networks under (problem, steps, seed, decay)."""
    _PRETRAINED.update(zip(keys, zip(*weights, strict=True), strict=True))


def ridge_on(backbone: Tensor, rows: Rows, l2: Tensor) -> Tensor:
    """Return the form of a ridge head on all rows, in float64: features may have almost nothing of what it needs."""
    backbone, inputs, labels = (tensor.double() for tensor in (backbone, *rows))
    return form_of(backbone, ridge(features_of(backbone, inputs), labels, l2.double())).float()


def linear_head(
    problem: Problem, rows: Rows, seeds: list[int], settings: Settings, effort: Effort, to_the_end: bool = False
) -> Fitted:
    """Pre-train (`to_the_end`: until it stands still), then a ridge head on the frozen features."""
    source_steps = effort.long if to_the_end else effort.steps
    before = pretrained(problem, seeds, settings["source_decay"], source_steps)
    form = ridge_on(before.backbone, rows, settings["l2"])
    return Fitted(form, form_of(before.backbone, before.source_head))


def fine_tune(
    problem: Problem, rows: Rows, seeds: list[int], settings: Settings, effort: Effort, to_the_end: bool = False
) -> Fitted:
    """The same, then train backbone and head on the target rows; the labels are the source's, so its head is kept."""
    source_steps = effort.long if to_the_end else effort.steps
    before = pretrained(problem, seeds, settings["source_decay"], source_steps)
    source_form = form_of(before.backbone, before.source_head)
    form = torch.empty_like(source_form)
    for rate in settings["rate"].unique().tolist():
        these = settings["rate"] == rate
        backbone, head, decay = before.backbone[these], before.source_head[these], settings["decay"][these]
        part = Rows(rows.inputs[these], rows.labels[these])

        def loss(step: int, backbone=backbone, head=head, decay=decay, part=part) -> Tensor:
            return squared_error(backbone, head, part) + decay * size_of(backbone, head)

        minimise(loss, [backbone, head], effort.steps, rate=rate)
        form[these] = form_of(backbone, head)
    return Fitted(form, source_form)


def joint(problem: Problem, rows: Rows, seeds: list[int], settings: Settings, effort: Effort) -> Fitted:
    """Both losses, a head each, one backbone."""
    backbone, source_head, target_head = trainable(initial_weights(seeds, problem.dimension))

    def loss(step: int) -> Tensor:
        source_loss = problem.source_error(form_of(backbone, source_head))
        target_loss = squared_error(backbone, target_head, rows)
        penalty = size_of(backbone, source_head, target_head)
        return source_loss + settings["target_weight"] * target_loss + settings["decay"] * penalty

    minimise(loss, [backbone, source_head, target_head], effort.steps)
    return Fitted(form_of(backbone, target_head), form_of(backbone, source_head))


def halves(labels: Tensor, seeds: list[int], num_splits: int = NUM_SPLITS) -> Tensor:
    """Random train halves `(num_splits, N, n)` of the rows, the same for networks of the same seed."""
    drawn: dict[int, Tensor] = {}
    for seed, of_network in zip(seeds, labels, strict=True):
        if seed not in drawn:
            generator = torch.Generator().manual_seed(20_000 + seed)
            drawn[seed] = split_by_class((of_network > 0).long(), num_splits=num_splits, generator=generator).train
    return torch.stack([drawn[seed] for seed in seeds], 1)


def meta_loss(backbone: Tensor, rows: Rows, train: Tensor, l2: Tensor) -> Tensor:
    """Return errors `(N,)` of heads fit on the rows in `train` `(N, n)`, on the others; differentiable throughout."""
    features = features_of(backbone, rows.inputs)
    head = ridge(features, rows.labels, l2, train)
    error = ((features @ head.unsqueeze(-1)).squeeze(-1) - rows.labels).square()
    validation = (~train).to(error)
    return (error * validation).sum(-1) / validation.sum(-1).clamp(min=1)


def merlin(problem: Problem, rows: Rows, seeds: list[int], settings: Settings, effort: Effort) -> Fitted:
    """The source loss, and what a head fit on a random half of the target rows does on the other half."""
    backbone, source_head, _ = trainable(initial_weights(seeds, problem.dimension))
    splits = halves(rows.labels, seeds)

    def loss(step: int) -> Tensor:
        source_loss = problem.source_error(form_of(backbone, source_head))
        target_loss = meta_loss(backbone, rows, splits[step % len(splits)], settings["l2"])
        return source_loss + settings["rho"] * target_loss + settings["decay"] * size_of(backbone, source_head)

    minimise(loss, [backbone, source_head], effort.steps)
    return Fitted(ridge_on(backbone, rows, settings["l2"]), form_of(backbone, source_head))


def oracle(problem: Problem, rows: Rows, seeds: list[int], settings: Settings, effort: Effort) -> Fitted:
    """Fit a ridge head on the true model's features, `(x_1 + x_2)^2` and `(x_1 - x_2)^2`: a bound for all methods."""
    backbone = rows.inputs.new_zeros(2, problem.dimension)
    backbone[:, :2] = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    return Fitted(ridge_on(backbone.expand(len(seeds), 2, -1), rows, settings["l2"]))


SOURCE_THEN_HEAD = {"source_decay": DECAYS, "l2": L2}
SOURCE_THEN_TARGET = {"source_decay": DECAYS, "decay": DECAYS, "rate": (1e-3, 1e-2)}
METHODS = {
    "target_only": Method("target only", target_only, {"decay": DECAYS}),
    "linear_head": Method("pre-train, linear head", linear_head, SOURCE_THEN_HEAD),
    "linear_head_to_the_end": Method(
        "pre-train to the end, linear head", partial(linear_head, to_the_end=True), SOURCE_THEN_HEAD
    ),
    "fine_tune": Method("pre-train, fine-tune", fine_tune, SOURCE_THEN_TARGET),
    "fine_tune_to_the_end": Method(
        "pre-train to the end, fine-tune", partial(fine_tune, to_the_end=True), SOURCE_THEN_TARGET
    ),
    "joint": Method("joint training", joint, {"decay": DECAYS, "target_weight": (0.1, 0.3, 1.0, 3.0)}),
    "merlin_fixed": Method("MeRLin, ρ = 1", merlin, {"decay": DECAYS, "rho": (1.0,), "l2": (0.1, 1.0)}),
    "merlin": Method("MeRLin, ρ chosen", merlin, {"decay": DECAYS, "rho": (0.3, 1.0, 3.0), "l2": (0.1, 1.0)}),
    "oracle": Method("oracle features", oracle, {"l2": L2}),
}
