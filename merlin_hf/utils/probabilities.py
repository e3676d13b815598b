"""Score the probabilities of a classifier: log loss, Brier score, expected calibration error."""

from typing import NamedTuple

import numpy as np


PROBABILITY_METRICS = ("log_loss", "brier_score", "ece")
# Of all metrics that the package computes; the others are better where they are higher.
LOWER_IS_BETTER = (*PROBABILITY_METRICS, "mse", "loss")
BINS = 15  # as in Guo et al., 2017


def is_lower_better(name: str | None) -> bool:
    """Return whether a metric of this name, perhaps behind that of an evaluation set, is better where it is lower."""
    return name is not None and any(name == metric or name.endswith(f"_{metric}") for metric in LOWER_IS_BETTER)


class Reliability(NamedTuple):
    """
    How often answers are right, by how sure the model is of them.

    Args:
        counts (`np.ndarray` of shape `(bins,)`): rows whose confidence is in each of as many equal parts of (0, 1].
        confidence (`np.ndarray` of shape `(bins,)`): their mean confidence; 0 where there are no rows.
        accuracy (`np.ndarray` of shape `(bins,)`): the share of them that is right.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Return the expected calibration error: the mean over rows of their bin's |accuracy - confidence|."""
        return float(self.counts @ np.abs(self.accuracy - self.confidence) / max(self.counts.sum(), 1))

    def to_dict(self) -> dict[str, list[float]]:
        """Return the three as lists, for JSON."""
        return {name: values.tolist() for name, values in self._asdict().items()}


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the log of the softmax of `(n, num_labels)` logits, in double precision."""
    logits = np.asarray(logits, dtype=np.float64)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def log_loss(logits: np.ndarray, references: np.ndarray) -> float:
    """
    Return the mean of -log p(label), in nats.

    As scikit-learn's, but of logits `(n, num_labels)`: a probability that rounds to 0 is not clipped. `references`
    `(n,)` are the outputs of the right classes.
    """
    return float(-log_probabilities(logits)[np.arange(len(references)), references].mean())


def brier_score(logits: np.ndarray, references: np.ndarray) -> float:
    """
    Return the mean squared error of the probabilities (Brier, 1950).

    As scikit-learn's: of two classes that of the second one, in [0, 1]; of more the sum over classes, in [0, 2].
    """
    errors = np.exp(log_probabilities(logits))
    errors[np.arange(len(references)), references] -= 1
    squares = (errors**2).sum(-1)
    return float(squares.mean() / (2 if errors.shape[-1] == 2 else 1))


def reliability(logits: np.ndarray, references: np.ndarray, bins: int = BINS) -> Reliability:
    """
    Sort rows into bins by the probability of the most probable class.

    Bin i has the confidences in (i / bins, (i + 1) / bins], as in Guo et al., 2017, arXiv 1706.04599, section 2.
    """
    logits = np.asarray(logits)
    confidence = np.exp(log_probabilities(logits).max(-1))
    is_right = logits.argmax(-1) == references
    places = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    counts = np.bincount(places, minlength=bins)
    means = [np.bincount(places, values, minlength=bins) / np.maximum(counts, 1) for values in (confidence, is_right)]
    return Reliability(counts, *means)


def probability_metrics(logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """
    Score the probabilities of rows with one label each.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`).
        references (`np.ndarray` of shape `(n,)`): outputs of the right classes.

    Returns:
        `dict[str, float]`: `log_loss`, `brier_score` and `ece`.
    """
    return {
        "log_loss": log_loss(logits, references),
        "brier_score": brier_score(logits, references),
        "ece": reliability(logits, references).error,
    }
