"""Confusion matrices: which classes are taken for which."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import confusion_matrix as count

from ..utils.figures import new_figure
from ..utils.markdown import figure_text


if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_NUMBERS = 15  # classes with whose names and counts the figure is still readable


def confusion_matrix(references: Any, predictions: Any, num_labels: int) -> np.ndarray:
    """
    Count rows by their class and the class that they are taken for.

    Args:
        references, predictions (array of shape `(n,)`): class ids in `[0, num_labels)`.
        num_labels (`int`): how many classes there are.

    Returns:
        `np.ndarray` of shape `(num_labels, num_labels)`: row i, column j has the rows of class i taken for class j.

    Raises:
        ValueError: an id is outside of the range.
    """
    references, predictions = np.asarray(references), np.asarray(predictions)
    for name, ids in (("references", references), ("predictions", predictions)):
        if ids.size and not (0 <= ids.min() and ids.max() < num_labels):
            raise ValueError(f"`{name}` must be ids from 0 to {num_labels - 1}, got {ids.min()} to {ids.max()}.")
    if not references.size:
        return np.zeros((num_labels, num_labels), dtype=np.int64)
    return count(references, predictions, labels=range(num_labels))


def confusion_figure(matrix: np.ndarray, names: Sequence[str]) -> "Figure":
    """
    Draw the matrix with counts, coloured by the share of each class's rows.

    Args:
        matrix (`np.ndarray` of shape `(num_labels, num_labels)`): as from [`confusion_matrix`].
        names (`Sequence[str]`): of the classes.

    Raises:
        ValueError: there are not as many names as classes.
    """
    if len(names) != len(matrix):
        raise ValueError(f"`names` must be one for each of {len(matrix)} classes, got {len(names)}.")
    size = 2.4 + 0.42 * min(len(names), MOST_NUMBERS)
    figure = new_figure(size + 0.9, size)
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class's rows", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("class")
    if len(names) <= MOST_NUMBERS:
        names = [figure_text(name, most=30) for name in names]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        for row, column in np.ndindex(*matrix.shape):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", color=color, fontsize="small")
    return figure
