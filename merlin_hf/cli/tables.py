"""Results as tables: by rich in a terminal, plain text in a pipe."""

from collections.abc import Sequence
from typing import Any

from ..utils.markdown import visible


def shown(value: Any) -> str:
    """A value as tables show it."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else visible(value)


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """
    Columns divided by two spaces, the first one left-aligned, the others right-aligned.

    Args:
        headings (`Sequence[str]`).
        rows (`Sequence[Sequence]`): as many values each as there are headings.
    """
    cells = [list(map(visible, headings)), *([shown(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines) + "\n"


def show_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], stream: Any, title: str | None = None) -> None:
    """
    Print a table: by rich where `stream` is a terminal and rich is installed, else plain.

    Args:
        headings, rows: as for [`plain_table`].
        stream: a text file, such as `sys.stdout`.
        title (`str`, *optional*): a line above it.
    """
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
