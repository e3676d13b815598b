"""A comparison from its configuration to its tables."""

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list

from ..utils.files import FileError, check_output_dir, to_json, write_text
from ..utils.lock import locked
from ..utils.validation import first_sentence
from .config import CompareConfig, load_config
from .experiment import Experiment
from .figure import check_can_draw, save_figure
from .metrics import is_better
from .plan import MethodPlan, find_unusable, make_plans
from .progress import Progress, make_progress
from .quiet import quiet
from .report import markdown_table, summarize, write_csv
from .runs import Run, RunStore


class ComparisonError(RuntimeError):
    """No method could be run."""


@dataclass
class Outcome:
    """
    What came of a method.

    Args:
        plan ([`MethodPlan`]).
        status (`str`): `"ok"`, `"not applicable"` or `"failed"`.
        reason (`str`, *optional*): why it is not ok.
        setting (`dict`, *optional*): the one that was chosen.
        trials (`list[dict]`): `setting`, `scores` by seed and their mean `score`, in the order they were tried.
        results (`dict[int, dict]`): the results of the final runs, by seed.
    """

    plan: MethodPlan
    status: str = "ok"
    reason: str | None = None
    setting: dict[str, Any] | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    results: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass
class ComparisonResult:
    """
    The tables of a comparison.

    Args:
        summary (`dict`): all that is in `results.json`.
        table (`str`): the table in Markdown, as in `table.md`.
        output_dir (`Path`): where they are, with `results.csv` and `comparison.png`.
        is_main_process (`bool`): whether this is the process that wrote them.
    """

    summary: dict[str, Any]
    table: str
    output_dir: Path
    is_main_process: bool = True

    @property
    def failed(self) -> list[str]:
        """Methods with a run that ended in an error."""
        return [method["label"] for method in self.summary["methods"] if method["status"] == "failed"]


def compare(config: Any, *, show_progress: bool = True, **overrides: Any) -> ComparisonResult:
    """
    Compare methods on a target task, with or without a source: each gets the same labelled rows, the same compute, the same
    number of trials to choose its hyper-parameters, on rows of the target's train split, and is tested once per seed.

    What is finished in `output_dir` is not run again, so that the same call goes on where it was interrupted.

    Args:
        config (`str`, `os.PathLike`, `Mapping` or [`CompareConfig`]): a YAML file, its content, or as it is.
        show_progress (`bool`): show it on stderr.
        overrides: values of the configuration to replace, such as `seeds=[0, 1]`.

    Returns:
        [`ComparisonResult`], the same on all processes.

    Raises:
        ConfigError: the configuration cannot be used; nothing has run then.
        FileError: `output_dir` cannot be written to, or another process runs a comparison there; nothing has run then.
        ComparisonError: no method could be run.

    Example:

    ```python
    >>> import merlin_hf

    >>> result = merlin_hf.compare("reviews.yaml", seeds=[0, 1, 2])
    >>> print(result.table)
    ```
    """
    config = load_config(config, **overrides)
    check_can_draw()
    with quiet(), contextlib.ExitStack() as stack:
        experiment = Experiment(config)
        is_main = experiment.processes.is_main_process
        stack.enter_context(hold_output_dir(experiment))
        store = RunStore(Path(config.output_dir) / "runs", is_main, experiment.metric)
        with make_progress(is_main and show_progress) as progress:
            for warning in experiment.pair.warnings:
                progress.say(f"Warning: {warning}")
            plans = make_plans(experiment)
            find_unusable(experiment, plans, store)
            outcomes = Driver(experiment, store, progress).run(plans)
        result = save_tables(config, experiment, outcomes, is_main)
        experiment.processes.wait_for_everyone()
    if all(outcome.status != "ok" for outcome in outcomes):
        reasons = "; ".join(f"{outcome.plan.label}: {outcome.reason}" for outcome in outcomes)
        raise ComparisonError(f"No method could be run. {reasons}")
    return result


@contextlib.contextmanager
def hold_output_dir(experiment: Experiment, lock: bool = True) -> Iterator[None]:
    """
    Check that the results can be written, and keep other comparisons out of `output_dir` until the end.

    Args:
        experiment ([`Experiment`]).
        lock (`bool`): whether to keep others out.

    Raises:
        FileError: they cannot, or another comparison runs there; on all processes alike.
    """
    folder = experiment.config.output_dir
    problem: list[FileError | None] = [None]
    with contextlib.ExitStack() as stack:
        if experiment.processes.is_main_process:
            try:
                check_output_dir(folder, experiment.files)
                if lock:
                    stack.enter_context(locked(Path(folder, "runs", ".lock"), folder, "merlin-hf compare"))
            except FileError as error:
                problem = [error]
        found = broadcast_object_list(problem)[0]
        if found is not None:
            raise found
        yield


