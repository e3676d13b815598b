"""The results of a comparison as a figure."""

import importlib.util
from pathlib import Path
from typing import Any

from ..utils.files import whole_file
from ..utils.markdown import figure_text


def check_can_draw() -> None:
    """
    Check that the tables can be made in the end, before anything runs.

    Raises:
        ImportError: a package is missing.
    """
    missing = [name for name in ("matplotlib", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"A comparison needs {' and '.join(missing)} for its figure and its tests: pip install {' '.join(missing)}."
        )


def save_figure(summary: dict[str, Any], path: Path) -> None:
    """
    A line for each method, best on top: its mean with one standard deviation, and a dot for each seed.

    Args:
        summary (`dict`): see [`~merlin_hf.comparison.report.summarize`].
        path (`Path`): a PNG file, there whole or not at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = [method for method in summary["methods"] if method["status"] == "ok"]
    # Not by pyplot, which would take over the window system of a program that calls this.
    figure = Figure(figsize=(6.4, 1.2 + 0.4 * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, method in enumerate(reversed(methods)):
        is_reference = method["label"] == summary["reference"]
        color = "#c44e52" if is_reference else "#4c72b0"
        axes.errorbar(method["mean"], place, xerr=method["spread"] or 0, fmt="o", color=color, capsize=3, zorder=3)
        scores = list(method["scores"].values())
        axes.plot(scores, [place] * len(scores), "o", color=color, alpha=0.35, markersize=4, markeredgewidth=0)
    axes.set_yticks(range(len(methods)), [figure_text(method["label"], most=40) for method in reversed(methods)])
    axes.set_ylim(-0.7, len(methods) - 0.3)
    axes.set_xlabel(f"{summary['metric']} on {summary['data']['target']['test_rows']} test rows")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        figure.savefig(part, dpi=150, format="png", metadata={"Software": None})
