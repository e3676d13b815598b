"""One training run: what determines it, and its results on disk."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import Trainer
from transformers.utils import CONFIG_NAME

from ..utils.files import FileError, file_name, read_json, to_json, write_text
from ..utils.log_history import is_number
from ..utils.markdown import visible
from ..utils.validation import shown
from .metrics import can_be_score


FORMAT = 1
TRIAL, FINAL = "trial", "final"

FILE = re.compile(rf"({TRIAL}|{FINAL})-seed\d+-[0-9a-f]{{16}}\.json")
# Types of values; all but the first two are missing where a result was restored from a table.
VALUES: dict[str, type] = {
    "kind": str, "metrics": dict, "label": str, "method": str, "seed": int, "steps": int, "setting": dict,
    "environment": dict, "train_rows": int, "train_seconds": float,
}  # fmt: skip
NEEDED = ("kind", "metrics")

logger = logging.getLogger("merlin_hf.comparison")


@dataclass(frozen=True)
class Run:
    """
    Training one model.

    Args:
        label (`str`): the method's label in the table.
        kind (`str`): `"trial"`, judged by rows of the target's train split, or `"final"`, judged by its test rows.
        seed (`int`): decides which rows are drawn, the first weights of new layers and the order of rows.
        setting (`dict`): the options that were searched.
        steps (`int`): optimizer steps; 0 for a method that trains in closed form.
        fingerprint (`dict`): everything that determines the result.
    """

    label: str
    kind: str
    seed: int
    setting: dict[str, Any]
    steps: int
    fingerprint: dict[str, Any]

    @property
    def key(self) -> str:
        """Return a name for `fingerprint`."""
        return digest(self.fingerprint)

    @property
    def file(self) -> str:
        """Return the name of the file that keeps the result, in the folder of the label."""
        return f"{self.kind}-seed{self.seed}-{self.key}.json"

    def __str__(self) -> str:
        setting = ", ".join(f"{name}={value}" for name, value in self.setting.items())
        described = f"{self.label}, seed {self.seed}"
        return f"{described}, trial of {setting or 'the defaults'}" if self.kind == TRIAL else f"{described}, test"


class RunStore:
    """
    The finished runs in a folder, one JSON file each, which is there whole or not at all.

    A file that cannot be the result of a run is not used, and logged at WARNING. The main process reads and writes,
    and tells the other processes, so that all have the same view.

    Args:
        folder (`Path`): its subfolders are labels.
        is_main (`bool`): this is the main process.
        metric (`str`, *optional*): the score that every result must have.

    Raises:
        FileError: a folder has the name of the file of a run, so that no run can be kept there.
    """

    def __init__(self, folder: Path, is_main: bool = True, metric: str | None = None):
        self.folder, self.is_main, self.metric = folder, is_main, metric
        found: list[Any] = [{}]
        if is_main:
            try:
                found = [self._read()]
            except FileError as error:  # the other processes would wait for their share
                found = [error]
        results = broadcast_object_list(found)[0]
        if isinstance(results, FileError):
            raise results
        self.results: dict[str, dict[str, Any]] = results

    def get(self, run: Run) -> dict[str, Any] | None:
        """Return the result of a finished run."""
        return self.results.get(run.key)

    def put(self, run: Run, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the result of a run; it is returned as it will be read again."""
        result = {"key": run.key, "label": run.label, "kind": run.kind, **result, "determined_by": run.fingerprint}
        result["checksum"] = checksum(result)
        text = to_json(result, indent=2)
        self.results[run.key] = json.loads(text)
        if self.is_main:
            write_text(self.folder / file_name(run.label) / run.file, text + "\n")
        return self.results[run.key]

    def _read(self) -> dict[str, dict[str, Any]]:
        results: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("*/*.json")):
            try:
                result = read_json(path)
                problem = find_problem(result, path.name, self.metric)
            except FileNotFoundError:
                continue  # a link to nothing, or just removed
            except FileError as error:
                if path.is_dir() and FILE.fullmatch(path.name):
                    raise FileError(
                        f"`output_dir` has a folder with the name of a run's file, {visible(path)!r}. Remove it, or "
                        "give another."
                    ) from None
                problem = str(error)
            if problem is None and result["key"] in results:
                is_same = results[result["key"]]["checksum"] == result["checksum"]
                problem = None if is_same else "another file has another result of the same run"
            if problem is not None:
                logger.warning(
                    f"{visible(path)} is not used, and its run is done again where it is needed: {problem}."
                )
            else:
                results.setdefault(result["key"], result)
        return results


