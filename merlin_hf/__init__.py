"""MeRLin on the Hugging Face stack: transfer learning with a small target and a large related source."""

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
