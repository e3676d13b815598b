"""The pages of the methods are what the code says."""

import os
import re
import subprocess
import sys

import pytest

from merlin_hf import METHODS


DOCS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "docs")


def test_pages_are_up_to_date():
    command = [sys.executable, os.path.join(DOCS, "method_pages.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", METHODS)
def test_a_page_has_the_formula_the_cost_and_every_option(name):
    with open(os.path.join(DOCS, "methods", f"{name}.md"), encoding="utf-8") as file:
        page = file.read()
    assert re.search(r"```text\n.*(min|L_target|z =)", page, re.DOTALL), "the formula"
    assert re.search(r"step costs|pass over the\s+target's rows", page), "the cost"
    for option in vars(METHODS[name].training_args_class)["__dataclass_fields__"]:
        assert f"`{option}`" in page or option not in METHODS[name].training_args_class.__annotations__
