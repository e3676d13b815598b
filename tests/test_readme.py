"""What README names is there."""

import os
import re

import pytest


ROOT = os.path.dirname(os.path.dirname(__file__))
with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
    README = file.read()
COMPATIBILITY = README[README.index("## Coming from `Trainer`") : README.index("## The solvers alone")]


def named_tests():
    path = None
    for folder, name, test in re.findall(r"`(tests/(?:\w+/)*)?(test_\w+\.py)?(?:::(test_\w+))?`", COMPATIBILITY):
        if name:
            path = os.path.join(ROOT, folder or "tests/compatibility/", name)
        if name or test:
            yield pytest.param(path, test, id=f"{os.path.basename(path)}::{test}")


@pytest.mark.parametrize(("path", "test"), list(named_tests()))
def test_the_compatibility_table_names_tests_that_exist(path, test):
    with open(path, encoding="utf-8") as file:
        assert f"def {test or 'test_'}" in file.read()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)(?!#)([^)#]+)\)", README))))
def test_links_to_files(link):
    assert os.path.exists(os.path.join(ROOT, link))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^)make ([\w-]+)", README, re.MULTILINE))))
def test_make_targets(target):
    with open(os.path.join(ROOT, "Makefile"), encoding="utf-8") as file:
        assert re.search(rf"^{target}:", file.read(), re.MULTILINE)


def test_the_comparison_is_the_table_of_its_command():
    """Every line of README's table of methods stands in the file that `make compare-table` writes."""
    with open(os.path.join(ROOT, "benchmarks", "compare", "table.md"), encoding="utf-8") as file:
        written = [line for line in file.read().splitlines() if line.startswith("|")]
    assert len(written) > 5 and "\n".join(written) in README
