"""Phases of a training: their steps, and which options they refuse."""

import pytest

from merlin_hf.transfer.phases import distinct, share_between, split_steps
from tests.methods.support import build


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("fractions", [(1.0,), (0.5, 0.5), (0.4, 0.0, 0.6), (0.01, 0.98, 0.01), (0.0, 1.0)])
def test_steps_of_phases(fractions, steps):
    found = split_steps(fractions, steps)
    wanted = [number for number, fraction in enumerate(fractions) if fraction > 0]
    assert sum(found) == steps and all(not found[i] for i in range(len(found)) if i not in wanted)
    if steps >= len(wanted):
        assert all(found[i] >= 1 for i in wanted)
        assert all(abs(found[i] - fractions[i] * steps) <= len(wanted) for i in wanted)


def test_shares_and_ends():
    assert share_between(0.7, 1 - 0.3) == 0.0 and share_between(0.25, 0.75) == 0.5
    assert distinct([0, 3, 3, 5]) == [3, 5]


def test_rows_of_a_step_are_those_of_its_phases(tmp_path):
    options = {"per_device_train_batch_size": 8, "per_device_source_batch_size": 4}
    trainer = build("merlin", tmp_path, source_phase_fraction=0.5, **options)
    assert trainer.rows_per_step(trainer.args, has_source=True) == 0.5 * 4 + 0.5 * (4 + 8)


@pytest.mark.parametrize(
    ("method", "options", "share"),
    [
        ("merlin", {"source_phase_fraction": 0.25}, "25%"),
        ("merlin_ft", {"source_phase_fraction": 0.4}, "40%"),
        ("sequential", {}, "50%"),
    ],
)
def test_a_phase_on_the_source_alone_needs_its_loss(tmp_path, method, options, share):
    with pytest.raises(ValueError, match=f"on the source alone in {share} of its steps, and `source_weight=0`"):
        build(method, tmp_path, source_weight=0.0, **options)


@pytest.mark.parametrize(("method", "options"), [("merlin", {}), ("merlin_ft", {"source_phase_fraction": 0.0})])
def test_other_phases_do_without_the_sources_loss(tmp_path, method, options):
    build(method, tmp_path, source_weight=0.0, **options)


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau"])
def test_phases_need_a_schedule_by_steps(tmp_path, schedule):
    options = {"lr_scheduler_type": schedule, "eval_strategy": "steps", "metric_for_best_model": "loss"}
    with pytest.raises(ValueError, match=f"`lr_scheduler_type='{schedule}'` is none"):
        build("merlin", tmp_path, source_phase_fraction=0.5, **options)
