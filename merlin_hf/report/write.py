"""A report on comparisons: `results.md` with its figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..comparison.metrics import LOWER_IS_BETTER, METRICS
from ..utils.files import short_paths, write_text
from ..utils.markdown import code, escape, visible
from .comparisons import Comparison, by_pair
from .figures import cost_figure, learning_curve_figure, win_figure
from .plotting import save
from .ranks import LEAST_PAIRS, balanced, can_test, groups, mean_ranks, wilcoxon_holm
from .summary import Report
from .tables import all_labels, incomplete_methods, other_scores, problems, rank_table, score_table, win_table


HEADER = "<!-- Written by `merlin-hf report` from result files; do not edit. -->"
RESULTS = "results.md"


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
    return make_report(comparisons, output_dir).text


def make_report(
    comparisons: Sequence[Comparison], output_dir: str | Path | None = None, damaged: Mapping[str, str] | None = None
) -> Report:
    """
    Do as [`write_report`]; return the names of the files as well.

    Args:
        comparisons, output_dir: as for [`write_report`].
        damaged (`Mapping[str, str]`, *optional*): why files were left out, by name.

    Returns:
        [`Report`], with the names of the files that it wrote.
    """
    folder = None if output_dir is None else Path(output_dir)
    parts = [HEADER, "# Results", *_scores(comparisons)]
    parts += _other_scores(comparisons)
    if len(comparisons) > 1:
        alike = balanced(comparisons)
        parts += [*_ranks(alike), *_wins(comparisons), *_differences(alike)]
        if len(alike) < len(comparisons):
            parts.append(_what_is_ranked(comparisons, alike))
    files: list[str] = []
    if folder is not None:
        parts += _figures(comparisons, folder, files)
    parts += _provenance(comparisons)
    if damaged:
        parts += left_out(damaged)
    text = "\n\n".join(parts) + "\n"
    if folder is not None:
        write_text(folder / RESULTS, text)
        files.insert(0, RESULTS)
    return Report(text, files)


def _scores(comparisons: Sequence[Comparison]) -> list[str]:
    parts = []
    for pair, of_pair in by_pair(comparisons).items():
        parts += [f"## {escape(pair)}", score_table(of_pair)]
    references = sorted({escape(comparison.reference) for comparison in comparisons})
    seeds = sorted({len(m.scores) for comparison in comparisons for m in comparison.methods.values() if m.scores})
    counted = f"{seeds[0]}" if seeds[:1] == seeds[-1:] else f"{seeds[0]} to {seeds[-1]}"
    lower = sorted({escape(comparison.metric) for comparison in comparisons if comparison.lower_is_better})
    parts.append(
        f"Mean ± sample standard deviation over {counted} seeds; the best mean of each column is bold"
        + (f" ({', '.join(lower)}: the lower the better)" if lower else "")
        + f". \\*: differs from {' or '.join(references)} by a paired t-test over seeds, p < 0.05 after Holm's "
        "correction over the methods of the column."
    )
    found = problems(comparisons)
    return [*parts, "\n".join(f"- {line}" for line in found)] if found else parts


def _other_scores(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the section about the metrics that the methods are not compared by, of each pair with its most rows."""
    tables = {pair: other_scores(of_pair[-1]) for pair, of_pair in by_pair(comparisons).items()}
    parts = [part for pair, table in tables.items() if table for part in (f"### {escape(pair)}", table)]
    if not parts:
        return []
    lower = ", ".join(name for name in METRICS if name in LOWER_IS_BETTER)
    text = f"Means over seeds of the metrics that settings were not chosen by; of {lower} the lower the better."
    return ["## Other metrics", *parts, text]


def _what_is_ranked(comparisons: Sequence[Comparison], alike: Sequence[Comparison]) -> str:
    """Return which of the comparisons are in ranks and tests."""
    rows = ", ".join(str(rows) for rows in sorted({comparison.rows for comparison in alike}))
    ranked = by_pair(alike)
    left_out = [escape(pair) for pair in by_pair(comparisons) if pair not in ranked]
    if not left_out:
        return f"Ranks and tests are of {rows} rows alone, which every pair has been run with."
    names = ", ".join(left_out)
    return f"Ranks and tests are of {rows} rows alone, and without what has not been run with them: {names}."


