"""
Weights of a checkpoint under the names that the model in memory gives them.

transformers 5.10 to 5.24: `save_pretrained` writes ViT, Swin, DINOv2 and others under names of older releases, which
`from_pretrained` translates. Trainer reads the file without it, with `strict=False`: what has another name keeps its
values, with no more than a warning (huggingface/transformers#43701).
"""

import copy
import functools
import json
import os

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..seeding import isolated_rng


logger = logging.get_logger(__name__)


def loads_renamed(model: nn.Module, checkpoint: str) -> bool:
    """Load the weights of a checkpoint whose names differ from the model's; return whether they do."""
    if not is_renamed(model, checkpoint):
        return False
    logger.info(f"Loading the weights of {checkpoint}, which have other names than in the model.")
    load_renamed(model, checkpoint)
    return True


def is_renamed(model: nn.Module, checkpoint: str) -> bool:
    """Return whether a checkpoint of a whole model has names that the model's `state_dict` lacks."""
    names = saved_names(checkpoint) if isinstance(model, PreTrainedModel) else None
    return names is not None and not names <= set(model.state_dict())


def saved_names(checkpoint: str) -> set[str] | None:
    """Return the names of the tensors in a checkpoint, in one file or several; `None` without safetensors."""
    path, index = (os.path.join(checkpoint, name) for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    if os.path.isfile(path):
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    if os.path.isfile(index):
        with open(index, encoding="utf-8") as file:
            return set(json.load(file)["weight_map"])
    return None


def load_renamed(model: PreTrainedModel, checkpoint: str) -> None:
    """Load weights as `from_pretrained` does; for a moment it needs memory for a second copy of the model."""
    # The widest type of all, as the model may have layers in float32 beside others in bfloat16.
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    with isolated_rng("weights", checkpoint):
        saved = type(model).from_pretrained(
            checkpoint,
            config=copy.deepcopy(model.config),
            dtype=functools.reduce(torch.promote_types, dtypes),
            use_safetensors=True,
            local_files_only=True,
        )
    model.load_state_dict(saved.state_dict())
