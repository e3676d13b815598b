"""The results of a comparison: a summary, a Markdown table, a CSV file and a figure."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.figures import new_figure, tidy, write_figure
from ..utils.files import short_path, short_paths, write_text
from ..utils.markdown import Markdown, escape, figure_text
from ..utils.tables import markdown_table
from .advice import advise
from .metrics import LOWER_IS_BETTER, METRICS
from .statistics import holm, mean_and_spread, paired_difference


CSV_COLUMNS = ("label", "method", "seed", "metric", "score", "setting", "steps", "train_rows", "train_seconds")


def summarize(experiment: Any, methods: list[Any]) -> dict[str, Any]:
    """
    Return everything that the tables show, as plain values.

    Args:
        experiment ([`~merlin_hf.comparison.experiment.Experiment`]): the comparison.
        methods (`list[MethodRuns]`): in the order of the configuration.

    Returns:
        `dict`: `methods` has an entry for each, best first, those without scores last.
    """
    metric, config = experiment.metric, experiment.config
    summaries = [_summarize_method(method, metric) for method in methods]
    with_scores = [one for one in summaries if one["status"] == "ok"]
    _add_tests(with_scores, config.reference)
    sign = 1 if metric in LOWER_IS_BETTER else -1
    with_scores.sort(key=lambda one: (math.isnan(one["mean"]), sign * one["mean"]))
    return {
        "metric": metric,
        "lower_is_better": metric in LOWER_IS_BETTER,
        "reference": config.reference,
        "seeds": config.seeds,
        "budget": {"kind": config.budget, "rows": experiment.budget_rows, "max_steps": config.training["max_steps"]},
        "data": experiment.pair.describe(),
        "shared_labels": experiment.shared_labels_line,
        "warnings": [*experiment.pair.warnings, *_mixed_environments(methods)],
        "methods": with_scores + [one for one in summaries if one["status"] != "ok"],
        "advice": _advice(with_scores, metric, config.reference),
        "environment": experiment.environment,
        "config": config.to_dict(),
    }


def _summarize_method(runs: Any, metric: str) -> dict[str, Any]:
    summary = {
        "label": runs.name,
        "method": runs.method.method,
        "status": runs.status,
        "reason": runs.reason,
        "options": runs.method.options,
        "trials": runs.trials,
        "use_source": runs.method.use_source,
    }
    if runs.status != "ok":
        return summary
    scores = {seed: result["metrics"][metric] for seed, result in runs.results.items()}
    scores = {seed: math.nan if score is None else score for seed, score in scores.items()}
    mean, spread = mean_and_spread(list(scores.values()))
    kept = ("metrics", "train_rows", "train_seconds", "peak_memory_bytes", "key")
    return {
        **summary,
        "setting": runs.setting,
        "scores": scores,
        "mean": mean,
        "spread": spread,
        "steps": next(iter(runs.results.values()))["steps"],
        "runs": {seed: {name: result[name] for name in kept} for seed, result in runs.results.items()},
    }


def _advice(methods: list[dict[str, Any]], metric: str, reference: str) -> list[str]:
    scores = {method["label"]: method["scores"] for method in methods}
    seconds = {
        method["label"]: float(np.mean([run["train_seconds"] for run in method["runs"].values()]))
        for method in methods
    }
    return advise(scores, seconds, metric, reference, [one["label"] for one in methods if one["use_source"]])


def _add_tests(methods: list[dict[str, Any]], reference: str) -> None:
    """Test every method with scores against the reference."""
    base = next((method for method in methods if method["label"] == reference), None)
    if base is None:
        return
    tested = [method for method in methods if method is not base]
    for method in tested:
        difference = paired_difference(list(method["scores"].values()), list(base["scores"].values()))
        method["difference"] = difference.mean
        method["confidence_interval"] = None if difference.low is None else [difference.low, difference.high]
        method["p_value"] = difference.p_value
    for method, corrected in zip(tested, holm([method["p_value"] for method in tested]), strict=True):
        method["p_value_holm"] = corrected


def _mixed_environments(methods: list[Any]) -> list[str]:
    found = [result["environment"] for runs in methods for result in runs.results.values()]
    names = sorted({name for one in found for name in one if len({str(e.get(name)) for e in found}) > 1})
    return [f"The runs differ in {', '.join(names)}; see the files in `runs`."] if names else []


def table_text(summary: dict[str, Any]) -> str:
    """Return the table with a legend; nothing in it depends on how long anything took, as [`advice_text`] does."""
    reference = summary["reference"]
    headings = ["method", summary["metric"], f"difference to {reference}", "p (Holm)", "steps", "setting"]
    table = markdown_table(headings, [_table_row(method, reference) for method in summary["methods"]], align="left")
    return "\n\n".join([table, *_legend(summary), *_other_scores(summary)]) + "\n"


def advice_text(summary: dict[str, Any]) -> str:
    """Return the advice as a paragraph of Markdown; empty where there is none."""
    return f"**Advice.** {escape(' '.join(summary['advice']))}\n" if summary["advice"] else ""


def _other_scores(summary: dict[str, Any]) -> list[str]:
    """Return the means of the metrics that the methods are not compared by, with a sentence about them."""
    methods = [method for method in summary["methods"] if method["status"] == "ok"]
    means = {method["label"]: metric_means(method["runs"]) for method in methods}
    names = [name for name in METRICS if name != summary["metric"] and any(name in one for one in means.values())]
    if not names:
        return []
    rows = [[label, *(f"{one[name]:.4f}" if name in one else "" for name in names)] for label, one in means.items()]
    lower = [name for name in names if name in LOWER_IS_BETTER]
    text = "Other metrics, means over seeds" + (f"; {', '.join(lower)}: the lower the better" if lower else "")
    return [f"{escape(text)}.", markdown_table(["method", *names], rows, align="left")]


def metric_means(runs: Mapping[Any, Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean over runs of each metric that all of them have; `None` stands for NaN."""
    found = [run["metrics"] for run in runs.values()]
    names = [name for name in METRICS if found and all(name in metrics for metrics in found)]
    return {
        name: float(np.mean([math.nan if metrics[name] is None else metrics[name] for metrics in found]))
        for name in names
    }


