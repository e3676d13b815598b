"""A ranking of sources as a table."""

from typing import Any

from ..utils.files import short_path, short_paths
from ..utils.markdown import visible
from .results import MEASURES, SourceRanking, SourceScore


HEADINGS = ("source", "mean rank", *MEASURES.values(), "rows", "classes", "seconds")
DECIMALS = {"alignment": 3, "logme": 4, "h_score": 4, "leep": 4}


def table(ranking: SourceRanking) -> str:
    """The table and what to know about it as plain text, the same in every terminal."""
    cells = [list(HEADINGS), *rows(ranking)]
    cells = [list(map(visible, row)) for row in cells]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *legend(ranking)]) + "\n"


def show(ranking: SourceRanking, stream: Any) -> None:
    """Print the table: with rich in a terminal where it is installed, plain elsewhere."""
    try:
        if not stream.isatty():
            raise ImportError
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        stream.write(table(ranking))
        return
    shown = Table(
        title=Text(f"Sources for {visible(short_path(ranking.target))}, the best first"), title_justify="left"
    )
    for number, heading in enumerate(HEADINGS):
        shown.add_column(heading, justify="right" if number else "left", style="bold" if number < 2 else None)
    for number, row in enumerate(rows(ranking)):
        shown.add_row(
            *(Text(visible(text)) for text in row), style="green" if number == 0 and len(ranking.sources) > 1 else None
        )
    console = Console(file=stream)
    console.print(shown)
    for line in legend(ranking):
        console.print(line, markup=False, highlight=False, style="yellow" if line.startswith("Warning") else "dim")


def rows(ranking: SourceRanking) -> list[list[str]]:
    """Return the cells of each source, whose names have no folder of this machine where they stay different without."""
    short = [short_path(score.name) for score in ranking.sources]
    return [
        [
            short[place] if short.count(short[place]) == 1 else score.name,
            f"{score.mean_rank:.2f}",
            *(_measured(score, name) for name in MEASURES),
            str(score.rows),
            str(score.num_labels) if score.num_labels > 1 else "real",
            f"{score.seconds:.0f}",
        ]
        for place, score in enumerate(ranking.sources)
    ]


def _measured(score: SourceScore, name: str) -> str:
    mean, spread = score.mean(name), score.spread(name)
    if mean is None:
        return "-"
    text = f"{mean:+.{DECIMALS[name]}f}"
    text += f" ± {spread:.{DECIMALS[name]}f}" if spread is not None else ""
    return text + (f" ({score.ranks[name]:g})" if name in score.ranks else "")


def legend(ranking: SourceRanking) -> list[str]:
    """What the numbers are, and what not to read into them."""
    seeds = ranking.settings["seeds"]
    spread = (
        f"over {len(seeds)} draws of rows"
        if len(seeds) > 1
        else "of the alignment over splits of the same rows (one seed)"
    )
    lines = [
        f"Target: {visible(short_path(ranking.target))}, {ranking.target_rows} rows, {ranking.target_seconds:.0f} s. Higher is better; ranks in "
        f"brackets; ± is the sample standard deviation {spread}.",
        "alignment: cosine of the source's gradient with that of the target's meta loss; where it is not clearly above 0, a "
        "first step on the source does not lower that loss. The others: how well a head of the source's, on the pretrained "
        "features, tells the target's labels; blind to what the source would teach the backbone.",
    ]
    nothing = ", ".join(f"{MEASURES[name]} {ranking.baseline(name):+.{DECIMALS[name]}f}" for name in ranking.measures)
    lines.append(f"A source that says nothing has {nothing}.")
    left_out = [label for name, label in MEASURES.items() if name not in ranking.measures]
    if left_out:
        lines.append(f"Not ranked by {', '.join(left_out)}, not defined for labels that are real numbers.")
    return lines + [f"Warning: {visible(short_paths(warning))}" for warning in ranking.warnings]
