"""Results of comparisons, read from the `results.json` files that [`merlin_hf.compare`] writes."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..comparison.values import ConfigError


RESULTS = "results.json"
NOT_SHARED = ("methods", "seeds", "output_dir", "reference", "metric", "search", "model", "save_models")
NOT_OF_A_TASK = ("path", "name", "rows")
KEYS = ("metric", "lower_is_better", "reference", "data", "methods", "config")


@dataclass
class MethodScores:
    """
    A method in a comparison.

    Args:
        label (`str`).
        scores (`dict[int, float]`): by seed; NaN where the model's answers were not numbers.
        seconds (`dict[int, float]`): of training, by seed.
        reason (`str`, *optional*): why there are no scores.
    """

    label: str
    scores: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    reason: str | None = None

    @property
    def mean(self) -> float:
        """The mean over seeds, NaN where there are no scores."""
        return float(np.mean(list(self.scores.values()))) if self.scores else math.nan

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over seeds; `None` where there are fewer than two."""
        return float(np.std(list(self.scores.values()), ddof=1)) if len(self.scores) > 1 else None

    @property
    def mean_seconds(self) -> float:
        """The mean time of training over seeds, NaN where there is none."""
        return float(np.mean(list(self.seconds.values()))) if self.seconds else math.nan


@dataclass
class Comparison:
    """
    Methods on one pair of a source and a target, with one number of labelled target rows.

    Args:
        pair (`str`): a name for source, target and model.
        rows (`int`): labelled target rows.
        metric (`str`).
        lower_is_better (`bool`).
        reference (`str`): the method that the others are tested against.
        methods (`dict[str, MethodScores]`): by label, those that could not be used included.
        identity (`tuple`): what `pair` stands for: source, target and model.
        shared (`str`): all else that is the same for all methods, such as their training.
        search (`str`): how settings were chosen.
        files (`list[str]`): where this was read, without the folders above.
        environments (`list[dict]`): versions and devices.
        test_rows (`int`, *optional*).
    """

    pair: str
    rows: int
    metric: str
    lower_is_better: bool
    reference: str
    methods: dict[str, MethodScores]
    identity: tuple = ()
    shared: str = ""
    search: str = ""
    files: list[str] = field(default_factory=list)
    environments: list[dict[str, Any]] = field(default_factory=list)
    test_rows: int | None = None

    @property
    def sign(self) -> int:
        """1 where a higher score is better, else -1."""
        return -1 if self.lower_is_better else 1

    def gain(self, label: str) -> float:
        """A method's mean score, with the sign that makes more the better; NaN where it has none."""
        return self.sign * self.methods[label].mean if label in self.methods else math.nan


def find_files(paths: Iterable[str | os.PathLike]) -> list[tuple[Path, str]]:
    """
    All `results.json` in folders and the folders in them, and files as they are given.

    Returns:
        `list[tuple[Path, str]]`: each with a name without the folders above the one that was given.

    Raises:
        FileNotFoundError: a path does not exist, or there is no such file in a folder.
    """
    found: dict[Path, str] = {}
    for given in map(Path, paths):
        if given.is_file():
            found.setdefault(given.resolve(), given.name)
            continue
        if not given.is_dir():
            raise FileNotFoundError(f"There is no file or folder {str(given)!r}.")
        files = sorted(given.rglob(RESULTS))
        if not files:
            raise FileNotFoundError(
                f"{str(given)!r} has no {RESULTS}, which `merlin-hf compare` writes into its `output_dir`, and no "
                "trainer_state.json, which a training run leaves."
            )
        for file in files:
            found.setdefault(file.resolve(), str(Path(given.resolve().name, file.relative_to(given))))
    return list(found.items())


def read_comparisons(paths: Iterable[str | os.PathLike]) -> tuple[list[Comparison], list[str]]:
    """
    Read result files; those about the same pair and number of rows, with the same training, are put together.

    Args:
        paths: files, or folders that hold `results.json` at any depth.

    Returns:
        the comparisons, by pair and number of rows, and the names of files that are of another kind.

    Raises:
        FileNotFoundError: there are no result files.
        ConfigError: two files have scores of the same method on the same data, or of methods that were searched in other ways, or no file is
            of a comparison.
    """
    read, skipped = [], []
    for path, name in find_files(paths):
        comparison = _read(path, name)
        if comparison is None:
            skipped.append(name)
        else:
            read.append(comparison)
    if not read:
        raise ConfigError(f"No file is of a comparison by `merlin-hf compare`: {', '.join(skipped)}.")
    merged: dict[tuple, Comparison] = {}
    for comparison in read:
        key = (comparison.identity, comparison.rows, comparison.metric, comparison.shared)
        merged[key] = _merge(merged[key], comparison) if key in merged else comparison
    comparisons = list(merged.values())
    _name_pairs(comparisons)
    return sorted(comparisons, key=lambda comparison: (comparison.pair, comparison.rows)), skipped


