"""What the summary of the pairs says, on scores whose answer is known."""

import importlib.util
import json
from pathlib import Path

import pytest


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "transfer"


@pytest.fixture(scope="module")
def bar():
    """The benchmark's module `bar.py`."""
    spec = importlib.util.spec_from_file_location("transfer_bar", BENCHMARK / "bar.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder, pair, methods):
    """A result file with `(validation score, test scores)` of each method."""
    path = folder / pair / "100" / "results.json"
    path.parent.mkdir(parents=True)
    content = [
        {
            "label": label,
            "status": "ok" if scores else "failed",
            "trials": [{"score": validation, "setting": {}}, {"score": validation - 0.1, "setting": {}}],
            "scores": {str(seed): score for seed, score in enumerate(scores)},
        }
        for label, (validation, scores) in methods.items()
    ]
    path.write_text(json.dumps({"methods": content}))
    return path


def test_the_variant_is_chosen_on_validation_rows_though_the_other_does_better_on_test_rows(bar, tmp_path):
    others = {"finetune": (0.9, [0.5, 0.6]), "joint": (0.9, [0.6, 0.7])}
    path = write(tmp_path, "a", {"merlin": (0.7, [0.9, 0.9]), "merlin_ft": (0.8, [0.8, 0.6]), **others})
    cell = bar.read(path)
    assert cell.chosen == "merlin_ft" and cell.means[bar.CHOSEN] == pytest.approx(0.7)
    assert set(cell.means) == {bar.CHOSEN, "finetune", "joint"} and (cell.pair, cell.rows) == ("a", 100)


def test_ranks_wins_and_differences(bar, tmp_path):
    def methods(merlin, **others):
        scores = {"merlin": merlin, "merlin_ft": 0.0, **others}
        return {label: (score, [score, score]) for label, score in scores.items()}

    first = write(tmp_path, "a", methods(0.80, finetune=0.70, joint=0.75, stochnorm=0.9))
    second = write(tmp_path, "b", methods(0.60, finetune=0.50, joint=0.65))
    cells = [bar.read(first), bar.read(second)]
    assert bar.mean_ranks(cells) == {bar.CHOSEN: 1.5, "joint": 1.5, "finetune": 3.0}, "stochnorm is not in all"
    assert bar.gain(cells, "finetune").startswith("+10.0") and bar.gain(cells, "stochnorm") == "-10.0"
    verdict = bar.verdict(cells)
    assert "at least 3 points over fine-tuning on average: **yes**" in verdict
    assert "on most pairs: **no** (0 of 2)" in verdict
    bar.main(tmp_path)
    text = (tmp_path / "bar.md").read_text()
    assert "| `stochnorm` |  | 1 | -10.0 | 0 of 1 |" in text and "| `joint` | 1.5 | 2 |" in text


def test_cells_without_all_that_is_compared_are_refused(bar, tmp_path):
    path = write(tmp_path, "a", {"merlin": (0.7, [0.9]), "merlin_ft": (0.8, []), "finetune": (0.9, [0.5])})
    with pytest.raises(SystemExit, match="no scores of merlin_ft, joint"):
        bar.read(path)


def test_the_summary_is_that_of_the_result_files(bar, tmp_path):
    written = BENCHMARK / "results" / "bar.md"
    bar.main(BENCHMARK / "results", tmp_path / "bar.md")
    assert (tmp_path / "bar.md").read_text() == written.read_text()