def _table_row(method: dict[str, Any], reference: str) -> list[str]:
    if method["status"] != "ok":
        return [method["label"], method["status"], "", "", "", ""]
    spread = f" ± {method['spread']:.4f}" if method["spread"] is not None else ""
    if method["label"] == reference:
        difference, p_value = "reference", ""
    else:
        difference = f"{method['difference']:+.4f}" if "difference" in method else ""
        if method.get("confidence_interval"):
            difference += " [{:+.4f}, {:+.4f}]".format(*method["confidence_interval"])
        p = method.get("p_value_holm")
        p_value = "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
    options = {**method["options"], **method["setting"]}
    if isinstance(method["use_source"], list):
        options = {"use_source": "+".join(method["use_source"]), **options}
    setting = short_paths(", ".join(f"{name} {value}" for name, value in options.items())) or "defaults"
    steps = str(method["steps"]) if method["steps"] else "closed form"
    return [method["label"], f"{method['mean']:.4f}{spread}", Markdown(difference), p_value, steps, setting]


def _legend(summary: dict[str, Any]) -> list[str]:
    target, sources = summary["data"]["target"], described_sources(summary["data"])
    names = [f"{'' if name is None else f'{name}, '}{data_name(one)}, {one['rows']} rows" for name, one in sources]
    seeds = summary["seeds"]
    counted = f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else f"seed {seeds[0]}"
    lower = ", the lower the better" if summary["lower_is_better"] else ""
    lines = [
        f"{escape(summary['metric'])} on {target['test_rows']} test rows{lower}: mean"
        + (" ± sample standard deviation" if len(seeds) > 1 else "")
        + f" over {counted}. Target: {escape(data_name(target))}, {target['train_rows']} labelled rows"
        + (f". Source{'s' * (len(names) > 1)}: {escape('; '.join(names))}." if names else ", without a source."),
    ]
    if len(seeds) > 1:
        lines.append(
            f"Differences with their 95 % interval and p of a paired t-test over seeds, Holm-corrected, against "
            f"{escape(summary['reference'])}: about new draws of rows and weights, not about other test rows."
        )
    else:
        lines.append("One seed tells nothing about spread: give more `seeds` for intervals and tests.")
    if summary["shared_labels"] is not None:
        lines.append(escape(summary["shared_labels"]))
    for method in summary["methods"]:
        if method["status"] != "ok":
            verb = "is " if method["status"] != "failed" else ""
            reason = short_paths(str(method["reason"]))
            lines.append(f"{escape(method['label'])} {verb}{method['status']}: {escape(reason)}")
    return lines + [f"Warning: {escape(short_paths(warning))}" for warning in summary["warnings"]]


def described_sources(data: dict[str, Any]) -> list[tuple[str | None, dict[str, Any]]]:
    """Return the sources that `data` of results describes, by name; one that was given alone has none."""
    source = data["source"]
    if source is None:
        return []
    return [(None, source)] if isinstance(source.get("path"), str) else list(source.items())


def data_name(data: dict[str, Any]) -> str:
    """Return a data set's name with its configuration, as `nyu-mll/glue:rte`, without folders of this machine."""
    path = short_path(data["path"])
    return f"{path}:{data['name']}" if data.get("name") else path


def write_csv(summary: dict[str, Any], path: Path) -> None:
    """Write a line for each final run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for method in summary["methods"]:
        for seed, run in method.get("runs", {}).items():
            values = [method["label"], method["method"], seed, summary["metric"], method["scores"][seed]]
            setting = json.dumps(method["setting"], sort_keys=True)
            writer.writerow([*values, setting, method["steps"], run["train_rows"], f"{run['train_seconds']:.3f}"])
    write_text(path, text.getvalue())


def save_figure(summary: dict[str, Any], path: Path) -> None:
    """Draw a line for each method, best on top: its mean with one standard deviation, and a dot for each seed."""
    methods = [method for method in summary["methods"] if method["status"] == "ok"]
    figure = new_figure(6.4, 1.2 + 0.4 * len(methods))
    axes = figure.add_subplot()
    for place, method in enumerate(reversed(methods)):
        is_reference = method["label"] == summary["reference"]
        color = "#c44e52" if is_reference else "#4c72b0"
        axes.errorbar(method["mean"], place, xerr=method["spread"] or 0, fmt="o", color=color, capsize=3, zorder=3)
        scores = list(method["scores"].values())
        axes.plot(scores, [place] * len(scores), "o", color=color, alpha=0.35, markersize=4, markeredgewidth=0)
    axes.set_yticks(range(len(methods)), [figure_text(method["label"], most=40) for method in reversed(methods)])
    axes.set_ylim(-0.7, len(methods) - 0.3)
    axes.set_xlabel(f"{summary['metric']} on {summary['data']['target']['test_rows']} test rows")
    tidy(axes, grid="x")
    write_figure(figure, path)
