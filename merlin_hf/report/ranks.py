"""Rank methods and test their differences over many comparisons."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata, wilcoxon

from ..comparison.statistics import holm, paired_difference
from .comparisons import Comparison, by_pair


SIGNIFICANCE = 0.05
LEAST_PAIRS = 5  # of which methods are told apart


def average_ranks(gains: Sequence[float]) -> np.ndarray:
    """
    Return ranks of shape `(n,)`, 1 for the highest value; equal values share the mean of their ranks.

    Values are equal that are to 12 decimals, as means of the same scores in another order differ in the last bit.

    Args:
        gains (`Sequence[float]`): without NaN.
    """
    return rankdata(-np.asarray(gains, dtype=float).round(12))


def balanced(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """
    Return the comparisons with numbers of rows that every pair has, so that pairs are ranked alike.

    Where there is no such number, return all. Pairs that lack numbers of rows are left out where the others then have
    more comparisons in all: one pair with few rows is not to take the numbers that a dozen others have out of the
    ranks. Three quarters of the pairs stay, and [`LEAST_PAIRS`] at least.
    """
    rows = {pair: {comparison.rows for comparison in of_pair} for pair, of_pair in by_pair(comparisons).items()}
    candidates: set[frozenset[int]] = set()
    for own in map(frozenset, rows.values()):
        candidates |= {own & other for other in candidates} | {own}
    rectangles = [(set(rows), frozenset.intersection(*map(frozenset, rows.values())) if rows else frozenset())]
    for wanted in sorted(candidates, key=sorted):
        pairs = {pair for pair, own in rows.items() if wanted <= own}
        if len(pairs) >= max(LEAST_PAIRS, 0.75 * len(rows)):
            rectangles.append((pairs, wanted))
    pairs, shared = max(rectangles, key=lambda found: (len(found[0]) * len(found[1]), len(found[0])))
    return [
        comparison for comparison in comparisons if comparison.pair in pairs and comparison.rows in shared
    ] or list(comparisons)


def complete_methods(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the labels with a score in every comparison, sorted: ranks among different methods cannot be averaged."""
    labels = sorted({label for comparison in comparisons for label in comparison.methods})
    return [label for label in labels if all(comparison.has(label) for comparison in comparisons)]


def ranks_of_pairs(comparisons: Sequence[Comparison], labels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the names of the pairs, and each method's ranks `(pairs, labels)`, averaged over numbers of rows."""
    pairs = by_pair(comparisons)
    ranks = [
        np.mean([average_ranks([comparison.gain(label) for label in labels]) for comparison in of_pair], axis=0)
        for of_pair in pairs.values()
    ]
    return list(pairs), np.array(ranks).reshape(len(pairs), len(labels))


def mean_ranks(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """
    Return the mean over pairs of the rank of each method that has a score in all comparisons, best first.

    A pair counts once, however many numbers of rows it has been run with.
    """
    labels = complete_methods(comparisons)
    _, ranks = ranks_of_pairs(comparisons, labels)
    found = dict(zip(labels, ranks.mean(0).tolist(), strict=True)) if labels else {}
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


def can_test(comparisons: Sequence[Comparison]) -> bool:
    """Return whether there are enough pairs to test methods over, and two methods at least."""
    return len(by_pair(comparisons)) >= LEAST_PAIRS and len(complete_methods(comparisons)) > 1


def wilcoxon_holm(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], float]:
    """
    Test each two methods over pairs by Wilcoxon's signed-rank test; return Holm's corrected p by the two labels.

    A pair counts once, by the mean over its numbers of rows of the difference of the two means over seeds. The better
    mean rank comes first; p is 1 for methods that are equal everywhere.
    """
    ordered = list(mean_ranks(comparisons))
    gains = np.array(
        [
            np.mean([[comparison.gain(label) for label in ordered] for comparison in of_pair], axis=0)
            for of_pair in by_pair(comparisons).values()
        ]
    )
    couples = list(itertools.combinations(range(len(ordered)), 2))
    p_values = []
    for one, other in couples:
        differences = gains[:, one] - gains[:, other]
        p_values.append(float(wilcoxon(differences).pvalue) if differences.any() else 1.0)
    return {
        (ordered[one], ordered[other]): p
        for (one, other), p in zip(couples, holm(p_values), strict=True)
        if p is not None
    }


def groups(ordered: Sequence[str], p_values: dict[tuple[str, str], float]) -> list[tuple[int, int]]:
    """Return first and last places of the longest runs of methods, in order, of which no two differ."""
    found: list[tuple[int, int]] = []
    for first in range(len(ordered)):
        last = first
        while last + 1 < len(ordered) and all(
            p_values[ordered[place], ordered[last + 1]] >= SIGNIFICANCE for place in range(first, last + 1)
        ):
            last += 1
        if last > first and not any(last <= end for _, end in found):
            found.append((first, last))
    return found


def paired_p(comparison: Comparison, one: str, other: str) -> float | None:
    """Return the p of a paired t-test over the seeds that both methods have; `None` where it is not defined."""
    values = paired_scores(comparison, one, other)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return paired_difference(*zip(*values, strict=True)).p_value


def paired_scores(comparison: Comparison, one: str, other: str) -> list[tuple[float, float]]:
    """Return the scores of two methods for each seed that both have."""
    scores, others = comparison.methods[one].scores, comparison.methods[other].scores
    return [(scores[seed], others[seed]) for seed in scores if seed in others]


def win_counts(comparisons: Sequence[Comparison], labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Count how often each method beats each other one.

    Args:
        comparisons (`Sequence[Comparison]`): those in which both have a score are counted.
        labels (`Sequence[str]`): the methods.

    Returns:
        three `np.ndarray` of shape `(labels, labels)`: in how many comparisons the mean of the row is better than that
        of the column; in how many of them it is by a paired t-test over seeds at 5 %, not corrected for their number;
        and in how many comparisons both have a score.
    """
    wins, significant, counted = (np.zeros((len(labels), len(labels)), dtype=int) for _ in range(3))
    for comparison in comparisons:
        for row, one in enumerate(labels):
            for column, other in enumerate(labels):
                difference = comparison.gain(one) - comparison.gain(other)
                if row == column or not math.isfinite(difference):
                    continue
                counted[row, column] += 1
                if difference > 0:
                    wins[row, column] += 1
                    p = paired_p(comparison, one, other)
                    significant[row, column] += p is not None and p < SIGNIFICANCE
    return wins, significant, counted


def compared_with_reference(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """
    Compare each method with the reference over the seeds that both have.

    Returns:
        `dict`: by label the mean `difference`, and `p` after Holm's correction over the methods, `None` where not
            defined; empty where the reference has no scores.
    """
    if comparison.reference not in comparison.methods or not comparison.methods[comparison.reference].scores:
        return {}
    labels = [label for label, method in comparison.methods.items() if method.scores and label != comparison.reference]
    corrected = holm([paired_p(comparison, label, comparison.reference) for label in labels])
    found = {}
    for label, p in zip(labels, corrected, strict=True):
        own, reference = np.reshape(paired_scores(comparison, label, comparison.reference), (-1, 2)).T
        found[label] = {"difference": float(own.mean() - reference.mean()) if len(own) else math.nan, "p": p}
    return found
