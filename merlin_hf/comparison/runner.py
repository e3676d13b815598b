"""A comparison from its configuration to its tables."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list

from ..transfer.seeding import derived_seed
from ..utils.figures import check_can_draw
from ..utils.files import FileError, check_output_dir, to_json, write_text
from ..utils.lock import locked
from ..utils.validation import ConfigError, first_sentence
from .config import CompareConfig, MethodConfig, load_config
from .experiment import Experiment, check_settings
from .learning_curve import configs_by_rows, curve_table, save_curve, summarize_curve
from .metrics import is_better
from .progress import Progress, make_progress, quiet
from .results import advice_text, save_figure, summarize, table_text, write_csv
from .store import FINAL, TRIAL, Run, RunStore
from .workers import Answer, ComparisonError, Failure, check_can_work, start_workers


CURVE = "learning_curve"


@dataclass
class MethodRuns:
    """
    The runs of a method: those that are planned, those that are still to be done, and what came of them.

    Args:
        method ([`MethodConfig`]): the method.
        settings (`list[dict]`): those that are tried, the defaults first; a single one is not tried but used.
        status (`str`): `"ok"`, `"not applicable"` or `"failed"`.
        reason (`str`, *optional*): why it is not ok.
        setting (`dict`, *optional*): the one that was chosen.
        trials (`list[dict]`): `setting`, `scores` by seed and their mean `score`, in the order they were tried.
        results (`dict[int, dict]`): the results of the final runs, by seed.
        stages (`Iterator[list[Run]]`): gives the runs of the next stage when those of the last are finished.
        open (`list[Run]`): runs of this stage that nobody does yet.
        busy (`set[str]`): keys of those that are being done.
    """

    method: MethodConfig
    settings: list[dict[str, Any]] = field(default_factory=list)
    status: str = "ok"
    reason: str | None = None
    setting: dict[str, Any] | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    stages: Iterator[list[Run]] = field(default_factory=lambda: iter(()))
    open: list[Run] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Return the method's label."""
        return self.method.name

    @property
    def searched(self) -> list[dict[str, Any]]:
        """Return the settings to choose from; none where there is only one."""
        return self.settings if len(self.settings) > 1 else []

    def trial_runs(self, experiment: Experiment, setting: dict[str, Any]) -> list[Run]:
        """Return the trials of a setting, one for each seed of the search."""
        return [experiment.make_run(self.method, TRIAL, seed, setting) for seed in experiment.config.search_seeds]

    def all_trials(self, experiment: Experiment) -> list[Run]:
        """Return the trials of all settings."""
        return [run for setting in self.searched for run in self.trial_runs(experiment, setting)]

    def final_runs(self, experiment: Experiment, setting: dict[str, Any]) -> list[Run]:
        """Return the final runs with the chosen setting, one for each seed of the comparison."""
        return [experiment.make_run(self.method, FINAL, seed, setting) for seed in experiment.config.seeds]

    def count(self, config: CompareConfig) -> int:
        """Return how many runs there are."""
        return len(self.searched) * len(config.search_seeds) + len(config.seeds) if self.status == "ok" else 0

    def next_run(self, busy: set[str], is_finished: Callable[[Run], bool]) -> Run | None:
        """
        Return a run that is to be done now; `None` where there is none before another has ended.

        `busy` has the keys of runs that are being done, by other methods too: two labels may have the same.
        """
        while True:
            for run in [run for run in self.open if run.key not in busy]:
                self.open.remove(run)
                if not is_finished(run):
                    self.busy.add(run.key)
                    return run
            if self.open or self.busy or (runs := next(self.stages, None)) is None:
                return None
            self.open = list(runs)


@dataclass
class ComparisonResult:
    """
    The tables of a comparison.

    Args:
        summary (`dict`): all that is in `results.json`, or in `learning_curve.json`.
        table (`str`): the table in Markdown, without the advice.
        output_dir (`Path`): where they are, with `results.csv` and `comparison.png`, or with `learning_curve.png`.
        is_main_process (`bool`): whether this is the process that wrote them.
    """

    summary: dict[str, Any]
    table: str
    output_dir: Path
    is_main_process: bool = True

    @property
    def text(self) -> str:
        """The table and the advice in Markdown, as in `table.md`."""
        return "\n".join(filter(None, (self.table, advice_text(self.summary))))

    @property
    def failed(self) -> list[str]:
        """Methods with a run that ended in an error."""
        return [method["label"] for method in self.summary["methods"] if method["status"] == "failed"]


