"""A report on comparisons: scores, ranks, wins and figures."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..comparison.advice import advise
from ..comparison.metrics import LOWER_IS_BETTER, METRICS
from ..utils.files import short_paths
from ..utils.markdown import visible
from .blocks import Block, Cell, Heading, Item, Items, Picture, Table, Text, to_markdown, write_blocks
from .comparisons import Comparison, MethodScores, by_pair
from .figures import cost_figure, learning_curve_figure
from .ranks import (
    LEAST_PAIRS,
    SIGNIFICANCE,
    balanced,
    can_test,
    compared_with_reference,
    complete_methods,
    groups,
    mean_ranks,
    ranks_of_pairs,
    wilcoxon_holm,
    win_counts,
)


COMMENT = "Written by `merlin-hf report` from result files; do not edit."


def write_report(comparisons: Sequence[Comparison], output_dir: str | Path | None = None) -> str:
    """
    Make tables and figures of comparisons.

    Args:
        comparisons (`Sequence[Comparison]`): as from [`~merlin_hf.report.read_comparisons`].
        output_dir (`str` or `Path`, *optional*): where `results.md` and its figures, as PNG and SVG, are written;
            nothing is if not given.

    Returns:
        `str`: the text of `results.md`, without the figures where none are written.
    """
    blocks = comparison_blocks(comparisons, with_figures=output_dir is not None)
    if output_dir is not None:
        list(write_blocks(blocks, Path(output_dir), COMMENT))
    return to_markdown(blocks, COMMENT, with_pictures=output_dir is not None)


def comparison_blocks(
    comparisons: Sequence[Comparison], damaged: Mapping[str, str] | None = None, with_figures: bool = True
) -> list[Block]:
    """Return a report on comparisons; `damaged` says why files were left out, by name."""
    blocks = [Heading("Results", 1), *_scores(comparisons), *_other_scores(comparisons)]
    if len(comparisons) > 1:
        alike = balanced(comparisons)
        blocks += [*_ranks(alike), *_wins(comparisons), *_differences(alike)]
        if len(alike) < len(comparisons):
            blocks.append(_what_is_ranked(comparisons, alike))
    blocks += [*(_figures(comparisons) if with_figures else ()), *_provenance(comparisons)]
    return blocks + (left_out(damaged) if damaged else [])


# Scores


def _scores(comparisons: Sequence[Comparison]) -> list[Block]:
    pairs = by_pair(comparisons)
    blocks: list[Block] = []
    for pair, of_pair in pairs.items():
        blocks += [Heading(pair), score_table(of_pair)]
        if len(pairs) == 1 and (advice := _advice(of_pair[-1])):
            blocks.append(Text(advice))
    references = sorted({comparison.reference for comparison in comparisons})
    seeds = sorted({len(m.scores) for comparison in comparisons for m in comparison.methods.values() if m.scores})
    counted = f"{seeds[0]}" if seeds[:1] == seeds[-1:] else f"{seeds[0]} to {seeds[-1]}"
    lower = sorted({comparison.metric for comparison in comparisons if comparison.lower_is_better})
    blocks.append(
        Text(
            f"Mean ± sample standard deviation over {counted} seeds; the best mean of each column is bold"
            + (f" ({', '.join(lower)}: the lower the better)" if lower else "")
            + f". *: differs from {' or '.join(references)} by a paired t-test over seeds, p < 0.05 after Holm's "
            "correction over the methods of the column."
        )
    )
    problems: dict[tuple[str, str, str], list[str]] = {}
    for comparison in comparisons:
        for label, method in comparison.methods.items():
            if method.reason is not None:
                problems.setdefault((comparison.pair, label, method.reason), []).append(str(comparison.rows))
    items = [
        Item(text=f"{pair}, {', '.join(rows)} rows: {label} is {short_paths(reason)}")
        for (pair, label, reason), rows in problems.items()
    ]
    return [*blocks, Items(items)] if items else blocks


def score_table(of_pair: Sequence[Comparison]) -> Table:
    """Return the methods of a pair with their scores for each number of labelled rows."""
    labels = _ordered(of_pair)
    columns = []
    for comparison in of_pair:
        tested = compared_with_reference(comparison)
        best = max((comparison.gain(label) for label in labels if comparison.has(label)), default=math.nan)
        column = []
        for label in labels:
            p = tested.get(label, {}).get("p")
            mark = "*" if p is not None and p < SIGNIFICANCE else ""
            column.append(Cell(_score(comparison.methods.get(label)), comparison.gain(label) == best, mark))
        columns.append(column)
    headings = [of_pair[0].metric, *(f"{comparison.rows} rows" for comparison in of_pair)]
    return Table(headings, [[label, *cells] for label, *cells in zip(labels, *columns, strict=True)])


def _score(method: MethodScores | None) -> str:
    if method is None:
        return ""
    if method.reason is not None:
        return method.reason.split(":")[0]
    return f"{method.mean:.4f}" + (f" ± {method.spread:.4f}" if method.spread is not None else "")


def _advice(comparison: Comparison) -> str:
    """Return the advice on a comparison; empty where its methods were not run with the same seeds."""
    methods = {label: method for label, method in comparison.methods.items() if comparison.has(label)}
    if len({frozenset(method.scores) for method in methods.values()}) != 1:
        return ""
    said = advise(
        {label: method.scores for label, method in methods.items()},
        {label: method.mean_seconds for label, method in methods.items()},
        comparison.metric,
        comparison.reference,
        [label for label, method in methods.items() if method.has_source],
    )
    return f"With {comparison.rows} labelled rows: {' '.join(said)}"


def _other_scores(comparisons: Sequence[Comparison]) -> list[Block]:
    """Return the section about the metrics that the methods are not compared by, of each pair with its most rows."""
    tables = {pair: _other_table(of_pair[-1]) for pair, of_pair in by_pair(comparisons).items()}
    blocks = [block for pair, table in tables.items() if table for block in (Heading(pair, 3), table)]
    if not blocks:
        return []
    lower = ", ".join(name for name in METRICS if name in LOWER_IS_BETTER)
    text = f"Means over seeds of the metrics that settings were not chosen by; of {lower} the lower the better."
    return [Heading("Other metrics"), *blocks, Text(text)]


def _other_table(comparison: Comparison) -> Table | None:
    """Return the means of other metrics; `None` where none was computed, as in files of earlier versions."""
    means = {label: comparison.methods[label].means for label in _ordered([comparison]) if comparison.has(label)}
    names = [name for name in METRICS if name != comparison.metric and any(name in one for one in means.values())]
    best = {}
    for name in names:
        known = [one[name] for one in means.values() if math.isfinite(one.get(name, math.nan))]
        best[name] = (min if name in LOWER_IS_BETTER else max)(known, default=None)
    rows = [
        [label, *(Cell(f"{one[name]:.4f}", one[name] == best[name]) if name in one else "" for name in names)]
        for label, one in means.items()
    ]
    return Table([f"{comparison.rows} rows", *names], rows) if names else None


def _ordered(of_pair: Sequence[Comparison]) -> list[str]:
    """Return the methods of a pair, the best on average first; those that lack scores last."""

    def place(label: str) -> tuple[int, float, str]:
        gains = [comparison.gain(label) for comparison in of_pair if comparison.has(label)]
        return len(of_pair) - len(gains), -sum(gains) / len(gains) if gains else 0.0, label

    return sorted({label for comparison in of_pair for label in comparison.methods}, key=place)


# Over pairs


def _ranks(comparisons: Sequence[Comparison]) -> list[Block]:
    labels = list(mean_ranks(comparisons))
    if len(labels) < 2:
        text = "No two methods have scores in all comparisons, so that there are no mean ranks."
        return [Heading("Ranks"), Text(text)]
    pairs, ranks = ranks_of_pairs(comparisons, labels)
    rows = [
        [label, f"{of_method.mean():.2f}", *(f"{rank:.2f}".removesuffix(".00") for rank in of_method)]
        for label, of_method in zip(labels, ranks.T, strict=True)
    ]
    blocks: list[Block] = [
        Heading("Ranks"),
        Table(["method", "mean rank", *pairs], rows),
        Text(
            "The rank of the mean score, 1 is best and equal means share a rank; averaged over the numbers of rows of "
            f"a pair, then over {len(pairs)} pair{'s' if len(pairs) > 1 else ''}."
        ),
    ]
    without = _incomplete(comparisons)
    return (
        [*blocks, Text(f"Without a score in some comparison, and not ranked: {', '.join(without)}.")]
        if without
        else blocks
    )


def _incomplete(comparisons: Sequence[Comparison]) -> list[str]:
    """Return methods that have scores, but not in every comparison."""
    labels = {label for comparison in comparisons for label in comparison.methods if comparison.has(label)}
    return sorted(labels - set(complete_methods(comparisons)))


def _wins(comparisons: Sequence[Comparison]) -> list[Block]:
    count, labels = len(comparisons), [*mean_ranks(comparisons), *_incomplete(comparisons)]
    wins, significant, counted = win_counts(comparisons, labels)
    rows = [
        [label, *(f"{won} ({sure})" if of else "" for won, sure, of in zip(*found, strict=True))]
        for label, *found in zip(labels, wins, significant, counted, strict=True)
    ]
    text = (
        f"In how many of {count} comparisons (a pair with a number of rows) the mean of the row is better than that "
        "of the column; in brackets: by a paired t-test over seeds with p < 0.05, not corrected for the number of "
        f"tests. Between methods that do not differ, {0.025 * count:.2g} of {count} are expected in brackets by "
        "chance."
    )
    return [Heading("Wins"), Table(["row beats column", *labels], rows), Text(text)]


def _differences(comparisons: Sequence[Comparison]) -> list[Block]:
    """Return which methods do not differ significantly over pairs, where there are enough of them."""
    pairs = len(by_pair(comparisons))
    if not can_test(comparisons):
        text = f"With {pairs} of at least {LEAST_PAIRS} pairs, methods are not tested over pairs."
        return [Text(text)] if pairs < LEAST_PAIRS else []
    ordered = list(mean_ranks(comparisons))
    found = groups(ordered, wilcoxon_holm(comparisons))
    # All differences of one sign, times the number of tests.
    least = 2 * 0.5**pairs * len(ordered) * (len(ordered) - 1) / 2
    named = "; ".join(", ".join(ordered[first : last + 1]) for first, last in found)
    text = (
        f"Over {pairs} pairs, by Wilcoxon's signed-rank test of each two methods on the means over seeds and numbers "
        f"of rows, with Holm's correction, p < 0.05 (the smallest that so many pairs allow is {least:.2g}): "
    )
    return [Text(text + (f"of each of these groups no two differ: {named}." if named else "all methods differ."))]


def _what_is_ranked(comparisons: Sequence[Comparison], alike: Sequence[Comparison]) -> Text:
    """Return which of the comparisons are in ranks and tests."""
    rows = ", ".join(str(rows) for rows in sorted({comparison.rows for comparison in alike}))
    ranked = by_pair(alike)
    without = [pair for pair in by_pair(comparisons) if pair not in ranked]
    if not without:
        return Text(f"Ranks and tests are of {rows} rows alone, which every pair has been run with.")
    names = ", ".join(without)
    return Text(f"Ranks and tests are of {rows} rows alone, and without what has not been run with them: {names}.")


# Figures, and where all is from


def _figures(comparisons: Sequence[Comparison]) -> list[Block]:
    drawn = [
        ("learning_curves", "Scores against labelled target rows", learning_curve_figure(comparisons)),
        ("cost", "Scores against seconds of training, with the most rows of each pair", cost_figure(comparisons)),
    ]
    return [Picture(name, title, figure) for name, title, figure in drawn if figure is not None]


def left_out(damaged: Mapping[str, str]) -> list[Block]:
    """Return the section that names what could not be used, and why."""
    files = f"{len(damaged)} file{'s' if len(damaged) > 1 else ''}"
    return [
        Heading("Left out"),
        Text(f"{files} could not be used, and nothing above has what is in there:"),
        Items([Item(name, short_paths(problem)) for name, problem in damaged.items()]),
    ]


def _provenance(comparisons: Sequence[Comparison]) -> list[Block]:
    files = sorted({name for comparison in comparisons for name in comparison.files})
    environments = {
        json.dumps(environment, sort_keys=True): environment
        for comparison in comparisons
        for environment in comparison.environments
        if environment
    }
    described = [
        short_paths(", ".join(f"{visible(name)} {visible(value)}" for name, value in environment.items()))
        for environment in environments.values()
    ]
    blocks: list[Block] = [Heading("Read from"), Items([Item(name) for name in files])]
    return [*blocks, Text(f"Run with {'; and with '.join(described)}.")] if described else blocks


# As plain values


def comparison_summary(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values, each method with its difference to the reference; `None` if not defined."""
    tested = compared_with_reference(comparison)
    methods = {
        label: {
            "mean": method.mean,
            "spread": method.spread,
            "scores": method.scores,
            "train_seconds": method.seconds,
            "means": method.means,
            "difference": tested.get(label, {}).get("difference"),
            "p": tested.get(label, {}).get("p"),
            "reason": method.reason,
        }
        for label, method in comparison.methods.items()
    }
    return {
        "pair": comparison.pair,
        "rows": comparison.rows,
        "test_rows": comparison.test_rows,
        "metric": comparison.metric,
        "lower_is_better": comparison.lower_is_better,
        "reference": comparison.reference,
        "methods": methods,
        "read_from": comparison.files,
    }


def ranks_summary(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the `ranks` of the methods, and the `pairs` and `rows` that are `ranked`; `None` for one comparison."""
    if len(comparisons) < 2:
        return {"ranks": None, "ranked": None}
    alike = balanced(comparisons)
    ranked = {"pairs": list(by_pair(alike)), "rows": sorted({comparison.rows for comparison in alike})}
    return {"ranks": mean_ranks(alike), "ranked": ranked}
