"""
Load configurations, models, tokenizers and processors that others made.

A folder or a repository may be damaged or forged. Everything here loads weights from safetensors only, runs no code of
a repository unless the user asks for it, refuses sizes that the weights do not have before a model is built, and
raises one kind of error that names what cannot be loaded.
"""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import torch
from huggingface_hub.utils import HFValidationError, validate_repo_id
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, FEATURE_EXTRACTOR_NAME, cached_file

from .errors import reading
from .files import FileError, read_json
from .markdown import visible


MOST_LABELS = 1_000_000  # `transformers` makes two dictionaries of them
MOST_LAYERS = 4096  # where no weights are there to compare with
MOST_EXPERTS = 65_536
FEWEST_LAYERS = 256  # that may always be: layers may share weights
LARGEST_SIZE = 10_000_000  # of any other size in a configuration
MOST_PIXELS = 16_384  # of a side of an image
# A model may have so many times the values of its weights, which may be packed, and so many new ones beside.
WEIGHTS_FACTOR = 16
NEW_WEIGHTS = 50_000_000
REGEX_SECONDS = 5
# Numbers in a configuration that are not sizes.
NO_SIZES = re.compile(
    r"token_ids?$|theta|seed|scale|max_position|sampling_rate|window|max_length|_step|steps?$|version|ratio|base$"
)
LAYERS = re.compile(r"layers?$|depths?$|(num|n)_\w*(blocks|stages)$")
EXPERTS = re.compile(r"experts$")
LABELS = re.compile(r"num_labels$|n_labels$")
PIXELS = re.compile(r"^(height|width|shortest_edge|longest_edge|size|crop_size|image_size)$")
# Fields of adapters whose texts are matched with names of modules as regular expressions, and those that are sizes.
ADAPTER_PATTERNS = (
    *("target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "rank_pattern", "alpha_pattern"),
)
ADAPTER_SIZES = re.compile(r"(^|_)r$|rank|num_virtual_tokens|hidden_size|block_size|layer_replication|num_")
HUB_OPTIONS = ("cache_dir", "revision", "token", "local_files_only")
PLAIN_NAME = re.compile(r"[\w.-]*")


# Loading


def load_config(path: str, called: str | None = None, **options: Any) -> PretrainedConfig:
    """Load the configuration of a model, with sizes that can be; a FileError calls the model `called`."""
    options.setdefault("trust_remote_code", False)
    with _loading(path, called):
        check_config(path, **hub_options(options))
        config = AutoConfig.from_pretrained(path, **options)
        _check_labels(config, path)
    return config


def load_model(auto_class: Any, path: str, called: str | None = None, **options: Any) -> PreTrainedModel:
    """Load a model from safetensors; a FileError calls it `called`. `options` are those of `from_pretrained`."""
    options = {"trust_remote_code": False, "use_safetensors": True, **options}
    if options.get("config") is None:
        options["config"] = load_config(
            path, called, **hub_options(options), trust_remote_code=options["trust_remote_code"]
        )
    with _loading(path, called):
        check_weights(auto_class, path, options["config"], options["trust_remote_code"])
        return auto_class.from_pretrained(path, **options)


def load_processor(auto_class: Any, path: str, called: str | None = None, **options: Any) -> Any:
    """
    Load a tokenizer, an image processor or a feature extractor; arguments as in [`load_model`].

    The cause of the FileError is an `OSError` or a `ValueError` where there is none.
    """
    options.setdefault("trust_remote_code", False)
    kind = re.sub("(?<=[a-z])(?=[A-Z])", " ", auto_class.__name__.removeprefix("Auto")).lower()
    with _loading(path, called, f"has no {kind} that can be read"):
        for name in ("tokenizer.json", FEATURE_EXTRACTOR_NAME):
            found = find_file(path, name, **hub_options(options))
            if found is not None:
                check_processor(found)
        loaded = auto_class.from_pretrained(path, **options)
        # Of a folder without a tokenizer transformers makes one that knows no word, in silence.
        if isinstance(loaded, PreTrainedTokenizerBase) and len(loaded) <= len(loaded.all_special_tokens):
            raise ValueError("it knows no words, only special tokens; `tokenizer.save_pretrained` writes one there")
        length = getattr(loaded, "model_max_length", 1)
        if not isinstance(length, int | float) or not length >= 1:
            raise ValueError(f"`model_max_length` must be a number of at least 1, got {visible(length)[:80]}")
        return loaded


@contextmanager
def _loading(path: str, called: str | None, problem: str = "cannot be loaded") -> Iterator[None]:
    """Name what cannot be loaded, and say where it was looked for, in a FileError."""
    problem = f"{called or repr(path)} {problem}"
    if not os.path.exists(path):
        first = re.split(r"[/\\]", path)[0]
        if not is_repo_id(path) or (first != path and os.path.isdir(first)):
            raise FileError(f"{problem}: there is no such folder.")
        problem += ": there is no such folder here, and the Hub does not give it"
    with reading(problem):
        yield


def is_repo_id(name: Any) -> TypeGuard[str]:
    """Return whether a name is one that a repository on the Hub can have."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return isinstance(name, str)  # `None` is not looked at


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return those of the options that say where files of the Hub are."""
    return {name: options[name] for name in HUB_OPTIONS if options.get(name)}


def find_file(path: str, name: str, **options: Any) -> str | None:
    """Return the path of a file of a folder, or of a repository on the Hub; `None` where there is none."""
    if Path(path).is_dir():
        file = Path(path) / name
        return str(file) if file.is_file() else None
    try:
        return cached_file(path, name, _raise_exceptions_for_missing_entries=False, **options)
    except (OSError, ValueError):  # no such repository, which is told where its configuration is read
        return None


# Sizes


def check_config(path: str, **options: Any) -> None:
    """Raise a FileError if a model's `config.json` has a number that is not a size, before lists are made of it."""
    found = find_file(path, CONFIG_NAME, **options)
    if found is None:
        return
    content = read_object(found)
    folder = Path(found).parent
    most_layers = max(FEWEST_LAYERS, len(_shapes(folder))) if any(folder.glob("*.safetensors")) else MOST_LAYERS
    check_sizes(content, most_layers, found)


def check_sizes(content: dict[str, Any], most_layers: int, path: str) -> None:
    """Raise a FileError if a whole number in a model's configuration is too large; `path` is for the message."""
    limits = {LABELS: MOST_LABELS, LAYERS: most_layers, EXPERTS: MOST_EXPERTS}
    sizes = [
        (name, value) for name, value in _numbers(content) if isinstance(value, int) and not NO_SIZES.search(name)
    ]
    _check_numbers(sizes, limits, path)


def _check_numbers(numbers: Iterable[tuple[str, float]], limits: dict[re.Pattern, int], path: str) -> None:
    """Raise a FileError if a number is above the limit of the first pattern that is in its name."""
    for name, value in numbers:
        most = next((limit for pattern, limit in limits.items() if pattern.search(name)), LARGEST_SIZE)
        if value > most:
            raise FileError(f"{path} has {name}={_shown(value)}, and at most {most:,} can be. Is the file damaged?")


def _check_labels(config: PretrainedConfig, path: str) -> None:
    """Raise a FileError, which names the field, unless names and numbers of labels are such."""
    for field, labels in (("id2label", config.id2label), ("label2id", config.label2id)):
        numbers = (labels.values() if field == "label2id" else labels) if isinstance(labels, dict) else [None]
        names = (labels if field == "label2id" else labels.values()) if isinstance(labels, dict) else [None]
        if not all(isinstance(number, int | str) and str(number).isdecimal() for number in numbers) or not all(
            isinstance(name, str) for name in names
        ):
            raise FileError(f"`{field}` in the {CONFIG_NAME} of {path!r} must hold names and numbers of labels.")


def check_weights(auto_class: Any, path: str, config: PretrainedConfig, trust_remote_code: bool = False) -> None:
    """Raise a FileError if a configuration describes a much larger model than its weights, before it is built."""
    folder = Path(path)
    if folder.is_dir():
        _check_regular(folder)
    shapes = _shapes(folder) if folder.is_dir() else {}
    if not shapes or is_deepspeed_zero3_enabled():  # which makes no models on the meta device
        return
    saved = sum(map(math.prod, shapes.values()))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = auto_class.from_config(config, trust_remote_code=trust_remote_code)
    described = sum(tensor.numel() for tensors in (model.parameters(), model.buffers()) for tensor in tensors)
    if described > WEIGHTS_FACTOR * saved + NEW_WEIGHTS:
        raise FileError(
            f"{folder / CONFIG_NAME} describes a model of {described:,} values, and its weights have {saved:,}. Is "
            "the file damaged?"
        )


def _check_regular(folder: Path) -> None:
    """Raise a FileError if something in a folder is a pipe or a device, which a reader would wait for without end."""
    for path in folder.iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise FileError(f"{path} is not a regular file.")


def check_processor(path: str) -> None:
    """Raise a FileError if a processor has a number that no memory could be taken for."""
    content = read_object(path)
    if Path(path).name == FEATURE_EXTRACTOR_NAME:
        return _check_numbers(_numbers(content), {PIXELS: MOST_PIXELS}, path)
    # Room is made for as many tokens as the largest id.
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    added = content.get("added_tokens")
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    largest = max((id for id in ids if isinstance(id, int)), default=0)
    if largest > 10 * len(ids) + 1_000_000:
        raise FileError(
            f"{path} has a token with the id {_shown(largest)}, and {len(ids):,} tokens. Is the file damaged?"
        )


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; a FileError names the file if it is none."""
    try:
        content = read_json(Path(path))
    except FileError as error:
        raise FileError(f"{path} cannot be used: {error}.") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is not a JSON object.")
    return content


def _shown(value: float) -> str:
    return f"{value:,}" if value < 1e21 else "a number of more than 20 digits"


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield the numbers in a JSON value, each with the name of the field that it is in."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, key if isinstance(inner, dict | list) or not str(key).isdigit() else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of all weights in the files of a folder, by name."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name == "transfer_state.safetensors" or not path.is_file():
            continue
        with reading(f"{path} is damaged"), safe_open(path, framework="pt") as file:
            found.update({name: file.get_slice(name).get_shape() for name in file.keys()})
    return found


# Adapters


def check_adapter(folder: str, weights: str, base: PreTrainedModel) -> None:
    """
    Check the configuration of an adapter before it is laid around its base model, which may be on the meta device.

    A FileError if a size is larger than all of the weights, or a regular expression takes too long.
    """
    path = Path(folder) / ADAPTER_CONFIG_NAME
    content = read_object(path)
    with reading(f"{weights} is damaged"), safe_open(weights, framework="pt") as file:
        largest = max((size for name in file.keys() for size in file.get_slice(name).get_shape()), default=0)
    ranks = content.get("rank_pattern")  # from patterns of modules, whatever these are called
    sizes = [(name, value) for name, value in _numbers(content) if ADAPTER_SIZES.search(name)]
    sizes += _numbers(list(ranks.values()), "rank") if isinstance(ranks, dict) else []
    for name, value in sizes:
        if value > max(largest, 64):
            raise FileError(f"{path} has {name}={_shown(value)}, and its weights have no size above {largest:,}.")
    names = [name for name, _ in base.named_modules()]
    for field in ADAPTER_PATTERNS:
        given = content.get(field)
        patterns = [given] if isinstance(given, str) else list(given) if isinstance(given, list | dict) else []
        odd = [pattern for pattern in patterns if isinstance(pattern, str) and not PLAIN_NAME.fullmatch(pattern)]
        if odd:
            _check_patterns(odd, names, f"`{field}` in {path}")


# A regular expression can take longer than the universe is old, and Python cannot interrupt it in all of its threads.
MATCH = r"""
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for name in names:
        for form in ("{}$", r"(?:.*\.)?({})$", r".*\.[^.]*\.{}\.(\d+)\."):
            re.match(form.replace("{}", pattern), name)
"""


def _check_patterns(patterns: list[str], names: list[str], where: str) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", MATCH],
            input=json.dumps([patterns, names]),
            capture_output=True,
            text=True,
            timeout=REGEX_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise FileError(
            f"The regular expression of {where} takes more than {REGEX_SECONDS} seconds to match."
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it ended early"])[-1]
        raise FileError(f"The regular expression of {where} cannot be used: {visible(last)}.")
