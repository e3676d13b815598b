"""Comparisons with several numbers of labelled rows, on tiny models."""

import json

import numpy as np
import pytest
import yaml
from scipy import stats
from transformers import Trainer

from merlin_hf.cli import main as cli
from merlin_hf.comparison import ConfigError, compare, dry_run
from merlin_hf.comparison.experiment import Experiment
from merlin_hf.comparison.learning_curve import MOST_LINES, chosen_curves, draw_curves
from merlin_hf.data.sampling import draw_rows
from merlin_hf.report import read_comparisons
from merlin_hf.utils.figures import new_figure
from tests.comparison.conftest import read
from tests.comparison.test_compare import files


@pytest.fixture
def small(config):
    return {**config, "methods": ["finetune", "linear_probe", "bss"], "search": {"trials": 0}, "seeds": 2}


def test_a_curve(small, tmp_path, monkeypatch):
    alone = compare(small, show_progress=False)  # with 24 rows
    before = files(tmp_path / "out")
    trained, train_and_score = [], Experiment.train_and_score

    def spy(self, method, run, progress):
        trained.append(run.fingerprint["train_rows"])
        return train_and_score(self, method, run, progress)

    monkeypatch.setattr(Experiment, "train_and_score", spy)
    result = compare(small, rows=[24, 8, 16], show_progress=False)
    assert before.items() < files(tmp_path / "out").items() and len(trained) == 2 * len(before), "24 rows were run"
    assert not result.failed and result.output_dir == tmp_path / "out"

    summary = json.loads((tmp_path / "out" / "learning_curve.json").read_text())
    assert summary["rows"] == [8, 16, 24] and summary["advice"] == result.summary["advice"]
    for rows, name in summary["results"].items():
        own = json.loads((tmp_path / "out" / name).read_text())
        assert own["data"]["target"]["train_rows"] == int(rows)
        assert {path.name for path in (tmp_path / "out" / name).parent.iterdir()} == {
            "comparison.png",
            "results.csv",
            "results.json",
            "table.md",
        }
        for method in own["methods"]:
            found = next(one for one in summary["methods"] if one["label"] == method["label"])["by_rows"][rows]
            values = list(method["scores"].values())
            assert found["scores"] == method["scores"] and found["mean"] == pytest.approx(np.mean(values))
            spread = np.std(values, ddof=1) / np.sqrt(2)
            wanted = stats.t.interval(0.95, 1, np.mean(values), spread) if spread else [values[0]] * 2
            assert found["interval"] == pytest.approx(list(wanted))
            assert f"{found['mean']:.4f} [{found['interval'][0]:.4f}, {found['interval'][1]:.4f}]" in result.table
    assert result.summary["methods"][0]["by_rows"][24]["scores"] == alone.summary["methods"][0]["scores"]
    assert "| 8 rows " in result.table and "With 24 labelled rows: " in result.text
    assert result.text == (tmp_path / "out" / "learning_curve.md").read_text()
    assert (tmp_path / "out" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")

    found, _ = read_comparisons([tmp_path / "out"])
    assert [one.rows for one in found] == [8, 16, 24], "the comparison with 24 rows has the same runs, and counts once"
    assert len(found[2].files) == 2 and len({one.pair for one in found}) == 1
    monkeypatch.setattr(Experiment, "train_and_score", None)
    assert compare(small, rows=[8, 16, 24], show_progress=False).text == result.text, "all is finished"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 8], r"`rows` must be .* at least 4\), got \[0, 8\]"),
        ([-8, 8], "`rows` must be"),
        ([8, 81], "`rows` must be at most 80, the labelled rows of `target.train_split`, got 81"),
        ([8, 8], r"`rows` must be 2 to 100 different numbers of rows, got \[8, 8\]"),
        ([8], "`rows` must be 2 to 100 different"),
        ([], "`rows` must be 2 to 100 different"),
        ([8, 16.5], "`rows` must be"),
        (["many", 8], "`rows` must be"),
        ([8, True], "`rows` must be"),
        (8, "`rows` must be"),
    ],
)
def test_numbers_that_cannot_be_used(small, rows, message, monkeypatch, tmp_path):
    monkeypatch.setattr(Trainer, "train", None)
    for call in (compare, dry_run):
        with pytest.raises(ConfigError, match=message):
            call(read(small), rows=rows)
    assert not (tmp_path / "out").exists()


def test_the_command(small, tmp_path, capsys, monkeypatch):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**small, "methods": ["linear_probe"], "seeds": 1}))
    command = ["compare", str(tmp_path / "config.yaml"), "--rows"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", None)
        for given in ("8,x", "", "8;16"):
            with pytest.raises(SystemExit) as end:
                cli.main([*command, given])
            assert end.value.code == 2 and "must be whole numbers such as 25,50,100" in capsys.readouterr().err
        with pytest.raises(SystemExit) as end:
            cli.main([*command, "8,16", "--dry_run"])
        shown = capsys.readouterr().out
        assert end.value.code == 0 and "About 2 runs to do with 2 numbers of labelled rows" in shown
        assert "8 labelled rows of 80" in shown and "16 labelled rows of 80" in shown
        assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "8,16"])
    shown = capsys.readouterr()
    assert end.value.code == 0 and shown.out == (tmp_path / "out" / "learning_curve.md").read_text()
    assert "8 labelled rows\n1 runs" in shown.err
    (one, other), _ = read_comparisons([tmp_path / "out"])
    assert (one.pair, one.rows, other.rows) == (other.pair, 8, 16), "a report of the folder has one pair"


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_a_smaller_draw_is_part_of_a_larger_one(classes):
    labels = np.random.default_rng(0).permutation(np.arange(600) % classes)
    for seed in range(5):
        draws = [set(draw_rows(labels, rows, False, "target", seed)) for rows in (12, 30, 60, 300)]
        assert all(fewer < more for fewer, more in zip(draws, draws[1:], strict=False))


def test_the_figure_has_five_methods_at_most():
    curves = {f"m{n}": [(10, [0.5, 0.6]), (20, [0.6, 0.7])] for n in range(8)}
    chosen = chosen_curves({"failed": [], **curves}, "m7")
    assert list(chosen) == ["m7", "m0", "m1", "m2", "m3"] and len(chosen) == MOST_LINES
    axes = new_figure(4, 3).add_subplot()
    draw_curves(axes, chosen, "accuracy")
    bars = axes.containers[0]
    assert bars.get_label() == "m7" and bars.lines[0].get_ydata() == pytest.approx([0.55, 0.65])
    low, high = stats.t.interval(0.95, 1, 0.55, 0.05)
    assert bars.lines[2][0].get_segments()[0][:, 1] == pytest.approx([low, high])
    assert len({container.lines[0].get_color() for container in axes.containers}) == MOST_LINES
    assert "rows" in axes.get_xlabel() and "95 % interval" in axes.get_ylabel()
