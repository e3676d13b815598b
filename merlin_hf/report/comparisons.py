"""Results of comparisons, read from the `results.json` files that [`merlin_hf.compare`] writes."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..comparison.metrics import LOWER_IS_BETTER, RANGES, can_be_score
from ..comparison.results import metric_means
from ..comparison.statistics import mean_and_spread
from ..utils.files import FileError, read_json, short_path
from ..utils.log_history import MOST_STEPS, is_number
from ..utils.markdown import visible
from ..utils.validation import ConfigError, shown


RESULTS = "results.json"
NOT_SHARED = ("methods", "seeds", "output_dir", "reference", "metric", "search", "model", "save_models", "workers")
NOT_OF_A_TASK = ("path", "name", "rows")
MOST_METHODS = 60
MOST_SEEDS = 10_000
STATUSES = ("ok", "not applicable", "failed")
KEYS = ("metric", "lower_is_better", "reference", "data", "methods", "config")


@dataclass
class MethodScores:
    """
    A method in a comparison.

    Args:
        label (`str`): its name in the tables.
        scores (`dict[int, float]`): by seed; NaN where logits were not finite.
        seconds (`dict[int, float]`): of training, by seed.
        reason (`str`, *optional*): why there are no scores.
        means (`dict[str, float]`): the means over seeds of all metrics that were computed.
        keys (`dict[int, str]`): what names the runs, by seed, where it is known.
        has_source (`bool`): it trained on the source, as far as it is told.
    """

    label: str
    scores: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    reason: str | None = None
    means: dict[str, float] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    has_source: bool = False

    @property
    def mean(self) -> float:
        """The mean over seeds, NaN where there are no scores."""
        return float(np.mean(list(self.scores.values()))) if self.scores else math.nan

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over seeds; `None` where there are fewer than two."""
        return mean_and_spread(list(self.scores.values()))[1] if self.scores else None

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
        metric (`str`): what methods are compared by.
        lower_is_better (`bool`): a lower score is better.
        reference (`str`): the method that the others are tested against.
        methods (`dict[str, MethodScores]`): by label, those that could not be used included.
        identity (`tuple`): what `pair` stands for: source, target and model.
        shared (`str`): all else that is the same for all methods, such as their training.
        search (`str`): how settings were chosen.
        files (`list[str]`): where this was read, without the folders above.
        environments (`list[dict]`): versions and devices.
        test_rows (`int`, *optional*): rows that scores are of.
        classes (`frozenset[str]`): of the target; empty where labels are real numbers or nothing is told of them.
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
    classes: frozenset[str] = frozenset()

    @property
    def sign(self) -> int:
        """1 where a higher score is better, else -1."""
        return -1 if self.lower_is_better else 1

    def gain(self, label: str) -> float:
        """Return a method's mean score, with the sign that makes more the better; NaN where it has none."""
        return self.sign * self.methods[label].mean if label in self.methods else math.nan

    def has(self, label: str) -> bool:
        """Return whether a method has a mean score that is a number."""
        return math.isfinite(self.gain(label))


def find_files(paths: Iterable[str | os.PathLike]) -> list[tuple[Path, str]]:
    """Find all `results.json` in folders at any depth, and files as they are given; return each with a short name."""
    found: dict[Path, str] = {}
    for given in map(Path, paths):
        if not given.is_dir():
            if not os.path.lexists(given):
                raise FileNotFoundError(f"There is no file or folder {visible(given)!r}.")
            found.setdefault(_resolved(given), given.name)
            continue
        # Not by a pattern, which does not see links that lead nowhere.
        walked = os.walk(given)
        files = sorted(Path(folder, RESULTS) for folder, folders, names in walked if RESULTS in {*folders, *names})
        if not files:
            raise FileNotFoundError(
                f"{visible(given)!r} has no {RESULTS}, which `merlin-hf compare` writes into its `output_dir`, and no "
                "trainer_state.json, which a training run leaves."
            )
        for file in files:
            found.setdefault(_resolved(file), str(Path(given.resolve().name, file.relative_to(given))))
    return list(found.items())


