"""Weights: whether they are finite, and those of a checkpoint under the names that the model in memory gives them."""

import copy
import functools
import json
import os

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..trainer_base import TrainerBase
from .seeding import isolated_rng


logger = logging.get_logger(__name__)


class NotFiniteError(FloatingPointError):
    """Training has diverged: weights are NaN or infinite. Nothing was saved over an earlier checkpoint."""


def not_finite(model: nn.Module) -> str | None:
    """
    Return the name of the first parameter or buffer that is not finite, `None` where all are.

    Of a sharded model this process's part is looked at. Buffers may be infinite (masks), but not NaN. All are read once, and the
    device is waited for once.
    """
    checks: dict[str, torch.Tensor] = {}
    for name, tensor in model.named_parameters():
        tensor = _local_part(tensor)
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            checks[name] = tensor.isfinite().all()
    for name, tensor in model.named_buffers():
        tensor = _local_part(tensor)
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            checks[name] = tensor.isnan().any().logical_not()
    device = next(iter(checks.values())).device if checks else None
    if not checks or torch.stack([check.to(device) for check in checks.values()]).all():
        return None
    return next(name for name, check in checks.items() if not check)


def _local_part(tensor: torch.Tensor) -> torch.Tensor:
    tensor = getattr(tensor, "ds_tensor", tensor).detach()  # ZeRO-3
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class SavedWeightsMixin(TrainerBase):
    """
    For a [`~transformers.Trainer`]: resuming and loading the best model give the weights that were saved.

    `save_pretrained` writes ViT, Swin, DINOv2 and others under names of older releases, which `from_pretrained` translates.
    Trainer (5.23) reads the file without it, with `strict=False`: what has another name keeps its values, with no more than a
    warning (huggingface/transformers#43701).
    """

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        loaded_into = self.model if model is None else model
        if not self._reads_renamed(loaded_into, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        if not self._reads_renamed(self.model, self.state.best_model_checkpoint):
            super()._load_best_model()

    def _reads_renamed(self, model: nn.Module, checkpoint: str) -> bool:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or not is_renamed(model, checkpoint):
            return False
        logger.info(f"Loading the weights of {checkpoint}, which have other names than in the model.")
        load_renamed(model, checkpoint)
        return True


def is_renamed(model: nn.Module, checkpoint: str) -> bool:
    """Whether a checkpoint of a whole model has names that the model's `state_dict` lacks."""
    names = saved_names(checkpoint) if isinstance(model, PreTrainedModel) else None
    return names is not None and not names <= set(model.state_dict())


def saved_names(checkpoint: str) -> set[str] | None:
    """The names of the tensors in a checkpoint, in one file or sharded; `None` where there are no safetensors."""
    path, index = (os.path.join(checkpoint, name) for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    if os.path.isfile(path):
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    if os.path.isfile(index):
        with open(index, encoding="utf-8") as file:
            return set(json.load(file)["weight_map"])
    return None


def load_renamed(model: PreTrainedModel, checkpoint: str) -> None:
    """Read weights as `from_pretrained` does; needs memory for a second copy of the model for a moment."""
    # One for all, so the widest: the model may have layers in float32 beside others in bfloat16.
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
