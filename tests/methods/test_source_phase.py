"""MeRLin after a phase on the source alone, and three phases in MeRLin-FT."""

import pytest
import torch

from merlin_hf import METHODS
from merlin_hf.transfer.phases import PhasesMixin
from tests.methods.support import PLAIN_SGD, assert_same_weights, build, traced, weights
from tests.tiny import tiny_bert


# Steps 0 and 1 are the source's, 2 and 3 MeRLin's, and the last two fine-tuning's or MeRLin's.
THIRDS = {"max_steps": 6, "source_phase_fraction": 1 / 3}
PHASES = {"merlin": THIRDS, "merlin_ft": {**THIRDS, "first_phase_fraction": 2 / 3}}


def kinds(trainer):
    """What each logged step trained."""
    found = []
    for entry in trainer.state.log_history:
        if "loss" in entry:
            found.append("fine-tuning" if "target_loss" in entry else "merlin" if "meta_loss" in entry else "source")
    return found


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("merlin", ["source"] * 2 + ["merlin"] * 4),
        ("merlin_ft", ["source"] * 2 + ["merlin"] * 2 + ["fine-tuning"] * 2),
    ],
)
def test_each_phase_has_its_loss_and_a_whole_course_of_the_learning_rate(method, expected, tmp_path):
    trainer = build(method, tmp_path, **PHASES[method], learning_rate=1e-2)
    trainer.train()
    assert kinds(trainer) == expected
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    merlin = [1e-2, 7.5e-3, 5e-3, 2.5e-3] if method == "merlin" else [1e-2, 5e-3, 1e-2, 5e-3]
    assert rates == pytest.approx([1e-2, 5e-3, *merlin])


@pytest.mark.parametrize("method", PHASES)
def test_the_source_phase_is_that_of_sequential(method, tmp_path):
    """The same batches, the same losses and the same weights, which MeRLin then starts from."""
    runs = {}
    for name, options in {
        method: PHASES[method],
        "sequential": {"max_steps": 6, "first_phase_fraction": 1 / 3},
    }.items():
        steps, starts = [], []

        class Watched(traced(METHODS[name], steps)):
            def start_phase(self, phase):
                self.starts.append(weights(self))
                super().start_phase(phase)

        Watched.starts = starts
        build(name, tmp_path / name, model=tiny_bert(dropout=0.0), trainer_class=Watched, **options).train()
        runs[name] = steps, {n: w for n, w in starts[0].items() if "scalars" not in n}
    (steps, start), (expected, expected_start) = runs[method], runs["sequential"]
    assert [step.loss for step in steps[:2]] == [step.loss for step in expected[:2]]
    assert_same_weights(start, expected_start)


def test_merlin_goes_on_from_what_the_source_led_to(tmp_path):
    """Four steps after two of the source are a run of their own on the same batches, from the weights in between."""
    found = {}

    class Both(METHODS["merlin"]):
        def start_phase(self, phase):
            found["start"] = weights(self)
            super().start_phase(phase)

    plain = {**PLAIN_SGD, "logging_steps": 1}
    whole = build("merlin", tmp_path / "whole", model=tiny_bert(dropout=0.0), trainer_class=Both, **THIRDS, **plain)
    whole.train()

    class Later(METHODS["merlin"]):
        """A run of MeRLin that sits its first two steps out."""

        def training_step(self, *args, **kwargs):
            if self.state.global_step == 2:
                self.transfer_model.load_state_dict(found["start"])
            return super().training_step(*args, **kwargs)

    later = build(
        "merlin", tmp_path / "later", model=tiny_bert(dropout=0.0), trainer_class=Later, max_steps=6, **plain
    )
    later.train()
    assert_same_weights(whole, later)
    losses = [
        [entry["meta_loss"] for entry in run.state.log_history if "meta_loss" in entry] for run in (whole, later)
    ]
    assert losses[0] == losses[1][2:]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("method", PHASES)
