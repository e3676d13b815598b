"""Sentences about what to take, with the numbers of scipy behind them."""

import itertools

import numpy as np
import pytest
from scipy import stats

from merlin_hf.comparison.advice import advise, advise_on_labels
from merlin_hf.comparison.statistics import holm


SEEDS = range(5)
NOISE = np.random.default_rng(0).normal(0, 0.004, (4, len(SEEDS)))
SECONDS = {"merlin": 95.0, "sequential": 64.2, "embeddings": 1.25, "finetune": 61.0}
WITH_SOURCE = ["merlin", "sequential"]


def scores_around(**means):
    return {
        label: dict(zip(SEEDS, mean + noise, strict=True))
        for (label, mean), noise in zip(means.items(), NOISE, strict=False)
    }


def corrected(scores, couples):
    values = [[list(scores[label].values()) for label in couple] for couple in couples]
    return dict(zip(couples, holm([stats.ttest_rel(*pair).pvalue for pair in values]), strict=True))


def change(scores, one, other):
    """As the advice shows it, from scipy."""
    test = stats.ttest_rel(*(list(scores[label].values()) for label in (one, other)))
    mean = np.mean(list(scores[one].values())) - np.mean(list(scores[other].values()))
    low, high = test.confidence_interval(0.95)
    return f"{mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f})"


def test_a_method_that_is_better_than_all():
    scores = scores_around(merlin=0.9, sequential=0.8, embeddings=0.7)
    said = advise(scores, SECONDS, "accuracy", "merlin", WITH_SOURCE)
    p = max(corrected(scores, [("sequential", "merlin"), ("embeddings", "merlin")]).values())
    mean = np.mean(list(scores["merlin"].values()))
    assert said == [
        f"merlin has the best accuracy, {mean:.4f} (mean of 5 seeds).",
        f"It is significantly better than sequential and embeddings (p up to {p:.2g}).",
        "Take merlin: it costs 95 s of training a run.",
        f"The source helps: embeddings, the best without it, differs from merlin by "
        f"{change(scores, 'embeddings', 'merlin')}.",
    ]


def test_a_cheap_method_that_is_not_significantly_worse_is_named_with_its_price():
    scores = scores_around(merlin=0.801, sequential=0.7, embeddings=0.8)
    said = advise(scores, SECONDS, "accuracy", "merlin", WITH_SOURCE)
    gap = change(scores, "embeddings", "merlin")
    assert "It does not differ significantly from embeddings." in said
    assert (
        "Take embeddings if cost matters: 1.2 s instead of 95 s of training a run, for a difference in accuracy of "
        f"{gap}; else take merlin."
    ) in said
    assert "More seeds, such as 10, narrow the intervals." in said
    assert (
        said[-2].startswith("Whether the source helps is open: embeddings, the best without it, differs")
        and gap in said[-2]
    )
    assert "merlin-hf sources" in said[-1]


def test_the_cheapest_is_the_best():
    scores = scores_around(embeddings=0.801, merlin=0.8)
    said = advise(scores, SECONDS, "accuracy", "embeddings", WITH_SOURCE)
    assert "Take embeddings: no other of these costs less than its 1.2 s of training a run." in said


def test_a_source_that_does_not_help():
    scores = scores_around(embeddings=0.9, merlin=0.8, sequential=0.7)
    said = advise(scores, SECONDS, "accuracy", "embeddings", WITH_SOURCE)
    assert said[-2] == (
        f"The source does not help: merlin, the best with it, differs from embeddings by "
        f"{change(scores, 'merlin', 'embeddings')}."
    )


def test_a_best_that_was_not_named_before_is_tested_with_all_couples():
    scores = scores_around(merlin=0.80, sequential=0.806, embeddings=0.801, finetune=0.79)
    labels = sorted(scores, key=lambda label: -np.mean(list(scores[label].values())))
    best = labels[0]
    p = corrected(scores, list(itertools.combinations(labels, 2)))
    few = corrected(scores, [(best, other) for other in labels[1:]])
    assert any(few[best, other] < 0.05 <= p[best, other] for other in labels[1:]), "the correction matters here"
    other = next(label for label in labels if label != best)
    for reference, used in ((other, p), (best, few)):
        said = " ".join(advise(scores, SECONDS, "accuracy", reference))
        level = said.partition("differ significantly from ")[2].partition(". ")[0]
        assert {label for label in labels[1:] if label in level} == {
            label for label in labels[1:] if used[best, label] >= 0.05
        }


def test_the_lower_the_better():
    scores = scores_around(merlin=0.3, joint=0.5)
    said = advise(scores, SECONDS, "log_loss", "merlin")
    assert said[0].startswith("merlin has the best log_loss, 0.3") and said[1].startswith("It is significantly better")


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_few_seeds_are_told(seeds):
    scores = {
        label: dict(list(values.items())[:seeds]) for label, values in scores_around(merlin=0.8, joint=0.7).items()
    }
    said = " ".join(advise(scores, SECONDS, "accuracy", "merlin", WITH_SOURCE))
    if seeds == 1:
        assert "one seed tells nothing about chance. Run 5 seeds" in said and "significant" not in said
        assert "source" not in said
    else:
        assert f"{seeds} seeds are few: 5 or more" in said


def test_nothing_to_compare():
    nan = {0: float("nan"), 1: 0.5}
    assert advise({}, {}, "accuracy", "merlin") == [] == advise({"merlin": nan}, {}, "accuracy", "merlin")
    (said,) = advise({"merlin": nan, "joint": {0: 0.5, 1: 0.6}}, {}, "accuracy", "merlin")
    assert said == "Only joint has scores: add methods to compare it with."
    said = advise(scores_around(merlin=0.9, joint=0.7), {}, "accuracy", "merlin", ["merlin", "joint"])
    assert "Take merlin." in said and said[-1].startswith("Add embeddings and finetune")
    assert "differ significantly from joint" in " ".join(
        advise({"merlin": {0: 0.5, 1: 0.6}, "joint": {0: 0.5, 1: 0.6}}, SECONDS, "accuracy", "merlin")
    ), "there is no test of equal scores"


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("log_loss", -1)])
def test_more_labels(metric, sign):
    scores = scores_around(fewer=0.7, more=0.7 + 0.1 * sign, level=0.701)
    fewer, more, level = scores.values()
    fact = f"from 50 to 100 rows, {metric} of merlin changes by {change(scores, 'more', 'fewer')}."
    assert advise_on_labels("merlin", metric, [50, 100], fewer, more) == [f"More labels should help: {fact}"]
    (said,) = advise_on_labels("merlin", metric, [50, 100], more, fewer)
    assert said.startswith("More labels did not help: ")
    (said,) = advise_on_labels("merlin", metric, [50, 100], fewer, level)
    assert said.startswith("Whether more labels would help is open: ") and said.endswith("which is not significant.")
