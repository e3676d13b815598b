"""Gradients of the source loss and of MeRLin's meta loss in the backbone's parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..heads import LinearHead, encode_targets, get_head
from ..transfer.labels import REGRESSION, SINGLE_LABEL, row_losses, task_loss
from ..transfer.layers import layer_stack
from ..transfer.model import TransferModel
from ..transfer.splits import split_by_class


def backbone_parameters(transfer_model: TransferModel, layers: int | None = None) -> dict[str, nn.Parameter]:
    """
    Return the parameters that gradients are compared in: all floating point ones but those of the head.

    With `layers`, only the last so many layers of the backbone and what comes after them.
    """
    model = transfer_model.model
    names = [name for name, _ in model.named_parameters()]
    if layers is not None:
        stack = layer_stack(model)
        if not 1 <= layers <= len(stack):
            raise ValueError(f"`layers` must be from 1 to {len(stack)}, the layers of this model, got {layers}.")
        # What a model runs first it also registers first: embeddings, lower layers.
        first = id(next(model.get_submodule(stack[-layers]).parameters()))
        names = names[[id(parameter) for parameter in model.parameters()].index(first) :]
    of_head = {id(parameter) for parameter in transfer_model.head.parameters()}
    found = {name: model.get_parameter(name) for name in names}
    return {name: value for name, value in found.items() if id(value) not in of_head and value.is_floating_point()}


def source_gradient(features: Tensor, labels: Tensor, head: LinearHead) -> Tensor:
    """
    Return the gradient `(n, hidden_size)` of the mean source loss in the features, with the head as it is.

    For the head that minimises the loss it is the gradient of `min over theta of L(theta, phi)` as well, as the head's
    own derivative is 0 there; the regulariser aside.
    """
    problem_type = REGRESSION if labels.is_floating_point() else SINGLE_LABEL
    features = features.detach().requires_grad_()
    loss = task_loss(head.detach()(features), labels, problem_type)
    return torch.autograd.grad(loss, features)[0]


def meta_gradient(
    features: Tensor,
    labels: Tensor,
    num_labels: int,
    num_splits: int,
    generator: torch.Generator,
    head: str = "ridge",
) -> Tensor:
    """
    Return the gradient `(n, hidden_size)` of MeRLin's meta loss in the target's features, over random halves.

    In each of `num_splits` splits a head is fit on one half, in closed form, and the other half gives its loss; the
    gradient goes through both, as in [`~merlin_hf.MerlinTrainer`], whose defaults the regulariser and the scale of the
    logits have.
    """
    is_regression = labels.is_floating_point()
    problem_type = REGRESSION if is_regression else SINGLE_LABEL
    features = features.detach().requires_grad_()
    kinds = torch.zeros(len(labels), dtype=torch.long, device=labels.device) if is_regression else labels
    split = split_by_class(kinds, 0.5, num_splits, generator)
    given = labels.to(features.dtype) if is_regression else labels
    targets, sample_weight = encode_targets(given, num_labels, problem_type, dtype=features.dtype)
    solver = get_head(head, problem_type=problem_type)
    logits = solver.fit(features, targets, solver.default_l2, split.train * sample_weight)(features)
    losses = row_losses(logits if is_regression else solver.default_logit_scale * logits, targets, problem_type)
    rows = split.validation.to(losses.dtype)
    loss = (losses * rows).sum() / rows.sum().clamp(min=1)
    return torch.autograd.grad(loss, features)[0]


def pull_back(
    transfer_model: TransferModel,
    batches: Iterable[tuple[Mapping[str, Any], Tensor]],
    gradients: list[Tensor],
    parameters: Mapping[str, nn.Parameter],
) -> list[list[Tensor]]:
    """
    Turn gradients in features into gradients in parameters, a batch at a time: memory does not grow with the rows.

    Args:
        transfer_model ([`~merlin_hf.transfer.model.TransferModel`]): the backbone with its head.
        batches: the model's arguments for some rows, and which rows they are, `(b,)`; each row once.
        gradients (`list[torch.Tensor]`): R of shape `(n, hidden_size)`. Each goes back through the same forward.
        parameters (`Mapping[str, torch.nn.Parameter]`): see [`backbone_parameters`].

    Returns:
        `list[list[torch.Tensor]]`: R times one for each parameter, zeros where a parameter takes no part.
    """
    wanted = list(parameters.values())
    totals = [[torch.zeros_like(parameter) for parameter in wanted] for _ in gradients]
    trainable = [parameter for parameter in transfer_model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        for parameter in wanted:
            parameter.requires_grad_(True)
        with transfer_model.feature_mode(), torch.enable_grad():
            for inputs, rows in batches:
                features = transfer_model.features(inputs)
                for number, gradient in enumerate(gradients):
                    found = torch.autograd.grad(
                        features,
                        wanted,
                        gradient[rows].to(features.dtype),
                        retain_graph=number + 1 < len(gradients),
                        allow_unused=True,
                    )
                    for total, one in zip(totals[number], found, strict=True):
                        if one is not None:
                            total += one
    finally:
        for parameter in wanted:
            parameter.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
    return totals
