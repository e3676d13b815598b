"""The messages that the page about errors quotes are those of the package."""

import ast
import re
from functools import cache

import pytest

from tests.docs.conftest import DOCS, ROOT


QUOTES = re.findall(r"^> (.+)$", (DOCS / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
ANY = "\0"  # what the code fills in


@cache
def messages() -> list[str]:
    """Every text in the package, with `ANY` for each value in it."""
    found = []
    for path in sorted((ROOT / "merlin_hf").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else ANY for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [message for message in found if len(message) > 20]


def pattern(quote: str) -> re.Pattern:
    """A quote as a pattern for messages: `…` is for one value or more, which may be empty."""
    parts = [re.escape(part) for part in quote.split("…")]
    return re.compile(f".*?{ANY}.*?".join(parts), re.DOTALL)


def test_there_are_quotes():
    assert len(QUOTES) > 25 and len(set(QUOTES)) == len(QUOTES)


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: quote[:50])
def test_the_message_is_in_the_code(quote):
    assert any(pattern(quote).search(message) for message in messages())


def test_another_wording_is_not():
    assert not any(pattern(QUOTES[0].replace("source", "well")).search(message) for message in messages())
    assert not any(pattern("`…` has no label column: …").search(message) for message in messages())
