"""`merlin-hf report`."""

import pytest

from tests.cli.test_evaluate import saved, write  # noqa: F401
from tests.examples.conftest import model_path  # noqa: F401
from tests.examples.test_run_glue import surroundings  # noqa: F401
from tests.report.support import draw_scores, write_results
from tests.report.test_run_report import HISTORY, write_state


def test_of_comparisons(tmp_path, run):
    for pair in ("a", "b"):
        scores = draw_scores(["joint", "merlin"], seeds=3, seed=ord(pair))
        write_results(tmp_path / "runs" / pair, pair, {"path": "t"}, 50, scores)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "results.json").write_text("{}")
    status, shown, said = run("report", tmp_path / "runs")
    assert status == 0 and "## a → t" in shown and "## Ranks" in shown and "## Figures" not in shown
    assert "Not of a comparison, left out: runs/other/results.json" in said
    status, shown, said = run("report", tmp_path / "runs", "--output_dir", tmp_path / "out")
    assert status == 0 and shown == (tmp_path / "out" / "results.md").read_text() and "![" in shown
    assert f"Report in {tmp_path / 'out'}" in said


def test_of_a_run_with_data(saved, model_path, tmp_path, run):  # noqa: F811
    write_state(saved, HISTORY)
    write(tmp_path / "data.csv", ["yes", "no"])
    flags = ["--validation_file", tmp_path / "data.csv", "--base_model", model_path, "--output_dir", tmp_path / "out"]
    status, shown, _ = run("report", saved, *flags)
    assert status == 0 and "Source loss" in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"results.md", "training_curves.png", "confusion_matrix.svg", "features.png"} <= names
    assert str(tmp_path) not in shown


def test_of_several_runs(tmp_path, run):
    runs = [write_state(tmp_path / name, HISTORY) for name in ("one", "other")]
    status, shown, _ = run("report", *runs, "--output_dir", tmp_path / "out")
    assert status == 0 and "# one\n" in shown and "# other\n" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "other"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "There is no file or folder 'nowhere'."),
        (["{root}/run", "--base_model", "m"], "`--base_model` needs rows to compare features on"),
        (["{root}/results", "--task_name", "rte"], "Data and `--base_model` are for runs"),
        (["{root}/empty"], "has no results.json"),
    ],
)
def test_what_cannot_be_used(arguments, message, tmp_path, run):
    write_state(tmp_path / "run", HISTORY)
    write_results(tmp_path / "results", "s", {"path": "t"}, 10, {"merlin": [0.5]})
    (tmp_path / "empty").mkdir()
    status, shown, said = run("report", *(argument.format(root=tmp_path) for argument in arguments))
    assert status == 2 and shown == "" and message in said and said.startswith("merlin-hf report: ")
