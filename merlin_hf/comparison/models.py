"""The model of a comparison, anew for each run, and what prepares its inputs."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from ..data.encoding import ImageEncoder, TagEncoder, TextEncoder, by_processor, resize_and_scale
from ..data.labels import Labels
from ..data.models import configure_labels, load_image_processor, load_text_tokenizer, longest_text, pad_by_known_token
from ..data.sentence_encoders import SentenceEncoderForSequenceClassification, classifier_class
from ..data.tags import load_word_tokenizer
from ..data.tasks import IMAGE, TAGGED
from ..transfer.layers import KEPT_STATISTICS, layer_stack
from ..utils.loading import load_config, load_model
from ..utils.validation import ConfigError


EMBEDDINGS = ("embeddings", "embedder", "conv_stem")  # in most models, in ResNet, in MobileNet
IDENTIFYING_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
FILES_OF_MODULES = ("[0-9]*_*/config.json", "[0-9]*_*/*.safetensors")  # of a sentence encoder


class ModelSection(Protocol):
    """The part of a configuration that names the model and how it is used."""

    model: str
    from_scratch: bool
    freeze_layers: int
    attn_implementation: str | None
    max_seq_length: int
    sentence_encoder: bool | None
    image_size: int | None


def load_model_config(config: ModelSection, labels: Labels) -> PretrainedConfig:
    """Load the configuration of a classifier for the target's labels; raise a ConfigError if there is none."""
    options = {"attn_implementation": config.attn_implementation}
    model_config = load_config(config.model, f"`model={config.model!r}`", **options)
    configure_labels(model_config, labels, option=None)
    return model_config


def load_encoder(
    config: ModelSection, model_config: PretrainedConfig, kind: str
) -> TextEncoder | ImageEncoder | TagEncoder:
    """Load what makes the model's inputs of texts or images; raise a ConfigError if nothing tells how."""
    if kind == IMAGE:
        return ImageEncoder(_preprocess(config, model_config))
    if kind == TAGGED:
        tokenizer = load_word_tokenizer(config.model, model_config, f"`model={config.model!r}`")
        pad_by_known_token(tokenizer, model_config)
        return TagEncoder(tokenizer, longest_text(tokenizer, model_config, config.max_seq_length))
    tokenizer = load_text_tokenizer(model_class(config, kind), config.model, model_config, f"`model={config.model!r}`")
    return TextEncoder(tokenizer, longest_text(tokenizer, model_config, config.max_seq_length))


def _preprocess(config: ModelSection, model_config: PretrainedConfig) -> Callable:
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


def model_class(config: ModelSection, kind: str) -> Any:
    """Return the class that loads the model."""
    if kind == IMAGE:
        return AutoModelForImageClassification
    if kind == TAGGED:
        if config.sentence_encoder:
            raise ConfigError("`sentence_encoder` is for whole texts, not for tagged sentences: leave it out.")
        return AutoModelForTokenClassification
    return classifier_class(config.model, config.sentence_encoder)


def build_model(
    config: ModelSection, model_config: PretrainedConfig, kind: str, seed: int, pairs: bool = False
) -> PreTrainedModel:
    """
    Build the model that every run with this seed starts from.

    Its last layer, or with `from_scratch` all of it, is random. The generators are its own, so that methods start from
    the same weights. With `pairs`, the target has two texts a row, which a sentence encoder reads apart.
    """
    auto_class = model_class(config, kind)
    is_encoder = auto_class is SentenceEncoderForSequenceClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.from_scratch and not is_encoder:
            model = auto_class.from_config(model_config, trust_remote_code=False)
        else:
            options: dict[str, Any] = {"config": model_config, "ignore_mismatched_sizes": True}
            if is_encoder:
                options |= {"pairs": pairs, "max_seq_length": config.max_seq_length}
                options |= {"from_scratch": config.from_scratch}
            model = load_model(auto_class, config.model, f"`model={config.model!r}`", **options)
    if config.freeze_layers:
        freeze(model, config.freeze_layers)
    return model


def freeze(model: PreTrainedModel, layers: int) -> None:
    """
    Freeze the embeddings and the lower layers; their BatchNorm normalises by its running statistics, which stay.

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


def _embeddings(base: Any) -> nn.Module:
    base = getattr(base, "transformers_model", base)  # of a sentence encoder
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
    """Put a module into evaluation mode, whatever mode the model is in; a forward pre-hook."""
    module.training = False


def model_identity(config: ModelSection, model_config: PretrainedConfig) -> str:
    """Return a text that changes when the files of the model do: the commit on the Hub, or a digest of the files."""
    is_encoder = classifier_class(config.model, config.sentence_encoder) is SentenceEncoderForSequenceClassification
    if not os.path.isdir(config.model):
        name = f"{config.model}@{getattr(model_config, '_commit_hash', None)}"
        return f"{name} as a sentence encoder" if is_encoder else name
    digest = hashlib.blake2b(b"sentence encoder" if is_encoder else b"", digest_size=8)
    patterns = (*IDENTIFYING_FILES, *FILES_OF_MODULES) if is_encoder else IDENTIFYING_FILES
    files = sorted({path for pattern in patterns for path in Path(config.model).glob(pattern)})
    for path in files:
        if config.from_scratch and path.suffix == ".safetensors":
            continue
        digest.update((path.relative_to(config.model).as_posix() if is_encoder else path.name).encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
