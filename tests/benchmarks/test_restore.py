"""Runs written from published results: a comparison goes on from them as if it had done them itself."""

import json
import shutil

import pytest

from merlin_hf.comparison import compare
from tests.benchmarks.modules import benchmark_modules
from tests.comparison.conftest import cache, config, read, same_generators, texts  # noqa: F401
from tests.examples.conftest import model_path  # noqa: F401


@pytest.fixture(scope="module")
def restore():
    """The benchmark's function."""
    with benchmark_modules("transfer", "restore", others=("transfer", "transfer.run")) as modules:
        yield modules["restore"].restore


def plain(summary):
    """As in a file."""
    return json.loads(json.dumps(summary))


def test_what_is_restored_is_not_run_again(restore, config, tmp_path):  # noqa: F811
    first = compare(read(config), show_progress=False).summary
    runs = tmp_path / "out" / "runs"
    done = {path.relative_to(runs) for path in runs.glob("*/*.json")}
    shutil.rmtree(tmp_path / "out")
    assert restore(read(config), plain(first)) == len(done)
    restored = {path.relative_to(runs): path.stat().st_mtime_ns for path in runs.glob("*/*.json")}
    assert set(restored) == done
    again = compare(read(config), show_progress=False).summary
    assert {path.relative_to(runs): path.stat().st_mtime_ns for path in runs.glob("*/*.json")} == restored
    assert plain(again) == plain(first)
    assert restore(read(config), plain(first)) == 0


def test_a_method_with_other_options_is_left_out(restore, config, tmp_path):  # noqa: F811
    first = plain(compare(read(config), show_progress=False).summary)
    shutil.rmtree(tmp_path / "out")
    changed = read(config, methods={"finetune": {}, "joint": {"source_weight": 0.5}, "merlin": {}})
    restore(changed, first)
    assert {path.parent.name for path in (tmp_path / "out" / "runs").glob("*/*.json")} == {"finetune", "merlin"}


def test_other_rows_leave_out_all(restore, config, tmp_path):  # noqa: F811
    first = plain(compare(read(config, seeds=1), show_progress=False).summary)
    shutil.rmtree(tmp_path / "out")
    assert restore(read(config, seeds=1, target={**config["target"], "rows": 20}), first) == 0


def test_trials_on_other_rows_are_left_out(restore, config, tmp_path):  # noqa: F811
    first = plain(compare(read(config), show_progress=False).summary)
    shutil.rmtree(tmp_path / "out")
    assert restore(read(config, search={**config["search"], "validation_fraction": 0.5}), first) > 0
    assert {path.name.split("-")[0] for path in (tmp_path / "out" / "runs").glob("*/*.json")} == {"final"}
