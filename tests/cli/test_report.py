"""`merlin-hf report`."""

import json

import pytest
from scipy import stats

from tests.cli.test_evaluate import saved, write  # noqa: F401
from tests.examples.conftest import model_path, surroundings  # noqa: F401
from tests.report.support import draw_scores, write_results
from tests.report.test_run_report import HISTORY, write_state


def test_of_comparisons(tmp_path, run):
    for pair in ("a", "b"):
        scores = draw_scores(["joint", "merlin"], seeds=3, seed=ord(pair))
        write_results(tmp_path / "runs" / pair, pair, {"path": "t"}, 50, scores)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "results.json").write_text("{}")
    status, shown, said = run("report", tmp_path / "runs")
    assert status == 0 and "## a → t" in shown and "## Ranks" in shown and "![" not in shown
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
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "other", "report.json"}
    other = write_state(tmp_path / "more" / "one", HISTORY)
    status, shown, said = run("report", runs[0], other, "--output_dir", tmp_path / "again")
    assert status == 2 and "Two runs are called 'one'" in said and not (tmp_path / "again").exists()
    status, shown, _ = run("report", runs[0], other)
    assert status == 0 and shown.count("# one\n") == 2


def test_comparisons_as_json(tmp_path, run):
    scores = {"merlin": [0.8, 0.9], "joint": [0.7, 0.7], "bss": "no source"}
    write_results(tmp_path / "runs" / "a", "s", {"path": "t"}, 50, scores)
    flags = ["--output_dir", tmp_path / "out", "--json"]
    status, shown, said = run("report", tmp_path / "runs", *flags)
    result = json.loads(shown)
    assert status == 0 and result == json.loads((tmp_path / "out" / "report.json").read_text())
    (comparison,) = result["comparisons"]
    assert (comparison["pair"], comparison["rows"], comparison["metric"]) == ("s → t", 50, "accuracy")
    assert comparison["read_from"] == ["runs/a/results.json"] and comparison["reference"] == "merlin"
    methods = comparison["methods"]
    assert methods["merlin"]["mean"] == pytest.approx(0.85) and methods["merlin"]["scores"] == {"0": 0.8, "1": 0.9}
    assert methods["merlin"]["difference"] is None and methods["joint"]["difference"] == pytest.approx(-0.15)
    p = stats.ttest_rel([0.7, 0.7], [0.8, 0.9]).pvalue
    assert methods["joint"]["p"] == pytest.approx(p), "of one method, with nothing to correct for"
    assert methods["bss"]["mean"] is None and methods["bss"]["reason"] == "not applicable: no source"
    assert result["ranks"] is None and result["runs"] == [] and result["left_out"] == []
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")} == set(result["files"])

    write_results(tmp_path / "runs" / "b", "s", {"path": "u"}, 50, {"merlin": [0.5], "joint": [0.6]})
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "results.json").write_text("{}")
    result = json.loads(run("report", tmp_path / "runs", "--json")[1])
    assert result["ranks"] == {"merlin": 1.5, "joint": 1.5} and result["files"] == []
    assert result["left_out"] == ["runs/other/results.json"] and len(result["comparisons"]) == 2


def test_runs_as_json(saved, tmp_path, run):  # noqa: F811
    write_state(saved, HISTORY)
    table = write(tmp_path / "data.csv", ["yes", "no"])
    status, shown, _ = run("report", saved, "--json")
    (found,) = json.loads(shown)["runs"]
    assert status == 0 and found["run"] == "saved" and found["steps"] == 2 and found["confusion_matrix"] is None
    assert found["logged"]["source_loss"] == {"step": 2, "value": 0.9}
    assert found["logged"]["eval_accuracy"] == {"step": 2, "value": 0.8}
    assert found["final"]["read_from"] == "trainer_state.json" and found["final"]["metrics"]["eval_accuracy"] == 0.8
    (saved / "eval_results.json").write_text(json.dumps({"eval_accuracy": 0.7, "eval_samples": 9}))
    (found,) = json.loads(run("report", saved, "--json")[1])["runs"]
    assert found["final"] == {"metrics": {"eval_accuracy": 0.7}, "read_from": "eval_results.json", "rows": 9}
    assert "| Accuracy |   0.7 |" in run("report", saved)[1]
    flags = ["--validation_file", tmp_path / "data.csv"]
    (found,) = json.loads(run("report", saved, *flags, "--json")[1])["runs"]
    evaluated = json.loads(run("evaluate", saved, *flags, "--json")[1])
    assert found["rows"] == len(table) and found["labels"] == evaluated["labels"]
    assert found["confusion_matrix"] == evaluated["confusion_matrix"]

    write_results(tmp_path / "runs" / "a", "s", {"path": "t"}, 50, {"merlin": [0.5], "joint": [0.6]})
    flags = ["--output_dir", tmp_path / "out", "--json"]
    result = json.loads(run("report", saved, tmp_path / "runs", *flags)[1])
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert set(result["files"]) == written >= {"results.md", "saved/results.md", "report.json"}


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
