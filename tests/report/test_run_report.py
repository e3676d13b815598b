"""Curves, projection and confusion matrix of a run."""

import json

import numpy as np
import pytest
from sklearn.decomposition import PCA

from merlin_hf.report import (
    confusion_figure,
    confusion_matrix,
    principal_components,
    projection_figure,
    training_curves,
)
from merlin_hf.report.curves import read_log_history, series
from merlin_hf.report.final import final_score
from merlin_hf.report.reliability import reliability_figure
from merlin_hf.utils.probabilities import reliability
from merlin_hf.utils.validation import ConfigError
from tests.report.support import report_run


HISTORY = [
    {
        "step": 1,
        "epoch": 0.5,
        "loss": 1.5,
        "source_loss": 1.0,
        "source_loss_mnli": 1.0,
        "meta_loss": 0.5,
        "head_train_accuracy": 0.7,
        "rho": 0.3,
    },
    {
        "step": 2,
        "epoch": 1.0,
        "loss": 1.2,
        "source_loss": 0.9,
        "source_loss_snli": 0.9,
        "meta_loss": 0.3,
        "head_train_accuracy": 0.9,
        "rho": 0.2,
    },
    {"step": 2, "epoch": 1.0, "eval_loss": 0.6, "eval_accuracy": 0.8, "eval_runtime": 3.0},
    {"step": 2, "epoch": 1.0, "train_runtime": 9.0, "train_loss": 1.35, "loss": 99.0},
]


def write_state(folder, history):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder


def test_the_state_is_found(tmp_path):
    write_state(tmp_path / "run" / "checkpoint-2", HISTORY[:1])
    write_state(tmp_path / "run" / "checkpoint-10", HISTORY[:2])
    assert len(read_log_history(tmp_path / "run")) == 2, "the newest checkpoint's"
    write_state(tmp_path / "run", HISTORY)
    assert len(read_log_history(tmp_path / "run")) == 4
    with pytest.raises(FileNotFoundError, match="has no trainer_state.json"):
        read_log_history(tmp_path)
    (tmp_path / "run" / "trainer_state.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a state of a Trainer"):
        read_log_history(tmp_path / "run")


def test_curves_are_what_was_logged():
    assert series(HISTORY, "loss") == ([1, 2], [1.5, 1.2]), "not the summary in the end"
    figure = training_curves(HISTORY)
    drawn = {
        axes.get_title(): {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
        for axes in figure.axes
    }
    assert drawn["loss"] == {
        "loss": [1.5, 1.2],
        "source_loss": [1.0, 0.9],
        "meta_loss": [0.5, 0.3],
        "eval_loss": [0.6],
        "source_loss_mnli": [1.0],
        "source_loss_snli": [0.9],
    }
    assert drawn["evaluation"] == {"eval_accuracy": [0.8]} and drawn["rho"] == {"rho": [0.3, 0.2]}
    assert set(drawn) == {"loss", "accuracy of the head", "evaluation", "rho"}
    with pytest.raises(ConfigError, match="logging_steps"):
        training_curves(HISTORY[3:])


def test_a_report_of_a_run(tmp_path):
    folder = write_state(tmp_path / "run", HISTORY)
    text = report_run(folder)
    assert "# run" in text and "Source loss" in text and "![" not in text
    draw = np.random.default_rng(0)
    features = {"before training": draw.normal(size=(9, 4)), "after training": draw.normal(size=(9, 4))}
    labels = np.arange(9) % 3
    logits = np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])[labels]
    known = {"references": labels, "features": features, "names": ["a", "b", "c"]}
    text = report_run(folder, tmp_path / "out", **known, logits=logits)
    assert "## Probabilities" in text and "0.2231" in text, "the log loss, -log 0.8"
    names = {"training_curves", "confusion_matrix", "features", "reliability"}
    expected = {"results.md", *(f"{name}.{ending}" for name in names for ending in ("png", "svg"))}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    assert all(f"({name}.png)" in text for name in names) and str(tmp_path) not in text
    report_run(folder, tmp_path / "real", references=labels / 3, features=features)
    assert not (tmp_path / "real" / "confusion_matrix.png").exists() and (tmp_path / "real" / "features.png").exists()
    with pytest.raises(ConfigError, match="has logged nothing"):
        report_run(write_state(tmp_path / "silent", HISTORY[3:]))


