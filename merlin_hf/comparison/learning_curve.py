"""Scores against labelled target rows: comparisons with several numbers of rows, put together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ..utils.figures import new_figure, tidy, write_figure
from ..utils.markdown import Markdown, escape, figure_text
from ..utils.tables import markdown_table
from ..utils.validation import ConfigError, check_value, interval
from .advice import advise_on_labels
from .config import CompareConfig, load_config
from .statistics import mean_interval


LEAST_ROWS, MOST_SIZES = 4, 100
MOST_LINES = 5
# Of Okabe and Ito: colour-blind people can tell them apart, and the markers help in print. The reference comes first.
STYLES = (("#d55e00", "o"), ("#0072b2", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"))

Curve = Sequence[tuple[int, Sequence[float]]]


def configs_by_rows(config: CompareConfig, rows: Any) -> dict[int, CompareConfig]:
    """Return the configuration for each number of labelled rows, the smallest first, each with a folder of its own."""
    given = check_value(rows, list[Annotated[int, interval(f"[{LEAST_ROWS}, inf)")]], "rows")
    if not 2 <= len(given) <= MOST_SIZES or len(set(given)) < len(given):
        raise ConfigError(f"`rows` must be 2 to {MOST_SIZES} different numbers of rows, got {given}.")
    known = config.to_dict()
    return {
        number: load_config(
            {
                **known,
                "target": {**known["target"], "rows": number},
                "output_dir": str(Path(config.output_dir) / f"rows-{number}"),
            }
        )
        for number in sorted(given)
    }


def summarize_curve(summaries: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """
    Put the results of comparisons together.

    Args:
        summaries (`Mapping[int, dict]`): what each `results.json` has, by number of rows, the smallest first.

    Returns:
        `dict`: of each method its `status` and by number of rows its `mean`, its 95 % `interval`, its `scores` by seed
            and the mean `train_seconds`; the best with the most rows first.
    """
    *_, before, most = rows = list(summaries)
    last = summaries[most]
    methods = {method["label"]: _method(method["label"], summaries) for method in last["methods"]}
    bests = {number: next(iter(_scored(summaries[number])), None) for number in rows}
    advice = [f"With {most} labelled rows:", *last["advice"]] if last["advice"] else []
    advice += [
        f"With {number} rows, {label} has the best {last['metric']}, {methods[label]['by_rows'][number]['mean']:.4f}."
        for number, label in bests.items()
        if label not in (None, bests[most])
    ]
    best = bests[most]
    curve = {} if best is None else methods[best]["by_rows"]
    if best is not None and before in curve and len(last["seeds"]) > 1:
        advice += advise_on_labels(
            best, last["metric"], [before, most], curve[before]["scores"], curve[most]["scores"]
        )
    kept = ("metric", "lower_is_better", "reference", "seeds", "data", "environment")
    return {
        **{name: last[name] for name in kept},
        "rows": rows,
        "results": {number: f"rows-{number}/results.json" for number in rows},
        "methods": list(methods.values()),
        "advice": advice,
    }


def _scored(summary: dict[str, Any]) -> list[str]:
    """Return the methods with a mean, best first."""
    return [one["label"] for one in summary["methods"] if one["status"] == "ok" and np.isfinite(one["mean"])]


def _method(label: str, summaries: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    found = {
        rows: next(one for one in summary["methods"] if one["label"] == label) for rows, summary in summaries.items()
    }
    problems = {rows: one for rows, one in found.items() if one["status"] != "ok"}
    by_rows = {
        rows: {
            "mean": one["mean"],
            "interval": mean_interval(list(one["scores"].values())),
            "scores": one["scores"],
            "train_seconds": float(np.mean([run["train_seconds"] for run in one["runs"].values()])),
        }
        for rows, one in found.items()
        if rows not in problems
    }
    has_failed = any(one["status"] == "failed" for one in problems.values())
    status = "failed" if has_failed else "ok" if by_rows else "not applicable"
    reasons = [f"With {rows} rows it is {one['status']}: {one['reason']}" for rows, one in problems.items()]
    return {"label": label, "status": status, "reason": " ".join(reasons) or None, "by_rows": by_rows}


def curve_table(summary: dict[str, Any]) -> str:
    """Return the methods by numbers of rows in Markdown, with a legend."""
    rows = [
        [method["label"], *(_cell(method["by_rows"].get(number)) for number in summary["rows"])]
        for method in summary["methods"]
    ]
    table = markdown_table([summary["metric"], *(f"{number} rows" for number in summary["rows"])], rows, align="left")
    seeds = len(summary["seeds"])
    lower = ", the lower the better" if summary["lower_is_better"] else ""
    over = f"mean of {seeds} seeds with its 95 % interval by the t distribution" if seeds > 1 else "of one seed"
    text = f"{summary['metric']} on {summary['data']['target']['test_rows']} test rows{lower}: {over}."
    problems = [f"{one['label']}: {one['reason']}" for one in summary["methods"] if one["reason"]]
    return "\n\n".join([table, *map(escape, [text, *problems])]) + "\n"


def _cell(found: dict[str, Any] | None) -> Markdown:
    if found is None:
        return Markdown("")
    limits = found["interval"]
    return Markdown(f"{found['mean']:.4f}" + ("" if limits is None else " [{:.4f}, {:.4f}]".format(*limits)))


def save_curve(summary: dict[str, Any], path: Path) -> None:
    """Draw scores against rows, and write the figure as a PNG file, there whole or not at all."""
    curves = {
        one["label"]: [(rows, list(found["scores"].values())) for rows, found in one["by_rows"].items()]
        for one in summary["methods"]
    }
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    draw_curves(axes, chosen_curves(curves, summary["reference"]), summary["metric"])
    axes.legend(frameon=False, fontsize="small")
    write_figure(figure, path)


def chosen_curves(curves: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """Return at most [`MOST_LINES`] of the curves: the reference, then the first of the others."""
    known = {label: curve for label, curve in curves.items() if curve}
    ordered = sorted(known, key=lambda label: label != reference)
    return {label: known[label] for label in ordered[:MOST_LINES]}


def draw_curves(axes: Any, curves: Mapping[str, Curve], metric: str) -> None:
    """
    Draw means over seeds against labelled rows, with bars for their 95 % intervals.

    Args:
        axes (`matplotlib.axes.Axes`): where.
        curves (`Mapping[str, Curve]`): numbers of rows with scores, by method; not more than [`MOST_LINES`].
        metric (`str`): what the scores are.
    """
    ticks = sorted({rows for curve in curves.values() for rows, _ in curve})
    for place, ((label, curve), (color, marker)) in enumerate(zip(curves.items(), STYLES, strict=False)):
        if not curve:  # in this panel of several
            continue
        shift = 1.015 ** (place - (len(curves) - 1) / 2)  # bars beside one another
        limits = [mean_interval(scores) for _, scores in curve]
        means = [float(np.mean(scores)) for _, scores in curve]
        bars = [0.0 if limit is None else mean - limit[0] for mean, limit in zip(means, limits, strict=True)]
        axes.errorbar(
            [rows * shift for rows, _ in curve],
            means,
            yerr=bars,
            label=figure_text(label),
            color=color,
            marker=marker,
            markersize=4,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labelled target rows (log scale)")
    axes.set_ylabel(f"{figure_text(metric)} (bars: 95 % interval)")
    tidy(axes)
