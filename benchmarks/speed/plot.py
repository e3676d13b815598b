"""The plot of what run.py measured; `python benchmarks/speed/plot.py` draws it again from results.json."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from measure import ratios  # noqa: E402
from report import CLOSED_FORM, TIME_OVER_BARE, TIME_OVER_JOINT  # noqa: E402


PAIRS = [("merlin", "joint"), ("merlin, fixed rho", "joint"), ("joint, again", "joint"), ("merlin", "bare loop")]


def plot_ratios(axis, rows: list[dict], pairs: list[tuple[str, str]], title: str) -> None:
    """Medians with quartiles, one colour for each pair."""
    for number, (name, other) in enumerate(pairs):
        found = [ratios(row["methods"][name]["times"], row["methods"][other]["times"]) for row in rows]
        medians = [value["median"] for value in found]
        errors = [
            [value["median"] - value["lower"] for value in found],
            [value["upper"] - value["median"] for value in found],
        ]
        places = [place + 0.15 * number for place in range(len(rows))]
        axis.errorbar(medians, places, xerr=errors, fmt="o", ms=4, capsize=2, label=f"{name} / {other}")
    axis.axvline(1, color="black", lw=0.8)
    axis.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.set(xlabel="ratio of times, median and quartiles", title=title)
    axis.legend(fontsize=7)


def plot_heads(axis, rows: list[dict], key: str, label: str) -> None:
    """Time of the head's part against one of the sizes, ours with a solid line."""
    rows = sorted(rows, key=lambda row: row[key])
    for name in rows[0]["methods"]:
        times = [statistics.median(row["methods"][name]["times"]) * 1e3 for row in rows]
        axis.loglog([row[key] for row in rows], times, "-o" if name == CLOSED_FORM else "--o", ms=3, label=name)
    axis.set(xlabel=label, ylabel="fit + meta loss + gradient, ms", title="Closed form and five steps")
    axis.legend(fontsize=7)


def plot(results: dict, path: Path) -> None:
    """Panels for the sections that were run."""
    panels = []
    if "steps" in results:
        panels.append(lambda axis: plot_ratios(axis, results["steps"], PAIRS, "A training step"))
    if "heads" in results:
        heads = [row for row in results["heads"] if row["splits"] == results["heads"][0]["splits"]]
        panels.append(lambda axis: plot_heads(axis, [r for r in heads if r["C"] == 3], "n", "target rows n"))
        panels.append(lambda axis: plot_heads(axis, [r for r in heads if r["n"] == 64], "C", "classes C"))
    if "forwards" in results:
        pairs = [("two forwards", "one forward")]
        panels.append(lambda axis: plot_ratios(axis, results["forwards"], pairs, "Two forwards or one"))
    figure, axes = pyplot.subplots(-(-len(panels) // 2) or 1, 2, figsize=(16, 5 * (-(-len(panels) // 2) or 1)))
    for axis, draw in zip(axes.flat, panels, strict=False):
        draw(axis)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    if "steps" in results:
        for limit in (TIME_OVER_JOINT, TIME_OVER_BARE):
            axes.flat[0].axvline(limit, color="grey", lw=0.8, ls=":")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    given = [Path(one) for one in sys.argv[1:]]
    for directory in given or sorted(path.parent for path in Path(__file__).parent.glob("results/*/results.json")):
        plot(json.loads((directory / "results.json").read_text()), directory / "speed.png")
