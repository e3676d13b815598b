"""Parameter groups of an optimizer that trains more than the classifier."""

from typing import Any

import torch
from torch import nn

from .model import TransferModel


# Parameters, and the learning rate that they are given; `None` leaves them in the groups where they are.
OwnRates = list[tuple[list[nn.Parameter], float | None]]


def add_own_groups(trainer: Any) -> None:
    """
    Give the parameters of a method their own learning rates, in an optimizer that may lack them.

    Raises:
        ValueError: it lacks some, and its scheduler, which counts its groups, is made already.
    """
    optimizer, own_rates = trainer.optimizer, trainer.parameters_with_learning_rates()
    if not hasattr(optimizer, "param_groups"):  # a placeholder for that of DeepSpeed's configuration
        optimizer.params = group_by_learning_rate(optimizer.params, own_rates)
        return
    missing = [] if trainer.lr_scheduler is None else _missing(optimizer, trainer.transfer_model)
    if missing:
        raise ValueError(
            f"`optimizers` has an optimizer and a scheduler, and the optimizer lacks {', '.join(missing[:4])}. Pass "
            "the optimizer alone, which gets the missing parameters and a scheduler, or `optimizer_cls_and_kwargs`."
        )
    for parameters, learning_rate in own_rates:
        move_to_own_group(optimizer, parameters, learning_rate)


def _missing(optimizer: Any, transfer_model: TransferModel) -> list[str]:
    """Return the names of trained parameters that an optimizer lacks."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [name for name, p in transfer_model.named_parameters() if p.requires_grad and id(p) not in known]


def check_trains_own(optimizer: Any, transfer_model: TransferModel) -> None:
    """Raise a `ValueError` if an optimizer lacks what is trained beside the classifier, such as the source head."""
    missing = [name for name in _missing(optimizer, transfer_model) if not name.startswith("model.")]
    if missing:
        raise ValueError(
            f"The optimizer lacks {', '.join(missing[:4])}, which would not be trained: `create_optimizer` has been "
            "replaced. Have it call `super().create_optimizer(model)`, which adds the missing parameters to "
            "`self.optimizer`, or pass `optimizer_cls_and_kwargs`."
        )


def move_to_own_group(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], learning_rate: float | None
) -> None:
    """Give parameters a learning rate, keep the other settings of their groups, and add those that are missing."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [parameter for parameter in parameters if id(parameter) not in known]
    if missing:
        own = {} if learning_rate is None else {"lr": learning_rate}
        optimizer.add_param_group({"params": missing, **own})
    if learning_rate is None:
        return
    wanted = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in wanted]
        left = [parameter for parameter in group["params"] if id(parameter) not in wanted]
        if moved and not left:
            # They have a group already. In a second `train()`, a scheduler has set its rate, which stays.
            if "initial_lr" not in group:
                group["lr"] = learning_rate
        elif moved:
            group["params"] = left
            settings = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
            optimizer.add_param_group({**settings, "params": moved, "lr": learning_rate})


def group_by_learning_rate(parameters: list[nn.Parameter], own_rates: OwnRates) -> list[dict[str, Any]]:
    """Return parameter groups, with the learning rates that differ from the default, to make an optimizer of."""
    rate_of = {id(parameter): rate for members, rate in own_rates for parameter in members}
    groups: dict[float | None, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(rate_of.get(id(parameter)), []).append(parameter)
    return [{"params": members, **({} if rate is None else {"lr": rate})} for rate, members in groups.items()]
