"""Files that name a version name the same one, and no test needs what only the site is built with."""

import re

import pytest
import yaml

from tests.docs.conftest import ROOT


def pinned(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_ruff_is_the_same_everywhere():
    wanted = pinned("constraints.txt")["ruff"]
    assert pinned("constraints-docs.txt")["ruff"] == wanted
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    named = {one for hook in hooks for one in hook.get("additional_dependencies", ()) if one.startswith("ruff")}
    assert named == {f"ruff=={wanted}"}


def test_the_changelog_is_about_this_version():
    version = re.search(r'^__version__ = "(.+)"', (ROOT / "merlin_hf" / "__init__.py").read_text(), re.MULTILINE)[1]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{version}]" in changelog or f"[Unreleased], to be {version}" in changelog


@pytest.mark.parametrize("name", ["pages.py", "method_pages.py"])
def test_pages_are_written_without_mkdocs(name):
    assert not re.search(r"^(import|from) (mkdocs|griffe|markdown)", (ROOT / "docs" / name).read_text(), re.MULTILINE)
