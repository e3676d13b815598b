"""Say in plain sentences what the scores of a comparison mean for a user; each sentence has its number."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from .metrics import LOWER_IS_BETTER
from .statistics import PairedDifference, holm, paired_difference


SIGNIFICANCE = 0.05
ENOUGH_SEEDS = 5

Scores = Mapping[str, Mapping[int, float]]


def advise(
    scores: Scores, seconds: Mapping[str, float], metric: str, reference: str, with_source: Collection[str] = ()
) -> list[str]:
    """
    Say which method to take, how sure that is, what it costs, and whether the source helps.

    Two methods differ significantly where a paired t-test over seeds gives p < 0.05 after Holm's correction: over the
    other methods where the best one is the reference, which was named before; else over every two methods, as the best
    was chosen by these scores.

    Args:
        scores (`Mapping[str, Mapping[int, float]]`): of each method by seed, the same seeds for all.
        seconds (`Mapping[str, float]`): of training in a final run, the mean over seeds; NaN where unknown.
        metric (`str`): what the scores are.
        reference (`str`): the reference of the comparison.
        with_source (`Collection[str]`): the methods that train on the source; empty where there is none.

    Returns:
        `list[str]`: sentences, plain text; none where no method has scores.
    """
    means = {label: float(np.mean(list(by_seed.values()))) for label, by_seed in scores.items()}
    known = [label for label in means if math.isfinite(means[label])]
    if len(known) < 2:
        return [f"Only {label} has scores: add methods to compare it with." for label in known]
    best, *others = sorted(known, key=lambda label: means[label] if metric in LOWER_IS_BETTER else -means[label])
    seeds = len(scores[best])
    if seeds < 2:
        return [
            f"{best} has the best {metric}, {means[best]:.4f}, but one seed tells nothing about chance.",
            f"Run {ENOUGH_SEEDS} seeds before you choose.",
        ]
    found, p_values = _test(scores, best, others, reference)
    level = [label for label in others if not _is_significant(p_values[label])]
    beaten = [label for label in others if label not in level]
    said = [f"{best} has the best {metric}, {means[best]:.4f} (mean of {seeds} seeds)."]
    if beaten:
        largest = max(p for label in beaten if (p := p_values[label]) is not None)
        said.append(
            f"It is significantly better than {_named(beaten)} (p {'up to ' * (len(beaten) > 1)}{largest:.2g})."
        )
    if level:
        said.append(f"It does not differ significantly from {_named(level)}.")
    said.append(_choice(best, level, seconds, found, metric))
    if seeds < ENOUGH_SEEDS:
        said.append(f"{seeds} seeds are few: {ENOUGH_SEEDS} or more give a surer answer.")
    elif level:
        said.append(f"More seeds, such as {2 * seeds}, narrow the intervals.")
    return said + _about_source(best, others, with_source, found, p_values)


def advise_on_labels(
    label: str, metric: str, rows: Sequence[int], fewer: Mapping[int, float], more: Mapping[int, float]
) -> list[str]:
    """
    Say whether a method still gains from more labelled rows.

    Args:
        label (`str`): the method.
        metric (`str`): what the scores are.
        rows (`Sequence[int]`): the two numbers of rows, the smaller first.
        fewer, more (`Mapping[int, float]`): its scores by seed with each of them.

    Returns:
        `list[str]`: one sentence.
    """
    change = _difference(more, fewer)
    fact = f"from {rows[0]} to {rows[1]} rows, {metric} of {label} changes by {_shown(change)}"
    if not _is_significant(change.p_value):
        return [f"Whether more labels would help is open: {fact}, which is not significant."]
    is_gain = (change.mean < 0) == (metric in LOWER_IS_BETTER)
    return [f"More labels {'should help' if is_gain else 'did not help'}: {fact}."]


def _test(
    scores: Scores, best: str, others: Sequence[str], reference: str
) -> tuple[dict[str, PairedDifference], dict[str, float | None]]:
    """Return the difference of each other method to the best, and its corrected p."""
    couples = [(label, best) for label in others]
    if best != reference:
        couples += itertools.combinations(others, 2)
    tests = [_difference(scores[one], scores[other]) for one, other in couples]
    corrected = holm([test.p_value for test in tests])
    return dict(zip(others, tests, strict=False)), dict(zip(others, corrected, strict=False))


def _difference(scores: Mapping[int, float], others: Mapping[int, float]) -> PairedDifference:
    return paired_difference(list(scores.values()), [others[seed] for seed in scores])


def _is_significant(p: float | None) -> bool:
    return p is not None and p < SIGNIFICANCE


def _choice(
    best: str, level: Sequence[str], seconds: Mapping[str, float], found: Mapping[str, PairedDifference], metric: str
) -> str:
    """Return which method to take: the best, or the cheapest that is not significantly worse."""
    known = [label for label in (best, *level) if math.isfinite(seconds.get(label, math.nan))]
    if best not in known:
        return f"Take {best}."
    cheapest = min(known, key=lambda label: seconds[label])
    took = f"{_duration(seconds[best])} of training a run"
    if cheapest == best:
        return f"Take {best}: {'no other of these costs less than its' if level else 'it costs'} {took}."
    return (
        f"Take {cheapest} if cost matters: {_duration(seconds[cheapest])} instead of {took}, for a difference in "
        f"{metric} of {_shown(found[cheapest])}; else take {best}."
    )


def _about_source(
    best: str,
    others: Sequence[str],
    with_source: Collection[str],
    found: Mapping[str, PairedDifference],
    p_values: Mapping[str, float | None],
) -> list[str]:
    """Compare the best method with the source and the best without it, one of which is the best of all."""
    if not with_source:
        return []
    is_with = best in with_source
    other = next((label for label in others if (label in with_source) != is_with), None)
    if other is None:
        return (
            ["Add embeddings and finetune, which do without the source, to see whether it helps."] if is_with else []
        )
    gap = f"{other}, the best {'without' if is_with else 'with'} it, differs from {best} by {_shown(found[other])}"
    elsewhere = "Another source may help more: merlin-hf sources ranks candidates."
    if not _is_significant(p_values[other]):
        return [f"Whether the source helps is open: {gap}, which is not significant.", elsewhere]
    return [f"The source helps: {gap}."] if is_with else [f"The source does not help: {gap}.", elsewhere]


def _named(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _shown(difference: PairedDifference) -> str:
    if difference.low is None:
        return f"{difference.mean:+.4f}"
    return f"{difference.mean:+.4f} (95 % interval {difference.low:+.4f} to {difference.high:+.4f})"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
