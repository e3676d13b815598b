"""
MeRLin's objective with a head from five gradient steps, differentiated through, beside the closed form.

Every method maps features `(n, d)`, targets `(n, C)` and the splits' training rows `(S, n)` to logits `(S, n, C)`, by
heads that minimise `sum_i ||y_i - W x_i - b||^2 + l2 * s * ||W||^2` on the training rows (see
`merlin_hf.heads.HeadSolver`). The step size is given: the gradient steps pay nothing for finding it.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from cases import SOURCE_CLASSES, Case, build_model, make_batch
from measure import take_turns
from steps import CLIP, LEARNING_RATE, autocast
from torch import Tensor, nn

from merlin_hf import MerlinTrainingArguments
from merlin_hf.heads import get_head
from merlin_hf.transfer.model import TransferModel
from merlin_hf.transfer.splits import split_by_class


INNER_STEPS = 5
L2 = get_head("ridge").default_l2
SCALE = get_head("ridge").default_logit_scale
SPLITS = MerlinTrainingArguments.num_splits
NEEDS = {"higher": "higher", "torchopt": "torchopt"}  # what each method imports, where it is not part of torch


def penalty(features: Tensor, train: Tensor) -> Tensor:
    """`l2 * s` of each split `(S,)`."""
    share = train / train.sum(-1, keepdim=True)
    return L2 * (share @ features.square().sum(-1) - (share @ features).square().sum(-1))


def inner_loss(weight: Tensor, bias: Tensor, features: Tensor, targets: Tensor, train: Tensor, l2: Tensor) -> Tensor:
    """The heads' losses, summed over splits, so that each head gets its own gradient."""
    errors = (features @ weight.mT + bias.unsqueeze(-2) - targets).square().sum(-1)
    return (errors * train).sum() + (l2 * weight.square().sum((-2, -1))).sum()


def step_size(features: Tensor) -> float:
    """One over a bound of the inner loss's second derivative."""
    rows = torch.cat([features, features.new_ones(len(features), 1)], 1)
    spread = features.var(0, correction=0).sum()
    return float(1 / (2 * (torch.linalg.matrix_norm(rows, 2).square() + 2 * L2 * spread)))


class Heads(nn.Module):
    """The heads of all splits, from zero."""

    def __init__(self, splits: int, classes: int, size: int, like: Tensor):
        super().__init__()
        self.weight = nn.Parameter(like.new_zeros(splits, classes, size))
        self.bias = nn.Parameter(like.new_zeros(splits, classes))

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight.mT + self.bias.unsqueeze(-2)


def closed_form(size: float) -> Callable[..., Tensor]:
    def logits(features, targets, train):
        return get_head("ridge").fit(features, targets, L2, train)(features)

    return logits


def by_torch_func(size: float) -> Callable[..., Tensor]:
    gradient = torch.func.grad(inner_loss, argnums=(0, 1))

    def logits(features, targets, train):
        l2 = penalty(features, train)
        weight = features.new_zeros(len(train), targets.shape[-1], features.shape[-1])
        bias = features.new_zeros(len(train), targets.shape[-1])
        for _ in range(INNER_STEPS):
            by_weight, by_bias = gradient(weight, bias, features, targets, train, l2)
            weight, bias = weight - size * by_weight, bias - size * by_bias
        return features @ weight.mT + bias.unsqueeze(-2)

    return logits


def by_autograd(size: float) -> Callable[..., Tensor]:
    def logits(features, targets, train):
        l2 = penalty(features, train)
        heads = Heads(len(train), targets.shape[-1], features.shape[-1], features)
        weight, bias = heads.weight, heads.bias
        for _ in range(INNER_STEPS):
            loss = inner_loss(weight, bias, features, targets, train, l2)
            by_weight, by_bias = torch.autograd.grad(loss, (weight, bias), create_graph=True)
            weight, bias = weight - size * by_weight, bias - size * by_bias
        return features @ weight.mT + bias.unsqueeze(-2)

    return logits


def by_higher(size: float) -> Callable[..., Tensor]:
    import higher

    def logits(features, targets, train):
        l2 = penalty(features, train)
        heads = Heads(len(train), targets.shape[-1], features.shape[-1], features)
        optimizer = torch.optim.SGD(heads.parameters(), lr=size)
        with higher.innerloop_ctx(heads, optimizer) as (functional, differentiable):
            for _ in range(INNER_STEPS):
                differentiable.step(inner_loss(functional.weight, functional.bias, features, targets, train, l2))
            return functional(features)

    return logits


