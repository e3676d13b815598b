"""Load a model as it was saved: plain, or as an adapter of PEFT beside a base model that lies elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from ..data.models import load_text_tokenizer
from ..data.sentence_encoders import (
    SentenceEncoderForSequenceClassification,
    check_modules,
    head_kind,
    is_sentence_encoder,
    load_adapter,
)
from ..data.tasks import AUDIO, IMAGE, TEXT
from ..hub.card import task_of
from ..hub.folder import PROCESSOR_CONFIGS, TOKENIZER_CONFIG
from ..transfer.model import find_head
from ..utils import loading
from ..utils.errors import reading
from ..utils.files import FileError
from ..utils.validation import ConfigError


AUTO_MODELS = {
    TEXT: AutoModelForSequenceClassification,
    IMAGE: AutoModelForImageClassification,
    AUDIO: AutoModelForAudioClassification,
}
TAGS = {"text-classification": TEXT, "image-classification": IMAGE, "audio-classification": AUDIO}
PEFT_PREFIX = "base_model.model."  # of the names of a model's weights in its adapter
SENTENCE_HEAD = "classifier"  # the name of the head of a sentence encoder


@dataclass
class SavedModel:
    """
    A saved classifier of `"text"`, `"image"` or `"audio"`, before its weights are read.

    `adapter` is the folder with the adapter, `base` what it belongs to; `config` is then that of the base model for as
    many labels as the adapter has.
    """

    path: str
    kind: str
    config: PretrainedConfig
    adapter: str | None = None
    base: str | None = None
    is_sentence_encoder: bool = False

    @property
    def model_class(self) -> Any:
        """Return the class that loads the model."""
        return SentenceEncoderForSequenceClassification if self.is_sentence_encoder else AUTO_MODELS[self.kind]

    def load_processor(self, auto_class: Any, **options: Any) -> Any:
        """Load the tokenizer or processor beside the model; of an adapter without one, that of its base model."""
        if self.is_sentence_encoder:
            return load_text_tokenizer(self.model_class, self.base or self.path, self.config)
        names = {TOKENIZER_CONFIG, *PROCESSOR_CONFIGS}
        has_own = self.base is None or any(loading.find_file(self.path, name) for name in names)
        return loading.load_processor(auto_class, self.path if has_own else str(self.base), **options)

    def load(self, device: torch.device) -> PreTrainedModel:
        """Load the classifier, to be evaluated; raise a FileError if it cannot be loaded."""
        if self.adapter is None:
            return load_plain(self.model_class, self.path, device, config=self.config)
        if self.is_sentence_encoder:
            return load_adapter(str(self.base), self.adapter, config=self.config).to(device)
        from peft import PeftModel

        # The head of the base model may have other labels; the adapter brings its own.
        model = load_plain(self.model_class, str(self.base), device, config=self.config, ignore_mismatched_sizes=True)
        with reading(f"The adapter in {self.path!r} does not fit {self.base!r}"):
            return PeftModel.from_pretrained(model, self.adapter).to(device).eval()


def load_plain(model_class: Any, path: str, device: torch.device, **options: Any) -> PreTrainedModel:
    """Load a plain classifier, to be evaluated; raise a FileError if it cannot be loaded or has no head."""
    loaded: Any = loading.load_model(model_class, path, output_loading_info=True, **options)
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing and not options.get("ignore_mismatched_sizes"):
        raise FileError(
            f"{path!r} is not a whole classifier: it has no weights for {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}, which would be drawn at random. Give the folder of a model "
            "that was trained for classification."
        )
    return model.to(device).eval()


def read_saved(path: str, base: str | None = None) -> SavedModel:
    """
    Find out which classifier a folder, or a repository on the Hub, has; `base` is the base model of an adapter.

    Raises:
        ConfigError: there is no classifier of a known kind, or not the whole of it.
        FileError: its configuration cannot be loaded.
        ImportError: it is an adapter, and peft is missing.
    """
    if loading.find_file(path, ADAPTER_CONFIG_NAME) is not None:
        return _read_adapter(path, base)
    config = loading.load_config(path)
    if is_sentence_encoder(path):
        check_modules(path)
        if head_kind(path) is None:
            raise ConfigError(
                f"{path!r} is a sentence encoder without a classifier on top. Give the folder of one that was trained "
                "for classification."
            )
        return SavedModel(path, TEXT, config, is_sentence_encoder=True)
    kind = _kind_of_class(config.architectures or ())
    if kind is None:
        found = ", ".join(config.architectures or ()) or "a model without a class"
        raise ConfigError(f"{path!r} is {found}. Give a classifier of texts, of images or of recordings.")
    return SavedModel(path, kind, config)


def _kind_of_class(class_names: Sequence[str]) -> str | None:
    """Return the kind of data that a class of transformers classifies; `None` if it is no classifier."""
    task = task_of(class_names)
    return None if task is None else TAGS.get(task.tag)


# Adapters


def _read_adapter(path: str, base: str | None) -> SavedModel:
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise ImportError(f"{path!r} is an adapter, which needs peft: `pip install peft`.") from error

    weights = loading.find_file(path, ADAPTER_SAFE_WEIGHTS_NAME)
    if weights is None:
        raise ConfigError(
            f"{path!r} is an adapter without {ADAPTER_SAFE_WEIGHTS_NAME}; other files of weights, which may be "
            "pickles, are not read."
        )
    folder = str(Path(weights).parent)
    loading.read_object(Path(folder) / ADAPTER_CONFIG_NAME)
    with reading(f"{path!r} has no {ADAPTER_CONFIG_NAME} of PEFT"):
        adapter_config = PeftConfig.from_pretrained(folder)
    base = base or adapter_config.base_model_name_or_path
    if not base:
        raise ConfigError(f"The adapter in {path!r} does not say what its base model is: give `--base_model`.")
    try:
        config = loading.load_config(str(base))
    except FileError as error:
        raise ConfigError(
            f"{base!r}, the base model of the adapter in {path!r}, cannot be loaded: give `--base_model`. {error}"
        ) from error
    kind = _adapter_kind(config, adapter_config, path)
    with reading(f"The adapter in {path!r} cannot be loaded"), torch.device("meta"):
        model = AUTO_MODELS[kind].from_config(config, trust_remote_code=False)
        loading.check_adapter(folder, weights, model)
    is_encoder = kind == TEXT and is_sentence_encoder(str(base))
    head = SENTENCE_HEAD if is_encoder else find_head(model)
    num_labels = _outputs_of_adapter(head, weights)
    if num_labels is None and _kind_of_class(config.architectures or ()) is None:
        raise ConfigError(
            f"The adapter in {path!r} has no head, and its base model {base!r} is not a classifier: there is "
            "nothing to evaluate."
        )
    if num_labels not in (None, config.num_labels):
        config.num_labels = num_labels
    config.problem_type = None  # that of the base model's own task
    return SavedModel(path, kind, config, folder, base, is_encoder)


def _adapter_kind(config: PretrainedConfig, adapter_config: Any, path: str) -> str:
    """Return the kind of data that a model classifies: by the class that PEFT noted, else by its type."""
    mapping = adapter_config.auto_mapping
    noted = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    kind = _kind_of_class([noted] if noted else [])
    if kind is not None:
        return kind
    kinds = [kind for kind, auto_class in AUTO_MODELS.items() if type(config) in auto_class._model_mapping]
    if not kinds:
        raise ConfigError(f"The adapter in {path!r} is for a {config.model_type} model, which has no classifier.")
    return kinds[0]


def _outputs_of_adapter(head: str, weights: str) -> int | None:
    """Return how many outputs the head in an adapter's weights has; `None` where they have none."""
    name = f"{PEFT_PREFIX}{head}.weight"
    with safe_open(weights, framework="pt") as file:
        return file.get_slice(name).get_shape()[0] if name in file.keys() else None
