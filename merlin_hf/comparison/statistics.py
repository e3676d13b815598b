"""Statistics of scores over seeds: mean, spread, and whether two methods differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """
    A method against the reference on the same seeds.

    Args:
        mean (`float`): mean of the differences, method less reference.
        low, high (`float`, *optional*): the 95 % confidence interval of that mean by the t distribution.
        p_value (`float`, *optional*): of the two-sided paired t-test, not corrected.

    The last three are `None` where the test is not defined: fewer than two seeds, or differences that do not vary at
    all.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def mean_and_spread(scores: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (n - 1 in the denominator), which is `None` for one score."""
    spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return float(np.mean(scores)), spread


def mean_interval(scores: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by the t distribution; `None` for one score, or where one is NaN."""
    mean, spread = mean_and_spread(scores)
    if spread is None or math.isnan(spread):
        return None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1)) * spread / math.sqrt(len(scores))
    return mean - half, mean + half


def paired_difference(scores: Sequence[float], reference: Sequence[float]) -> PairedDifference:
    """Test the difference of two methods, with one score per seed in the same order, by a paired t-test."""
    if len(scores) != len(reference) or not len(scores):
        raise ValueError(f"A paired test needs as many scores of both, got {len(scores)} and {len(reference)}.")
    differences = np.asarray(scores, dtype=float) - np.asarray(reference, dtype=float)
    mean, scale = float(differences.mean()), float(np.abs(differences).max())
    # Equal up to rounding: 0.75 - 0.5 and 0.5 - 0.25 in shares of rows.
    if len(differences) < 2 or np.ptp(differences) <= 1e-12 * max(scale, 1.0):
        return PairedDifference(mean)
    test = stats.ttest_rel(scores, reference)
    interval = test.confidence_interval(CONFIDENCE)
    return PairedDifference(mean, float(interval.low), float(interval.high), float(test.pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """
    Correct the p-values of several tests by Holm's step-down method; `None` stands for no test, and does not count.

    All that stay below 0.05 can be called significant with a chance of at most 5 % that any of them is a false alarm.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None and not math.isnan(p))
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[place] = largest
    return corrected
