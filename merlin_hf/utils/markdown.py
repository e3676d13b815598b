"""
Write text of others as text: in Markdown, in figures and in a terminal.

Names of data sets, labels of classes and methods, notes and messages of errors come with data or from users. They may
hold line breaks, HTML, links, control characters and whatever else a reader of the text would take for markup.
"""

import re
import unicodedata
from typing import Any


# Characters without a shape of their own that change how others are read: direction marks and overrides, zero widths.
INVISIBLE = frozenset(
    "\u061c\u200b\u200e\u200f\u2060\ufeff" + "".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
)
# Cc: control, Cs: half of a pair that UTF-8 cannot write, Zl and Zp: line breaks.
UNPRINTABLE = frozenset(["Cc", "Cs", "Zl", "Zp"])
# Signs that mean something wherever they stand; an underscore between letters or digits does not.
INLINE = re.compile(r"[\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_])")
# Signs that mean something where a line begins: headings, lists, quotes, rules, the line below a heading or the head
# of a table.
BLOCK = re.compile(r"(#|>|[-+](?=\s|$)|(?=[-=: |]+$)[-=:|])|(\d{1,9})([.)](?=\s|$))")


class Markdown(str):
    """Text that is Markdown already: [`escape`] and tables leave it as it is."""


def visible(value: Any, keep_lines: bool = False) -> str:
    r"""
    Return a value as text that a terminal shows as it is.

    Args:
        value: `None` is empty text.
        keep_lines (`bool`): keep line breaks and tabs; else all white space becomes single spaces.

    Returns:
        `str`: with escapes, such as `\x1b` and `\u202e`, for control characters, direction marks and zero widths.
    """
    text = "" if value is None else str(value)
    if not keep_lines:
        text = " ".join(text.split())
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(sign) if not (keep_lines and sign in "\n\t") else sign for sign in text)


def _visible(sign: str) -> str:
    if sign in INVISIBLE or unicodedata.category(sign) in UNPRINTABLE:
        return sign.encode("unicode_escape").decode("ascii")
    return sign


def escape(value: Any) -> str:
    """Return a value as text on one line of Markdown, of which nothing is read as markup; `Markdown` as it is."""
    if isinstance(value, Markdown):
        return value
    text = _escape_inline(visible(value))
    return BLOCK.sub(r"\2\\\1\3", text, count=1) if BLOCK.match(text) else text


def code(value: Any, in_table: bool = False) -> Markdown:
    """Return a value as code on one line of Markdown; in a table, a vertical bar would divide cells even in code."""
    text = visible(value)
    if not text:
        return Markdown("")
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    if "`" in (text[0], text[-1]):
        text = f" {text} "
    return Markdown(f"{fence}{text.replace('|', chr(92) + '|') if in_table else text}{fence}")


def cell(value: Any) -> str:
    """Return a value as a cell of a Markdown table, where nothing is at the start of a line."""
    return value if isinstance(value, Markdown) else _escape_inline(visible(value)).replace("|", "\\|")


def figure_text(value: Any, most: int = 60) -> str:
    r"""
    Return a value as text of a figure, cut to `most` letters.

    matplotlib reads what is between two `$` as a formula, and leaves labels that begin with `_` out of legends.
    """
    text = visible(value)
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return f" {text}".replace("$", r"\$") if text.startswith("_") else text.replace("$", r"\$")


def _escape_inline(text: str) -> str:
    return INLINE.sub(r"\\\g<0>", text.replace("&", "&amp;").replace("<", "&lt;"))
