"""
Make tables and figures from result files.

Of a training run its curves, its confusion matrix and its features before and after; of comparisons the tables, ranks,
wins, learning curves and costs. Figures are `matplotlib.figure.Figure` objects, made without pyplot.
"""

from .comparisons import Comparison, MethodScores, read_comparisons
from .confusion import confusion_figure, confusion_matrix
from .curves import training_curves
from .figures import cost_figure, learning_curve_figure
from .html import to_html
from .projection import principal_components, projection_figure
from .ranks import average_ranks, mean_ranks, win_counts
from .write import write_report


__all__ = [
    "Comparison",
    "MethodScores",
    "average_ranks",
    "confusion_figure",
    "confusion_matrix",
    "cost_figure",
    "learning_curve_figure",
    "mean_ranks",
    "principal_components",
    "projection_figure",
    "read_comparisons",
    "to_html",
    "training_curves",
    "win_counts",
    "write_report",
]
