"""Draw how often a model is right against how sure it is."""

from typing import TYPE_CHECKING

import numpy as np

from ..utils.figures import new_figure, tidy
from ..utils.probabilities import Reliability
from .plotting import COLORS, REFERENCE_COLOR


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_figure(found: Reliability) -> "Figure":
    """
    Draw a reliability diagram: accuracy against confidence, above the share of rows in each bin.

    Bars below the diagonal are of rows of which the model is too sure (Guo et al., 2017, arXiv 1706.04599).
    """
    figure = new_figure(4.2, 4.6)
    axes, shares = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = len(found.counts)
    edges = np.arange(bins) / bins
    is_there = found.counts > 0
    axes.bar(edges[is_there], found.accuracy[is_there], 1 / bins, align="edge", color=COLORS[0], edgecolor="white")
    axes.plot([0, 1], [0, 1], color="#8c8c8c", linestyle="--", linewidth=1)
    axes.plot(found.confidence[is_there], found.accuracy[is_there], "o", color=REFERENCE_COLOR, markersize=4)
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy")
    axes.set_title(f"calibration error {found.error:.3f}", fontsize="medium")
    shares.bar(edges, found.counts / max(found.counts.sum(), 1), 1 / bins, align="edge", color=COLORS[5])
    shares.set_xlim(0, 1)
    shares.set_xlabel("confidence: the probability of the label that is given")
    shares.set_ylabel("share of rows")
    for one in (axes, shares):
        tidy(one)
    return figure
