"""List the files of a checkpoint, last, and compare them before it is used."""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from .files import FileError, read_json


MANIFEST_NAME = "checkpoint_manifest.json"
CHECKSUM_LIMIT = 1 << 20  # bytes; larger files are known by their size
MANIFEST_LIMIT = 1 << 26  # bytes; no manifest is larger

WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "adapter_model.safetensors", "adapter_model.bin", "*/adapter_model.safetensors", "*/adapter_model.bin",
)  # fmt: skip
Parts = Sequence[tuple[str, ...]]


def write_manifest(folder: str, run: dict[str, Any] | None = None) -> None:
    """Write names, sizes and checksums of a checkpoint's files, and `run` in plain values; sync all to the disk."""
    files = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            size = path.stat().st_size
            facts = {"size": size, "sha256": _sha256(path)} if size <= CHECKSUM_LIMIT else {"size": size}
            files[path.relative_to(folder).as_posix()] = facts
            sync(path)
    path = Path(folder) / MANIFEST_NAME
    draft = path.with_name(f"{MANIFEST_NAME}.tmp")
    draft.write_text(json.dumps({"version": 1, "files": files, "run": run}, indent=1), encoding="utf-8")
    sync(draft)
    os.replace(draft, path)
    for directory in [*(p for p in Path(folder).rglob("*") if p.is_dir()), Path(folder)]:
        sync(directory)


def read_manifest(folder: str) -> dict[str, Any] | None:
    """Read what [`write_manifest`] wrote; `None` where there is none, a ValueError if it is damaged."""
    try:
        found = read_json(Path(folder) / MANIFEST_NAME, MANIFEST_LIMIT)
    except FileNotFoundError:
        return None
    except FileError as error:
        raise ValueError(f"its {MANIFEST_NAME} cannot be used: {error}") from error
    try:
        files, run = found["files"], found.get("run")
        is_sound = isinstance(files, dict) and isinstance(run, dict | None)
        is_sound = is_sound and all(type(facts["size"]) is int for facts in files.values())
    except (TypeError, KeyError, AttributeError):
        is_sound = False
    if not is_sound or not all(map(_is_inside, files)):
        raise ValueError(f"its {MANIFEST_NAME} is none")
    return {"files": files, "run": run}


def damage(folder: str, files: dict[str, dict[str, Any]]) -> str | None:
    """Return the first difference between a folder and the files of its manifest, `None` where there is none."""
    for name, facts in files.items():
        path = Path(folder) / name
        if not path.is_file():
            return f"it has no {name}"
        size = path.stat().st_size
        if size != facts["size"]:
            return f"its {name} has {size} bytes and was written with {facts['size']}"
        if "sha256" in facts and _sha256(path) != facts["sha256"]:
            return f"its {name} is not what was written"
    return None


def lacking(folder: str, parts: Parts) -> str | None:
    """
    Return what a folder lacks of the files that a run needs, `None` where all are there and none ends early.

    `parts` has for each file that is needed the names, or patterns, that it may have.
    """
    for names in parts:
        found = [path for name in names for path in sorted(Path(folder).glob(name)) if path.is_file() or path.is_dir()]
        if not found:
            return f"it has no {names[0].replace('*', '')}"
        for path in found:
            if ends_early(path):
                return f"its {path.relative_to(folder).as_posix()} is empty or ends early"
            if path.name.endswith(".index.json"):
                missing = _missing_shards(path)
                if missing is not None:
                    return missing
    return None


def has_weights(folder: str) -> bool:
    """Return whether a folder has the weights of a model, or of an adapter."""
    return lacking(folder, [WEIGHTS]) is None


def ends_early(path: Path) -> bool:
    """Return whether a file of tensors or JSON is empty or cut off, by what it says of its own length."""
    if path.is_dir():
        return False
    if path.stat().st_size == 0:
        return True
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy"):
                return False
        except (SafetensorError, ValueError, MemoryError):
            return True
    if path.suffix in (".pt", ".pth", ".bin"):
        with open(path, "rb") as file:
            is_zip = file.read(2) == b"PK"  # or the form of torch before 1.6
        return is_zip and not zipfile.is_zipfile(path)
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return True
    return False


def sync(path: str | os.PathLike) -> None:
    """Have a file or folder on the disk, where the system can tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot for folders
        pass
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _missing_shards(index: Path) -> str | None:
    try:
        shards: Iterable[str] = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {index.name} is not one"
    for shard in sorted(map(str, shards)):
        if not _is_inside(shard) or not (index.parent / shard).is_file() or ends_early(index.parent / shard):
            return f"its {shard} is missing, empty or ends early"
    return None
