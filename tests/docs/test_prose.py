"""What users read is plain English, as docs/prose.py counts it."""

import pytest

from tests.docs.conftest import load


prose = load("prose")
PAGES = prose.pages()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_short_sentences_and_plain_words(name):
    assert not list(prose.faults(name, PAGES[name]))


def test_errors_warnings_and_help_have_plain_words():
    texts = list(prose.messages())
    assert len(texts) > 500
    assert not [f"{place}: {fault}" for place, text in texts for fault in prose.phrases(text, prose.PHRASES)]


def test_pages_of_every_folder_are_read():
    found = {name.rpartition("/")[0] for name in PAGES}
    assert {"", "docs", "docs/howto", "docs/methods", "docs/api", "examples", "examples/notebooks"} <= found
    assert sum(prose.size(text)[0] for text in PAGES.values()) > 10_000


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"{'Many words ' * 13}here.", "27 words"),
        ("- One.\n- Of 5 rows, 7 were\n  used in 11 steps.", "3 numbers"),
        ("The two are told apart.", '"told apart", better: differ'),
        ("| a | judged by rows |", '"judged", better: score'),
        ("This is no classifier.", '"is no classifier"'),
        ("A sample of the source.", '"sample", better: row'),
        ("Today's default is slow.", '"Today\'s"'),
        ("It no longer fails.", '"no longer"'),
        ("## What comes out", "a heading that is a clause"),
    ],
)
def test_a_fault_is_found_with_its_sentence(text, fault):
    (found,) = [one for one in prose.faults("docs/x.md", text) if fault in one]
    assert text.split("\n")[-1].strip("- |#").split()[-1] in found


@pytest.mark.parametrize(
    "text",
    [
        "```text\nThis is told apart, in 1 of 2 or 3 or 4.\n```",
        "> … is judged by its rows.",
        "Call `judge(1, 2, 3)` on SST-2, in 2020, with Python 3.10 and torch 2.13.",
        "An interval of [-0.02, +0.01] is around 0 or 1.",
        "There is no source, as in Liu et al. It is the same. So is this.",
        "## What is a source?",
        "## When to use it",
    ],
)
def test_code_names_and_quotes_are_not_counted(text):
    assert not list(prose.faults("docs/x.md", text))


def test_readme_is_short():
    text = "# Title\n\n" + "Some words are here today. " * 250
    assert any("1250 words" in fault for fault in prose.faults("README.md", text))
