"""The pages of the methods are what the code says."""

import os
import re
import subprocess
import sys

import pytest
from datasets import Dataset

from merlin_hf import METHODS
from tests.methods.support import digits, tiny_resnet
from tests.tiny import tiny_bert, tiny_dataset


DOCS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "docs")


def test_pages_are_up_to_date():
    command = [sys.executable, os.path.join(DOCS, "method_pages.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", METHODS)
def test_a_page_has_the_formula_the_cost_and_every_option(name):
    with open(os.path.join(DOCS, "methods", f"{name}.md"), encoding="utf-8") as file:
        page = file.read()
    assert re.search(r"^\$\$\n.+\n\$\$$", page, re.DOTALL | re.MULTILINE), "the formula"
    assert re.search(r"step costs|pass\s+over\s+the\s+target's\s+rows", page), "the cost"
    shared = open(os.path.join(DOCS, "methods", "index.md"), encoding="utf-8").read()
    for option in METHODS[name].training_args_class.__annotations__:
        assert f"`{option}`" in page or f"`{option}`" in shared


@pytest.mark.parametrize("name", METHODS)
def test_the_example_trains(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = open(os.path.join(DOCS, "methods", f"{name}.md"), encoding="utf-8").read()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    code = code.replace("max_steps=280,", "max_steps=14, use_cpu=True, report_to='none',")
    values = {"model": tiny_bert(), "target": tiny_dataset(rows=40), "source": tiny_dataset(rows=40, seed=1)}
    if name == "stochnorm":
        values["model"] = tiny_resnet()
        for side, classes in (("target", [0, 1, 2]), ("source", [3, 4, 5])):
            values[side] = Dataset.from_list(digits(classes, 40)).with_format("torch")
    exec(compile(code, f"{name}.md", "exec"), values)
    assert values["trainer"].model is values["model"]
