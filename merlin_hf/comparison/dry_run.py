"""Show what a comparison would do, without training anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..utils.figures import check_can_draw
from ..utils.markdown import visible
from ..utils.tables import plain_table
from .config import load_config
from .experiment import Experiment
from .progress import Progress, quiet
from .results import data_name, described_sources
from .runner import ComparisonRunner, find_unusable, hold_output_dir, load_experiments, plan_methods
from .store import RunStore


@dataclass
class DryRun:
    """
    The runs that a comparison would do.

    Args:
        summary (`dict`): the data, and for each method its trials, steps and runs.
        is_main_process (`bool`): this is the main process.
    """

    summary: dict[str, Any]
    is_main_process: bool = True

    @property
    def text(self) -> str:
        """Return it as lines for people."""
        parts = self.summary.get("comparisons", [self.summary])
        lines = [line for part in parts for line in (*_data_lines(part), "", *_method_lines(part), "")][:-1]
        if len(parts) > 1:
            left = sum(method["runs"] - method["finished"] for part in parts for method in part["methods"])
            lines.append(f"About {left} runs to do with {len(parts)} numbers of labelled rows")
        return "\n".join(visible(line, keep_lines=True).replace("\n", " ") for line in lines) + "\n"


def dry_run(config: Any, *, rows: Sequence[int] | None = None, **overrides: Any) -> DryRun:
    """
    Check everything that [`~merlin_hf.comparison.compare`] checks, load the data and the model, and train nothing.

    Args:
        config, rows, overrides: as for [`~merlin_hf.comparison.compare`].

    Returns:
        [`DryRun`]; with `rows`, its summary has a list of `comparisons`.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    config = load_config(config, **overrides)
    check_can_draw("A comparison")
    with quiet():
        experiments = list(load_experiments(config, rows).values())
        with hold_output_dir(experiments, lock=False):
            summaries = [_plan(experiment) for experiment in experiments]
    summary = summaries[0] if rows is None else {"comparisons": summaries}
    return DryRun(summary, experiments[0].processes.is_main_process)


def _plan(experiment: Experiment) -> dict[str, Any]:
    """Return what one comparison would do."""
    config = experiment.config
    store = RunStore(experiment.root / "runs", experiment.processes.is_main_process, experiment.metric)
    planned = plan_methods(experiment)
    find_unusable(experiment, planned, store)
    runner = ComparisonRunner(experiment, store, Progress(), planned)
    methods = [
        {
            "label": one.name,
            "method": one.method.method,
            "use_source": one.method.use_source,
            "not_applicable": one.reason,
            "settings": one.settings,
            "trials": len(one.searched) * len(config.search_seeds),
            "steps": [experiment.steps(one.method, setting) for setting in one.settings],
            "runs": one.count(config),
            "finished": runner.count_finished(one),
        }
        for one in planned
    ]
    return {
        "data": experiment.pair.describe(),
        "shared_labels": experiment.shared_labels_line,
        "warnings": experiment.pair.warnings,
        "metric": experiment.metric,
        "reference": config.reference,
        "seeds": config.seeds,
        "budget": {"kind": config.budget, "rows": experiment.budget_rows},
        "output_dir": config.output_dir,
        "methods": methods,
    }


def _data_lines(summary: dict[str, Any]) -> list[str]:
    target = summary["data"]["target"]
    lines = [
        f"target  {data_name(target)}: {target['train_rows']} labelled rows of {target['pool_rows']} for each seed, "
        f"{target['test_rows']} test rows, {counted_classes(target['classes'])}, from {', '.join(target['columns'])}"
    ]
    for name, source in described_sources(summary["data"]):
        called = data_name(source) if name is None else f"{name}: {data_name(source)}"
        lines.append(
            f"source  {called}: {source['rows']} rows, {counted_classes(source['classes'])}, "
            f"from {', '.join(source['columns'])}"
        )
    if summary["shared_labels"] is not None:
        lines.append(f"labels  {summary['shared_labels']}")
    lines.append(f"metric  {summary['metric']}; reference {summary['reference']}; seeds {summary['seeds']}")
    lines.append(f"budget  {summary['budget']['rows']} rows through the backbone ({summary['budget']['kind']})")
    return lines + [f"Warning: {warning}" for warning in summary["warnings"]]


def _method_lines(summary: dict[str, Any]) -> list[str]:
    rows, others = [], []
    for method in summary["methods"]:
        if method["not_applicable"]:
            others.append(f"{method['label']} is not applicable: {method['not_applicable']}")
            continue
        steps = sorted(set(method["steps"]))
        shown = "closed form" if steps == [0] else str(steps[0]) if len(steps) == 1 else f"{steps[0]}-{steps[-1]}"
        counts = (method["trials"], shown, method["runs"], method["finished"])
        use = method["use_source"]
        rows.append([method["label"], "+".join(use) if isinstance(use, list) else "yes" if use else "no", *counts])
    left = sum(method["runs"] - method["finished"] for method in summary["methods"])
    table = plain_table(("method", "source", "trials", "steps", "runs", "finished"), rows).splitlines() if rows else []
    return [*table, *others, "", f"{left} runs to do; results in {summary['output_dir']}"]


def counted_classes(names: list[str] | None) -> str:
    """Return the number of classes with some of their names; "real labels" for none."""
    if names is None:
        return "real labels"
    return f"{len(names)} classes ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"
