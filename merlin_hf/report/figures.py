"""Draw comparisons: scores against labelled rows, and against time."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..comparison.learning_curve import chosen_curves, draw_curves
from ..utils.markdown import figure_text
from .comparisons import Comparison, by_pair
from .plotting import COLORS, REFERENCE_COLOR, panels
from .ranks import mean_ranks


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve_figure(comparisons: Sequence[Comparison]) -> "Figure | None":
    """
    Draw scores against the number of labelled target rows, with 95 % intervals over seeds.

    Five methods at most are drawn, the same in all panels: the reference, and those of the best mean ranks.

    Args:
        comparisons (`Sequence[Comparison]`): a panel for each pair with two numbers of rows at least.

    Returns:
        `None` where there is no such pair.
    """
    pairs = {pair: of_pair for pair, of_pair in by_pair(comparisons).items() if len({one.rows for one in of_pair}) > 1}
    if not pairs:
        return None
    labels = dict.fromkeys([*mean_ranks(comparisons), *(label for one in comparisons for label in one.methods)])
    curves = {
        label: {
            pair: [(one.rows, list(one.methods[label].scores.values())) for one in of_pair if one.has(label)]
            for pair, of_pair in pairs.items()
        }
        for label in labels
    }
    drawn = {label: of_pairs for label, of_pairs in curves.items() if any(of_pairs.values())}
    chosen = chosen_curves(drawn, comparisons[0].reference)
    figure, all_axes = panels(len(pairs))
    for axes, (pair, of_pair) in zip(all_axes, pairs.items(), strict=False):
        draw_curves(axes, {label: drawn[label][pair] for label in chosen}, of_pair[0].metric)
        axes.set_title(figure_text(pair), fontsize="medium")
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
    largest = [one for one in largest if any(method.mean_seconds > 0 for method in one.methods.values())]
    if not largest:
        return None
    figure, all_axes = panels(len(largest))
    for axes, comparison in zip(all_axes, largest, strict=False):
        for label, method in comparison.methods.items():
            if not (math.isfinite(method.mean) and method.mean_seconds > 0):
                continue
            color = REFERENCE_COLOR if label == comparison.reference else COLORS[0]
            at = (method.mean_seconds, method.mean)
            axes.errorbar(*at, yerr=method.spread or 0, fmt="o", color=color, capsize=2)
            axes.annotate(figure_text(label), at, xytext=(4, 3), textcoords="offset points", fontsize="x-small")
        axes.margins(x=0.2)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(f"{figure_text(comparison.pair)}, {comparison.rows} rows", fontsize="medium")
        axes.set_xlabel("seconds of training (log scale)")
        axes.set_ylabel(f"{figure_text(comparison.metric)} (bars: 1 SD)")
    return figure


def _legend(figure: "Figure", all_axes: Sequence[Any]) -> None:
    """Draw one legend for all panels, of whatever is in any of them."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = min(len(handles), 3 * min(len(all_axes), 3))
    where = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": "small"}
    figure.legend(list(handles.values()), list(handles), **where)
