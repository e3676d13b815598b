"""Show tables as Markdown, as plain text, and by rich in a terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

from .markdown import cell, visible


def shown(value: Any, missing: str = "-") -> str:
    """Return a value as tables show it, on one line: numbers with four digits, `missing` for `None`."""
    if value is None:
        return missing
    return f"{value:.4g}" if isinstance(value, float) else visible(value)


def markdown_table(headings: Sequence[Any], rows: Iterable[Sequence[Any]], align: str | None = "right") -> str:
    """
    Return a Markdown table; empty text where there are no rows. All cells but `Markdown` are escaped.

    `align` says where the columns after the first stand, `"right"` or `"left"`, in the source as well; `None` leaves
    that to the reader, for cells that may be long.
    """
    cells = [[cell(value) for value in row] for row in (headings, *rows)]
    if len(cells) < 2:
        return ""
    if align is None:
        widths = [3] * len(headings)
    else:
        widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
        cells = [_aligned(row, widths, align) for row in cells]
    right = align == "right"
    rule = ["-" * (width - 1) + ":" if right and place else "-" * width for place, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))


def plain_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return columns divided by two spaces, the first one left-aligned, the others right-aligned."""
    cells = [[visible(heading) for heading in headings], *([shown(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]]) + "\n"


def _aligned(row: Sequence[str], widths: Sequence[int], align: str = "right") -> list[str]:
    return [
        text.rjust(width) if align == "right" and place else text.ljust(width)
        for place, (text, width) in enumerate(zip(row, widths, strict=True))
    ]


def show_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], stream: Any, title: str | None = None) -> None:
    """Print a table: by rich where `stream` is a terminal and rich is installed, else plain."""
    try:
        if not stream.isatty():
            raise ImportError
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        stream.write((f"{visible(title)}\n" if title else "") + plain_table(headings, rows))
        return
    table = Table(title=title and Text(visible(title)), title_justify="left")
    for column, heading in enumerate(headings):
        table.add_column(
            Text(visible(heading)), justify="right" if column else "left", style=None if column else "bold"
        )
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))  # as text: names may hold what rich reads as markup
    Console(file=stream).print(table)