def by_torchopt(size: float) -> Callable[..., Tensor]:
    warnings.filterwarnings("ignore", category=FutureWarning, module="torchopt")
    import torchopt

    def logits(features, targets, train):
        l2 = penalty(features, train)
        heads = Heads(len(train), targets.shape[-1], features.shape[-1], features)
        optimizer = torchopt.MetaSGD(heads, lr=size)
        for _ in range(INNER_STEPS):
            optimizer.step(inner_loss(heads.weight, heads.bias, features, targets, train, l2))
        return heads(features)

    return logits


METHODS = {
    "closed form": closed_form,
    "autograd": by_autograd,
    "torch.func": by_torch_func,
    "higher": by_higher,
    "torchopt": by_torchopt,
}


def installed() -> tuple[list[str], dict[str, str]]:
    """The methods that can be run here, and why the others cannot."""
    missing = {}
    for name, package in NEEDS.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            missing[name] = f"not installed ({error})"
    return [name for name in METHODS if name not in missing], missing


def meta_loss(logits: Tensor, labels: Tensor, validation: Tensor) -> Tensor:
    """Cross-entropy of the rows that each head was not fit on."""
    losses = F.cross_entropy((SCALE * logits).flatten(0, 1), labels.repeat(len(logits)), reduction="none")
    return (losses * validation.flatten()).sum() / validation.sum().clamp(min=1)


def compare_heads(rows: int, size: int, classes: int, splits: int, device: str, repeats: int) -> dict:
    """
    The heads' fit, the meta loss, and the gradient in the features.

    Returns:
        `dict`: as `take_turns`, with the relative `gradient_error` against the closed form in float64.
    """
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(rows) // 2 % classes).to(device)
    features = torch.randn(rows, size, generator=generator).to(device)
    targets = F.one_hot(labels, classes).float()
    split = split_by_class(labels, num_splits=splits, generator=generator)
    train, validation = split.train.float(), split.validation.float()
    inner = step_size(features)

    def gradient(method, features=features):
        inputs = features.detach().requires_grad_()
        logits = method(inputs, targets.to(inputs), train.to(inputs))
        return torch.autograd.grad(meta_loss(logits, labels, validation.to(inputs)), inputs)[0]

    methods = {name: METHODS[name](inner) for name in installed()[0]}
    results = take_turns({name: partial(gradient, method) for name, method in methods.items()}, device, repeats)
    solution = gradient(closed_form(inner), features.double())
    for name, method in methods.items():
        results[name]["gradient_error"] = float((gradient(method) - solution).norm() / solution.norm())
    return results


def compare_steps(case: Case, device: str, repeats: int) -> dict:
    """Whole steps in a plain loop: both backbone passes, both losses, backward, clipping and AdamW."""
    target, source = (
        {name: t.to(device) for name, t in make_batch(case, case.batch, classes, seed).items()}
        for classes, seed in ((case.classes, 0), (SOURCE_CLASSES, 1))
    )
    labels, source_labels = target.pop("labels"), source.pop("labels")
    targets = F.one_hot(labels, case.classes).float()
    generator = torch.Generator().manual_seed(0)

    def stepper(method):
        model = TransferModel(build_model(case), SOURCE_CLASSES).to(device).train()
        model.prepare_for_features()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

        def step():
            with autocast(case, device):
                outputs = model(source_inputs=source, target_inputs=target)
            features = outputs.target_features.float()
            split = split_by_class(labels, num_splits=SPLITS, generator=generator)
            logits = method(features, targets, split.train.float())
            loss = F.cross_entropy(outputs.source_logits.float(), source_labels)
            loss = loss + MerlinTrainingArguments.rho * meta_loss(logits, labels, split.validation.float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad()

        return step

    with torch.no_grad():
        model = TransferModel(build_model(case), 0).to(device)
        model.prepare_for_features()
        inner = step_size(model.features(target).float())
    return take_turns({name: stepper(METHODS[name](inner)) for name in installed()[0]}, device, repeats)
