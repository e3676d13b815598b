import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_hf.comparison.runner import trial_settings
from merlin_hf.data.sampling import allocate, draw_rows, split_off_validation


LABELS = np.array([0] * 60 + [1] * 30 + [2] * 2)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0, 1))
def test_shares_are_in_proportion(sizes, share):
    total = len(sizes) + round(share * (sum(sizes) - len(sizes)))
    counts = allocate(total, sizes, at_least=1)
    assert sum(counts) == total and all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    if all(total * size / sum(sizes) >= 1 for size in sizes):
        assert all(abs(count - total * size / sum(sizes)) < 1 for count, size in zip(counts, sizes, strict=True))


def test_a_draw_is_stratified_and_its_own_for_each_seed():
    rows = draw_rows(LABELS, 31, False, "target", 0)
    assert np.bincount(LABELS[rows]).tolist() == [20, 10, 1]
    assert rows == sorted(set(rows)) == draw_rows(LABELS, 31, False, "target", 0)
    assert rows != draw_rows(LABELS, 31, False, "target", 1)
    assert draw_rows(LABELS, None, False, 0) == draw_rows(LABELS, 500, False, 1) == list(range(len(LABELS)))


def test_real_labels_are_drawn_without_classes():
    assert len(set(draw_rows(np.linspace(0, 1, 50), 20, True, 0))) == 20


def test_every_class_stays_among_the_rows_that_are_trained_on():
    train, validation = split_off_validation(np.append(LABELS, 3), 0.25, False, 0)
    assert sorted(train + validation) == list(range(len(LABELS) + 1))
    assert np.bincount(np.append(LABELS, 3)[validation]).tolist() == [15, 8, 0] or len(validation) == 23
    assert set(np.append(LABELS, 3)[train]) == {0, 1, 2, 3}


def test_too_few_rows_for_a_validation_side():
    with pytest.raises(ValueError, match="3 rows of 3 classes leave no row"):
        split_off_validation(np.array([0, 1, 2]), 0.25, False, 0)


DEFAULTS = {"learning_rate": 5e-5, "rho": 0.3}
SPACE = {"learning_rate": [2e-5, 5e-5], "rho": (0.1, 0.3, 1.0)}


def test_trials_are_different_settings_with_the_defaults_first():
    trials = trial_settings(DEFAULTS, SPACE, 4)
    assert trials[0] == DEFAULTS and len(trials) == 4
    assert len({tuple(trial.items()) for trial in trials}) == 4


def test_more_trials_add_to_fewer_ones():
    """So that a search can be made larger without doing it anew."""
    assert trial_settings(DEFAULTS, SPACE, 6)[:3] == trial_settings(DEFAULTS, SPACE, 3)


@pytest.mark.parametrize("trials", [6, 100])
def test_a_small_grid_is_tried_as_a_whole(trials):
    assert len(trial_settings(DEFAULTS, SPACE, trials)) == 6
    assert len(trial_settings({**DEFAULTS, "rho": 7.0}, SPACE, 100)) == 7, "defaults outside of the grid"
    assert trial_settings({}, {}, trials) == [{}]


@pytest.mark.parametrize(
    "name, values", [("rho", (0.1, 0.3, 1.0)), ("weight", (0.3, 1.0)), ("other", (0.3, 1.0, 2.0, 4.0, 8.0))]
)
def test_methods_with_other_options_try_the_same_learning_rates_equally_often(name, values):
    rates = [1e-5, 2e-5, 5e-5]
    space = {"learning_rate": rates, name: values}
    trials = trial_settings({"learning_rate": 2e-5, name: 0.3}, space, 6)
    alone = trial_settings({"learning_rate": 2e-5}, {"learning_rate": rates}, 3)
    tried = [trial["learning_rate"] for trial in trials]
    assert tried[:3] == [trial["learning_rate"] for trial in alone] and tried[0] == 2e-5
    assert sorted(tried[:3]) == sorted(tried[3:]) == rates
    counts = [sum(trial[name] == value for trial in trials[:3]) for value in values]
    assert max(counts) - min(counts) <= 1