def by_pair(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """The comparisons of each pair, by their number of rows."""
    pairs: dict[str, list[Comparison]] = {}
    for comparison in sorted(comparisons, key=lambda comparison: (comparison.pair, comparison.rows)):
        pairs.setdefault(comparison.pair, []).append(comparison)
    return pairs


def _read(path: Path, name: str) -> Comparison | None:
    """What a file says; `None` where it is of another kind."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name!r} is not JSON: {error}") from None
    if not isinstance(summary, dict) or any(key not in summary for key in KEYS):
        return None
    config, target = summary["config"], summary["data"]["target"]
    methods = {method["label"]: _read_method(method) for method in summary["methods"]}
    identity = (_task(config.get("source")), _task(config["target"]), str(config.get("model")))
    return Comparison(
        pair=f"{identity[0]} → {identity[1]}" if identity[0] else identity[1],
        rows=int(target["train_rows"]),
        metric=summary["metric"],
        lower_is_better=bool(summary["lower_is_better"]),
        reference=summary["reference"],
        methods=methods,
        identity=identity,
        shared=_shared(config),
        search=json.dumps(config.get("search"), sort_keys=True),
        files=[name],
        environments=[summary.get("environment") or {}],
        test_rows=target.get("test_rows"),
    )


def _shared(config: dict[str, Any]) -> str:
    """What is the same for all methods of a comparison, but for what its name, its rows, its seeds and its search tell."""
    kept = {name: value for name, value in config.items() if name not in NOT_SHARED}
    for section in ("target", "source"):
        kept[section] = {
            name: value for name, value in (config.get(section) or {}).items() if name not in NOT_OF_A_TASK
        }
    return json.dumps(kept, sort_keys=True)


def _read_method(method: dict[str, Any]) -> MethodScores:
    if method["status"] != "ok":
        return MethodScores(method["label"], reason=f"{method['status']}: {method.get('reason')}")
    scores = {int(seed): math.nan if score is None else float(score) for seed, score in method["scores"].items()}
    seconds = {int(seed): float(run["train_seconds"]) for seed, run in method.get("runs", {}).items()}
    return MethodScores(method["label"], scores, seconds)


def _task(section: dict[str, Any] | None) -> str:
    """A data set as on the Hub, or the last part of a path of this machine."""
    if section is None:
        return ""
    path, name = str(section["path"]), section.get("name")
    is_local = os.path.isabs(path) or path.startswith(".") or path.count("/") > 1
    path = Path(path).name if is_local else path
    return f"{path}:{name}" if name else path


def _merge(one: Comparison, other: Comparison) -> Comparison:
    twice = sorted(one.methods.keys() & other.methods.keys())
    if twice:
        raise ConfigError(
            f"{one.files[0]!r} and {other.files[0]!r} both have {twice[0]!r} on {one.pair} with {one.rows} rows: leave one out."
        )
    if one.search != other.search:
        raise ConfigError(
            f"{one.files[0]!r} and {other.files[0]!r} are about {one.pair} with {one.rows} rows, and chose settings by other searches, {one.search} "
            f"and {other.search}, so that their methods do not belong into one table: leave one out."
        )
    one.methods.update(other.methods)
    one.files += other.files
    one.environments += other.environments
    return one


def _name_pairs(comparisons: list[Comparison]) -> None:
    """Short names for the pairs, `mnli → rte`, where they are still different; the model where there are several."""
    models = {comparison.identity[2] for comparison in comparisons}
    tasks = {task for comparison in comparisons for task in comparison.identity[:2]}
    short = {task: task.split(":")[-1] if ":" in task else task.split("/")[-1] for task in tasks}
    if len(set(short.values())) < len(short):
        short = {task: task for task in tasks}
    for comparison in comparisons:
        source, target, model = comparison.identity
        comparison.pair = f"{short[source]} → {short[target]}" if source else short[target]
        if len(models) > 1:
            comparison.pair += f" ({Path(model).name})"
        metrics = {other.metric for other in comparisons if other.identity == comparison.identity}
        if len(metrics) > 1:
            comparison.pair += f" by {comparison.metric}"
    _tell_apart(comparisons)


def _tell_apart(comparisons: list[Comparison]) -> None:
    """Where a pair has been run twice with the same rows, by other trainings, the folder of each and a number where folders are the same."""
    counted = Counter((comparison.pair, comparison.rows) for comparison in comparisons)
    several = {pair for (pair, _), times in counted.items() if times > 1}
    names: dict[tuple[str, str], str] = {}
    for comparison in comparisons:
        if comparison.pair not in several:
            continue
        key = (comparison.pair, comparison.shared)
        if key not in names:
            name = f"{comparison.pair} ({Path(comparison.files[0]).parent})"
            same = sum(other == name or other.startswith(f"{name}, ") for other in names.values())
            names[key] = f"{name}, {same + 1}" if same else name
        comparison.pair = names[key]
