"""Draw comparisons: scores against labelled rows and against time, and which method beats which."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.figures import new_figure
from ..utils.markdown import figure_text
from .comparisons import Comparison, by_pair
from .plotting import REFERENCE_COLOR, color_map, panels
from .ranks import win_counts


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve_figure(comparisons: Sequence[Comparison]) -> "Figure | None":
    """
    Draw scores against the number of labelled target rows, with bands of one standard deviation over seeds.

    Args:
        comparisons (`Sequence[Comparison]`): a panel for each pair with two numbers of rows at least.

    Returns:
        `None` where there is no such pair.
    """
    pairs = {
        pair: of_pair
        for pair, of_pair in by_pair(comparisons).items()
        if len({comparison.rows for comparison in of_pair}) > 1
    }
    if not pairs:
        return None
    colors = _colors(comparisons)
    figure, all_axes = panels(len(pairs))
    for axes, (pair, of_pair) in zip(all_axes, pairs.items(), strict=False):
        for label, color in colors.items():
            found = [
                (comparison.rows, comparison.methods[label])
                for comparison in of_pair
                if math.isfinite(comparison.gain(label))
            ]
            if not found:
                continue
            rows = [count for count, _ in found]
            means = np.array([method.mean for _, method in found])
            spreads = np.array([method.spread or 0.0 for _, method in found])
            width = 2.2 if color == REFERENCE_COLOR else 1.2
            axes.plot(rows, means, marker="o", markersize=3, label=figure_text(label), color=color, linewidth=width)
            axes.fill_between(rows, means - spreads, means + spreads, color=color, alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        ticks = sorted({comparison.rows for comparison in of_pair})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_title(figure_text(pair), fontsize="medium")
        axes.set_xlabel("labelled target rows")
        axes.set_ylabel(figure_text(of_pair[0].metric))
    _legend(figure, all_axes)
    return figure


def cost_figure(comparisons: Sequence[Comparison]) -> "Figure | None":
    """
    Draw scores against the seconds that training a model took, with one standard deviation over seeds.

    Args:
        comparisons (`Sequence[Comparison]`): a panel for each pair, with its largest number of labelled rows.

    Returns:
        `None` where no times are known.
    """
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    largest = [of_pair[-1] for of_pair in by_pair(comparisons).values()]
    largest = [
        comparison for comparison in largest if any(method.mean_seconds > 0 for method in comparison.methods.values())
    ]
    if not largest:
        return None
    colors = _colors(comparisons)
    figure, all_axes = panels(len(largest))
    for axes, comparison in zip(all_axes, largest, strict=False):
        for label, color in colors.items():
            method = comparison.methods.get(label)
            if method is None or not (math.isfinite(method.mean) and method.mean_seconds > 0):
                continue
            spread = method.spread or 0
            axes.errorbar(method.mean_seconds, method.mean, yerr=spread, fmt="o", color=color, capsize=2)
            axes.annotate(
                figure_text(label),
                (method.mean_seconds, method.mean),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize="x-small",
            )
        axes.margins(x=0.2)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(f"{figure_text(comparison.pair)}, {comparison.rows} rows", fontsize="medium")
        axes.set_xlabel("seconds of training")
        axes.set_ylabel(figure_text(comparison.metric))
    return figure


def win_figure(comparisons: Sequence[Comparison], labels: Sequence[str]) -> "Figure":
    """
    Draw how often the row beats the column, in brackets how often significantly, coloured by the share.

    Args:
        comparisons (`Sequence[Comparison]`): as from [`~merlin_hf.report.read_comparisons`].
        labels (`Sequence[str]`): in the order of the rows and columns.
    """
    wins, significant, counted = win_counts(comparisons, labels)
    size = 1.8 + 0.6 * len(labels)
    figure = new_figure(size + 0.8, size)
    axes = figure.add_subplot()
    shares = np.divide(wins, counted, out=np.full(wins.shape, np.nan), where=counted > 0)
    image = axes.imshow(shares, cmap="RdBu", vmin=0, vmax=1)
    for row, column in np.ndindex(*wins.shape):
        if counted[row, column]:
            color = "white" if abs(shares[row, column] - 0.5) > 0.35 else "black"
            text = f"{wins[row, column]}\n({significant[row, column]})"
            axes.text(column, row, text, ha="center", va="center", fontsize="x-small", color=color)
    names = [figure_text(label) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), names)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of comparisons in which the row beats the column")
    return figure


def _colors(comparisons: Sequence[Comparison]) -> dict[str, str]:
    labels = {label for comparison in comparisons for label in comparison.methods}
    references = {comparison.reference for comparison in comparisons}
    return color_map(labels, references.pop() if len(references) == 1 else None)


def _legend(figure: "Figure", all_axes: Sequence[Any]) -> None:
    """Draw one legend for all panels, of whatever is in any of them."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(len(handles), 3 * min(len(all_axes), 3)),
        frameon=False,
        fontsize="small",
    )
