"""A report as one HTML file: figures inside, tables that sort, and nothing that is fetched from anywhere."""

import base64
import hashlib
import io
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from ..utils.markdown import visible
from .blocks import Block, Cell, Heading, Items, Table, Text


if TYPE_CHECKING:
    from matplotlib.figure import Figure


STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --soft: #f3f5f7; --accent: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --line: #3b424b; --soft: #1d232b; --accent: #79b8ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3, p, li { overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .75rem; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
p, ul { max-width: 48rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { background: var(--soft); }
th:first-child, td:first-child { text-align: left; }
tr > :first-child { position: sticky; left: 0; background: var(--soft); }
tbody tr:hover td { background: var(--soft); }
th button { all: unset; cursor: pointer; color: var(--accent); }
th button:focus-visible { outline: 2px solid; }
th button::after { content: " \\2195"; opacity: .5; }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
code { font-size: .9em; background: var(--soft); padding: .1em .3em; }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; background: #fff; padding: .5rem; border: 1px solid var(--line); }
figcaption { font-size: .9rem; margin-top: .4rem; }
@media (max-width: 640px) { figure img { max-width: none; } }
"""

# Numbers come before words, empty cells last. A number is what the cell begins with.
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const down = head.ariaSort ? head.ariaSort !== "descending" : column > 0;
    heads.forEach(other => { other.ariaSort = null; });
    head.ariaSort = down ? "descending" : "ascending";
    const keys = new Map([...table.tBodies[0].rows].map(row => {
      const text = row.cells[column].textContent, number = parseFloat(text.replaceAll(",", ""));
      return [row, text === "" ? [2, ""] : Number.isNaN(number) ? [1, text] : [0, number]];
    }));
    const order = (a, b) => a < b ? -1 : a > b ? 1 : 0;
    const rows = [...keys.keys()].sort((one, other) => {
      const a = keys.get(one), b = keys.get(other);
      return a[0] - b[0] || (down ? -1 : 1) * order(a[1], b[1]);
    });
    table.tBodies[0].append(...rows);
  }));
}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; {policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


def to_html(blocks: Iterable[Block], title: str = "Report") -> str:
    """
    Return a report as one HTML file, which a browser opens from a disk and which requests nothing.

    All texts are escaped, and the page allows no other script and style than its own.

    Args:
        blocks (`Iterable[Block]`): the report.
        title (`str`): of the page.
    """
    policy = f"style-src '{_digest(STYLE)}'; script-src '{_digest(SCRIPT)}'"
    body = "\n".join(map(_html, blocks))
    return PAGE.format(title=_text(title), policy=policy, style=STYLE, script=SCRIPT, body=body)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _text(value: Any) -> str:
    return escape(visible(value))


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_text(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_text(block.text)}</p>"
    if isinstance(block, Items):
        names = [f"<code>{_text(one.code)}</code>" if one.code else "" for one in block.items]
        texts = [
            ": ".join(filter(None, (name, _text(one.text)))) for name, one in zip(names, block.items, strict=True)
        ]
        return f"<ul>{''.join(f'<li>{text}</li>' for text in texts)}</ul>"
    if isinstance(block, Table):
        head = "".join(f'<th scope="col"><button>{_text(heading)}</button></th>' for heading in block.headings)
        rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in block.rows)
        return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    title = _text(block.title)
    source = f"data:image/svg+xml;base64,{base64.b64encode(_svg(block.figure)).decode()}"
    return (
        f'<figure><div class="wide"><img alt="{title}" src="{source}"></div><figcaption>{title}.</figcaption></figure>'
    )


def _cell(value: Any) -> str:
    if not isinstance(value, Cell):
        return f"<td>{_text(value)}</td>"
    text = _text(value.text)
    return f"<td>{f'<strong>{text}</strong>' if value.is_best else text}{_text(value.mark)}</td>"


def _svg(figure: "Figure") -> bytes:
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "merlin_hf"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