def test_resuming_is_never_stopping(method, stop, tmp_path):
    """Within each phase, and where the next begins."""
    options = {**PHASES[method], "learning_rate": 1e-2, "weight_decay": 0.1}
    whole = build(method, tmp_path / "whole", **options, save_strategy="steps", save_steps=1)
    whole.train()
    resumed = build(method, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert_same_weights(whole, resumed)


def test_a_checkpoint_of_the_source_phase_has_a_head_that_fits_the_target(tmp_path):
    """Not the one the model came with, and not one that was trained."""
    options = {**PHASES["merlin_ft"], "save_strategy": "steps", "save_steps": 1}
    trainer = build("merlin_ft", tmp_path, **options)
    before = trainer.model.classifier.weight.detach().clone()
    trainer.train()
    heads = [
        type(trainer.model).from_pretrained(tmp_path / f"checkpoint-{step}").classifier.weight for step in (1, 2, 3)
    ]
    for one, other in zip([before, *heads], heads, strict=False):
        assert not torch.equal(one, other)


def test_the_phases_of_merlin_ft_are_two_without_it(tmp_path):
    trainer = build("merlin_ft", tmp_path, max_steps=5, first_phase_fraction=0.6)
    trainer.train()
    assert kinds(trainer) == ["merlin"] * 3 + ["fine-tuning"] * 2


@pytest.mark.parametrize(
    ("fractions", "steps", "expected"),
    [
        ((0.5, 0.5), 10, (5, 5)),
        ((0.0, 1.0), 10, (0, 10)),
        ((0.0, 0.8, 0.2), 10, (0, 8, 2)),
        ((0.4, 0.4, 0.2), 10, (4, 4, 2)),
        ((0.01, 0.01, 0.98), 10, (1, 1, 8)),
        ((0.98, 0.01, 0.01), 10, (8, 1, 1)),
        ((0.98, 0.01, 0.01), 3, (1, 1, 1)),
        ((0.4, 0.4, 0.2), 2, (0, 0, 2)),
        ((0.4, 0.4, 0.2), 0, (0, 0, 0)),
    ],
)
def test_each_phase_has_its_share_of_the_steps(fractions, steps, expected):
    class Phases(PhasesMixin):
        phase_fractions = fractions

    assert Phases().split_steps(steps) == expected


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "merlin",
            {"source_phase_fraction": 1.0},
            "`source_phase_fraction` must be at least 0 and less than 1, got 1.0",
        ),
        ("merlin", {"source_phase_fraction": -0.1}, "at least 0 and less than 1, got -0.1"),
        ("merlin_ft", {"source_phase_fraction": 0.8}, "less than `first_phase_fraction`, got 0.8 and 0.8"),
    ],
)
def test_a_fraction_that_leaves_merlin_no_steps_is_refused(method, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        METHODS[method].training_args_class(str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("merlin", {}, 20 + 8),
        ("merlin", {"source_phase_fraction": 0.25}, 0.75 * 20 + 8),
        ("merlin_ft", {"first_phase_fraction": 0.8}, 20 + 0.8 * 8),
        ("merlin_ft", {"first_phase_fraction": 0.8, "source_phase_fraction": 0.5}, 0.5 * 20 + 0.8 * 8),
    ],
)
def test_a_step_costs_the_rows_of_its_phase(method, options, expected, tmp_path):
    """Which a comparison's budget is counted in."""
    trainer_class = METHODS[method]
    batches = {"per_device_train_batch_size": 20, "per_device_source_batch_size": 8}
    args = trainer_class.training_args_class(str(tmp_path), use_cpu=True, **batches, **options)
    assert trainer_class.rows_per_step(args, has_source=True) == pytest.approx(expected)
    assert trainer_class.rows_per_step(args, has_source=False) == 20


def test_without_a_source_phase_no_parameter_is_unused(tmp_path, monkeypatch):
    """Distributed training has to look for them only where there is one."""
    without = build("merlin", tmp_path, ddp_find_unused_parameters=False)
    with_phase = build("merlin", tmp_path, ddp_find_unused_parameters=False, **THIRDS)
    monkeypatch.setattr(type(without.args), "world_size", 2)
    without.check_data()
    with pytest.raises(ValueError, match="ddp_find_unused_parameters=True"):
        with_phase.check_data()
