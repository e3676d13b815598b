"""Score predictions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ..utils.log_history import is_number
from ..utils.probabilities import LOWER_IS_BETTER, PROBABILITY_METRICS, probability_metrics
from ..utils.tag_metrics import make_tag_metrics


# The first of each is the default.
CLASSIFICATION = ("accuracy", "f1", "macro_f1", "matthews_correlation", *PROBABILITY_METRICS)
REGRESSION = ("pearson", "spearmanr", "mse")
TAGGING = ("f1", "macro_f1", "accuracy")  # of spans where tags are those of spans; accuracy of words
METRICS = (*CLASSIFICATION, *REGRESSION)
# The least and the largest value.
RANGES = {
    "accuracy": (0.0, 1.0),
    "f1": (0.0, 1.0),
    "macro_f1": (0.0, 1.0),
    "matthews_correlation": (-1.0, 1.0),
    "log_loss": (0.0, math.inf),
    "brier_score": (0.0, 2.0),
    "ece": (0.0, 1.0),
    "pearson": (-1.0, 1.0),
    "spearmanr": (-1.0, 1.0),
    "mse": (0.0, math.inf),
}


def can_be_score(value: Any, metric: str) -> bool:
    """Return whether a value of JSON can be a score: a finite number in the range of the metric, or `None` for NaN."""
    low, high = RANGES.get(metric, (-math.inf, math.inf))
    return value is None or (is_number(value) and math.isfinite(value) and low - 1e-9 <= value <= high + 1e-9)


def is_better(score: float, other: float, metric: str) -> bool:
    """Return whether a score beats another one: NaN never does, nor one that differs by rounding alone."""
    if math.isnan(score) or math.isnan(other):
        return math.isnan(other) and not math.isnan(score)
    if math.isclose(score, other, rel_tol=1e-9, abs_tol=1e-12):
        return False
    return score < other if metric in LOWER_IS_BETTER else score > other


def classification_metrics(logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """
    Score the answers to rows with one label each.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`).
        references (`np.ndarray` of shape `(n,)`): class ids.

    Returns:
        `dict[str, float]`: `accuracy`; `f1` of class 1 where there are two classes, else `macro_f1`, the mean over
            classes that occur; `matthews_correlation`, 0 where all predictions or all references are one class; those
            of [`~merlin_hf.utils.probabilities.probability_metrics`].
    """
    predictions = logits.argmax(-1)
    varies = np.ptp(predictions) > 0 and np.ptp(references) > 0
    macro_f1 = float(f1_score(references, predictions, average="macro", zero_division=0))
    is_binary = logits.shape[-1] == 2
    return {
        "accuracy": float(accuracy_score(references, predictions)),
        "f1": float(f1_score(references, predictions, zero_division=0)) if is_binary else macro_f1,
        "macro_f1": macro_f1,
        "matthews_correlation": float(matthews_corrcoef(references, predictions)) if varies else 0.0,
        **probability_metrics(logits, references),
    }


def regression_metrics(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """
    Score real numbers.

    Args:
        predictions, references (`np.ndarray` of shape `(n,)`).

    Returns:
        `dict[str, float]`: `pearson` and `spearmanr`, 0 where all predictions or all references are equal; `mse`.
    """
    varies = np.ptp(predictions) != 0 and np.ptp(references) != 0
    return {
        "pearson": float(pearsonr(predictions, references).statistic) if varies else 0.0,
        "spearmanr": float(spearmanr(predictions, references).statistic) if varies else 0.0,
        "mse": float(np.mean((predictions - references) ** 2)),
    }


def make_compute_metrics(is_regression: bool, tags: Sequence[str] | None = None) -> Callable:
    """
    Make `compute_metrics` for [`~transformers.Trainer`]; it returns NaN where logits are not finite.

    Args:
        is_regression (`bool`): whether labels are real numbers.
        tags (`Sequence[str]`, *optional*): of words, in the order of the model's outputs.
    """
    score_tags = None if tags is None else make_tag_metrics(tags)

    def compute_metrics(output) -> dict[str, float]:
        logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        if not np.isfinite(logits).all():  # whose largest one would be class 0
            names = TAGGING if score_tags is not None else REGRESSION if is_regression else CLASSIFICATION
            return dict.fromkeys(names, float("nan"))
        if score_tags is not None:
            scores = score_tags(output)
            return {name: scores.get(name, scores["macro_f1"]) for name in TAGGING}
        references = np.asarray(output.label_ids).reshape(-1)
        if is_regression:
            return regression_metrics(logits.reshape(-1).astype(float), references.astype(float))
        return classification_metrics(logits, references)

    return compute_metrics
