"""A report as a list of blocks, and how they are written as Markdown with files of figures."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..utils.files import write_text
from ..utils.markdown import Markdown, cell, code, escape
from ..utils.tables import markdown_table
from .plotting import save


if TYPE_CHECKING:
    from matplotlib.figure import Figure


RESULTS = "results.md"


class Heading(NamedTuple):
    """A heading: its text, which is plain, as all texts of blocks are, and its level."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Item(NamedTuple):
    """An item of a list: a name that is shown as code, and a text."""

    code: str = ""
    text: str = ""


class Items(NamedTuple):
    """A list."""

    items: list[Item]


class Cell(NamedTuple):
    """A cell of a table that stands out, or has a mark."""

    text: str
    is_best: bool = False
    mark: str = ""


class Table(NamedTuple):
    """A table; its cells are [`Cell`], or values that are shown as they are."""

    headings: Sequence[Any]
    rows: Sequence[Sequence[Any]]


class Picture(NamedTuple):
    """A figure with its title and the name of its files."""

    name: str
    title: str
    figure: "Figure"


Block = Heading | Text | Items | Table | Picture


def to_markdown(blocks: Iterable[Block], comment: str = "", with_pictures: bool = True) -> str:
    """Return a report as Markdown, below a comment, with links to the files of the figures or without."""
    parts = [_markdown(one) for one in blocks if with_pictures or not isinstance(one, Picture)]
    return "\n\n".join(filter(None, [comment and f"<!-- {comment} -->", *parts])) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {escape(block.text)}"
    if isinstance(block, Text):
        return escape(block.text).replace("&lt; ", "< ")  # no tag, as in p < 0.05
    if isinstance(block, Items):
        return "\n".join(f"- {': '.join(filter(None, (code(one.code), escape(one.text))))}" for one in block.items)
    if isinstance(block, Table):
        return markdown_table(block.headings, [[_cell(value) for value in row] for row in block.rows])
    return f"![{block.title}]({block.name}.png)\n\n{block.title} ([SVG]({block.name}.svg))."


def _cell(value: Any) -> Any:
    if not isinstance(value, Cell):
        return value
    text = f"**{cell(value.text)}**" if value.is_best else cell(value.text)
    return Markdown(text + cell(value.mark))


def write_blocks(blocks: Sequence[Block], folder: Path, comment: str) -> Iterator[str]:
    """Write `results.md` and the figures, as PNG and SVG, into a folder; yield the names of the files."""
    yield RESULTS
    for block in blocks:
        if isinstance(block, Picture):
            yield from save(block.figure, folder, block.name)
    write_text(folder / RESULTS, to_markdown(blocks, comment))