def compare(
    config: Any, *, rows: Sequence[int] | None = None, show_progress: bool = True, **overrides: Any
) -> ComparisonResult:
    """
    Compare methods on a target task, with or without a source.

    Each method gets the same labelled rows, the same compute and the same number of trials to choose its
    hyper-parameters, on rows of the target's train split. Each is tested once per seed. Runs that are finished in
    `output_dir` are not done again, so that the same call goes on where it was interrupted.

    Args:
        config (`str`, `os.PathLike`, `Mapping` or [`CompareConfig`]): a YAML file, its content, or as it is.
        rows (`Sequence[int]`, *optional*): compare with each of these numbers of labelled target rows, in place of
            `target.rows`. Each has its tables in a folder of `output_dir`, which gets a learning curve.
        show_progress (`bool`): show it on stderr.
        overrides: values of the configuration to replace, such as `seeds=[0, 1]`.

    Returns:
        [`ComparisonResult`], the same on all processes; with `rows` that of the learning curve.

    Raises:
        ConfigError: the configuration cannot be used; nothing has run then.
        FileError: `output_dir` cannot be written to, or another process runs a comparison there; nothing has run then.
        ComparisonError: no method, or no worker, could be run.

    Example:
    ```python
    >>> import merlin_hf

    >>> result = merlin_hf.compare("reviews.yaml", seeds=[0, 1, 2])
    >>> print(result.text)
    ```
    """
    config = load_config(config, **overrides)
    check_can_draw("A comparison")
    with quiet():
        experiments = load_experiments(config, rows)
        first = next(iter(experiments.values()))
        with hold_output_dir(list(experiments.values())):
            methods = {number: plan_methods(experiment) for number, experiment in experiments.items()}
            results = {
                number: _compare(experiment, methods[number], show_progress)
                for number, experiment in experiments.items()
            }
            if rows is None:
                return results[None]
            return _save_learning_curve(first, {number: one.summary for number, one in results.items()})


def load_experiments(config: CompareConfig, rows: Sequence[int] | None) -> dict[Any, Experiment]:
    """Return the comparison under `None`, or one for each number of labelled rows, checked."""
    if rows is None:
        experiments: dict[Any, Experiment] = {None: Experiment(config)}
    else:
        configs = configs_by_rows(config, rows)
        experiments = {number: Experiment(one, config.output_dir) for number, one in configs.items()}
        for number, experiment in experiments.items():
            if number > (pool := len(experiment.pair.pool)):
                raise ConfigError(
                    f"`rows` must be at most {pool}, the labelled rows of `target.train_split`, got {number}."
                )
            experiment.encoded = experiments[min(configs)].encoded
    check_can_work(next(iter(experiments.values())))
    return experiments


def _compare(experiment: Experiment, methods: list[MethodRuns], show_progress: bool) -> ComparisonResult:
    """Have the runs of one comparison done, and write its tables."""
    is_main, config = experiment.processes.is_main_process, experiment.config
    output_dir = Path(config.output_dir)
    store = RunStore(experiment.root / "runs", is_main, experiment.metric)
    with make_progress(is_main and show_progress) as progress:
        if experiment.root != output_dir:
            progress.say(f"{config.target.rows} labelled rows")
        if experiment.shared_labels_line is not None:
            progress.say(experiment.shared_labels_line)
        for warning in experiment.pair.warnings:
            progress.say(f"Warning: {warning}")
        find_unusable(experiment, methods, store)
        ComparisonRunner(experiment, store, progress, methods).run()
    summary = summarize(experiment, methods)
    result = ComparisonResult(summary, table_text(summary), output_dir, is_main)
    if is_main:
        write_text(output_dir / "results.json", to_json(summary, indent=2) + "\n")
        write_text(output_dir / "table.md", result.text)
        write_csv(summary, output_dir / "results.csv")
        save_figure(summary, output_dir / "comparison.png")
    experiment.processes.wait_for_everyone()
    if all(method.status != "ok" for method in methods):
        reasons = "; ".join(f"{method.name}: {method.reason}" for method in methods)
        raise ComparisonError(f"No method could be run. {reasons}")
    return result


def _save_learning_curve(experiment: Experiment, summaries: dict[int, dict[str, Any]]) -> ComparisonResult:
    """Write `learning_curve.json`, `learning_curve.md` and `learning_curve.png`."""
    summary, root, is_main = summarize_curve(summaries), experiment.root, experiment.processes.is_main_process
    result = ComparisonResult(summary, curve_table(summary), root, is_main)
    if is_main:
        write_text(root / f"{CURVE}.json", to_json(summary, indent=2) + "\n")
        write_text(root / f"{CURVE}.md", result.text)
        save_curve(summary, root / f"{CURVE}.png")
    experiment.processes.wait_for_everyone()
    return result


