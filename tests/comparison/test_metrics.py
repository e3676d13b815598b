import numpy as np
import pytest
from transformers import EvalPrediction

from merlin_hf.comparison.metrics import (
    CLASSIFICATION,
    can_be_score,
    classification_metrics,
    is_better,
    make_compute_metrics,
    regression_metrics,
)


def score(predictions, references, num_labels):
    """Scores of answers that are as good as sure."""
    return classification_metrics(50.0 * np.eye(num_labels)[predictions], np.array(references))


def test_classes_by_hand():
    references, predictions = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    found = score(predictions, references, 2)
    by_hand = {"accuracy": 0.6, "f1": 2 / 3, "macro_f1": (0.5 + 2 / 3) / 2, "matthews_correlation": 1 / 6}
    assert found == pytest.approx({**by_hand, "log_loss": 0.4 * 50, "brier_score": 0.4, "ece": 0.4})
    assert score(1 - predictions, 1 - references, 2)["f1"] == pytest.approx(0.5), "of class 1 alone"
    of_three = score(predictions, references, 3)
    assert of_three["f1"] == of_three["macro_f1"] == pytest.approx((0.5 + 2 / 3) / 2), "classes that occur"
    assert set(found) == set(CLASSIFICATION) and all(can_be_score(found[name], name) for name in found)


def test_one_predicted_class_and_absent_classes():
    found = score([0, 0, 0], [0, 1, 0], 3)
    assert found["matthews_correlation"] == 0 and found["f1"] == pytest.approx((0.8 + 0) / 2)
    assert score([0, 0], [0, 0], 2)["f1"] == 0, "class 1 does not occur"


def test_real_numbers_by_hand():
    found = regression_metrics(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0]))
    assert found == pytest.approx({"pearson": 1 / np.sqrt(28 / 3), "spearmanr": 0.5, "mse": 5 / 3})
    assert regression_metrics(np.ones(3), np.arange(3.0))["pearson"] == 0
    assert regression_metrics(np.arange(3.0), np.ones(3))["spearmanr"] == 0
    assert np.isnan(regression_metrics(np.array([np.nan, 1, 2]), np.arange(3.0))["pearson"])


def test_from_what_trainer_gives():
    logits = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert make_compute_metrics(False)(EvalPrediction((logits, None), np.array([1, 1])))["accuracy"] == 0.5
    assert make_compute_metrics(True)(EvalPrediction(np.array([[1.0], [2.0]]), np.array([1.0, 3.0])))["mse"] == 0.5


def test_better_is_more_or_less_and_never_no_number():
    assert is_better(0.6, 0.5, "accuracy") and not is_better(0.5, 0.5, "accuracy")
    for metric in ("mse", "log_loss", "brier_score", "ece"):
        assert is_better(0.5, 0.6, metric) and not is_better(0.6, 0.5, metric)
    assert is_better(0.1, float("nan"), "pearson") and not is_better(float("nan"), 0.1, "pearson")
    assert not is_better(float("nan"), float("nan"), "mse")
    # Draws of 15 rows of which as many are right in all.
    means = [sum(rows / 15 for rows in right) / 4 for right in ((9, 13, 12, 12), (10, 11, 12, 13))]
    assert means[0] != means[1]
    for metric in ("accuracy", "mse"):
        assert not is_better(*means, metric) and not is_better(*means[::-1], metric)
    assert is_better(1 / 3 + 1e-6, 1 / 3, "accuracy")


@pytest.mark.parametrize(("num_labels", "is_regression"), [(2, False), (1, True)])
def test_answers_that_are_no_numbers_score_nothing(num_labels, is_regression):
    """The largest of logits that are all NaN is the first, which most of the rows may belong to."""
    logits = np.zeros((4, num_labels))
    logits[2] = np.nan
    found = make_compute_metrics(is_regression)(EvalPrediction(logits, np.array([0, 0, 0, 1])))
    assert found and all(np.isnan(value) for value in found.values())
