"""How predictions are scored."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..utils.log_history import is_number


CLASSIFICATION = ("accuracy", "f1", "matthews_correlation")
REGRESSION = ("pearson", "spearmanr", "mse")
LOWER_IS_BETTER = ("mse",)
METRICS = (*CLASSIFICATION, *REGRESSION)
# The least and the largest value.
RANGES = {
    "accuracy": (0.0, 1.0),
    "f1": (0.0, 1.0),
    "matthews_correlation": (-1.0, 1.0),
    "pearson": (-1.0, 1.0),
    "spearmanr": (-1.0, 1.0),
    "mse": (0.0, math.inf),
}


def default_metric(is_regression: bool) -> str:
    """`pearson` for real labels, else `accuracy`."""
    return "pearson" if is_regression else "accuracy"


def can_be_score(value: Any, metric: str) -> bool:
    """Return whether a value of JSON can be a score: a finite number in the range of the metric, or `None` for NaN."""
    low, high = RANGES.get(metric, (-math.inf, math.inf))
    return value is None or (is_number(value) and math.isfinite(value) and low - 1e-9 <= value <= high + 1e-9)


def is_better(score: float, other: float, metric: str) -> bool:
    """
    Whether a score beats another one; one that is not a number never does, nor one that differs by rounding alone: means over draws
    that are equal in rows may differ in their last digit.
    """
    if np.isnan(score) or np.isnan(other):
        return bool(np.isnan(other) and not np.isnan(score))
    if math.isclose(score, other, rel_tol=1e-9, abs_tol=1e-12):
        return False
    return score < other if metric in LOWER_IS_BETTER else score > other


def classification_metrics(predictions: np.ndarray, references: np.ndarray, num_labels: int) -> dict[str, float]:
    """
    Args:
        predictions, references (`np.ndarray` of shape `(n,)`): class ids.

    Returns:
        `dict[str, float]`: `accuracy`; `f1` of class 1 where there are two classes, else the mean over classes that occur;
        `matthews_correlation`, 0 where all predictions or all references are one class.
    """
    counts = np.zeros((num_labels, num_labels))
    np.add.at(counts, (references, predictions), 1)
    right, of_class, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    total = of_class + predicted
    f1 = np.divide(2 * right, total, out=np.zeros(num_labels), where=total > 0)
    f1 = f1[1] if num_labels == 2 else f1[total > 0].mean()

    rows = counts.sum()
    covariance = right.sum() * rows - of_class @ predicted
    variances = (rows**2 - predicted @ predicted) * (rows**2 - of_class @ of_class)
    correlation = covariance / np.sqrt(variances) if variances > 0 else 0.0
    return {"accuracy": right.sum() / rows, "f1": f1, "matthews_correlation": correlation}


def regression_metrics(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """
    Args:
        predictions, references (`np.ndarray` of shape `(n,)`).

    Returns:
        `dict[str, float]`: `pearson` and `spearmanr`, 0 where all predictions are equal; `mse`.
    """
    from scipy.stats import rankdata

    return {
        "pearson": _correlation(predictions, references),
        "spearmanr": _correlation(rankdata(predictions), rankdata(references)),
        "mse": np.mean((predictions - references) ** 2),
    }


def make_compute_metrics(num_labels: int, is_regression: bool) -> Callable:
    """`compute_metrics` of [`~transformers.Trainer`]; NaN where the model's answers are not all finite numbers."""

    def compute_metrics(output) -> dict[str, float]:
        logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        if not np.isfinite(logits).all():  # whose largest one would be class 0
            return dict.fromkeys(REGRESSION if is_regression else CLASSIFICATION, float("nan"))
        references = np.asarray(output.label_ids).reshape(-1)
        if is_regression:
            metrics = regression_metrics(logits.reshape(-1).astype(float), references.astype(float))
        else:
            metrics = classification_metrics(logits.argmax(-1), references, num_labels)
        return {name: float(value) for name, value in metrics.items()}

    return compute_metrics


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one @ one) * (other @ other))
    return one @ other / scale if scale > 0 or np.isnan(scale) else 0.0
