"""Ranks, wins and groups against scipy and against counting by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from merlin_hf.report import average_ranks, mean_ranks, read_comparisons, win_counts
from merlin_hf.report.ranks import can_test, compared_with_reference, groups, paired_p, wilcoxon_holm
from tests.report.support import draw_scores, write_results


LABELS = ["finetune", "joint", "l2_sp", "merlin"]


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    """Six pairs, of which half have two numbers of rows."""
    root = tmp_path_factory.mktemp("comparisons")
    for pair in range(6):
        for rows in (50, 200)[: 1 + pair % 2]:
            scores = draw_scores(LABELS, seeds=5, seed=pair * 1000 + rows, spread=0.03)
            write_results(root / f"{pair}" / f"{rows}", f"source{pair}", {"path": f"target{pair}"}, rows, scores)
    return read_comparisons([root])[0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_ranks_are_those_of_scipy(gains):
    assert average_ranks(gains) == pytest.approx(stats.rankdata([-gain for gain in gains]))


def test_equal_means_are_equal_though_their_scores_come_in_another_order():
    scores = [0.69, 0.578, 0.628, 0.605, 0.59]
    others = [0.668, 0.544, 0.652, 0.638, 0.589]  # of as many right rows
    means = [sum(scores) / 5, sum(others) / 5]
    assert means[0] != means[1] and average_ranks(means).tolist() == [1.5, 1.5]


def test_known_ranks(tmp_path):
    # Pair a with two sizes counts as much as pair b with one.
    write_results(tmp_path / "a1", "a", {"path": "x"}, 10, {"p": [0.9], "merlin": [0.8], "q": [0.7]})
    write_results(tmp_path / "a2", "a", {"path": "x"}, 20, {"p": [0.9], "merlin": [0.8], "q": [0.8]})
    write_results(tmp_path / "b", "b", {"path": "x"}, 10, {"p": [0.1], "merlin": [0.3], "q": [0.2]})
    ranks = mean_ranks(read_comparisons([tmp_path])[0])
    assert list(ranks) == ["merlin", "p", "q"]
    assert ranks == pytest.approx({"merlin": ((2 + 2.5) / 2 + 1) / 2, "p": (1 + 3) / 2, "q": ((3 + 2.5) / 2 + 2) / 2})


def test_mean_ranks_by_scipy(comparisons):
    by_pair = {}
    for comparison in comparisons:
        means = [-np.mean(list(comparison.methods[label].scores.values())) for label in LABELS]
        by_pair.setdefault(comparison.pair, []).append(stats.rankdata(means))
    expected = np.mean([np.mean(ranks, axis=0) for ranks in by_pair.values()], axis=0)
    found = mean_ranks(comparisons)
    assert [found[label] for label in LABELS] == pytest.approx(expected)
    assert list(found.values()) == sorted(found.values())


def test_lower_is_better_turns_ranks_around(tmp_path):
    scores = {"p": [1.0, 1.1], "merlin": [2.0, 2.2]}
    write_results(tmp_path, "a", {"path": "x"}, 10, scores, metric="mse", lower_is_better=True)
    comparisons, _ = read_comparisons([tmp_path])
    assert mean_ranks(comparisons) == {"p": 1.0, "merlin": 2.0}
    wins, _, _ = win_counts(comparisons, ["p", "merlin"])
    assert wins.tolist() == [[0, 1], [0, 0]]


def test_wins_are_counted(comparisons):
    wins, significant, counted = win_counts(comparisons, LABELS)
    for (row, one), (column, other) in itertools.product(enumerate(LABELS), repeat=2):
        expected = expected_significant = 0
        for comparison in comparisons:
            scores, others = ([*comparison.methods[label].scores.values()] for label in (one, other))
            if one != other and sum(scores) > sum(others):
                expected += 1
                expected_significant += stats.ttest_rel(scores, others).pvalue < 0.05
        assert (wins[row, column], significant[row, column]) == (expected, expected_significant)
        assert counted[row, column] == (0 if one == other else len(comparisons))
    assert 0 < significant.sum() < wins.sum(), "the data has both kinds"


def test_only_seeds_and_comparisons_that_both_have_count(tmp_path):
    write_results(
        tmp_path / "a", "a", {"path": "x"}, 10, {"merlin": [0.5, 0.6, 0.9], "p": [0.4, 0.45], "q": "no source"}
    )
    write_results(tmp_path / "b", "b", {"path": "x"}, 10, {"merlin": [0.5, None], "p": [0.4, 0.3], "q": [0.1, 0.2]})
    comparisons, _ = read_comparisons([tmp_path])
    first, second = comparisons
    assert paired_p(first, "merlin", "p") == pytest.approx(stats.ttest_rel([0.5, 0.6], [0.4, 0.45]).pvalue)
    assert paired_p(second, "merlin", "p") is None
    _, _, counted = win_counts(comparisons, ["merlin", "p", "q"])
    assert counted.tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert list(mean_ranks(comparisons)) == ["p"], "the others lack a score somewhere"


def test_tests_against_the_reference_are_those_of_the_comparison(comparisons):
    found = compared_with_reference(comparisons[0])
    methods = comparisons[0].methods
    base = [*methods["merlin"].scores.values()]
    p = {label: stats.ttest_rel([*methods[label].scores.values()], base).pvalue for label in LABELS[:-1]}
    smallest = min(p, key=p.get)
    assert set(found) == set(p) and found[smallest]["p"] == pytest.approx(3 * p[smallest])
    assert found["joint"]["difference"] == pytest.approx(methods["joint"].mean - np.mean(base))


def test_wilcoxon_over_pairs_with_holm(comparisons):
    found = wilcoxon_holm(comparisons)
    gains = {}
    for comparison in comparisons:
        gains.setdefault(comparison.pair, []).append([comparison.methods[label].mean for label in LABELS])
    gains = np.array([np.mean(rows, axis=0) for rows in gains.values()])
    raw = {
        (one, other): stats.wilcoxon(gains[:, LABELS.index(one)], gains[:, LABELS.index(other)]).pvalue
        for one, other in found
    }
    expected, largest = {}, 0.0
    for place, couple in enumerate(sorted(raw, key=raw.get)):
        largest = max(largest, min(1.0, raw[couple] * (len(raw) - place)))
        expected[couple] = largest
    assert found == pytest.approx(expected) and len(found) == 6


def test_groups_are_the_longest_runs_without_a_difference():
    ordered = ["a", "b", "c", "d"]
    p = dict.fromkeys(itertools.combinations(ordered, 2), 1.0)
    assert groups(ordered, p) == [(0, 3)]
    p["a", "d"] = 0.01
    assert groups(ordered, p) == [(0, 2), (1, 3)]
    p["a", "c"] = p["b", "d"] = p["b", "c"] = 0.01
    assert groups(ordered, p) == [(0, 1), (2, 3)]
    assert groups(ordered, dict.fromkeys(p, 0.0)) == []


def test_methods_are_tested_over_five_pairs_at_least(comparisons):
    assert can_test(comparisons)
    few = [comparison for comparison in comparisons if comparison.pair < "source4"]
    assert not can_test(few) and not can_test([])
