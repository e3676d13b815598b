"""MeRLin on the Hugging Face stack: transfer learning with a small target and a large related source."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .comparison import CompareConfig, compare
    from .heads import get_head, register_head
    from .methods import METHODS, JointTrainer, get_method
    from .trainer import MerlinTrainer
    from .training_args import MerlinTrainingArguments, TransferTrainingArguments
    from .transfer.trainer import TransferTrainer


__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "CompareConfig",
    "JointTrainer",
    "MerlinTrainer",
    "MerlinTrainingArguments",
    "TransferTrainer",
    "TransferTrainingArguments",
    "compare",
    "get_head",
    "get_method",
    "register_head",
]

# Where each name is from. It is imported on first use: torch and transformers take seconds, even for `--help`.
_ORIGINS = {
    "METHODS": "methods",
    "CompareConfig": "comparison",
    "JointTrainer": "methods",
    "MerlinTrainer": "trainer",
    "MerlinTrainingArguments": "training_args",
    "TransferTrainer": "transfer.trainer",
    "TransferTrainingArguments": "training_args",
    "compare": "comparison",
    "get_head": "heads",
    "get_method": "methods",
    "register_head": "heads",
}
_MODULES = (
    "comparison",
    "data",
    "heads",
    "hub",
    "methods",
    "report",
    "sources",
    "trainer",
    "training_args",
    "transfer",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:  # so that `merlin_hf.heads` needs no import of its own
        return importlib.import_module(f".{name}", __name__)
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_ORIGINS[name]}", __name__), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
