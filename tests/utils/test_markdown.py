"""Text of others stays text, as a parser of Markdown, matplotlib and a terminal read it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from merlin_hf.utils.markdown import Markdown, cell, code, escape, figure_text, visible
from merlin_hf.utils.tables import markdown_table


HOSTILE = [
    "a\n\n# Forged heading\n<script>alert(1)</script>`",
    "# heading",
    "#tag",
    "- item",
    "+ item",
    "12) item",
    "3. item",
    "> quote",
    "---",
    "===",
    "- - -",
    "***bold***",
    "__bold__ _it_ a_b_c",
    "~~~\ncode",
    "```\ncode",
    "`code` ``",
    "![p](http://evil.example/pixel.gif)",
    "[click](javascript:alert(1))",
    "[ref]: http://evil.example",
    "<http://evil.example>",
    "<!-- comment",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; &#35;",
    "a | b | c",
    "| - |",
    ":-: | -",
    "~~gone~~",
    "\\<b> \\# \\|",
    "\x1b[31mred\x1b[0m \x07",
    "\u202egnp.exe \u2066x \ufeff",
    "half \ud800 pair",
    "$\\frac{1}{0}$ and $x",
    "tab\tand\rreturn\x00",
]
SIGNS = st.text(st.sampled_from(list("ab1 \n\t\\`*_{}[]()#+-.!|<>&~$:=\"'/;") + ["\x1b", "\u202e", "é"]), max_size=24)


def parse(text: str):
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)


def is_text(token, text: str) -> bool:
    """Whether a token of one line has this text and no markup."""
    return "".join(child.content for child in token.children) == text and all(
        child.type in ("text", "text_special") for child in token.children
    )


def check_escaped(text: str) -> None:
    shown = visible(text)
    assert "\n" not in escape(text)
    assert parse(f"a | b\n{escape(text)}\n")[0].type == "paragraph_open", "no line below the head of a table"
    tokens = parse(f"before\n\n{escape(text)}\n\nafter")
    inlines = [token for token in tokens if token.type == "inline"]
    assert {token.type for token in tokens} == {"paragraph_open", "inline", "paragraph_close"}
    assert len(inlines) == (3 if shown else 2)
    assert not shown or is_text(inlines[1], shown)


def check_in_table(text: str) -> None:
    tokens = parse(markdown_table(["one", text], [[text, Markdown("**bold**")], ["x", text]]))
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 6 and tokens[-1].type == "table_close"
    assert all(is_text(cells[place], visible(text)) for place in (1, 2, 5))
    assert [child.type for child in cells[3].children if child.type != "text"] == ["strong_open", "strong_close"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text):
    check_escaped(text)
    check_in_table(text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(SIGNS)
def test_any_text_is_text(text):
    check_escaped(text)
    check_in_table(text)


@pytest.mark.parametrize("in_table", [False, True])
@pytest.mark.parametrize("text", [text for text in HOSTILE if "\\|" not in text])
def test_code_holds_any_text(text, in_table):
    written = code(text, in_table)
    tokens = parse(markdown_table(["one", "two"], [[written, "x"]]) if in_table else written)
    found = [child for token in tokens for child in token.children or () if child.type == "code_inline"]
    assert [child.content for child in found] == [visible(text)]


def test_usual_names_are_left_as_they_are():
    for text in (
        "nyu-mll/glue:rte",
        "fashion_mnist → usps",
        "0.7312 ± 0.0100",
        "-0.5",
        "learning_rate 1e-05, head ridge",
    ):
        assert escape(text) == cell(text) == text
    assert escape(None) == "" and escape(Markdown("**a**")) == "**a**"


@pytest.mark.parametrize("text", HOSTILE)
def test_visible_text_is_safe_to_print_and_to_write(text):
    for shown in (visible(text), visible(text, keep_lines=True)):
        assert all(sign.isprintable() or sign in "\n\t" for sign in shown)
        shown.encode("utf-8")
    assert "\n" not in visible(text)


def test_names_that_differ_in_what_is_not_seen_stay_different():
    assert len({visible(text) for text in ("ab", "a\u200bb", "a\u202eb", "a\x07b")}) == 4


@pytest.mark.parametrize("text", [*HOSTILE, "_hidden", "$", "$$", "a\\$b"])
def test_figures_show_text_as_it_is(text):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], label=figure_text(text))
    shown = axes.legend().get_texts()
    assert len(shown) == 1
    preprocessed, is_formula = shown[0]._preprocess_math(shown[0].get_text())
    assert not is_formula and preprocessed.strip() == visible(text)
