"""Decide which files of a folder are sent to the Hub: those of a plain model, by exact name and checked content."""

import functools
import importlib
import io
import json
import os
import pickletools
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CHAT_TEMPLATE_DIR,
    CHAT_TEMPLATE_FILE,
    CONFIG_NAME,
    FEATURE_EXTRACTOR_NAME,
    GENERATION_CONFIG_NAME,
    LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    VIDEO_PROCESSOR_NAME,
    logging,
)

from ..data.sentence_encoders import PAIR_HEAD, head_kind
from ..utils.files import FileError
from ..utils.loading import read_object
from ..utils.log_history import check_log_history
from ..utils.manifest import MANIFEST_NAME
from ..utils.markdown import visible
from .errors import PublishError


logger = logging.get_logger(__name__)

CARD = "README.md"
TRAINER_STATE = "trainer_state.json"
MODULES = "modules.json"  # of sentence-transformers: the modules and their folders
# Names of vocabulary files: the values of `vocab_files_names` of all tokenizers of transformers.
VOCABULARIES = {
    "bpe.codes", "byte_maps.json", "dict.txt", "emoji.json", "entity_vocab.json", "merges.txt", "normalizer.json",
    "prophetnet.tokenizer", "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "spiece.model",
    "spm.model", "spm_char.model", "target.spm", "target_vocab.json", "tokenizer.json", "tokenizer.model",
    "vocab-src.json", "vocab-tgt.json", "vocab.json", "vocab.txt", "word_pronunciation.json", "word_shape.json",
}  # fmt: skip
TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_CONFIGS = {FEATURE_EXTRACTOR_NAME, PROCESSOR_NAME, VIDEO_PROCESSOR_NAME}
# Files of a model, a tokenizer or a processor beside the weights, in the folder or in that of a module.
MODEL_FILES = {
    CONFIG_NAME, GENERATION_CONFIG_NAME, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json",
    CHAT_TEMPLATE_FILE, LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE, "audio_tokenizer_config.json",
    "sentence_bert_config.json", *PROCESSOR_CONFIGS, *VOCABULARIES,
}  # fmt: skip
TOP_FILES = {
    *MODEL_FILES, ADAPTER_CONFIG_NAME, MODULES, "config_sentence_transformers.json", CARD, "LICENSE", "LICENSE.md",
    "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt",
}  # fmt: skip
# The names that `save_pretrained` gives to weights, with a variant such as fp16 or without.
WEIGHTS_PATTERN = re.compile(r"model(\.\w+)?\.safetensors")
INDEX_PATTERN = re.compile(r"model\.safetensors\.index(\.\w+)?\.json")
SHARD_PATTERN = re.compile(r"model(\.\w+)?-(\d{5})-of-(\d{5})\.safetensors")
MODULE_PATTERN = re.compile(r"|\d{1,3}_\w+")  # a module may lie in the folder itself
HEAD_CONFIG = rf"(\d+_Dense|{PAIR_HEAD})/{CONFIG_NAME}"  # of a module of a sentence encoder that must have weights
TEMPLATE_PATTERN = re.compile(r"\w[\w.-]*\.jinja")

LARGEST_FILE = 256 << 20  # bytes, of a file beside the weights
PICKLE_SCAN = 16 << 20  # bytes of a file that is tried as a pickle without a mark
# First bytes of a pickle (protocols 2 to 5), of zip archives (`torch.save`) and of compressed files.
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
ARCHIVE_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")
SECRETS = {
    "a Hugging Face token": re.compile(rb"\bhf_([A-Za-z0-9]{25,})"),
    "an AWS key": re.compile(rb"\b(?:AKIA|ASIA)([0-9A-Z]{16})\b"),
    "a GitHub token": re.compile(rb"\b(?:gh[pousr]_|github_pat_)([A-Za-z0-9_]{30,})"),
    "a private key": re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----"),
}
PICKLE = "a pickle, which can run code when it is loaded"
TRAINING_ONLY = "only training needs it"
# Reasons for leaving out what training and other libraries leave in a folder.
REASONS = (
    (r"training_args\.bin", f"{PICKLE}, and may hold a token"),
    (r"transfer_state\.safetensors|(optimizer|scheduler|scaler|rng_state).*", TRAINING_ONLY),
    (r"trainer_state\.json|.*_results\.json|runs", "the log of training, which is in the card"),
    (re.escape(MANIFEST_NAME), "the record of a run, for resuming from its checkpoint"),
    (r"checkpoint-.*", "a checkpoint"),
    (r".*\.(bin|pt|pth|pkl|pickle|ckpt)", PICKLE),
    (r".*\.py", "code, and a plain model has none"),
    (r"\..*", "a hidden file"),
    (SHARD_PATTERN.pattern, "weights that no index names"),
)


