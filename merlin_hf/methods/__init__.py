"""The ways to use a source task that can be compared, by name."""

import difflib

from transformers import Trainer

from ..trainer import MerlinTrainer
from .finetune import FinetuneTrainer
from .joint import JointTrainer


METHODS: dict[str, type[Trainer]] = {
    "finetune": FinetuneTrainer,
    "joint": JointTrainer,
    "merlin": MerlinTrainer,
}


def get_method(name: str) -> type[Trainer]:
    """
    The trainer class of a method.

    Raises:
        ValueError: there is no method of that name; the message lists those there are.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"`method={name!r}` is unknown.{hint} Methods: {', '.join(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "FinetuneTrainer", "JointTrainer", "get_method"]
