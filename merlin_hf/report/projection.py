"""Draw the target's features in two dimensions, before and after training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.decomposition import PCA

from ..utils.markdown import figure_text
from .plotting import COLORS, panels


if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_NAMES = 12  # classes in the legend


def principal_components(features: np.ndarray, dimensions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """
    Project rows on the directions in which they vary most.

    Args:
        features (`np.ndarray` of shape `(n, hidden_size)`): with at least two rows.
        dimensions (`int`): how many directions.

    Returns:
        the projected rows `(n, dimensions)`, with zeros where there are fewer directions, and the share of the
        variance that each direction has, `(dimensions,)`. The sign of a direction is such that its largest coefficient
        is positive.

    Raises:
        ValueError: there are fewer than two rows.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"`features` must be of shape (n, hidden_size) with n of at least 2, got {features.shape}.")
    pca = PCA(min(dimensions, *features.shape), svd_solver="full")
    with np.errstate(invalid="ignore"):  # rows that are all equal
        projected = pca.fit_transform(features)
    missing = (0, dimensions - projected.shape[1])
    shares = np.nan_to_num(pca.explained_variance_ratio_)
    return np.pad(projected, ((0, 0), missing)), np.pad(shares, missing)


def projection_figure(features: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str] | None) -> "Figure":
    """
    Draw a panel for each set of features, by the two directions in which each of them varies most.

    Args:
        features (`Mapping[str, np.ndarray]`): from titles, such as `"before training"`, to arrays `(n, hidden_size)`
            of the same rows.
        labels (`np.ndarray` of shape `(n,)`): class ids, or real numbers where `names` is `None`.
        names (`Sequence[str]`, *optional*): of the classes.

    Raises:
        ValueError: there are not as many labels as rows.
    """
    labels = np.asarray(labels)
    figure, all_axes = panels(len(features))
    for axes, (title, rows) in zip(all_axes, features.items(), strict=True):
        if len(rows) != len(labels):
            raise ValueError(f"`labels` must be one for each of {len(rows)} rows, got {len(labels)}.")
        points, shares = principal_components(rows)
        if names is None:
            dots = axes.scatter(*points.T, c=labels, cmap="viridis", s=10, alpha=0.8, linewidths=0)
        for number, name in enumerate(names or ()):
            chosen = points[labels == number]
            axes.scatter(
                *chosen.T,
                color=COLORS[number % len(COLORS)],
                s=10,
                alpha=0.7,
                linewidths=0,
                label=figure_text(name, most=30),
            )
        axes.set_title(figure_text(title), fontsize="medium")
        axes.set_xlabel(f"first component ({shares[0]:.0%} of the variance)", fontsize="small")
        axes.set_ylabel(f"second component ({shares[1]:.0%})", fontsize="small")
    if names is None:
        figure.colorbar(dots, ax=all_axes, label="label")
    elif len(names) <= MOST_NAMES:
        handles, shown = all_axes[0].get_legend_handles_labels()
        figure.legend(
            handles, shown, loc="outside lower center", ncols=min(len(names), 6), frameon=False, fontsize="small"
        )
    return figure