def _ranks(comparisons: Sequence[Comparison]) -> list[str]:
    if len(mean_ranks(comparisons)) < 2:
        return ["## Ranks", "No two methods have scores in all comparisons, so that there are no mean ranks."]
    pairs = len(by_pair(comparisons))
    parts = [
        "## Ranks",
        rank_table(comparisons),
        "The rank of the mean score, 1 is best and equal means share a rank; averaged over the numbers of rows of a "
        f"pair, then over {pairs} pair{'s' if pairs > 1 else ''}.",
    ]
    left_out = [escape(label) for label in incomplete_methods(comparisons)]
    if left_out:
        parts.append(f"Without a score in some comparison, and not ranked: {', '.join(left_out)}.")
    return parts


def _wins(comparisons: Sequence[Comparison]) -> list[str]:
    count = len(comparisons)
    return [
        "## Wins",
        win_table(comparisons, all_labels(comparisons)),
        f"In how many of {count} comparisons (a pair with a number of rows) the mean of the row is better than that "
        "of the column; in brackets: by a paired t-test over seeds with p < 0.05, not corrected for the number of "
        f"tests. Between methods that do not differ, {0.025 * count:.2g} of {count} are expected in brackets by "
        "chance.",
    ]


def _differences(comparisons: Sequence[Comparison]) -> list[str]:
    """Return which methods cannot be told apart over pairs, where there are enough of them."""
    pairs = len(by_pair(comparisons))
    if not can_test(comparisons):
        if pairs >= LEAST_PAIRS:
            return []
        return [f"With {pairs} of at least {LEAST_PAIRS} pairs, methods are not tested over pairs."]
    ordered = list(mean_ranks(comparisons))
    found = groups(ordered, wilcoxon_holm(comparisons))
    # All differences of one sign, times the number of tests.
    least = 2 * 0.5**pairs * len(ordered) * (len(ordered) - 1) / 2
    named = [", ".join(escape(label) for label in ordered[first : last + 1]) for first, last in found]
    text = (
        f"Over {pairs} pairs, by Wilcoxon's signed-rank test of each two methods on the means over seeds and numbers "
        f"of rows, with Holm's correction, p < 0.05 (the smallest that so many pairs allow is {least:.2g}): "
    )
    if not named:
        return [f"{text}all methods differ."]
    return [f"{text}of each of these groups no two differ: {'; '.join(named)}."]


def _figures(comparisons: Sequence[Comparison], folder: Path, files: list[str]) -> list[str]:
    """Write the figures, and note their files; returns what links to them."""
    several = len(comparisons) > 1
    drawn: list[tuple[str, str, Any]] = [
        ("learning_curves", "Scores against labelled target rows", learning_curve_figure(comparisons)),
        ("cost", "Scores against seconds of training, with the most rows of each pair", cost_figure(comparisons)),
    ]
    if several:
        drawn.append(("wins", "How often the row beats the column", win_figure(comparisons, all_labels(comparisons))))
    parts = ["## Figures"]
    for name, title, figure in drawn:
        if figure is not None:
            files += save(figure, folder, name)
            parts.append(f"![{title}]({name}.png)\n\n{title} ([SVG]({name}.svg)).")
    return parts if len(parts) > 1 else []


def left_out(damaged: Mapping[str, str]) -> list[str]:
    """Return the section that names what could not be used, and why."""
    files = f"{len(damaged)} file{'s' if len(damaged) > 1 else ''}"
    counted = f"{files} could not be used, and nothing above has what is in there:"
    lines = [f"- {code(name)}: {escape(short_paths(problem))}" for name, problem in damaged.items()]
    return ["## Left out", counted, "\n".join(lines)]


def _provenance(comparisons: Sequence[Comparison]) -> list[str]:
    files = sorted({name for comparison in comparisons for name in comparison.files})
    environments = {
        json.dumps(environment, sort_keys=True): environment
        for comparison in comparisons
        for environment in comparison.environments
        if environment
    }
    lines = [f"- {code(name)}" for name in files]
    described = [
        escape(short_paths(", ".join(f"{visible(name)} {visible(value)}" for name, value in environment.items())))
        for environment in environments.values()
    ]
    parts = ["## Read from", "\n".join(lines)]
    return parts + ["Run with " + "; and with ".join(described) + "."] if described else parts
