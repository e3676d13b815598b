"""The modules of a benchmark, whose names are common ones."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@contextlib.contextmanager
def benchmark_modules(folder: str, *names: str, others: tuple[str, ...] = ()) -> Iterator[dict[str, ModuleType]]:
    """Modules of a folder of `benchmarks/` by name; they leave afterwards, with the `others` that they import."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS / folder))
    for name in (*names, *others):
        sys.modules.pop(name, None)
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path[:] = before
        for name in (*names, *others):
            sys.modules.pop(name, None)