class SavedModels:
    """
    The plain models of final runs in `output_dir/models`, each with the key of its run beside it.

    `folders` has the name of a folder for each label; none where no models are kept.
    """

    def __init__(self, output_dir: str, folders: Mapping[str, str], processes: PartialState):
        self.root, self.folders, self.processes = Path(output_dir) / "models", folders, processes

    def _folder_of(self, run: Run) -> Path | None:
        """Return where the model of a run is kept; `None` where it is not."""
        known = run.kind == FINAL and run.label in self.folders
        return self.root / self.folders[run.label] / f"seed-{run.seed}" if known else None

    def save(self, trainer: Trainer, run: Run) -> None:
        """Keep a run's model, where it is asked for."""
        folder = self._folder_of(run)
        if folder is None:
            return
        key = _key_of(folder)
        if self.processes.is_main_process:
            key.unlink(missing_ok=True)
        trainer.save_model(str(folder))
        if self.processes.is_main_process:
            write_text(key, run.key)

    def lacks(self, run: Run) -> bool:
        """Return whether a finished run lacks the model that is asked for; the same on all processes."""
        folder = self._folder_of(run)
        if folder is None:
            return False
        key = _key_of(folder)  # the folder may hold the model of another run with this label and seed
        found = [(folder / CONFIG_NAME).is_file() and key.is_file() and key.read_bytes() == run.key.encode()]
        return not broadcast_object_list(found)[0]

    def files(self, seeds: Sequence[int]) -> list[str]:
        """Return names of files in `output_dir`, at least one of each folder."""
        folders = [f"{self.root.name}/{name}/seed-{seed}" for name in self.folders.values() for seed in seeds]
        return [file for folder in folders for file in (f"{folder}/{CONFIG_NAME}", f"{folder}.key")]


def _key_of(model_folder: Path) -> Path:
    return model_folder.with_name(f"{model_folder.name}.key")


def digest(content: Any) -> str:
    """Return a name for a value of JSON, the same for the same value."""
    return hashlib.blake2b(to_json(content).encode(), digest_size=8).hexdigest()


def checksum(result: dict[str, Any]) -> str:
    """Return a digest of all that a file of a run says, which shows when something in it has changed."""
    return digest({name: value for name, value in result.items() if name != "checksum"})


def find_problem(result: Any, name: str, metric: str | None = None) -> str | None:
    """Return why the content of a file of this name cannot be the result of a run; `None` if it can."""
    if not isinstance(result, dict) or not isinstance(result.get("determined_by"), dict):
        return "it is not a result of a run by `merlin-hf compare`"
    for key, kind in VALUES.items():
        if key not in result:
            if key in NEEDED:
                return f"it has no `{key}`"
            continue
        value = result[key]
        is_right = (
            is_number(value) and value - value == 0
            if kind is float
            else isinstance(value, kind) and not isinstance(value, bool)
        )
        if not is_right or (kind in (int, float) and value < 0):
            return f"its `{key}` cannot be {shown(value)}"
    content = result["determined_by"]
    if result.get("key") != digest(content):
        return "its `determined_by` is that of another run"
    if not (name.startswith(f"{result['kind']}-") and name.endswith(f"-{result['key']}.json")):
        return "it has the name of another run's file"
    for key in ("method", "seed", "steps"):
        if key in content and content[key] != result.get(key, content[key]):
            return f"its `{key}` is {shown(result[key])}, and that of the run is {shown(content[key])}"
    if metric is not None and metric not in result["metrics"]:
        return f"it has no {metric}"
    for key, value in result["metrics"].items():
        if not can_be_score(value, key):
            return f"its {visible(key)} cannot be {shown(value)}"
    if result.get("checksum") != checksum(result):
        return "its `checksum` does not fit: something in it is missing or has been changed"
    return None