def _resolved(path: Path) -> Path:
    """Return the path without links; as it is where a link leads to itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # RuntimeError before Python 3.13
        return path.absolute()


class ResultFiles(NamedTuple):
    """The comparisons, by pair and rows; names of files of another kind; why a file cannot be used, by name."""

    comparisons: list[Comparison]
    others: list[str]
    damaged: dict[str, str]


def read_comparisons(paths: Iterable[str | os.PathLike]) -> tuple[list[Comparison], list[str]]:
    """
    Read result files; those about the same pair and number of rows, with the same training, are put together.

    Args:
        paths: files, or folders that hold `results.json` at any depth.

    Returns:
        the comparisons, by pair and number of rows, and the names of files that are of another kind.

    Raises:
        FileNotFoundError: there are no result files.
        ConfigError: a file is damaged, two files do not belong into one table, or no file is of a comparison.
    """
    found = read_result_files(paths)
    for name, problem in found.damaged.items():
        raise ConfigError(f"{visible(name)!r} cannot be used: {problem}.")
    return found.comparisons, found.others


def read_result_files(paths: Iterable[str | os.PathLike]) -> ResultFiles:
    """
    Do as [`read_comparisons`], and leave out files that are damaged.

    Raises:
        FileNotFoundError: there are no result files.
        ConfigError: two files do not belong into one table, or no file is of a comparison.
    """
    read: list[Comparison] = []
    others: list[str] = []
    damaged: dict[str, str] = {}
    for path, name in find_files(paths):
        try:
            comparison = read_comparison(path, name)
            if comparison is None:
                others.append(name)
            else:
                read.append(comparison)
        except FileNotFoundError:
            damaged[name] = "it is a link to nothing, or has just been removed"
        except FileError as error:
            damaged[name] = str(error)
    if not read:
        raise ConfigError(
            f"No file is of a comparison by `merlin-hf compare`: {', '.join(map(visible, others)) or 'none is left'}."
            if not damaged
            else f"No file of {len(damaged) + len(others)} can be used. " + _listed(damaged)
        )
    labels = {label for comparison in read for label in comparison.methods}
    if len(labels) > MOST_METHODS:
        raise ConfigError(
            f"The files have {len(labels)} methods in all, and a report takes {MOST_METHODS}: give fewer files at a "
            "time."
        )
    _check_classes(read)
    merged: dict[tuple, Comparison] = {}
    for comparison in read:
        key = (comparison.identity, comparison.rows, comparison.metric, comparison.shared)
        merged[key] = _merge(merged[key], comparison) if key in merged else comparison
    comparisons = list(merged.values())
    _name_pairs(comparisons)
    return ResultFiles(sorted(comparisons, key=lambda comparison: (comparison.pair, comparison.rows)), others, damaged)


def _listed(damaged: dict[str, str], most: int = 5) -> str:
    lines = [f"{visible(name)!r}: {problem}." for name, problem in list(damaged.items())[:most]]
    return " ".join(lines) + (f" And {len(damaged) - most} more." if len(damaged) > most else "")


def _check_classes(comparisons: list[Comparison]) -> None:
    """Refuse data sets of one name that share only some classes: these may be one task with a class lost, or two."""
    known: dict[tuple, Comparison] = {}
    for comparison in comparisons:
        if not comparison.classes:
            continue
        for other in [one for key, one in known.items() if key[0] == comparison.identity]:
            if comparison.classes != other.classes and comparison.classes & other.classes:
                raise ConfigError(
                    f"{visible(other.files[0])!r} and {visible(comparison.files[0])!r} are about "
                    f"{visible(_pair_of(other))}, with the classes {_names(other.classes)} and "
                    f"{_names(comparison.classes)}: leave one out, or report them by themselves."
                )
        known.setdefault((comparison.identity, comparison.classes), comparison)


def _names(classes: Iterable[str], most: int = 20) -> str:
    names = sorted(map(visible, classes))
    return f"[{', '.join(names[:most])}{', ...' if len(names) > most else ''}]"


def _pair_of(comparison: Comparison) -> str:
    source, target, _ = comparison.identity
    return f"{source} → {target}" if source else target


def by_pair(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """Return the comparisons of each pair, by their number of rows."""
    pairs: dict[str, list[Comparison]] = {}
    for comparison in sorted(comparisons, key=lambda comparison: (comparison.pair, comparison.rows)):
        pairs.setdefault(comparison.pair, []).append(comparison)
    return pairs


def read_comparison(path: Path, name: str) -> Comparison | None:
    """Return the comparison in a file, `None` where it is of another kind; a FileError says how it is damaged."""
    summary = read_json(path)
    has_few = isinstance(summary, dict) and sum(key in summary for key in KEYS) < len(KEYS) / 2
    if isinstance(summary, list) or has_few:
        return None
    _need(isinstance(summary, dict), "it is not a mapping")
    for key in KEYS:
        _need(key in summary, f"it has no `{key}`")
    config, target = _section(summary, "config"), _section(_section(summary, "data"), "target")
    metric, environment, model = summary["metric"], summary.get("environment") or {}, config.get("model")
    lower, methods = summary["lower_is_better"], summary["methods"]
    _need(isinstance(metric, str) and metric, "its `metric` is not a name")
    is_right = lower is (metric in LOWER_IS_BETTER) if metric in RANGES else isinstance(lower, bool)
    _need(is_right, "its `lower_is_better` is wrong")
    _need(isinstance(summary["reference"], str), "its `reference` is not a name")
    _need(isinstance(environment, dict), "its `environment` is not a mapping")
    _need(isinstance(model, str) and model, "its `config.model` is not a name")
    rows, test_rows = target.get("train_rows"), target.get("test_rows")
    _need_count(rows, "number of labelled rows (`data.target.train_rows`)")
    if test_rows is not None:
        _need_count(test_rows, "number of test rows (`data.target.test_rows`)")
    is_list = isinstance(methods, list) and 0 < len(methods) <= MOST_METHODS
    _need(is_list, f"its `methods` are not a list of 1 to {MOST_METHODS}")
    by_label = {method.label: method for method in (_read_method(one, metric) for one in methods)}
    _need(len(by_label) == len(methods), "it has two methods of one label")
    comparison = Comparison(
        pair="",
        rows=rows,
        metric=metric,
        lower_is_better=lower,
        reference=summary["reference"],
        methods=by_label,
        identity=(_task(config, "source"), _task(config, "target"), model),
        shared=_shared(config, summary["data"]),
        search=json.dumps(config.get("search"), sort_keys=True),
        files=[name],
        environments=[environment],
        test_rows=test_rows,
        classes=frozenset(_classes(target) or ()),
    )
    comparison.pair = _pair_of(comparison)
    return comparison


def _need(is_right: object, problem: str) -> None:
    if not is_right:
        raise FileError(problem)


def _section(mapping: Any, name: str) -> Any:
    section = mapping.get(name)
    _need(isinstance(section, dict), f"its `{name}` is not a mapping")
    return section


def _need_count(value: Any, what: str) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_STEPS
    _need(is_count, f"its {what} is no number")


def _classes(task: dict[str, Any]) -> list[str] | None:
    classes = task.get("classes")
    is_list = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    _need(classes is None or is_list, "its `classes` are not a list of names")
    return sorted(classes) if classes is not None else None


def _shared(config: dict[str, Any], data: dict[str, Any]) -> str:
    """Return the rest of the configuration and the data, which must agree in comparisons that are put together."""
    tasks = ("target", "source")
    kept = {name: value for name, value in config.items() if name not in (*NOT_SHARED, *tasks)}
    for name in tasks:
        sections, described = _by_name(config.get(name), name), _by_name(data.get(name), name)
        _need(sections.keys() == described.keys(), f"its `{name}` is described otherwise than it is configured")
        for key, section in sections.items():
            kept[f"{name}{key}"] = {option: value for option, value in section.items() if option not in NOT_OF_A_TASK}
            kept[f"{name}{key} of the data"] = [
                _classes(described[key]),
                *(described[key].get(option) for option in ("columns", "pool_rows", "test_rows")),
            ]
    return json.dumps(kept, sort_keys=True)


def _by_name(given: Any, name: str) -> dict[str, dict[str, Any]]:
    """Return what is said of a task, with a name of ``, or of each of several sources by name; `None` is empty."""
    section = {} if given is None else given
    _need(isinstance(section, dict), f"its `{name}` is not a mapping")
    if not any(isinstance(value, dict) for value in section.values()):
        return {"": section}
    _need(all(isinstance(value, dict) for value in section.values()), f"its `{name}` is not a mapping of data sets")
    return {f".{key}": value for key, value in section.items()}


def _read_method(method: Any, metric: str) -> MethodScores:
    _need(isinstance(method, dict), "one of its methods is not a mapping")
    label, status = method.get("label"), method.get("status")
    _need(isinstance(label, str) and label, "one of its methods has no label")
    called = visible(label)
    _need(status in STATUSES, f"the status of {called} is none of {', '.join(STATUSES)}")
    if status != "ok":
        return MethodScores(label, reason=f"{status}: {method.get('reason')}")
    given, runs = method.get("scores"), method.get("runs", {})
    _need(isinstance(given, dict) and given and len(given) <= MOST_SEEDS, f"{called} has no scores by seed")
    _need(isinstance(runs, dict), f"the runs of {called} are not a mapping")
    for seed, score in given.items():
        _need(seed.isdecimal() and len(seed) < 20, f"{called} has a score of the seed {visible(seed)!r}")
        _need(can_be_score(score, metric), f"{visible(metric)} of {called}, seed {seed}, cannot be {shown(score)}")
    scores = {int(seed): math.nan if score is None else float(score) for seed, score in given.items()}
    mean = method.get("mean")
    found = float(np.mean(list(scores.values())))
    is_mean = mean is None or (is_number(mean) and math.isclose(mean, found, rel_tol=1e-6, abs_tol=1e-6))
    _need(is_mean, f"the mean of {called} is {shown(mean)}, and that of its scores {found:.6g}")
    seconds = {}
    for seed, run in runs.items():
        took: Any = run.get("train_seconds") if isinstance(run, dict) else None
        _need(
            seed in given and is_number(took) and 0 <= took < math.inf,
            f"{called} has no time of training with seed {visible(seed)}",
        )
        of_run: Any = run.get("metrics", {})
        _need(isinstance(of_run, dict), f"the metrics of {called}, seed {seed}, are not a mapping")
        _need(of_run.get(metric, given[seed]) == given[seed], f"{called} has two scores with seed {seed}")
        for name in RANGES.keys() & of_run.keys():
            _need(
                can_be_score(of_run[name], name), f"{name} of {called}, seed {seed}, cannot be {shown(of_run[name])}"
            )
        seconds[int(seed)] = float(took)
    means = metric_means(runs) if all("metrics" in run for run in runs.values()) else {}
    keys = {int(seed): str(run["key"]) for seed, run in runs.items() if "key" in run}
    has_source = bool(method.get("use_source"))
    return MethodScores(label, scores, seconds, means=means, keys=keys, has_source=has_source)


def _task(config: dict[str, Any], name: str) -> str:
    """Return the name of a data set as on the Hub, or the last part of a path of this machine."""
    section = config.get(name)
    if section is None and name == "source":
        return ""
    sections = _by_name(_section(config, name), name)
    return " + ".join(_data_name(section, name) for section in sections.values())


def _data_name(section: dict[str, Any], name: str) -> str:
    path: Any = section.get("path")
    configuration: Any = section.get("name")
    _need(isinstance(path, str) and path, f"its `{name}` has no path")
    _need(configuration is None or isinstance(configuration, str), f"the configuration of its `{name}` is not a name")
    is_local = os.path.isabs(path) or path.startswith(".") or path.count("/") > 1 or "\\" in path
    path = short_path(path).replace("\\", "/").rstrip("/").split("/")[-1] if is_local else path
    return f"{path}:{configuration}" if configuration else path


def _merge(one: Comparison, other: Comparison) -> Comparison:
    twice = []
    for label in sorted(one.methods.keys() & other.methods.keys()):
        mine, theirs = one.methods[label], other.methods[label]
        # The very same runs are behind both where a comparison and a learning curve lie in one folder.
        is_same = mine.scores == theirs.scores and mine.keys == theirs.keys and mine.scores.keys() == mine.keys.keys()
        if not is_same:
            twice.append(label)
    files, pair = f"{visible(one.files[0])!r} and {visible(other.files[0])!r}", visible(one.pair)
    if twice:
        raise ConfigError(f"{files} both have {visible(twice[0])!r} on {pair} with {one.rows} rows: leave one out.")
    if one.search != other.search:
        raise ConfigError(
            f"{files} are about {pair} with {one.rows} rows, and chose settings by other searches, {one.search} and "
            f"{other.search}, so that their methods do not belong into one table: leave one out."
        )
    one.methods.update(other.methods)
    one.files += other.files
    one.environments += other.environments
    return one


def _name_pairs(comparisons: list[Comparison]) -> None:
    """Give the pairs short names, `mnli → rte`, where these still differ, with the model where there are several."""
    models = {comparison.identity[2] for comparison in comparisons}
    tasks = {task for comparison in comparisons for task in comparison.identity[:2]}
    short = {task: task.split(":")[-1] if ":" in task else task.split("/")[-1] for task in tasks}
    if len(set(short.values())) < len(short):
        short = {task: task for task in tasks}
    for comparison in comparisons:
        source, target, model = comparison.identity
        comparison.pair = f"{short[source]} → {short[target]}" if source else short[target]
        if len(models) > 1:
            comparison.pair += f" ({short_path(model).split('/')[-1]})"
        metrics = {other.metric for other in comparisons if other.identity == comparison.identity}
        if len(metrics) > 1:
            comparison.pair += f" by {comparison.metric}"
    _tell_apart(comparisons)


def _tell_apart(comparisons: list[Comparison]) -> None:
    """Add the folder to the name of a pair that was run twice with the same rows; a number where folders are equal."""
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
