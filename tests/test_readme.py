"""What README and the pages that it gave its tables to say is there, and is what was measured."""

import re
from pathlib import Path

import pytest
import yaml

from merlin_hf import METHODS
from merlin_hf.cli.main import COMMANDS
from merlin_hf.comparison import load_config


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMPATIBILITY = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
DISTRIBUTED = (ROOT / "docs" / "howto" / "distributed.md").read_text(encoding="utf-8")


def section(heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)[1]


# Names


def named_tests():
    for text in (COMPATIBILITY, DISTRIBUTED):
        path = None
        for folder, name, test in re.findall(r"`(tests/(?:\w+/)*)?(test_\w+\.py)?(?:::(test_\w+))?`", text):
            if name:
                path = ROOT / (folder or "tests/compatibility/") / name
            if name or test:
                yield pytest.param(path, test, id=f"{path.name}::{test}")


def test_the_pages_name_tests():
    assert len(list(named_tests())) > 25


@pytest.mark.parametrize(("path", "test"), list(named_tests()))
def test_the_tests_that_pages_name_exist(path, test):
    assert f"def {test or 'test_'}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)(?!#)([^)#]+)\)", README))))
def test_links_to_files(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^)make ([\w-]+)", README, re.MULTILINE))))
def test_make_targets(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_methods_commands_and_versions_are_those_of_the_package():
    supported = section("Supported")
    numbers = {20: "twenty", 21: "twenty-one", 22: "twenty-two", 23: "twenty-three", 24: "twenty-four"}
    assert f"[{numbers[len(METHODS)]}](docs/methods/index.md)" in supported
    commands = re.search(r"\| commands \| \[(.*?)\]", supported)[1]
    assert set(re.findall(r"`(\w+)`", commands)) == set(COMMANDS)
    pinned = dict(re.findall(r"^(\w+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    oldest = dict(re.findall(r"^(\w+)==(.+)$", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE))
    for text in (supported, COMPATIBILITY):
        assert f"transformers {pinned['transformers']}" in text and f"torch {pinned['torch']}" in text
    assert f"transformers {oldest['transformers']}" in COMPATIBILITY
    least = ".".join(oldest["transformers"].split(".")[:2])
    assert f"badge/transformers-{least}%2B-" in README and f"transformers {least}+" in supported
    python = re.search(r'python_requires=">=([\d.]+)"', (ROOT / "setup.py").read_text())[1]
    assert f"badge/python-{python}%2B-" in README and f"Python {python}+" in supported
    assert f"torch {oldest['torch']}" in re.sub(r"\s+", " ", COMPATIBILITY)


def test_the_comparison_can_be_run():
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert "merlin" in {method.method for method in load_config(yaml.safe_load(text)).methods}


# Numbers


def compared():
    """The parts of the file that `make compare-table` writes: tables and paragraphs."""
    return (ROOT / "benchmarks" / "compare" / "table.md").read_text(encoding="utf-8").split("\n\n")


def test_the_comparison_is_the_table_of_its_command():
    page = (ROOT / "docs" / "howto" / "compare.md").read_text(encoding="utf-8")
    (advice,) = [part.strip() for part in compared() if part.startswith("**Advice.**")]
    assert compared()[0].startswith("| method") and compared()[0] in page and advice in page


def test_the_numbers_of_the_results_are_those_of_the_comparison():
    results = README.split("\n**Images.** ")[1].split("\n## ")[0]  # tests/docs/test_numbers.py reads both tables
    numbers = re.findall(r"[-+]?\d\.\d{4}", results)
    assert len(numbers) > 20 and not set(numbers) - set(re.findall(r"[-+]?\d\.\d{4}", "\n".join(compared())))
