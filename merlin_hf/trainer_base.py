"""What the parts of a Trainer that are mixed into it build on."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import Trainer as TrainerBase
else:
    TrainerBase = object  # Trainer itself comes last, in the class that mixes them

__all__ = ["TrainerBase"]