def test_the_final_score(tmp_path):
    folder = write_state(tmp_path / "run", HISTORY)
    assert final_score(folder, HISTORY) == ({"eval_loss": 0.6, "eval_accuracy": 0.8}, "trainer_state.json", None)
    assert "| Accuracy |   0.8 |" in report_run(folder)
    results = {"eval_accuracy": 0.75, "eval_f1_mm": 0.5, "predict_accuracy": 0.25, "train_loss": 1.0, "epoch": 1.0}
    noise = {"eval_runtime_mm": 3.0, "eval_samples": 1234, "eval_head_l2": 0.1, "eval_loss": float("nan")}
    (folder / "all_results.json").write_text(json.dumps({**results, **noise}))
    wanted = {"eval_accuracy": 0.75, "eval_f1_mm": 0.5, "predict_accuracy": 0.25}
    assert final_score(folder, HISTORY) == (wanted, "all_results.json", 1234)
    (folder / "eval_results.json").write_text(json.dumps({"eval_accuracy": 0.5}))
    assert final_score(folder / "trainer_state.json", HISTORY) == ({"eval_accuracy": 0.5}, "eval_results.json", None)
    (folder / "eval_results.json").unlink()
    text = report_run(folder)
    assert "on 1,234 rows" in text and "| F1 mm" in text and "| Accuracy (predictions) |" in text

    assert final_score(write_state(tmp_path / "never", HISTORY[:2]), HISTORY[:2]) is None
    assert "## Final score" not in report_run(tmp_path / "never")
    silent = write_state(tmp_path / "silent", HISTORY[3:])
    (silent / "eval_results.json").write_text(json.dumps({"eval_accuracy": 0.5}))
    assert "## Final score" in report_run(silent), "also where nothing was logged"
    (silent / "eval_results.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a JSON object of metrics"):
        report_run(silent)


@pytest.mark.parametrize("shape", [(30, 6), (5, 12)])
def test_components_are_those_of_scikit_learn(shape):
    rows = np.random.default_rng(1).normal(size=shape) * np.arange(1, shape[1] + 1)
    points, shares = principal_components(rows)
    pca = PCA(2).fit(rows)
    expected = pca.transform(rows)
    assert np.abs(points) == pytest.approx(np.abs(expected)) and shares == pytest.approx(pca.explained_variance_ratio_)
    assert principal_components(rows[::-1])[0][::-1] == pytest.approx(points), "the sign does not depend on the rows"


def test_components_where_there_are_few():
    points, shares = principal_components(np.array([[1.0], [3.0]]))
    assert points == pytest.approx(np.array([[-1.0, 0], [1, 0]])) and shares == pytest.approx([1, 0])
    assert principal_components(np.ones((3, 2)))[1].tolist() == [0, 0]
    with pytest.raises(ValueError, match="n of at least 2"):
        principal_components(np.ones((1, 2)))
    with pytest.raises(ValueError, match="one for each of 3 rows, got 2"):
        projection_figure({"x": np.ones((3, 2))}, np.zeros(2), ["a"])


def test_the_reliability_diagram():
    """Confidences of 0.75 (a half of them right) and 0.55 (all right)."""
    logits = np.log([[0.75, 0.25], [0.75, 0.25], [0.55, 0.45]])
    figure = reliability_figure(reliability(logits, np.array([0, 1, 0]), bins=5))
    axes, shares = figure.axes
    assert [(round(bar.get_x(), 3), bar.get_height()) for bar in axes.patches] == [(0.4, 1.0), (0.6, 0.5)]
    points = axes.get_lines()[1]
    assert points.get_xdata() == pytest.approx([0.55, 0.75]) and points.get_ydata() == pytest.approx([1, 0.5])
    assert [bar.get_height() for bar in shares.patches] == pytest.approx([0, 0, 1 / 3, 2 / 3, 0])
    assert "0.317" in axes.get_title(), "(0.45 + 2 * 0.25) / 3"


def test_the_confusion_matrix():
    assert confusion_matrix([0, 0, 2], [0, 2, 2], 3).tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]
    draw = np.random.default_rng(2)
    matrix = confusion_matrix(draw.integers(0, 4, 60), draw.integers(0, 3, 60), 5)
    figure = confusion_figure(matrix, list("abcde"))
    texts = [int(text.get_text()) for text in figure.axes[0].texts]
    assert texts == matrix.reshape(-1).tolist()
    with pytest.raises(ValueError, match="one for each of 5 classes, got 2"):
        confusion_figure(matrix, ["a", "b"])
    with pytest.raises(ValueError, match="`predictions` must be ids from 0 to 1, got 0 to 2"):
        confusion_matrix([0, 1], [0, 2], 2)
