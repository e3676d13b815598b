"""Colours, panels and formats of the figures in reports."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.figures import new_figure, tidy, write_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure


REFERENCE_COLOR = "#c44e52"
PANEL = (4.2, 3.2)  # inches
PANELS_A_ROW = 3
MOST_PANELS = 60  # more would make a figure that no program shows
FORMATS = ("png", "svg")
# Of lines and dots; those of the reference are red.
COLORS = (
    "#4c72b0", "#55a868", "#8172b3", "#ccb974", "#64b5cd", "#8c8c8c", "#dd8452", "#937860", "#da8bc3", "#2f6f4f",
    "#1f3b70", "#a3a500", "#00868b", "#5e4fa2", "#b07aa1", "#444444",
)  # fmt: skip


def panels(count: int) -> tuple["Figure", list[Any]]:
    """Return a figure with so many axes, three in a row; at most [`MOST_PANELS`], and then with a title."""
    whole, count = count, min(count, MOST_PANELS)
    columns = min(count, PANELS_A_ROW)
    rows = math.ceil(count / columns)
    figure = new_figure(PANEL[0] * max(columns, 1.4), PANEL[1] * rows + 0.6)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    for one in axes[:count]:
        tidy(one)
    if whole > count:
        figure.suptitle(f"the first {count} of {whole}", fontsize="medium")
    return figure, axes[:count]


def save(figure: "Figure", folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[str]:
    """Write a figure in several formats; return the names of the files."""
    names = [f"{name}.{ending}" for ending in formats]
    for file in names:
        write_figure(figure, folder / file)
    return names
