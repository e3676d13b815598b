"""Imports run downwards, as the map in CONTRIBUTING.md says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import merlin_hf


PACKAGE = Path(merlin_hf.__file__).parent
MAP = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
LAYERS = re.findall(r"^(\w+) {2,}\S", MAP.split("```text")[1].split("```")[0], re.MULTILINE)
PATHS = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in LAYERS)


def imported_layers(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and layer of every import of this package in a file, also within functions and for types."""
    package = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            names = [*start, *(node.module or "").split(".")] if node.module else list(start)
            if not node.level:
                if names[:1] != ["merlin_hf"]:
                    continue
                names = names[1:]
            for name in [names[0]] if names and names[0] else [alias.name for alias in node.names]:
                yield node.lineno, name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("merlin_hf."):
                    yield node.lineno, alias.name.split(".")[1]


def test_the_map_names_every_part_of_the_package():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert folders | modules == set(LAYERS)


def test_imports_run_downwards():
    upwards = []
    for path in PATHS:
        layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        below = LAYERS[LAYERS.index(layer) :]
        upwards += [
            f"{path.relative_to(PACKAGE)}:{line} imports {name}"
            for line, name in imported_layers(path)
            if name in LAYERS and name not in below
        ]
    assert not upwards


def test_an_upward_import_is_found(tmp_path, monkeypatch):
    path = tmp_path / "heads" / "new.py"
    path.parent.mkdir()
    path.write_text(
        "from ..transfer.model import TransferModel\nfrom .. import trainer\nfrom .base import HeadSolver\n"
    )
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert list(imported_layers(path)) == [(1, "transfer"), (2, "trainer"), (3, "heads")]
