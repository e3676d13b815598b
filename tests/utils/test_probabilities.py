"""Scores of probabilities, against scikit-learn and torchmetrics' definition written out."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from merlin_hf.utils.probabilities import (
    brier_score,
    log_loss,
    log_probabilities,
    probability_metrics,
    reliability,
)


def answers(num_labels, rows=500, seed=0, spread=2.0):
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(rows, num_labels)) * spread
    return logits, draw.integers(0, num_labels, rows)


def torchmetrics_error(probabilities, references, bins):
    """`multiclass_calibration_error(norm="l1")` of torchmetrics 1.9, in the same steps."""
    confidences, predictions = torch.tensor(probabilities).max(1)
    accuracies = predictions.eq(torch.tensor(references)).to(confidences.dtype)
    boundaries = torch.linspace(0, 1, bins + 1, dtype=confidences.dtype)
    zeros = torch.zeros_like(boundaries)
    places = torch.bucketize(confidences, boundaries, right=True) - 1
    count = zeros.scatter_add(0, places, torch.ones_like(confidences))
    confidence = torch.nan_to_num(zeros.scatter_add(0, places, confidences) / count)
    accuracy = torch.nan_to_num(zeros.scatter_add(0, places, accuracies) / count)
    return ((accuracy - confidence).abs() * count / count.sum()).sum().item()


@pytest.mark.parametrize("num_labels", [2, 3, 10])
def test_the_scores_of_scikit_learn(num_labels):
    logits, references = answers(num_labels)
    probabilities = np.exp(log_probabilities(logits))
    assert log_loss(logits, references) == pytest.approx(metrics.log_loss(references, probabilities))
    if num_labels == 2:
        expected = metrics.brier_score_loss(references, probabilities[:, 1])
    else:  # which scikit-learn has since 1.7
        expected = ((probabilities - np.eye(num_labels)[references]) ** 2).sum(1).mean()
    assert brier_score(logits, references) == pytest.approx(expected)


@pytest.mark.parametrize("num_labels", [2, 3, 10])
@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0])
def test_the_calibration_error_of_torchmetrics(num_labels, bins, spread):
    logits, references = answers(num_labels, spread=spread)
    expected = torchmetrics_error(np.exp(log_probabilities(logits)), references, bins)
    assert reliability(logits, references, bins).error == pytest.approx(expected, abs=1e-12)


def test_bins_by_hand():
    """Confidences of 0.9 (right), 0.9 (wrong), 0.6 (right): errors of 0.4 twice, and 0.4."""
    logits = np.log([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    found = reliability(logits, np.array([0, 0, 0]), bins=4)
    assert found.counts.tolist() == [0, 0, 1, 2]
    assert found.accuracy.tolist() == [0, 0, 1, 0.5] and found.confidence == pytest.approx([0, 0, 0.6, 0.9])
    assert found.error == pytest.approx((2 * abs(0.5 - 0.9) + abs(1 - 0.6)) / 3)


def test_bins_are_open_below_and_closed_above():
    """A confidence of one half is in (0.25, 0.5], and one of 1 in the last bin."""
    logits = np.array([[0.0, 0.0], [1000.0, 0.0]])
    assert reliability(logits, np.array([0, 0]), bins=4).counts.tolist() == [0, 1, 0, 1]


def test_a_calibrated_model_has_no_error_and_a_sure_one_that_guesses_has_all():
    logits, _ = answers(3, rows=200_000)
    probabilities = np.exp(log_probabilities(logits))
    draw = np.random.default_rng(1)
    references = (draw.random((len(logits), 1)) > probabilities.cumsum(1)).sum(1)
    assert reliability(logits, references).error < 0.005
    assert reliability(logits * 3, references).error > 0.1, "overconfident"
    wrong = 1e3 * np.eye(2)[[0, 0, 1, 1]]
    scores = probability_metrics(wrong, np.array([1, 1, 0, 0]))
    assert scores == {"log_loss": pytest.approx(1e3), "brier_score": pytest.approx(1), "ece": pytest.approx(1)}


def test_half_precision_loses_nothing_more():
    logits, references = answers(4)
    half = logits.astype(np.float16)
    assert probability_metrics(half, references) == probability_metrics(half.astype(np.float64), references)
