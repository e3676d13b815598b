import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from merlin_hf.comparison import load_config
from merlin_hf.comparison.results import summarize, table_text
from merlin_hf.comparison.runner import MethodRuns
from merlin_hf.comparison.statistics import holm, mean_and_spread, paired_difference


SCORES, REFERENCE = [0.71, 0.74, 0.69, 0.73, 0.70], [0.66, 0.70, 0.68, 0.66, 0.69]


def test_the_spread_is_that_of_a_sample():
    assert mean_and_spread([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)))
    assert mean_and_spread([0.5]) == (0.5, None)


def test_paired_t_test_is_that_of_scipy_and_of_the_formula():
    found = paired_difference(SCORES, REFERENCE)
    differences = np.subtract(SCORES, REFERENCE)
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(5))
    half = stats.t.ppf(0.975, 4) * differences.std(ddof=1) / math.sqrt(5)
    assert (
        found.p_value
        == pytest.approx(2 * stats.t.sf(abs(t), 4))
        == pytest.approx(stats.ttest_rel(SCORES, REFERENCE).pvalue)
    )
    assert found.mean == pytest.approx(differences.mean())
    assert (found.low, found.high) == (pytest.approx(found.mean - half), pytest.approx(found.mean + half))


def test_by_hand():
    """Differences 1, 2, 3: t = 2 / (1 / sqrt(3)) with 2 degrees of freedom, a distribution in closed form."""
    t = 2 * math.sqrt(3)
    assert paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]).p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))


@pytest.mark.parametrize("scores", [[0.7], [0.71, 0.72], [0.6, 0.61]])
def test_no_test_where_differences_do_not_vary(scores):
    """All seeds 0.1 above the reference is no evidence of any strength: nothing is known of the spread."""
    found = paired_difference(scores, [score - 0.1 for score in scores])
    assert found.mean == pytest.approx(0.1) and found.p_value is None and found.low is None


def test_scores_of_other_seeds_are_an_error():
    with pytest.raises(ValueError, match="as many scores of both, got 2 and 1"):
        paired_difference([0.1, 0.2], [0.1])


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, None, 0.01], [0.04, None, 0.02]),  # two tests
        ([0.6, 0.7], [1.0, 1.0]),
        ([], []),
        ([None], [None]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
    ],
)
def test_holm_by_hand(given, corrected):
    assert holm(given) == [None if p is None else pytest.approx(p) for p in corrected]


def summary_of(scores, metric="accuracy"):
    """A summary as of a comparison with these scores; `None` for a method that cannot be used."""
    config = load_config(
        {
            "model": "m",
            "target": {"path": "t"},
            "methods": {label: {"method": "finetune"} for label in scores},
            "training": {"max_steps": 1},
            "seeds": 3,
            "reference": "base",
        }
    )
    outcomes = []
    for method in config.methods:
        outcome = MethodRuns(method, setting={})
        if scores[method.name] is None:
            outcome.status, outcome.reason = "not applicable", "It has no legs."
        for seed, score in enumerate(scores[method.name] or ()):
            run = {"metrics": {metric: score}, "steps": 7, "train_rows": 9, "train_seconds": 1.0, "key": "k"}
            outcome.results[seed] = {
                **run,
                "peak_memory_bytes": None,
                "environment": {"device": f"device {seed // 2}"},
            }
        outcomes.append(outcome)
    data = {"target": {"path": "t", "test_rows": 5, "train_rows": 9}, "source": None}
    pair = SimpleNamespace(describe=lambda: data, warnings=["Mind the gap."])
    experiment = {"config": config, "metric": metric, "pair": pair, "budget_rows": 1, "environment": {}}
    return summarize(SimpleNamespace(**experiment, shared_labels_line=None), outcomes)


def test_the_summary_orders_and_tests_methods():
    scores = {"base": [0.5, 0.6, 0.7], "a": [0.6, 0.8, 0.7], "lost": [None, 0.5, 0.5], "b": [0.4, 0.4, 0.7], "c": None}
    summary = summary_of(scores)
    assert [method["label"] for method in summary["methods"]] == ["a", "base", "b", "lost", "c"]
    a, base, b, lost, c = summary["methods"]
    p_values = [stats.ttest_rel(scores[label], scores["base"]).pvalue for label in ("a", "b")]
    assert [a["p_value"], b["p_value"]] == pytest.approx(p_values)
    assert [a["p_value_holm"], b["p_value_holm"]] == pytest.approx(holm(p_values)), "a test that failed is none"
    assert lost["p_value_holm"] is None and "p_value" not in base and c["reason"] == "It has no legs."
    assert base["spread"] == pytest.approx(0.1)
    lower = summary_of({"base": [0.5, 0.6, 0.7], "a": [0.6, 0.8, 0.7]}, metric="mse")
    assert [method["label"] for method in lower["methods"]] == ["base", "a"]


def test_the_table_in_markdown():
    table = table_text(summary_of({"base": [0.5, 0.6, 0.7], "a": [0.6, 0.8, 0.7], "c": None}))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[:5]]
    assert lines[0] == ["method", "accuracy", "difference to base", "p (Holm)", "steps", "setting"]
    assert lines[2][:2] == ["a", "0.7000 ± 0.1000"] and lines[2][2].startswith("+0.1000 [-0.1484, +0.3484]")
    assert lines[3] == ["base", "0.6000 ± 0.1000", "reference", "", "7", "defaults"]
    assert lines[4] == ["c", "not applicable", "", "", "", ""]
    for said in (
        "3 seeds (0, 1, 2)",
        "c is not applicable: It has no legs.",
        "Warning: Mind the gap.",
        "differ in device",
    ):
        assert said in table


def test_without_the_reference_there_are_no_tests():
    summary = summary_of({"base": None, "a": [0.6, 0.8, 0.7]})
    assert "p_value" not in summary["methods"][0] and "| 0.7000" in table_text(summary)