class Files(NamedTuple):
    """A folder's files: paths of a model's, and with reasons those of no model and those that must not be sent."""

    sent: list[str]
    left_out: dict[str, str]
    refused: dict[str, str]


def model_files(folder: str | os.PathLike) -> Files:
    """
    List the files of a folder that may be sent to the Hub; it need not have a whole model.

    A file is sent if its name is one that transformers, PEFT or sentence-transformers write, if it lies in the folder,
    and if its content is of the type that its name says. Nothing is unpickled.
    """
    root = Path(folder)
    sent: list[str] = []
    refused: dict[str, str] = {}
    for name in _candidates(root, refused):
        reason = _problem(root, name)
        if reason is None:
            sent.append(name)
        else:
            refused[name] = reason
    tops = {name.split("/")[0] for name in (*sent, *refused)}
    left_out = {name: _reason(name) for name in sorted(os.listdir(root)) if name not in tops}
    return Files(sorted(sent), left_out, refused)


class _Uploader:
    """A client of the Hub that sends a model's files only, but for the uploads of a checkpoint."""

    def __init__(self, api: HfApi):
        self._api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def upload_folder(self, *, folder_path: str | os.PathLike, path_in_repo: str | None = None, **options: Any) -> Any:
        if path_in_repo is None:
            files = model_files(folder_path)
            for name, reason in files.refused.items():
                logger.warning(f"Not pushed: {visible(name)} in {folder_path} {reason}.")
            options["allow_patterns"] = files.sent
        else:  # what a run was started with, paths included, is nobody else's business
            given = options.get("ignore_patterns") or []
            options["ignore_patterns"] = [*([given] if isinstance(given, str) else given), MANIFEST_NAME]
        return self._api.upload_folder(folder_path=os.fspath(folder_path), path_in_repo=path_in_repo, **options)


@contextmanager
def only_model_files() -> Iterator[None]:
    """
    Have the pushes of a Trainer send [`model_files`] of its `output_dir` only.

    Trainer sends all that is in that folder, and has no hook for the list of files. So its client of the Hub is
    replaced meanwhile.
    """
    trainer_module: Any = importlib.import_module("transformers.trainer")
    client = trainer_module.hf_api
    trainer_module.hf_api = lambda: _Uploader(client())
    try:
        yield
    finally:
        trainer_module.hf_api = client


def _reason(name: str) -> str:
    """Say why a file is left out."""
    return next((text for pattern, text in REASONS if re.fullmatch(pattern, name)), "not part of a model")


# Names


def _candidates(root: Path, refused: dict[str, str]) -> list[str]:
    """List the paths whose names are those of a model's files; note in `refused` what names others."""
    present = set(os.listdir(root))
    found = sorted(present & {*TOP_FILES, ADAPTER_SAFE_WEIGHTS_NAME})
    found += _weights(root, "", present, refused)
    if CHAT_TEMPLATE_DIR in present:
        found += [f"{CHAT_TEMPLATE_DIR}/{name}" for name in _listed(root, CHAT_TEMPLATE_DIR, refused)
                  if TEMPLATE_PATTERN.fullmatch(name)]  # fmt: skip
    for module in _modules(root, present, refused):
        inside = set(_listed(root, module, refused))
        found += [f"{module}/{name}" for name in sorted(inside & MODEL_FILES)]
        found += [f"{module}/{name}" for name in _weights(root, f"{module}/", inside, refused)]
    return found


