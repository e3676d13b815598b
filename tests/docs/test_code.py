"""The code in the documentation runs, and the commands in it are there."""

import argparse
import dataclasses
import re
import shutil
import sys
import types
from pathlib import Path

import datasets
import pytest
import yaml

from merlin_hf import METHODS
from merlin_hf.cli import main as cli
from merlin_hf.cli.arguments import argument_classes, read_request
from merlin_hf.comparison import load_config
from merlin_hf.heads import HEADS
from tests.docs.conftest import DOCS, ROOT, WRITTEN, write_glue, write_tags
from tests.tiny import tiny_sentence_encoder


BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
# What is not as a reader would run it: sizes, and the number of steps.
SMALLER = [
    (r"max_steps=\d+", "max_steps=2"),
    (r'"max_steps": \d+', '"max_steps": 2'),
    (r"per_device_train_batch_size=32", "per_device_train_batch_size=16"),
]


def blocks(path: Path, language: str) -> list[tuple[str, int]]:
    """Return a page's blocks in a language with their first lines, but for those that say why they are not run."""
    text = path.read_text(encoding="utf-8")
    return [
        (match["code"], text[: match.start("code")].count("\n"))
        for match in BLOCK.finditer(text)
        if match["language"] == language and not match["reason"]
    ]


def with_blocks(language):
    paths = [path for path in [*WRITTEN, ROOT / "CONTRIBUTING.md"] if blocks(path, language)]
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@pytest.fixture
def here(tmp_path, model_path, monkeypatch):
    """Give a working directory with folders in place of the Hub's names; forget what code registers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))  # of the processes that code starts
    monkeypatch.setattr("merlin_hf.MerlinTrainer.push_to_hub", lambda trainer, **_: None)
    shutil.copytree(model_path, tmp_path / "google-bert" / "bert-base-uncased")
    encoder = tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2"
    tiny_sentence_encoder().save(str(encoder), create_model_card=False)
    write_glue(tmp_path / "nyu-mll" / "glue")
    rows = [f"w{stars} w{row % 30 + 5},{stars}\n" for row in range(60) for stars in (row % 3,)]
    (tmp_path / "reviews.csv").write_text("text,stars\n" + "".join(rows))
    write_tags(tmp_path)
    before = [(registry, dict(registry)) for registry in (HEADS, METHODS)]
    yield tmp_path
    for registry, content in before:
        registry.clear()
        registry.update(content)


@with_blocks("python")
def test_python_runs(path, here, monkeypatch):
    """The blocks of a page are one program, as a reader would type them."""
    page = types.ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, page.__name__, page)  # for pickle, which looks classes up
    for code, line in blocks(path, "python"):
        for pattern, smaller in SMALLER:
            code = re.sub(pattern, smaller, code)
        exec(compile("\n" * line + code, str(path), "exec"), vars(page))


@with_blocks("yaml")
def test_yaml_is_a_comparison_or_has_arguments_of_train(path, here):
    for text, _ in blocks(path, "yaml"):
        values = yaml.safe_load(text)
        if "model_name_or_path" in values:
            (here / "run.yaml").write_text(text)
            assert read_request([], str(here / "run.yaml")).arguments()
        else:
            assert load_config(values).methods


def commands(text: str) -> list[list[str]]:
    """The commands in a block of shell, as words."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [re.sub(r"\s+#.*", "", line).split() for line in lines if line.strip() and not line.startswith("#")]


def known_flags(command: str, method: str = "merlin") -> set[str]:
    """The flags of a command of `merlin-hf`."""
    module = __import__(f"merlin_hf.cli.{command}", fromlist=[command])
    parser = getattr(module, f"add_{command}_parser")(argparse.ArgumentParser().add_subparsers())
    flags = {flag for action in parser._actions for flag in action.option_strings}
    if command == "train":
        classes = [*argument_classes("text"), METHODS[method].training_args_class]
        flags |= {f"--{field.name}" for one in classes for field in dataclasses.fields(one)}
    return flags


@with_blocks("bash")
def test_commands_are_there(path):
    for text, _ in blocks(path, "bash"):
        for words in commands(text):
            if words[0] == "merlin-hf":
                assert words[1] in cli.COMMANDS
                assert {word for word in words if word.startswith("--")} <= known_flags(words[1])
            if words[0] == "make":
                makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
                assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words[1:])
            for word in words:
                if re.match(r"(examples|docs|tests|benchmarks)/", word):
                    assert (ROOT / word.partition("::")[0]).exists(), word


def test_every_block_has_a_language():
    for path in [*WRITTEN, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        fences = re.findall(r"^```(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert all(fences[::2]), path.relative_to(DOCS.parent)


def test_code_fits_the_column_of_a_page():
    for path in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        for language in ("python", "bash", "yaml", "diff"):
            for code, first in blocks(path, language):
                for number, line in enumerate(code.splitlines(), first + 1):
                    assert len(line) <= 80, f"{path.relative_to(ROOT)}:{number}"
