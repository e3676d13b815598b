"""Which methods cannot be told apart over pairs: Wilcoxon tests with Holm's correction."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..comparison.statistics import holm
from ..utils.markdown import figure_text
from .canvas import new_figure
from .comparisons import Comparison, by_pair
from .ranks import LEAST_PAIRS, SIGNIFICANCE, complete_methods, mean_ranks


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def wilcoxon_holm(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], float]:
    """
    Wilcoxon's signed-rank test for each two methods, over pairs, with Holm's correction over the tests.

    A pair counts once, by the mean over its numbers of rows of the difference of the two means over seeds.

    Returns:
        `dict`: corrected p by the two labels, the better mean rank first; 1 for methods that are equal everywhere.
    """
    from scipy.stats import wilcoxon

    ordered = list(mean_ranks(comparisons))
    gains = np.array(
        [
            np.mean([[comparison.gain(label) for label in ordered] for comparison in of_pair], axis=0)
            for of_pair in by_pair(comparisons).values()
        ]
    )
    couples = list(itertools.combinations(range(len(ordered)), 2))
    p_values = []
    for one, other in couples:
        differences = gains[:, one] - gains[:, other]
        p_values.append(float(wilcoxon(differences).pvalue) if differences.any() else 1.0)
    return {
        (ordered[one], ordered[other]): p
        for (one, other), p in zip(couples, holm(p_values), strict=True)
        if p is not None
    }


def groups(ordered: Sequence[str], p_values: dict[tuple[str, str], float]) -> list[tuple[int, int]]:
    """
    The longest runs of methods, in the order of their ranks, of which no two differ significantly.

    Args:
        ordered (`Sequence[str]`): labels, best first.
        p_values (`dict`): by two labels in that order.

    Returns:
        `list[tuple[int, int]]`: the first and the last place of each run of two methods or more.
    """
    found: list[tuple[int, int]] = []
    for first in range(len(ordered)):
        last = first
        while last + 1 < len(ordered) and all(
            p_values[ordered[place], ordered[last + 1]] >= SIGNIFICANCE for place in range(first, last + 1)
        ):
            last += 1
        if last > first and not any(last <= end for _, end in found):
            found.append((first, last))
    return found


def can_draw(comparisons: Sequence[Comparison]) -> bool:
    """Whether there are enough pairs, and two methods at least."""
    return len(by_pair(comparisons)) >= LEAST_PAIRS and len(complete_methods(comparisons)) > 1


def critical_difference_figure(comparisons: Sequence[Comparison]) -> "Figure":
    """
    Methods by their mean rank over pairs; a bar joins those of which no two differ significantly.

    Args:
        comparisons (`Sequence[Comparison]`): of at least five pairs.

    Raises:
        ValueError: there are fewer pairs, or not two methods with a score in all comparisons.
    """
    if not can_draw(comparisons):
        raise ValueError(
            f"A critical-difference figure needs {LEAST_PAIRS} pairs and two methods with scores in all comparisons, got "
            f"{len(by_pair(comparisons))} pairs and {len(complete_methods(comparisons))} methods."
        )
    ranks = mean_ranks(comparisons)
    ordered, places = list(ranks), list(ranks.values())
    bars = groups(ordered, wilcoxon_holm(comparisons))
    half = (len(ordered) + 1) // 2
    figure = new_figure(8, 1.3 + 0.32 * half + 0.16 * len(bars))
    axes = figure.add_subplot()
    top = 0.6 + 0.35 * len(bars)
    for number, (first, last) in enumerate(bars):
        height = -0.35 * (number + 1)
        axes.plot([places[first] - 0.04, places[last] + 0.04], [height, height], color="black", linewidth=4)
    low, high = 1, len(ordered)
    for place, (label, rank) in enumerate(ranks.items()):
        is_left = place < half
        row = place if is_left else len(ordered) - 1 - place
        height = -top - 0.6 * row
        end = low - 0.15 if is_left else high + 0.15
        axes.plot([rank, rank, end], [0, height, height], color="#555555", linewidth=0.8)
        side = "right" if is_left else "left"
        axes.text(end + (-0.05 if is_left else 0.05), height, f"{figure_text(label)} {rank:.2f}", ha=side, va="center")
    axes.plot([low, high], [0, 0], color="black", linewidth=1)
    for tick in range(low, high + 1):
        axes.plot([tick, tick], [0, 0.15], color="black", linewidth=1)
        axes.text(tick, 0.25, str(tick), ha="center", va="bottom", fontsize="small")
    margin = 0.35 * (high - low) + 0.5
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(-top - 0.6 * half, 1.0)
    axes.set_axis_off()
    axes.set_title(f"mean rank over {len(by_pair(comparisons))} pairs, 1 is best", fontsize="medium")
    return figure