def _weights(root: Path, prefix: str, present: set[str], refused: dict[str, str]) -> list[str]:
    """List the files of weights: whole ones, else an index with the shards that it names."""
    found = [name for name in sorted(present) if WEIGHTS_PATTERN.fullmatch(name)]
    for index in sorted(present):
        match = INDEX_PATTERN.fullmatch(index)
        if match is None or f"model{match[1] or ''}.safetensors" in present:  # which is loaded first
            continue
        try:
            shards = _shards(root, prefix + index, match[1])
        except PublishError as error:
            refused[prefix + index] = str(error)
            continue
        found += [index, *(shard for shard in shards if shard in present)]
    return found


def _shards(root: Path, index: str, variant: str | None) -> list[str]:
    """Return the names of all shards of an index; raise a `PublishError` with the reason if they are not shards."""
    reason = _problem(root, index)
    if reason is not None:
        raise PublishError(reason)
    weight_map = _read_object(root / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise PublishError("has no `weight_map` from weights to files")
    names = list(weight_map.values())
    matches = [SHARD_PATTERN.fullmatch(name) if isinstance(name, str) else None for name in names]
    odd = [name for name, match in zip(names, matches, strict=True) if match is None or match[1] != variant]
    if odd:
        shown = ", ".join(sorted({repr(name)[:80] for name in odd})[:5])
        raise PublishError(f"names files that are not shards, such as model-00001-of-00002.safetensors: {shown}")
    counts = {match[3] for match in matches if match is not None}
    shards = sorted(set(names))
    if len(counts) != 1 or len(shards) != int(counts.pop()):
        raise PublishError(f"names {len(shards)} shards, and their names tell of another number")
    return shards


def _modules(root: Path, present: set[str], refused: dict[str, str]) -> list[str]:
    """List the folders of the modules of a sentence encoder."""
    if MODULES not in present or _problem(root, MODULES) is not None:
        return []
    modules = json.loads((root / MODULES).read_text(encoding="utf-8"))
    listed = modules if isinstance(modules, list) else []
    paths = [module.get("path") if isinstance(module, dict) else None for module in listed]
    if not paths or not all(isinstance(path, str) and MODULE_PATTERN.fullmatch(path) for path in paths):
        refused[MODULES] = "names other folders than modules, such as 1_Pooling"
        return []
    return sorted({path for path in (*paths, PAIR_HEAD) if path in present})


def _listed(root: Path, name: str, refused: dict[str, str]) -> list[str]:
    """List the names in a folder within the folder."""
    if (root / name).is_symlink() or not (root / name).is_dir():
        refused[name] = "is a link or no folder"
        return []
    return sorted(os.listdir(root / name))


# Contents


def _problem(root: Path, name: str) -> str | None:
    """Say why a file with a name of a model's file must not be sent, or return `None`."""
    path = root / name
    try:
        status = path.stat()  # of what a link leads to
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        if path.is_symlink() and not _is_own_link(root, path):
            return "is a link to another file; put a copy in its place"
        if name.endswith(".safetensors"):
            return _problem_of_weights(path)
        if status.st_nlink > 1 and not path.is_symlink():
            return "is a hard link, which other folders share; put a copy in its place"
        if status.st_size > LARGEST_FILE:
            return f"has {status.st_size:,} bytes, more than the {LARGEST_FILE:,} that are sent"
        return _problem_of_content(path.name, path.read_bytes())
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _is_own_link(root: Path, path: Path) -> bool:
    """Return whether a link stays in the folder under the same name, or leads to the blobs of the Hub's cache."""
    folder, target = root.resolve(), path.resolve()
    if target.is_relative_to(folder):
        return target.name == path.name
    # models--user--name/snapshots/REVISION/config.json leads to models--user--name/blobs/HASH.
    caches = (path.parent for path in folder.parents if path.name == "snapshots")
    cache = next((path for path in caches if path.name.startswith("models--")), None)
    return cache is not None and target.parent == cache / "blobs"


def _problem_of_weights(path: Path) -> str | None:
    try:
        with safe_open(path, framework="numpy") as file:
            names, metadata = list(file.keys()), file.metadata()
    except (SafetensorError, ValueError, MemoryError) as error:
        return f"is not whole: {error}. Save the model again"
    if not names:
        return "has no weights. Save the model again"
    return _secret(json.dumps(metadata or {}).encode())


def _problem_of_content(name: str, content: bytes) -> str | None:
    """Check that a file has the type that its name says, that it is not a pickle, and that no secret is in it."""
    if content.startswith(PICKLE_STARTS) or _is_pickle(content):
        return f"is {PICKLE}"
    if content.startswith(ARCHIVE_STARTS):
        return "is an archive or compressed"
    if name.endswith(".json"):
        try:
            json.loads(content)
        except (ValueError, RecursionError) as error:
            return f"is not JSON: {error}. Save the model again"
    # A model of sentencepiece begins with the length of its first piece.
    elif not (name.endswith((".model", ".spm")) and content.startswith(b"\n")) and not _is_text(content):
        return "is not text"
    return _secret(content)


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _is_pickle(content: bytes) -> bool:
    """Return whether a content begins with a pickle of protocol 0 or 1, which has no mark; nothing is loaded."""
    if len(content) > PICKLE_SCAN:
        return False
    try:
        operations = sum(1 for _ in pickletools.genops(content))
        pickletools.dis(content, out=io.StringIO())  # checks the stack as well
    except Exception:  # whatever bytes that are not a pickle lead to
        return False
    return operations > 2  # "N. B." begins with a pickle of None


def _secret(content: bytes) -> str | None:
    """Say that a content has what looks like a secret, without repeating it."""
    for title, pattern in SECRETS.items():
        for match in pattern.finditer(content):
            if len(set(match[1])) > 6:  # not a placeholder such as hf_xxxx
                line = content.count(b"\n", 0, match.start()) + 1
                return f"has what looks like {title} in line {line}; remove it, and revoke it if it was public"
    return None


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise a `PublishError` that names the file if it is none."""
    try:
        return read_object(path)
    except FileError as error:
        raise PublishError(f"{error} Save the model again.") from error


@functools.lru_cache(maxsize=1024)
def not_finite(path: Path, modified: int) -> str | None:
    """
    Return the name of the first tensor in a file of weights that has NaN or infinity; `None` where there is none.

    A file is read once for all calls with the same time of its last change.
    """
    with safe_open(path, framework="pt") as file:
        for name in file.keys():
            tensor = file.get_tensor(name)
            if tensor.itemsize == 1:  # torch cannot tell for numbers of 8 bits
                tensor = tensor.float()
            if not tensor.isfinite().all():
                return name
    return None


# The whole


class ModelFolder:
    """
    A folder with a whole plain model, or a whole adapter of PEFT, in it. It is only read.

    Attributes:
        files (`list[str]`): the files to send; the card is among them only where there is one.
        left_out (`dict[str, str]`): what is not sent, and why.
        config (`dict`): the configuration of the model or of the adapter.

    Raises:
        PublishError: it has no whole model, or a file that must not be sent; the message names the file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_dir():
            raise PublishError(f"{path} is not a folder. Give the one that `save_model` or `save_pretrained` wrote.")
        self.files, self.left_out, refused = model_files(self.path)
        if refused:
            listed = "; ".join(f"{name} {reason}" for name, reason in refused.items())
            raise PublishError(f"Nothing is sent from {self.path}: {listed}.")
        self.is_adapter = ADAPTER_CONFIG_NAME in self.files
        self._check_whole()
        self._check_finite()
        self.config = _read_object(self.path / (ADAPTER_CONFIG_NAME if self.is_adapter else CONFIG_NAME))

    @property
    def sentence_pairs(self) -> bool | None:
        """Whether the head of a sentence encoder reads pairs of texts; `None` where there is none of either."""
        return head_kind(str(self.path)) if MODULES in self.files else None

    @property
    def has_processor(self) -> bool:
        """Return whether there is a tokenizer or a processor, which `pipeline` needs."""
        return not {TOKENIZER_CONFIG, *PROCESSOR_CONFIGS}.isdisjoint(self.files)

    @property
    def log_history(self) -> list[dict[str, Any]]:
        """Return the log of training in `trainer_state.json`; empty where there is none."""
        path = self.path / TRAINER_STATE
        if not path.exists():
            return []
        try:
            return check_log_history(_read_object(path).get("log_history"))
        except FileError as error:
            raise PublishError(f"{path} cannot be used: {error}. Remove it, or give another folder.") from error

    def _check_whole(self) -> None:
        config = ADAPTER_CONFIG_NAME if self.is_adapter else CONFIG_NAME
        weights = ADAPTER_SAFE_WEIGHTS_NAME if self.is_adapter else SAFE_WEIGHTS_NAME
        missing = [] if config in self.files else [config]
        if SAFE_WEIGHTS_INDEX_NAME in self.files and weights == SAFE_WEIGHTS_NAME:
            missing += self._check_shards()
        elif weights not in self.files:
            missing.append(weights)
        for folder in sorted({name.split("/")[0] for name in self.files if re.fullmatch(HEAD_CONFIG, name)}):
            missing += [f"{folder}/{SAFE_WEIGHTS_NAME}"] * (f"{folder}/{SAFE_WEIGHTS_NAME}" not in self.files)
        if missing:
            raise PublishError(f"{self.path} has no whole model: {', '.join(missing)} missing. {self._what_else()}")

    def _check_finite(self) -> None:
        """Raise a `PublishError` that names a file and its tensor if a weight is NaN or infinite."""
        for name in self.files:
            path = self.path / name
            broken = not_finite(path, path.stat().st_mtime_ns) if name.endswith(".safetensors") else None
            if broken is not None:
                raise PublishError(
                    f"Nothing is sent from {self.path}: {broken!r} in {name} has NaN or infinity, so that the model "
                    "cannot answer. Its training has diverged, or the file is damaged: publish an earlier checkpoint, "
                    "or train again, with a lower learning rate if it diverged."
                )

    def _check_shards(self) -> list[str]:
        """Return missing shards; raise a `PublishError` if one lacks the weights that the index expects in it."""
        missing = []
        expected: dict[str, set[str]] = {}
        for weight, shard in _read_object(self.path / SAFE_WEIGHTS_INDEX_NAME)["weight_map"].items():
            expected.setdefault(shard, set()).add(weight)
        for shard, weights in sorted(expected.items()):
            if shard not in self.files:
                missing.append(shard)
                continue
            with safe_open(self.path / shard, framework="numpy") as file:
                absent = sorted(weights - set(file.keys()))
            if absent:
                raise PublishError(
                    f"{self.path / SAFE_WEIGHTS_INDEX_NAME} expects {absent[0]!r} in {shard}, which does not have it. "
                    "Save the model again."
                )
        return missing

    def _what_else(self) -> str:
        """Say what there is in place of a whole model."""
        pickles = sorted(name for name in self.left_out if re.fullmatch(r"(pytorch_model.*|adapter_model)\.bin", name))
        if pickles:
            return (
                f"{pickles[0]} is a pickle, which others should not have to load: load it once with `from_pretrained` "
                "and save it with `save_pretrained`."
            )
        inner = sorted(path.parent.name for path in self.path.glob(f"*/{CONFIG_NAME}"))
        if inner:
            return f"There is one in {self.path / inner[-1]}."
        return "Give the folder that `save_model` or `save_pretrained` wrote."
