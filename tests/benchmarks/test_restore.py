"""Runs written from published results: a comparison goes on from them as if it had done them itself."""

import json

import pytest

from merlin_hf.comparison import compare
from tests.benchmarks.modules import benchmark_modules
from tests.comparison.conftest import cache, config, make_config, read, same_generators, texts  # noqa: F401
from tests.examples.conftest import model_path  # noqa: F401


@pytest.fixture(scope="module")
def restore():
    """The benchmark's function."""
    with benchmark_modules("transfer", "restore", others=("transfer", "transfer.run")) as modules:
        yield modules["restore"].restore


def plain(summary):
    """As in a file."""
    return json.loads(json.dumps(summary))


@pytest.fixture(scope="module")
def finished(texts, model_path, tmp_path_factory):  # noqa: F811
    """The summary of a comparison, as in a file, and the names of its runs."""
    folder = tmp_path_factory.mktemp("finished")
    summary = compare(read(make_config(texts, model_path, folder)), show_progress=False).summary
    return plain(summary), {path.relative_to(folder / "runs") for path in folder.glob("runs/*/*.json")}


def test_what_is_restored_is_not_run_again(restore, config, finished, tmp_path):  # noqa: F811
    first, done = finished
    runs = tmp_path / "out" / "runs"
    assert restore(read(config), first) == len(done)
    restored = {path.relative_to(runs): path.stat().st_mtime_ns for path in runs.glob("*/*.json")}
    assert set(restored) == done
    again = compare(read(config), show_progress=False).summary
    assert {path.relative_to(runs): path.stat().st_mtime_ns for path in runs.glob("*/*.json")} == restored
    assert plain({**again, "config": None}) == {**first, "config": None}
    assert restore(read(config), first) == 0


def test_a_method_with_other_options_is_left_out(restore, config, finished, tmp_path):  # noqa: F811
    first, _ = finished
    changed = read(config, methods={"finetune": {}, "joint": {"source_weight": 0.5}, "merlin": {}})
    restore(changed, first)
    assert {path.parent.name for path in (tmp_path / "out" / "runs").glob("*/*.json")} == {"finetune", "merlin"}


def test_other_rows_leave_out_all(restore, config, finished):  # noqa: F811
    first, _ = finished
    assert restore(read(config, target={**config["target"], "rows": 20}), first) == 0


def test_trials_on_other_rows_are_left_out(restore, config, finished, tmp_path):  # noqa: F811
    first, _ = finished
    assert restore(read(config, search={**config["search"], "validation_fraction": 0.5}), first) > 0
    assert {path.name.split("-")[0] for path in (tmp_path / "out" / "runs").glob("*/*.json")} == {"final"}
