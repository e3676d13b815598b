"""Tables of comparisons in Markdown: scores, ranks and wins."""

import math
from collections.abc import Sequence

from ..comparison.metrics import LOWER_IS_BETTER, METRICS
from ..utils.files import short_paths
from ..utils.markdown import Markdown, escape
from ..utils.tables import markdown_table
from .comparisons import Comparison, MethodScores
from .ranks import SIGNIFICANCE, compared_with_reference, complete_methods, mean_ranks, ranks_of_pairs, win_counts


SIGNIFICANT = "\\*"


def score_table(of_pair: Sequence[Comparison]) -> str:
    """
    Return the methods of a pair with their scores for each number of labelled rows, the best of them bold.

    Args:
        of_pair (`Sequence[Comparison]`): of one pair, by number of rows.
    """
    labels = _ordered(of_pair)
    tests = [compared_with_reference(comparison) for comparison in of_pair]
    best = [
        max((comparison.gain(label) for label in labels if _has(comparison, label)), default=math.nan)
        for comparison in of_pair
    ]
    rows = []
    for label in labels:
        row = [label]
        for comparison, tested, top in zip(of_pair, tests, best, strict=True):
            p = tested.get(label, {}).get("p")
            text = _score(comparison.methods.get(label))
            text = f"**{text}**" if _has(comparison, label) and comparison.gain(label) == top else text
            row.append(Markdown(text + (SIGNIFICANT if p is not None and p < SIGNIFICANCE else "")))
        rows.append(row)
    return markdown_table([of_pair[0].metric, *(f"{comparison.rows} rows" for comparison in of_pair)], rows)


def other_scores(comparison: Comparison) -> str:
    """
    Return the means of the metrics that the methods are not compared by, the best of each bold.

    Returns:
        `str`: empty where none was computed, as in files of earlier versions.
    """
    labels = [label for label in _ordered([comparison]) if _has(comparison, label)]
    means = {label: comparison.methods[label].means for label in labels}
    names = [name for name in METRICS if name != comparison.metric and any(name in one for one in means.values())]
    best = {name: _best([one.get(name, math.nan) for one in means.values()], name) for name in names}
    rows = []
    for label, one in means.items():
        texts = {name: f"{one[name]:.4f}" for name in names if name in one}
        bold = {name: Markdown(f"**{text}**") if one[name] == best[name] else text for name, text in texts.items()}
        rows.append([label, *(bold.get(name, "") for name in names)])
    return markdown_table([f"{comparison.rows} rows", *names], rows) if names else ""


def _best(values: Sequence[float], metric: str) -> float:
    known = [value for value in values if not math.isnan(value)]
    return (min if metric in LOWER_IS_BETTER else max)(known, default=math.nan)


def rank_table(comparisons: Sequence[Comparison]) -> str:
    """Return the mean ranks with the rank on each pair; the pairs are numbered where there are many."""
    labels = list(mean_ranks(comparisons))
    pairs, ranks = ranks_of_pairs(comparisons, labels)
    rows = [
        [
            label,
            f"{ranks[:, place].mean():.2f}",
            *(f"{rank:g}" if rank == round(rank) else f"{rank:.2f}" for rank in ranks[:, place]),
        ]
        for place, label in enumerate(labels)
    ]
    return markdown_table(["method", "mean rank", *pairs], rows)


def win_table(comparisons: Sequence[Comparison], labels: Sequence[str]) -> str:
    """Return in how many comparisons the row beats the column, and in brackets in how many significantly."""
    wins, significant, counted = win_counts(comparisons, labels)
    rows = []
    for row, label in enumerate(labels):
        cells = [
            f"{wins[row, column]} ({significant[row, column]})" if counted[row, column] else ""
            for column in range(len(labels))
        ]
        rows.append([label, *cells])
    return markdown_table(["row beats column", *labels], rows)


def problems(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a line for each method without scores in a comparison."""
    return [
        f"{escape(comparison.pair)}, {comparison.rows} rows: {escape(label)} is {escape(short_paths(method.reason))}"
        for comparison in comparisons
        for label, method in comparison.methods.items()
        if method.reason is not None
    ]


def incomplete_methods(comparisons: Sequence[Comparison]) -> list[str]:
    """Return methods that have scores, but not in every comparison."""
    complete = complete_methods(comparisons)
    labels = {label for comparison in comparisons for label in comparison.methods if _has(comparison, label)}
    return sorted(labels - set(complete))


def all_labels(comparisons: Sequence[Comparison]) -> list[str]:
    """Return all methods with scores: by mean rank, then those without one."""
    return [*mean_ranks(comparisons), *incomplete_methods(comparisons)]


def _ordered(of_pair: Sequence[Comparison]) -> list[str]:
    """Return the methods of a pair, the best on average first; those that lack scores last."""
    labels = {label for comparison in of_pair for label in comparison.methods}

    def place(label: str) -> tuple[int, float, str]:
        gains = [comparison.gain(label) for comparison in of_pair if _has(comparison, label)]
        return len(of_pair) - len(gains), -sum(gains) / len(gains) if gains else 0.0, label

    return sorted(labels, key=place)


def _has(comparison: Comparison, label: str) -> bool:
    return math.isfinite(comparison.gain(label))


def _score(method: MethodScores | None) -> str:
    if method is None:
        return ""
    if method.reason is not None:
        return method.reason.split(":")[0]
    return f"{method.mean:.4f}" + (f" ± {method.spread:.4f}" if method.spread is not None else "")
