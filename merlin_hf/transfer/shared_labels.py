"""Labels that a source and a target share by name."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data.labels import LabelMismatchError, match_names, shown
from ..heads import LinearHead
from .distributed import gather_parameter, reshard
from .labels import class_names, output_names
from .model import SourceHead, TransferModel
from .refit import write_head


NO_NAME = re.compile(r"(LABEL_)?[+-]?\d+(\.0)?")


def match_labels(source: Sequence[str] | None, target: Sequence[str] | None) -> list[int] | None:
    """
    Return the target's id of each class of a source; `None` where they do not name the same classes.

    Names that differ in upper and lower case alone are the same, which is logged at WARNING, once for the same names.
    Numbers are not names.
    """
    places = _match(tuple(source or ()), tuple(target or ()))
    return None if places is None else list(places)


@functools.cache
def _match(source: tuple[str, ...], target: tuple[str, ...]) -> tuple[int, ...] | None:
    if not source or len(source) != len(target) or any(NO_NAME.fullmatch(name) for name in (*source, *target)):
        return None
    try:
        return tuple(match_names(source, target, "The source", "the target"))
    except LabelMismatchError:
        return None


def shared_labels_line(
    sources: Mapping[str | None, Sequence[str] | None], target: Sequence[str] | None, users: Sequence[str]
) -> str | None:
    """
    Return the line by which commands say that sources and target share their labels; `None` where none does.

    Args:
        sources (`Mapping[str | None, Sequence[str]]`): the names of the classes of each source.
        target (`Sequence[str]`, *optional*): those of the target.
        users (`Sequence[str]`): methods of the run that use it.
    """
    names = [name for name, classes in sources.items() if match_labels(classes, target) is not None]
    if target is None or not names:
        return None
    named = [name for name in names if name is not None]
    which = f"source{'s' if len(named) > 1 else ''} {', '.join(named)}" if named else "source"
    used = f"{', '.join(users)} use{'s' if len(users) == 1 else ''} this" if users else "no method here uses this"
    return f"The {which} and the target have the same labels, {', '.join(target)}: {used}."


def names_of_outputs(train_dataset: Any, config: Any) -> list[str] | None:
    """Return the names of a model's outputs: those of the classes of `train_dataset`, else of the configuration."""
    return class_names(train_dataset) or output_names(config)


def shared_labels(trainer: Any) -> list[int] | None:
    """Return the target's id of each class of a trainer's source, where both name the same classes; else `None`."""
    config = getattr(trainer.model, "config", None)
    return match_labels(class_names(trainer.source_dataset), names_of_outputs(trainer.train_dataset, config))


def need_shared_labels(trainer: Any) -> list[int]:
    """Return [`shared_labels`]; raise a `ValueError` if source and target do not name the same classes."""
    found = shared_labels(trainer)
    if found is not None:
        return found
    if isinstance(trainer.source_dataset, Mapping):
        raise ValueError(f"{type(trainer).__name__} takes one source, got {len(trainer.source_dataset)}.")
    source = class_names(trainer.source_dataset)
    target = names_of_outputs(trainer.train_dataset, getattr(trainer.model, "config", None))
    source_names, target_names = ("no names" if names is None else shown(names) for names in (source, target))
    raise ValueError(
        f"{type(trainer).__name__} needs a source whose labels have the names of the target's; the source has "
        f"{source_names}, the target {target_names}. Give `source_dataset` a `ClassLabel` with the names of the "
        "target's classes, where they mean the same; else use SequentialTrainer or MerlinTrainer."
    )


@torch.no_grad()
def source_head_for_target(transfer_model: TransferModel, places: list[int]) -> LinearHead:
    """Return the source's head with its outputs in the order of the target's labels; a collective where sharded."""
    head = transfer_model.source_head
    assert isinstance(head, SourceHead)  # one source, whose classes have names
    order = torch.tensor(places, device=head.weight.device).argsort()
    return LinearHead(gather_parameter(head.weight)[order], gather_parameter(head.bias)[order])


@torch.no_grad()
def start_from_source_head(transfer_model: TransferModel, places: list[int]) -> None:
    """Write [`source_head_for_target`] into the model's last layer, to be trained from there."""
    head = source_head_for_target(transfer_model, places)
    reshard(transfer_model)
    write_head(transfer_model.head, head)
