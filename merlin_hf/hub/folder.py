"""What of a folder is a model that others can load, and what stays here."""

import json
import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .errors import PublishError


CONFIG, ADAPTER_CONFIG, CARD = "config.json", "adapter_config.json", "README.md"
TRAINER_STATE = "trainer_state.json"
WEIGHTS, WEIGHTS_INDEX, ADAPTER_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
)
PICKLES = ("pytorch_model*.bin", "adapter_model.bin")
# What `save_pretrained` of models, tokenizers and processors writes.
PUBLISHED = (
    CONFIG, ADAPTER_CONFIG, CARD, "generation_config.json", "LICENSE*", ".gitattributes",
    "added_tokens.json", "chat_template.*", "merges.txt", "normalizer.json", "special_tokens_map.json", "tokenizer*.json",
    "vocab*", "*.model", "*.tiktoken", "bpe.codes", "source.spm", "target.spm",
    "*preprocessor_config.json", "processor_config.json", "feature_extractor_config.json", "image_processor_config.json",
    "additional_chat_templates/*",
)  # fmt: skip
REASONS = {
    "training_args.bin": "a pickle of the training arguments, which cannot be read without merlin_hf and may hold a token",
    "transfer_state.safetensors": "what only training needs",
    "optimizer.*": "what only training needs",
    "scheduler.pt": "what only training needs",
    "rng_state*": "what only training needs",
    "scaler.pt": "what only training needs",
    TRAINER_STATE: "the log of training, which is in the card",
    "*_results.json": "the log of training",
    "checkpoint-*": "a checkpoint",
    "runs": "the log of training",
    "*.bin": "a pickle",
    "*.pt": "a pickle",
    "*.pth": "a pickle",
    "*.pkl": "a pickle",
    "*.py": "code, which a plain model has none of",
}


class ModelFolder:
    """
    A folder with a plain model in it.

    Args:
        path (`str` or `os.PathLike`): the folder; nothing in it is ever changed.

    Raises:
        PublishError: it has no whole model; the message says what is missing.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_dir():
            raise PublishError(f"{path} is no folder. Give the one that `save_model` or `save_pretrained` wrote.")
        self.is_adapter = (self.path / ADAPTER_CONFIG).is_file()
        self.weights = self._find_weights()
        self.config = self._read_json(ADAPTER_CONFIG if self.is_adapter else CONFIG)
        for name in self.weights:
            self._check_weights(name)

    @property
    def files(self) -> list[str]:
        """What is published, the names in order; [`CARD`] is among them only where there is one."""
        names = [path.relative_to(self.path).as_posix() for path in self._all_files()]
        return sorted(name for name in names if name in self.weights or _matches(name, PUBLISHED))

    @property
    def left_out(self) -> dict[str, str]:
        """What is not published, and why."""
        published = set(self.files)
        reasons = {}
        for path in sorted(self.path.iterdir()):
            is_part = path.name in published or any(name.startswith(f"{path.name}/") for name in published)
            if not is_part:
                pattern = next((pattern for pattern in REASONS if fnmatch(path.name, pattern)), None)
                reasons[path.name] = "no part of a model" if pattern is None else REASONS[pattern]
        return reasons

    @property
    def has_processor(self) -> bool:
        """Whether a tokenizer or a processor is there, which `pipeline` needs."""
        return any(
            _matches(name, ("tokenizer_config.json", "*preprocessor_config.json", "processor_config.json"))
            for name in self.files
        )

    @property
    def log_history(self) -> list[dict]:
        """What Trainer logged, where `trainer_state.json` is there."""
        state = self._read_json(TRAINER_STATE) if (self.path / TRAINER_STATE).is_file() else {}
        return state.get("log_history") or []

    def _all_files(self) -> Iterable[Path]:
        yield from (path for path in self.path.iterdir() if path.is_file())
        templates = self.path / "additional_chat_templates"
        if templates.is_dir():
            yield from (path for path in templates.iterdir() if path.is_file())

    def _find_weights(self) -> list[str]:
        config = ADAPTER_CONFIG if self.is_adapter else CONFIG
        weights = ADAPTER_WEIGHTS if self.is_adapter else WEIGHTS
        missing = [] if (self.path / config).is_file() else [config]
        found = [weights] if (self.path / weights).is_file() else []
        if not found and not self.is_adapter and (self.path / WEIGHTS_INDEX).is_file():
            shards = sorted(set(self._read_json(WEIGHTS_INDEX)["weight_map"].values()))
            missing += [name for name in shards if not (self.path / name).is_file()]
            found = [WEIGHTS_INDEX, *shards]
        if not found:
            missing.append(weights)
        if missing:
            raise PublishError(f"{self.path} has no whole model: {', '.join(missing)} missing. {self._what_else()}")
        return found

    def _what_else(self) -> str:
        pickles = [path.name for pattern in PICKLES for path in self.path.glob(pattern)]
        if pickles:
            return (
                f"{pickles[0]} is a pickle, which others should not have to load: load it once with `from_pretrained` and "
                "save it with `save_pretrained`."
            )
        inner = sorted(path.parent.name for path in self.path.glob(f"*/{CONFIG}"))
        if inner:
            return f"There is one in {self.path / inner[-1]}."
        return "Give the folder that `save_model` or `save_pretrained` wrote."

    def _read_json(self, name: str) -> dict:
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise PublishError(f"{self.path / name} is no JSON: {error}. Save the model again.") from error
        if not isinstance(content, dict):
            raise PublishError(f"{self.path / name} is no JSON object. Save the model again.")
        return content

    def _check_weights(self, name: str) -> None:
        if not name.endswith(".safetensors"):
            return
        try:
            with safe_open(self.path / name, framework="numpy") as file:
                tensors = list(file.keys())
        except SafetensorError as error:
            raise PublishError(f"{self.path / name} is not whole: {error}. Save the model again.") from error
        if not tensors:
            raise PublishError(f"{self.path / name} has no weights. Save the model again.")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    # `fnmatch` lets `*` stand for a slash.
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
