"""Links lead somewhere, without mkdocs: it is the strict build that checks those to places within pages of the API."""

import json
import pkgutil
import re
import unicodedata

import pytest
import yaml

from tests.docs.conftest import DOCS, ROOT, pages


def slug(heading: str) -> str:
    """A heading's place, as Markdown's table of contents makes it."""
    heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    heading = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def places(text: str) -> set[str]:
    found = []
    pages.outside_code(text, lambda part: found.extend(re.findall(r"^#+ (.+)", part, re.MULTILINE)) or part)
    return {slug(heading) for heading in found}


@pytest.fixture(scope="module")
def site():
    return pages.all_files()


def test_every_link_of_every_page_leads_to_a_file_and_a_heading(site):
    texts, images = site
    for uri, text in texts.items():
        for link in pages.links(text):
            target, _, place = link.partition("#")
            parts = (uri.rsplit("/", 1)[0] if "/" in uri else "").split("/") if target else uri.split("/")
            for part in target.split("/") if target else ():
                parts = parts[:-1] if part == ".." else [*parts, part]
            to = "/".join(filter(None, parts))
            assert to in texts or to in images, f"{uri}: {link}"
            assert not place or place in places(texts[to]), f"{uri}: {link}"


def test_a_broken_link_is_an_error():
    for text in ("[x](nowhere.md)", "![x](../nowhere.png)", "[x](../../elsewhere)"):
        with pytest.raises(pages.BrokenLink):
            pages.rewrite(text, DOCS / "index.md", "index.md")
    assert pages.rewrite("```\n[x](nowhere.md)\n```\n[x](https://a.b)", DOCS / "index.md", "index.md")[1] == set()


def test_links_start_from_the_page():
    text, found = pages.rewrite("[x\ny](../../README.md#limits)", DOCS / "howto" / "data.md", "howto/data.md")
    assert text == "[x\ny](../repository/README.md#limits)" and found == {ROOT / "README.md"}


def test_a_notebook_has_what_it_printed_and_showed():
    table = '<style>td {}</style>\n<table border="1" class="dataframe"><tr style="x"><td>0.5</td></tr></table>'
    shown = [
        {"output_type": "stream", "text": ["three\n", "steps\n"]},
        {"output_type": "execute_result", "data": {"text/plain": ["0.5"], "text/html": [table]}},
        {"output_type": "display_data", "data": {"text/plain": ["<Figure>"], "image/png": "aGVsbG8=\n"}},
        {"output_type": "display_data", "data": {"text/plain": ["<Markdown>"], "text/markdown": ["**sure**"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["train()"], "outputs": shown},
        {"cell_type": "code", "source": ["%%writefile a.yaml\n", "rows: 4"], "outputs": []},
    ]
    assert pages.notebook(json.dumps({"cells": cells})).split("\n\n") == [
        "# Title",
        "```python\ntrain()\n```",
        "````{.text .output}\nthree\nsteps\n````",
        "<table><tr><td>0.5</td></tr></table>",
        '<img alt="Drawn by the code above" src="data:image/png;base64,aGVsbG8=">',
        "**sure**",
        "```yaml\n%%writefile a.yaml\nrows: 4\n```\n",
    ]


def navigation(entries):
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else navigation(value)


def test_the_navigation_names_every_page_of_docs_once(site):
    named = list(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    written = [uri for uri in site[0] if not uri.startswith(pages.FOLDER)]
    assert sorted(one for one in named if not one.startswith(pages.FOLDER)) == sorted(written)
    assert set(named) <= set(site[0])


def test_every_public_name_is_on_one_page(site):
    found = [name for uri, text in site[0].items() if uri.startswith("api/") for name in pages.DIRECTIVE.findall(text)]
    assert len(found) == len(set(found))
    for package in ("merlin_hf", "merlin_hf.comparison", "merlin_hf.heads", "merlin_hf.hub", "merlin_hf.sources"):
        for name in pkgutil.resolve_name(package).__all__:
            value = pkgutil.resolve_name(f"{package}.{name}")
            if callable(value):  # not the registries and constants
                assert f"{value.__module__}.{value.__qualname__}" in pages.documented(), name


def test_each_benchmark_has_a_page_and_a_place_in_the_summary(site):
    summary = site[0]["results/index.md"]
    assert "benchmarks" not in summary
    for readme in sorted((ROOT / "benchmarks").glob("*/README.md")):
        name = readme.parent.name
        text = readme.read_text(encoding="utf-8")
        for part in re.findall(r"^\*\*(?:Question|Answer)\.\*\* [^\[]+?\n\n", text, re.MULTILINE):
            assert part.strip() in summary and part in site[0][f"results/{name}.md"]
        assert f"]({name}.md)" in summary and len(re.findall(r"^\*\*(?:Question|Answer)\.", text, re.MULTILINE)) == 2


def test_a_page_shows_a_generated_table(site):
    table = (ROOT / "benchmarks" / "compare" / "table.md").read_text(encoding="utf-8").strip()
    assert table in site[0]["results/compare.md"]


def test_no_page_names_a_folder_of_a_machine():
    for path in [*DOCS.rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        assert not re.search(r"(?<![\w./])/(work|home|root|tmp|Users)/", path.read_text(encoding="utf-8")), path


def references():
    """Full names that pages and docstrings refer to."""
    files = [*DOCS.rglob("*.md"), *(ROOT / "merlin_hf").rglob("*.py")]
    found = {
        name for path in files for name in re.findall(r"\[`~?(merlin_hf[\w.]*)`\]", path.read_text(encoding="utf-8"))
    }
    return sorted(found)


@pytest.mark.parametrize("name", references())
def test_what_is_referred_to_is_there(name):
    assert pkgutil.resolve_name(name) is not None
