"""The model of a comparison, anew for each run, and what prepares its inputs."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from ..data.encoding import ImageEncoder, TextEncoder, by_processor, resize_and_scale
from ..data.labels import Labels
from ..data.models import configure_labels, load_image_processor, load_tokenizer, longest_text
from ..data.tasks import IMAGE, TEXT
from ..transfer.layers import KEPT_STATISTICS, layer_stack
from ..utils.loading import load_config, load_model
from ..utils.validation import ConfigError
from .config import CompareConfig


AUTO_MODELS = {TEXT: AutoModelForSequenceClassification, IMAGE: AutoModelForImageClassification}
EMBEDDINGS = ("embeddings", "embedder", "conv_stem")  # in most models, in ResNet, in MobileNet
IDENTIFYING_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


def load_model_config(config: CompareConfig, labels: Labels) -> PretrainedConfig:
    """
    The configuration of a classifier for the target's labels.

    Raises:
        ConfigError: there is no such model.
    """
    options = {"attn_implementation": config.attn_implementation}
    model_config = load_config(config.model, f"`model={config.model!r}`", **options)
    configure_labels(model_config, labels, option=None)
    return model_config


def load_encoder(config: CompareConfig, model_config: PretrainedConfig, kind: str) -> TextEncoder | ImageEncoder:
    """
    What makes the model's inputs of texts or images.

    Raises:
        ConfigError: there is no tokenizer, or nothing tells how large images should be.
    """
    if kind == IMAGE:
        return ImageEncoder(_preprocess(config, model_config))
    tokenizer = load_tokenizer(config.model, model_config, f"`model={config.model!r}`")
    return TextEncoder(tokenizer, longest_text(tokenizer, model_config, config.max_seq_length))


def _preprocess(config: CompareConfig, model_config: PretrainedConfig):
    size, channels = config.image_size, getattr(model_config, "num_channels", 3)
    if size is None:
        try:
            return by_processor(load_image_processor(config.model), model_config)
        except (OSError, ValueError, ImportError):
            size = getattr(model_config, "image_size", None)
    if size is None:
        raise ConfigError(
            f"`model={config.model!r}` has neither an image processor nor an image size: give `image_size`, in pixels."
        )
    return resize_and_scale(size, channels)


def build_model(config: CompareConfig, model_config: PretrainedConfig, kind: str, seed: int) -> PreTrainedModel:
    """
    The model as every run with this seed starts from it: the last layer, or with `from_scratch` all of it, is random.

    Draws from generators of its own, so that methods start from the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.from_scratch:
            model = AUTO_MODELS[kind].from_config(model_config, trust_remote_code=False)
        else:
            options = {"config": model_config, "ignore_mismatched_sizes": True}
            model = load_model(AUTO_MODELS[kind], config.model, f"`model={config.model!r}`", **options)
    if config.freeze_layers:
        freeze(model, config.freeze_layers)
    return model


def freeze(model: PreTrainedModel, layers: int) -> None:
    """
    Leave the embeddings and the lower layers as they are, the running statistics of their BatchNorm included, by which
    they normalise.

    Raises:
        ConfigError: the model has no embeddings and list of layers, or a shorter one.
    """
    stack = layer_stack(model)
    if len(stack) < layers:
        raise ConfigError(f"`freeze_layers` must be at most {len(stack)}, the layers of this model, got {layers}.")
    for part in (_embeddings(model.base_model), *map(model.get_submodule, stack[:layers])):
        part.requires_grad_(False)
        for module in part.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.register_forward_pre_hook(_evaluate)
                setattr(module, KEPT_STATISTICS, True)


def _embeddings(base: PreTrainedModel) -> nn.Module:
    name = next((name for name in EMBEDDINGS if isinstance(getattr(base, name, None), nn.Module)), None)
    if name is not None:
        return getattr(base, name)
    try:
        return base.get_input_embeddings()
    except NotImplementedError as error:
        raise ConfigError(
            f"`freeze_layers` needs a model with embeddings, and {type(base).__name__} has nothing of the name: leave "
            "it out."
        ) from error


def _evaluate(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Forward pre-hook: as in evaluation, whatever mode the model was put in."""
    module.training = False


def model_identity(config: CompareConfig, model_config: PretrainedConfig) -> str:
    """Return a text that changes when the files of the model do: the commit on the Hub, or what is in them."""
    if not os.path.isdir(config.model):
        return f"{config.model}@{getattr(model_config, '_commit_hash', None)}"
    digest = hashlib.blake2b(digest_size=8)
    files = sorted({path for pattern in IDENTIFYING_FILES for path in Path(config.model).glob(pattern)})
    for path in files:
        if config.from_scratch and path.suffix == ".safetensors":
            continue
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
