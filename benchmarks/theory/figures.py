"""The figures; `python benchmarks/theory/figures.py` draws them again from the cells."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np


matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import NullFormatter  # noqa: E402


HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from methods import METHODS  # noqa: E402
from report import Cells, closer_look, describe, load, row_counts, settings_in  # noqa: E402


FLOOR = 1e-4  # errors below it are drawn on it
PENALTY_ROWS = (20, 40)
# Okabe and Ito's colours.
STYLES = {
    "target_only": ("#555555", "-"),
    "linear_head": ("#e69f00", "-"),
    "linear_head_to_the_end": ("#e69f00", "--"),
    "fine_tune": ("#009e73", "-"),
    "joint": ("#0072b2", "-"),
    "merlin": ("#d55e00", "-"),
}
SHOWN = ("target_only", "linear_head", "linear_head_to_the_end", "joint", "merlin")  # of all that are in the table
PARTS = {"transferable": ("x₁x₂", "#0072b2"), "specific": ("x₃x₄", "#d55e00"), "rest": ("all others", "lightgray")}
FORMS = [
    ("linear_head", "source"),
    ("linear_head_to_the_end", "source"),
    ("fine_tune", "target"),
    ("joint", "target"),
    ("merlin", "target"),
]


def numbers(values: list) -> np.ndarray:
    """As an array, with what diverged as infinity."""
    return np.array([np.inf if value is None else value for value in values], dtype=float)


def draw_errors(cells: Cells, path: Path) -> None:
    """Test error against target rows: medians, with quartiles as bands, which broken lines have fainter."""
    settings = settings_in(cells)
    ratios = [8 + len(row_counts(cells, setting)) for setting in settings]
    figure, axes = pyplot.subplots(
        1, len(settings), figsize=(8, 4), squeeze=False, width_ratios=ratios, sharey=True, layout="constrained"
    )
    for axis, setting in zip(axes[0], settings, strict=True):
        for name in SHOWN:
            rows = [count for count in row_counts(cells, setting) if (setting, name, count) in cells]
            errors = [numbers(cells[setting, name, count]["results"]["test_error"]) for count in rows]
            if not rows:
                continue
            lower, median, upper = np.clip(
                np.array([np.percentile(one, [25, 50, 75]) for one in errors]).T, FLOOR, 1e3
            )
            colour, line = STYLES[name]
            axis.plot(rows, median, line, color=colour, marker="o", ms=3, label=METHODS[name].label)
            axis.fill_between(rows, lower, upper, color=colour, alpha=0.13 if line == "-" else 0.05, lw=0)
        axis.set(xscale="log", yscale="log", xlabel="target rows")
        axis.set_title(describe(setting).replace(", noise", ",\nnoise").replace(" (s", "\n(s"), fontsize=9)
        axis.set_xticks(row_counts(cells, setting), map(str, row_counts(cells, setting)))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.axhline(1, color="black", lw=0.5)
        axis.set_ylim(FLOOR / 1.3, 10)
    axes[0, 0].set_ylabel("mean squared error")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_forms(cells: Cells, path: Path) -> None:
    """Bars of what each form consists of, and a dot for every seed."""
    settings = settings_in(cells)
    figure, axes = pyplot.subplots(len(settings), 1, figsize=(8, 3 * len(settings)), squeeze=False)
    for axis, setting in zip(axes[:, 0], settings, strict=True):
        rows = closer_look(cells, setting)
        forms = [(name, task) for name, task in FORMS if (setting, name, rows) in cells]
        for offset, (part, (label, colour)) in enumerate(PARTS.items()):
            for place, (name, task) in enumerate(forms):
                values = numbers(cells[setting, name, rows]["results"][f"{task}_{part}"])
                place = place + 0.27 * (offset - 1)
                axis.bar(place, values.mean(), 0.25, color=colour, label=label if name == forms[0][0] else None)
                jitter = np.linspace(-0.08, 0.08, len(values))
                axis.plot(place + jitter, values, "o", ms=2.5, color="black", alpha=0.6)
        labels = [f"{METHODS[name].label}\n{task}'s form" for name, task in forms]
        labels = [label.replace(", linear head\n", ",\n").replace(", fine-tune", ",\nfine-tune") for label in labels]
        axis.set_xticks(range(len(forms)), labels, fontsize=8)
        axis.axhline(1, color="black", lw=0.5, ls=":")
        axis.set(ylabel="coefficient", title=f"{rows} target rows; {describe(setting)}")
        axis.set_ylim(-0.25, 1.45)
        axis.legend(fontsize=8, loc="upper left", ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_pretraining(cells: Cells, path: Path) -> None:
    """The source form's two coefficients while pre-training goes on, a line for every seed."""
    found = [(one[0], cells[one, "pretraining", 0]) for one in settings_in(cells) if (one, "pretraining", 0) in cells]
    if not found:
        return
    decays = found[0][1]["decays"]
    shown = (0, len(decays) - 1)  # the smallest and the largest penalty
    figure, axes = pyplot.subplots(
        len(found), len(shown), figsize=(8, 2.6 * len(found)), sharex=True, sharey=True, squeeze=False
    )
    for line, (ease, cell) in zip(axes, found, strict=True):
        for axis, position in zip(line, shown, strict=True):
            for part in ("transferable", "specific"):
                label, colour = PARTS[part]
                curves = np.array(cell[part], dtype=float)[:, :, position]
                axis.semilogx(cell["marks"], curves, color=colour, lw=0.8, alpha=0.7)
                axis.plot([], [], color=colour, label=label)
            axis.set_title(f"s = {ease:g}, penalty {decays[position]:g}", fontsize=9)
        line[0].set_ylabel("coefficient")
        line[0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("steps of pre-training")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def by_penalty(cell: dict) -> dict[float, np.ndarray]:
    """For each penalty, the mean test error over the seeds under each of the method's other settings."""
    means = np.array([numbers(seed) for seed in cell["test_error_of_configurations"]]).mean(0)
    penalties = [one["decay"] for one in cell["configurations"]]
    return {value: means[[other == value for other in penalties]] for value in sorted(set(penalties))}


def draw_penalties(cells: Cells, path: Path) -> None:
    """Test error against the penalty on the weights; bands reach over the methods' other settings."""
    settings = [one for one in settings_in(cells) if set(PENALTY_ROWS) & set(row_counts(cells, one))]
    if not settings:
        return
    size = (8, 2.4 * len(settings))
    figure, axes = pyplot.subplots(len(settings), len(PENALTY_ROWS), figsize=size, squeeze=False, sharey=True)
    for line, setting in zip(axes, settings, strict=True):
        for axis, rows in zip(line, PENALTY_ROWS, strict=True):
            axis.set_visible(rows in row_counts(cells, setting))
            for name in ("target_only", "fine_tune", "joint", "merlin"):
                if (setting, name, rows) not in cells:
                    continue
                found = by_penalty(cells[setting, name, rows])
                least, most = (
                    np.clip([pick(errors) for errors in found.values()], FLOOR, 10) for pick in (np.min, np.max)
                )
                colour, style = STYLES[name]
                axis.plot(list(found), least, style, color=colour, marker="o", ms=3, label=METHODS[name].label)
                axis.fill_between(list(found), least, most, color=colour, alpha=0.12, lw=0)
            axis.set(xscale="log", yscale="log", title=f"s = {setting[0]:g}, noise {setting[1]:g}, {rows} target rows")
        line[0].set_ylabel("mean test error")
    for axis in axes[-1]:
        axis.set_xlabel("penalty on the weights")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw(cells: Cells, output: Path) -> None:
    """All figures."""
    draw_errors(cells, output / "test_error.png")
    draw_forms(cells, output / "forms.png")
    draw_pretraining(cells, output / "pretraining.png")
    draw_penalties(cells, output / "penalties.png")


if __name__ == "__main__":
    draw(load(HERE / "results"), HERE / "results")
