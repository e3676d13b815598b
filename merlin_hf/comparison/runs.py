"""One training run: what determines it, and its results on disk."""

import contextlib
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list


FORMAT = 1
TRIAL, FINAL = "trial", "final"

logger = logging.getLogger("merlin_hf.comparison")


@dataclass(frozen=True)
class Run:
    """
    Training one model.

    Args:
        label (`str`): the line of the table that it is for.
        kind (`str`): `"trial"`, judged by rows of the target's train split, or `"final"`, judged by its test rows.
        seed (`int`).
        setting (`dict`): the options that were searched.
        steps (`int`): optimizer steps; 0 for a method that trains in closed form.
        content (`dict`): all that determines the result.
    """

    label: str
    kind: str
    seed: int
    setting: dict[str, Any]
    steps: int
    content: dict[str, Any]

    @property
    def key(self) -> str:
        """A name for `content`."""
        return hashlib.blake2b(to_json(self.content).encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        setting = ", ".join(f"{name}={value}" for name, value in self.setting.items())
        described = f"{self.label}, seed {self.seed}"
        return f"{described}, trial of {setting or 'the defaults'}" if self.kind == TRIAL else f"{described}, test"


class RunStore:
    """
    The finished runs in a folder, one JSON file each, which is there whole or not at all.

    All processes have the same view: the main process reads and writes, the others are told.

    Args:
        folder (`Path`): its subfolders are labels.
        is_main (`bool`): whether this is the main process.
    """

    def __init__(self, folder: Path, is_main: bool = True):
        self.folder, self.is_main = folder, is_main
        found = [self._read() if is_main else {}]
        self.results: dict[str, dict[str, Any]] = broadcast_object_list(found)[0]

    def get(self, run: Run) -> dict[str, Any] | None:
        """The result of a finished run."""
        return self.results.get(run.key)

    def put(self, run: Run, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the result of a run; it is returned as it will be read again."""
        result = {"key": run.key, "label": run.label, "kind": run.kind, **result, "determined_by": run.content}
        text = to_json(result, indent=2)
        self.results[run.key] = json.loads(text)
        if self.is_main:
            path = self.folder / run.label / f"{run.kind}-seed{run.seed}-{run.key}.json"
            write_text(path, text + "\n")
        return self.results[run.key]

    def _read(self) -> dict[str, dict[str, Any]]:
        results = {}
        for path in sorted(self.folder.glob("*/*.json")):
            try:
                result = json.loads(path.read_text(encoding="utf-8"))
                results[result["key"]] = result
            except (ValueError, KeyError, TypeError):
                logger.warning(f"{path} is not the result of a run, and not used.")
        return results


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_file(path: Path):
    """Another name to write a file under, which then replaces `path` in one step, or is removed where writing failed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def to_json(value: Any, **options: Any) -> str:
    """JSON with sorted keys; numbers that JSON does not have (NaN, infinity) become null."""
    return json.dumps(_plain(value), sort_keys=True, allow_nan=False, **options)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
