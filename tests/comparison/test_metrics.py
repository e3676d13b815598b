import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import EvalPrediction

from merlin_hf.comparison.metrics import classification_metrics, is_better, make_compute_metrics, regression_metrics


@pytest.mark.parametrize("classes", [2, 4])
def test_classification_is_that_of_scikit_learn(classes):
    draw = np.random.default_rng(classes)
    references = draw.integers(classes, size=50)
    predictions = np.where(draw.random(50) < 0.6, references, draw.integers(classes, size=50))
    found = classification_metrics(predictions, references, classes)
    average = "binary" if classes == 2 else "macro"
    assert found["accuracy"] == pytest.approx(accuracy_score(references, predictions))
    assert found["f1"] == pytest.approx(f1_score(references, predictions, average=average))
    assert found["matthews_correlation"] == pytest.approx(matthews_corrcoef(references, predictions))


def test_one_predicted_class_and_absent_classes():
    found = classification_metrics(np.array([0, 0, 0]), np.array([0, 1, 0]), 3)
    assert found["matthews_correlation"] == 0
    assert found["f1"] == pytest.approx(f1_score([0, 1, 0], [0, 0, 0], average="macro", zero_division=0))


def test_regression_is_that_of_scipy():
    draw = np.random.default_rng(0)
    references = draw.normal(size=30)
    predictions = references.round(1) + draw.normal(size=30).round(1)
    found = regression_metrics(predictions, references)
    assert found["pearson"] == pytest.approx(pearsonr(predictions, references)[0])
    assert found["spearmanr"] == pytest.approx(spearmanr(predictions, references)[0])
    assert found["mse"] == pytest.approx(np.mean((predictions - references) ** 2))
    assert regression_metrics(np.ones(3), np.arange(3.0))["pearson"] == 0
    assert np.isnan(regression_metrics(np.array([np.nan, 1, 2]), np.arange(3.0))["pearson"])


def test_from_what_trainer_gives():
    logits = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert make_compute_metrics(2, False)(EvalPrediction((logits, None), np.array([1, 1])))["accuracy"] == 0.5
    assert make_compute_metrics(1, True)(EvalPrediction(np.array([[1.0], [2.0]]), np.array([1.0, 3.0])))["mse"] == 0.5


def test_better_is_more_or_less_and_never_no_number():
    assert is_better(0.6, 0.5, "accuracy") and not is_better(0.5, 0.5, "accuracy")
    assert is_better(0.5, 0.6, "mse")
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
    found = make_compute_metrics(num_labels, is_regression)(EvalPrediction(logits, np.array([0, 0, 0, 1])))
    assert found and all(np.isnan(value) for value in found.values())