class Driver:
    """
    Does the runs of a comparison that are not finished.

    Args:
        experiment ([`Experiment`]).
        store ([`RunStore`]).
        progress ([`Progress`]).
    """

    def __init__(self, experiment: Experiment, store: RunStore, progress: Progress):
        self.experiment, self.store, self.progress = experiment, store, progress
        self.metric = experiment.metric

    def run(self, plans: list[MethodPlan]) -> list[Outcome]:
        """All runs, method after method."""
        outcomes = []
        self.progress.expect(sum(plan.count(self.experiment) for plan in plans), count_finished(plans, self))
        for plan in plans:
            outcome = Outcome(plan)
            if plan.reason is not None:
                outcome.status, outcome.reason = "not applicable", plan.reason
                self.progress.say(f"{plan.label} is not applicable: {plan.reason}")
            else:
                self.run_method(outcome)
            outcomes.append(outcome)
        return outcomes

    def run_method(self, outcome: Outcome) -> None:
        """The search of a method and its final runs; an error ends them, and is reported in the table."""
        try:
            outcome.trials = self.search(outcome.plan)
            outcome.setting = choose(outcome.trials, self.metric) or outcome.plan.settings[0]
            for run in outcome.plan.final_runs(self.experiment, outcome.setting):
                outcome.results[run.seed] = self.result(outcome.plan, run)
        except Exception as error:
            if self.experiment.processes.num_processes > 1:
                raise  # the other processes may not have met it, and would wait for this one
            outcome.status, outcome.reason = "failed", first_sentence(error)
            name = self.experiment.folders[outcome.plan.label]
            path = Path(self.experiment.config.output_dir) / "errors" / f"{name}.txt"
            write_text(path, traceback.format_exc())
            self.progress.say(f"{outcome.plan.label} failed: {outcome.reason} ({path})")
            self.experiment.clean_up()

    def search(self, plan: MethodPlan) -> list[dict[str, Any]]:
        """The scores of each setting, on rows of the target's train split that were set aside."""
        trials = []
        for setting in plan.settings if plan.searches else ():
            runs = plan.trial_runs(self.experiment, setting)
            scores = {run.seed: self.score(self.result(plan, run)) for run in runs}
            trials.append({"setting": setting, "scores": scores, "score": float(np.mean(list(scores.values())))})
        return trials

    def result(self, plan: MethodPlan, run: Run) -> dict[str, Any]:
        """The result of a run, which is done unless it is finished."""
        result = self.store.get(run)
        if result is None or self.experiment.lacks_model(plan.method, run):
            self.progress.start(run)
            result = self.experiment.train_and_score(plan.method, run, self.progress)
            result = self.store.put(run, result)
            took = f"{result['train_seconds']:.1f} s"
            self.progress.finish(run, f"{self.metric} {self.score(result):.4f} ({took})")
        return result

    def score(self, result: dict[str, Any]) -> float:
        """What a result counts for; NaN where the model's answers were not numbers."""
        value = result["metrics"][self.metric]
        return float("nan") if value is None else float(value)


def choose(trials: list[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The setting with the best score; of equally good ones the one that was tried first; `None` if there are none."""
    best = None
    for trial in trials:
        if best is None or is_better(trial["score"], best["score"], metric):
            best = trial
    return best["setting"] if best is not None else None


def count_finished(plans: list[MethodPlan], driver: Driver) -> int:
    """How many of the runs are finished, as far as it is known which these are."""
    finished = 0
    for plan in plans:
        if plan.reason is not None:
            continue
        trials = [driver.store.get(run) for run in plan.all_trials(driver.experiment)]
        finished += sum(result is not None for result in trials)
        if all(result is not None for result in trials):
            setting = choose(driver.search(plan), driver.metric) or plan.settings[0]
            runs = plan.final_runs(driver.experiment, setting)
            finished += sum(driver.store.get(run) is not None for run in runs)
    return finished


def save_tables(
    config: CompareConfig, experiment: Experiment, outcomes: list[Outcome], is_main: bool
) -> ComparisonResult:
    """Write `results.json`, `results.csv`, `table.md` and `comparison.png`."""
    summary = summarize(config, experiment, outcomes)
    table = markdown_table(summary)
    output_dir = Path(config.output_dir)
    if is_main:
        write_text(output_dir / "results.json", to_json(summary, indent=2) + "\n")
        write_text(output_dir / "table.md", table)
        write_csv(summary, output_dir / "results.csv")
        save_figure(summary, output_dir / "comparison.png")
    return ComparisonResult(summary, table, output_dir, is_main)
