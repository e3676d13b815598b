"""Make and save figures; matplotlib is imported where one is drawn."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import whole_file


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_can_draw(what: str) -> None:
    """Raise an ImportError if matplotlib is missing, before anything is done for what needs figures."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(f"{what} needs matplotlib for its figures: pip install matplotlib.")


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, not by pyplot, which would take over the window system of a program that calls this."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Any, grid: str = "both") -> None:
    """Draw light lines behind the data, and no box around it."""
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as the ending of `path` says, whole or not at all, and the same for the same figure."""
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.suffix.removeprefix(".")
    metadata = {"Software": None} if ending == "png" else {"Date": None, "Creator": None}
    with rc_context({"svg.hashsalt": path.stem}), whole_file(path) as part:
        figure.savefig(part, dpi=150, format=ending, metadata=metadata)
