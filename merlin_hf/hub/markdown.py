"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table, empty where it has no rows; nothing in a cell can break out of it."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(map(cell, header))} |", f"|{' --- |' * len(header)}", *lines])


def cell(value: Any) -> str:
    """A value on one line, with what tables and HTML would read otherwise escaped."""
    text = " ".join(("" if value is None else str(value)).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