@contextlib.contextmanager
def hold_output_dir(experiments: Sequence[Experiment], lock: bool = True) -> Iterator[None]:
    """
    Check that the results can be written, and with `lock` keep other comparisons out of the folder until the end.

    Raises:
        FileError: the results cannot be written, or another comparison runs there; on all processes alike.
    """
    root = experiments[0].root
    files = [file for experiment in experiments for file in experiment.files]
    curve = [f"{CURVE}.{ending}" for ending in ("json", "md", "png")] if len(experiments) > 1 else []
    problem: list[FileError | None] = [None]
    with contextlib.ExitStack() as stack:
        if experiments[0].processes.is_main_process:
            try:
                check_output_dir(str(root), [*files, *curve])
                if lock:
                    stack.enter_context(locked(root / "runs" / ".lock", str(root), "merlin-hf compare"))
            except FileError as error:
                problem = [error]
        found = broadcast_object_list(problem)[0]
        if found is not None:
            raise found
        yield


class ComparisonRunner:
    """Has the runs of a comparison done that are not finished, those of the first method first."""

    def __init__(self, experiment: Experiment, store: RunStore, progress: Progress, methods: list[MethodRuns]):
        self.experiment, self.store, self.progress, self.methods = experiment, store, progress, methods

    def run(self) -> None:
        """Have all runs done; each method then has its results, or the reason why there are none."""
        runs, finished = sum(method.count(self.experiment.config) for method in self.methods), self.count_finished()
        self.progress.expect(runs, finished)
        for method in self.methods:
            if method.status == "ok":
                method.stages = self.stages(method)
            else:
                self.progress.say(f"{method.name} is {method.status}: {method.reason}")
        with start_workers(self.experiment, self.progress, runs - finished) as do:
            with contextlib.closing(do(self.next_run)) as answers:
                for run, answer in answers:
                    self.take(run, answer)

    def stages(self, method: MethodRuns) -> Iterator[list[Run]]:
        """Yield the trials of a method; when they are finished choose a setting, and yield its final runs."""
        yield method.all_trials(self.experiment)
        method.trials, method.setting = self.search(method)
        finals = method.final_runs(self.experiment, method.setting)
        yield finals
        method.results = {run.seed: self.store.results[run.key] for run in finals}

    def next_run(self) -> Run | None:
        """Return a run that is to be done now; `None` if there is none, or none before another has ended."""
        busy = {key for method in self.methods for key in method.busy}
        for method in self.methods:
            try:
                run = method.next_run(busy, self.is_finished)
            except Exception as error:
                self.fail(method, error)
                continue
            if run is not None:
                return run
        return None

    def is_finished(self, run: Run) -> bool:
        """Return whether a run need not be done."""
        return self.store.get(run) is not None and not self.experiment.models.lacks(run)

    def take(self, run: Run, answer: Answer) -> None:
        """Keep the result of a run. An error ends its method, and is reported in the table."""
        method = next(one for one in self.methods if one.name == run.label)
        method.busy.remove(run.key)
        if isinstance(answer, Failure):
            self.progress.stop(run)
            self.fail(method, answer)
            return
        try:
            result = self.store.put(run, answer)
        except Exception as error:
            self.fail(method, error)
            return
        took = f"{result['train_seconds']:.1f} s"
        self.progress.finish(run, f"{self.experiment.metric} {self.score(run):.4f} ({took})")

    def fail(self, method: MethodRuns, error: Exception | Failure) -> None:
        """Leave out what is left of a method, and report why; the first error counts."""
        if isinstance(error, Exception):
            if self.experiment.processes.num_processes > 1:
                raise error  # the other processes may not have met it, and would wait for this one
            error = Failure.of(error)
        method.open, method.stages = [], iter(())
        if method.status == "failed":
            return
        method.status, method.reason = "failed", error.reason
        path = Path(self.experiment.config.output_dir) / "errors" / f"{self.experiment.folders[method.name]}.txt"
        write_text(path, error.text)
        self.progress.say(f"{method.name} failed: {method.reason} ({path})")

    def search(self, method: MethodRuns) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the trials with their scores, and the best setting, of equally good ones the first; all are done."""
        trials: list[dict[str, Any]] = []
        best = None
        for setting in method.searched:
            scores = {run.seed: self.score(run) for run in method.trial_runs(self.experiment, setting)}
            trials.append({"setting": setting, "scores": scores, "score": float(np.mean(list(scores.values())))})
            if best is None or is_better(trials[-1]["score"], best["score"], self.experiment.metric):
                best = trials[-1]
        return trials, method.settings[0] if best is None else best["setting"]

    def score(self, run: Run) -> float:
        """Return the score of a finished run by the metric of the comparison; NaN where logits were not finite."""
        value = self.store.results[run.key]["metrics"][self.experiment.metric]
        return float("nan") if value is None else float(value)

    def count_finished(self, *methods: MethodRuns) -> int:
        """Return how many runs are finished; final runs count where all trials that choose their setting are there."""
        finished = 0
        for method in methods or self.methods:
            if method.status != "ok":
                continue
            trials = [self.store.get(run) is not None for run in method.all_trials(self.experiment)]
            finished += sum(trials)
            if all(trials):
                runs = method.final_runs(self.experiment, self.search(method)[1])
                finished += sum(self.store.get(run) is not None for run in runs)
        return finished


# Plans


def plan_methods(experiment: Experiment) -> list[MethodRuns]:
    """Plan each method, and check every setting; raise a ConfigError if an option cannot be used."""
    methods = [MethodRuns(method, settings_of(experiment, method)) for method in experiment.config.methods]
    for method in methods:
        check_settings(experiment, method.method, method.settings)
        for seed in experiment.config.search_seeds if method.searched else ():
            experiment.pair.rows_of(TRIAL, seed)  # enough rows to set some aside
    return methods


def settings_of(experiment: Experiment, method: MethodConfig) -> list[dict[str, Any]]:
    """Return the settings that a search tries for a method: the defaults alone where there is no search."""
    config = experiment.config
    check_settings(experiment, method, [{}])
    if config.search.trials < 2:
        return [{}]
    args = experiment.training_args(method, {})
    own = method.trainer_class.search_space if method.search is None else method.search
    space = {} if experiment.steps(method, {}) == 0 else {"learning_rate": config.search.learning_rates}
    space = {name: list(values) for name, values in {**space, **own}.items() if name not in method.options}
    defaults = {name: getattr(args, name) for name in space}
    return trial_settings(defaults, space, config.search.trials)


def find_unusable(experiment: Experiment, methods: list[MethodRuns], store: RunStore) -> None:
    """
    Build a trainer of each method, so that a method which cannot be used is known before any other has run for hours.

    Sets its `status` and `reason`. Methods that have run before are left out.

    Raises:
        ConfigError: a value of the configuration is why.
    """
    for method in methods:
        sources = list(experiment.sources_of(method.method))
        if len(sources) > 1 and not getattr(method.method.trainer_class, "takes_several_sources", True):
            reason = f"it takes one source, as `use_source: [{sources[0]}]` gives it"
            method.status, method.reason = "not applicable", reason
            continue
        first = (method.all_trials(experiment) or method.final_runs(experiment, method.settings[0]))[0]
        if store.get(first) is not None:
            continue
        try:
            experiment.build_trainer(method.method, first)
        except ConfigError:
            raise
        except (ValueError, NotImplementedError) as error:
            method.status, method.reason = "not applicable", first_sentence(error)
        finally:
            experiment.clean_up()


# Settings to try


def trial_settings(defaults: Mapping[str, Any], space: Mapping[str, Sequence], trials: int) -> list[dict]:
    """
    Choose settings of a grid, the defaults first, such that the values of an option are about equally frequent.

    Each value of the first option is tried once before any of them is tried again, then each of the second, and so on,
    as in a Latin hypercube (McKay, Beckman and Conover 1979). The order of an option's values depends on the option
    alone, so that methods which share their first option, the learning rate, try it in the same way.

    Args:
        defaults (`Mapping[str, Any]`): a value for each name in `space`.
        space (`Mapping[str, Sequence]`): the values of each option.
        trials (`int`): how many settings, at most.

    Returns:
        `list[dict]`: different settings, the defaults first; all there are if they are not more than `trials`. A
        search with fewer trials tries the first settings of one with more.
    """
    names, options = list(space), [_distinct(name, values) for name, values in space.items()]

    def setting_of(places: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        return {name: value for name, (_, value) in zip(names, places, strict=True)}

    others = [places for places in itertools.product(*options) if setting_of(places) != defaults]
    uses = Counter(
        (name, rank)
        for name, option in zip(names, options, strict=True)
        for rank, value in option
        if value == defaults[name]
    )
    tried = [dict(defaults)]
    while others and len(tried) < trials:
        chosen = min(
            others,
            key=lambda places: [(uses[name, rank], rank) for name, (rank, _) in zip(names, places, strict=True)],
        )
        others.remove(chosen)
        uses.update((name, rank) for name, (rank, _) in zip(names, chosen, strict=True))
        tried.append(setting_of(chosen))
    return tried


def _distinct(name: str, values: Sequence) -> list[tuple[int, Any]]:
    """Return the values of an option, each once, with their ranks in an order that depends on its name alone."""
    ranks = np.random.default_rng(derived_seed("search", name)).permutation(len(values)).tolist()
    return [
        (rank, value) for n, (rank, value) in enumerate(zip(ranks, values, strict=True)) if value not in values[:n]
    ]
