"""MeRLin with phases on the source alone and on the target alone, and those of MeRLin-FT."""

import pytest
import torch

from merlin_hf import METHODS
from merlin_hf.transfer.phases import split_steps
from tests.methods.support import PLAIN_SGD, assert_same_weights, build, traced, weights
from tests.tiny import tiny_bert, tiny_dataset


# Steps 0 and 1 are the source's, 2 and 3 MeRLin's, and the last two fine-tuning's or MeRLin's.
THIRDS = {"max_steps": 6, "source_phase_fraction": 1 / 3}
PHASES = {"merlin": THIRDS, "merlin_ft": {**THIRDS, "first_phase_fraction": 2 / 3}}
# The last phase of MeRLin is about the target alone; in the second there are no steps on both.
TARGET_PHASES = {
    "both": ("merlin", {**THIRDS, "target_phase_fraction": 1 / 3}),
    "apart": ("merlin", {**THIRDS, "target_phase_fraction": 2 / 3}),
    "no source phase": ("merlin", {"max_steps": 6, "target_phase_fraction": 2 / 3}),
    "merlin_ft": ("merlin_ft", {**PHASES["merlin_ft"], "target_phase_fraction": 1 / 3}),
}


ALL_PHASES = pytest.mark.parametrize(
    ("method", "phases"),
    [*PHASES.items(), *TARGET_PHASES.values()],
    ids=[*PHASES, *map("target-{}".format, TARGET_PHASES)],
)
NAMES = {
    ("source_loss",): "source",
    ("source_loss", "meta_loss"): "merlin",
    ("meta_loss",): "target",
    ("target_loss",): "fine-tuning",
}


def kinds(trainer):
    """What each logged step trained."""
    found = []
    for entry in trainer.state.log_history:
        if "loss" in entry:
            losses = [name for name in ("source_loss", "meta_loss", "target_loss") if name in entry]
            found.append(NAMES[tuple(losses)])
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


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ("both", ["source"] * 2 + ["merlin"] * 2 + ["target"] * 2),
        ("apart", ["source"] * 2 + ["target"] * 4),
        ("no source phase", ["merlin"] * 2 + ["target"] * 4),
        ("merlin_ft", ["source"] * 2 + ["target"] * 2 + ["fine-tuning"] * 2),
    ],
)
def test_the_targets_phase_has_the_meta_loss_alone(phases, expected, tmp_path):
    """And draws no source batch."""
    method, options = TARGET_PHASES[phases]
    steps = []
    trainer = build(method, tmp_path, trainer_class=traced(METHODS[method], steps), **options)
    trainer.train()
    assert kinds(trainer) == expected
    assert [step.source is not None for step in steps] == [kind in ("source", "merlin") for kind in expected]
    last = [entry for entry in trainer.state.log_history if "loss" in entry and "source_loss" not in entry]
    assert all(entry["loss"] == pytest.approx(entry["meta_loss"]) for entry in last if "meta_loss" in entry)


def test_the_targets_phase_goes_on_with_the_same_batches_and_heads_as_rho_without_end(tmp_path):
    """As if the meta loss had all the weight: a plain step of gradient descent is that of `source_weight=0`."""
    plain = {**PLAIN_SGD, "balance_gradients": False, "learn_logit_scale": False, "rho": 1.0}
    runs = []
    for name, options in {
        "phase": {"target_phase_fraction": 2 / 3},
        "weights": {"source_weight": 0.0},
    }.items():

        class Later(METHODS["merlin"]):
            """A run that sits its first two steps out."""

            def training_step(self, *args, **kwargs):
                if self.state.global_step < 2:
                    self.start = weights(self)
                loss = super().training_step(*args, **kwargs)
                if self.state.global_step < 2:
                    self.transfer_model.load_state_dict(self.start)
                    self.optimizer.zero_grad()
                return loss

        model = tiny_bert(dropout=0.0)
        runs.append(
            build("merlin", tmp_path / name, model=model, trainer_class=Later, max_steps=6, **plain, **options)
        )
        runs[-1].train()
    backbones = [{n: w for n, w in weights(run).items() if "source_head" not in n} for run in runs]
    assert_same_weights(*backbones)
    assert not all(torch.equal(backbones[0][n], w) for n, w in runs[0].start.items() if n in backbones[0])


@pytest.mark.parametrize("source_weight", [1.0, 0.3])
@pytest.mark.parametrize("method", PHASES)
def test_the_source_phase_is_that_of_sequential(method, source_weight, tmp_path):
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
        options = {**options, **PLAIN_SGD, "source_weight": source_weight}
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
@ALL_PHASES
def test_resuming_is_never_stopping(method, phases, stop, tmp_path):
    """Within each phase, and where the next begins."""
    options = {**phases, "learning_rate": 1e-2, "weight_decay": 0.1}
    whole = build(method, tmp_path / "whole", **options, save_strategy="steps", save_steps=1)
    whole.train()
    resumed = build(method, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert_same_weights(whole, resumed)


@ALL_PHASES
def test_a_checkpoint_of_a_phase_before_fine_tuning_has_a_head_that_fits_the_target(method, phases, tmp_path):
    """The one that fits the saved features, not one that was trained or that the model came with."""
    options = {**phases, "learn_logit_scale": False}
    trainer = build(method, tmp_path, **options, save_strategy="steps", save_steps=1)
    trainer.train()
    for step in (1, 2, 3):
        saved = type(trainer.model).from_pretrained(tmp_path / f"checkpoint-{step}")
        head = saved.classifier.weight.detach().clone()
        build("merlin", tmp_path / "merlin", model=saved, learn_logit_scale=False).refit_head()
        torch.testing.assert_close(saved.classifier.weight.detach(), head, rtol=1e-3, atol=1e-4)


def test_evaluating_in_the_source_phase_changes_nothing(tmp_path):
    runs = []
    for when in ("no", "steps"):
        # Without dropout: iterating Trainer's evaluation rows draws from the generator that dropout draws from.
        runs.append(
            build("merlin", tmp_path, model=tiny_bert(dropout=0.0), **THIRDS, eval_strategy=when, eval_steps=1)
        )
        runs[-1].train()
    assert_same_weights(*runs)
    scores = [entry["eval_loss"] for entry in runs[1].state.log_history if "eval_loss" in entry]
    assert len(set(scores)) == 6, "in each step of another model"


@pytest.mark.parametrize("method", PHASES)
def test_each_phase_starts_with_a_fresh_optimizer(method, tmp_path):
    states = []

    class Watching(METHODS[method]):
        def compute_loss(self, *args, **kwargs):
            optimizer = self.optimizer.optimizer
            states.append({int(state["step"]) for state in optimizer.state.values()})
            return super().compute_loss(*args, **kwargs)

    build(method, tmp_path, trainer_class=Watching, **PHASES[method]).train()
    later = [{1}, {2}, {3}] if method == "merlin" else [{1}, set(), {1}]
    assert states == [set(), {1}, set(), *later]


def test_an_accumulated_update_belongs_to_one_phase(tmp_path):
    """A source batch for each micro-batch, and no mixture of losses."""
    steps = []
    accumulation = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = build(
        "merlin_ft", tmp_path, trainer_class=traced(METHODS["merlin_ft"], steps), **PHASES["merlin_ft"], **accumulation
    )
    trainer.train()
    assert kinds(trainer) == ["source"] * 2 + ["merlin"] * 2 + ["fine-tuning"] * 2
    assert [step.source is not None for step in steps] == [True] * 8 + [False] * 4


def test_with_too_few_steps_the_first_phases_are_left_out(tmp_path):
    """Fine-tuning still starts from a head that fits."""
    trainer = build("merlin_ft", tmp_path, max_steps=2, source_phase_fraction=0.4)
    trainer.train()
    assert kinds(trainer) == ["merlin", "fine-tuning"]
    heads = []

    class Watched(METHODS["merlin_ft"]):
        def compute_loss(self, *args, **kwargs):
            heads.append(self.model_wrapped.model.classifier.weight.detach().clone())
            return super().compute_loss(*args, **kwargs)

    alone = build("merlin_ft", tmp_path, trainer_class=Watched, max_steps=1, source_phase_fraction=0.4)
    fitted = build("merlin", tmp_path)
    fitted.refit_head()
    alone.train()
    assert kinds(alone) == ["fine-tuning"]
    torch.testing.assert_close(heads[0], fitted.model.classifier.weight.detach())


def test_rates_follow_the_phases_of_the_run_that_goes_on(tmp_path):
    """With more steps than the run that was saved had, the first phase is longer."""
    first = build("merlin", tmp_path, max_steps=8, source_phase_fraction=0.5, save_strategy="steps", save_steps=2)
    first.train()
    longer = build("merlin", tmp_path / "longer", max_steps=12, source_phase_fraction=0.5, learning_rate=1e-3)
    longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rates = [entry["learning_rate"] for entry in longer.state.log_history if "learning_rate" in entry]
    assert kinds(longer) == ["source"] * 6 + ["merlin"] * 6
    assert rates[6] == pytest.approx(1e-3) and rates[5] == pytest.approx(1e-3 / 6), (
        "the course begins again with MeRLin"
    )


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (
            {},
            {"source_phase_fraction": 0.2},
            "with `source and target` until step 10, and .* `source` until step 2, `source and",
        ),
        (
            {"source_phase_fraction": 0.5},
            {"target_phase_fraction": 0.5},
            "`source` until step 5, `source and target` until step 10, and this run has `source and target` until "
            "step 5, `target`",
        ),
    ],
)
def test_a_checkpoint_of_other_phases_is_not_resumed(before, now, message, tmp_path):
    build("merlin", tmp_path, max_steps=10, save_strategy="steps", save_steps=6, **before).train()
    with pytest.raises(ValueError, match=f"{message}.*`source_phase_fraction`"):
        build("merlin", tmp_path / "other", max_steps=10, **now).train(str(tmp_path / "checkpoint-6"))


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_schedules_that_are_no_function_of_the_step_are_refused(schedule, tmp_path):
    options = {"lr_scheduler_type": schedule, "eval_strategy": "steps", "eval_steps": 1}
    build("merlin", tmp_path, **options)  # a single phase may have it
    with pytest.raises(ValueError, match=f"`lr_scheduler_type='{schedule}'` is none"):
        build("merlin", tmp_path, **options, **THIRDS)


def test_options_of_a_trial_are_checked_with_the_data(tmp_path):
    """A search may ask for what the trainer was not built with."""
    trainer = build("merlin", tmp_path, lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", eval_steps=1)
    trainer.args.source_phase_fraction = 0.5
    with pytest.raises(ValueError, match="'reduce_lr_on_plateau'` is none"):
        trainer.get_train_dataloader()


def test_the_targets_phase_has_a_fresh_optimizer_and_a_whole_course_of_the_learning_rate(tmp_path):
    states = []

    class Watching(METHODS["merlin"]):
        def compute_loss(self, *args, **kwargs):
            states.append({int(state["step"]) for state in self.optimizer.optimizer.state.values()})
            return super().compute_loss(*args, **kwargs)

    method, options = TARGET_PHASES["both"]
    trainer = build(method, tmp_path, trainer_class=Watching, **options, learning_rate=1e-2)
    trainer.train()
    assert states == [set(), {1}] * 3
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-2, 5e-3] * 3)


def first_meta_losses(tmp_path, target=None, num_labels=None, **options):
    """Of the first step after the source's phase, with the meta loss alone and with both losses."""
    found = []
    for name, phases in {"alone": TARGET_PHASES["apart"][1], "both": THIRDS}.items():
        model = tiny_bert(dropout=0.0) if num_labels is None else tiny_bert(dropout=0.0, num_labels=num_labels)
        trainer = build("merlin", tmp_path / name, model=model, target=target, **phases, **PLAIN_SGD, **options)
        trainer.train()
        assert kinds(trainer) == ["source"] * 2 + ["target" if name == "alone" else "merlin"] * 4
        found.append(next(entry["meta_loss"] for entry in trainer.state.log_history if "meta_loss" in entry))
    return found


@pytest.mark.parametrize("kind", ["regression", "several labels"])
def test_the_targets_phase_with_other_labels(kind, tmp_path):
    """The meta loss is that of the steps on both losses."""
    labels = [0.1 * i for i in range(24)] if kind == "regression" else [[1.0, i % 2, i % 3 == 0] for i in range(24)]
    target = tiny_dataset().remove_columns("label").add_column("label", labels)
    alone, both = first_meta_losses(tmp_path, target, num_labels=1 if kind == "regression" else 3)
    assert alone == both > 0


@pytest.mark.parametrize(
    "options", [{"split": "loo", "head": "ridge"}, {"split": "kfold"}, {"head": "logistic"}], ids=str
)
def test_the_targets_phase_with_other_splits_and_heads(options, tmp_path):
    """The meta loss is that of the steps on both losses."""
    alone, both = first_meta_losses(tmp_path, **options)
    assert alone == both > 0


def test_the_targets_phase_accumulates(tmp_path):
    steps = []
    accumulation = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    trainer_class = traced(METHODS["merlin"], steps)
    trainer = build("merlin", tmp_path, trainer_class=trainer_class, **TARGET_PHASES["both"][1], **accumulation)
    trainer.train()
    assert kinds(trainer) == ["source"] * 2 + ["merlin"] * 2 + ["target"] * 2
    assert [step.source is not None for step in steps] == [True] * 8 + [False] * 4
    logged = [entry["meta_loss"] for entry in trainer.state.log_history if "meta_loss" in entry][-2:]
    assert logged == pytest.approx([(steps[i].loss + steps[i + 1].loss) / 2 for i in (8, 10)])


def test_the_targets_phase_has_the_loss_that_is_given(tmp_path):
    """Over the validation rows of all splits, as in the phase before."""
    calls = []

    def loss(outputs, labels, num_items_in_batch=None):
        value = 3 * torch.nn.functional.cross_entropy(outputs.logits, labels)
        calls.append((len(labels), value.item()))
        return value

    trainer = build("merlin", tmp_path, **TARGET_PHASES["apart"][1])
    trainer.target_compute_loss_func = loss
    trainer.train()
    logged = [entry["meta_loss"] for entry in trainer.state.log_history if "meta_loss" in entry]
    splits = trainer.args.num_splits
    of_steps = [calls[start : start + splits] for start in range(0, len(calls), splits)]
    means = [sum(rows * value for rows, value in step) / sum(rows for rows, _ in step) for step in of_steps]
    assert kinds(trainer) == ["source"] * 2 + ["target"] * 4 and logged == pytest.approx(means)


def test_a_targets_phase_that_trains_nothing_is_refused(tmp_path):
    model = tiny_bert()
    model.bert.requires_grad_(False)
    build("merlin", tmp_path, model=model, target_phase_fraction=0.5)  # the scale of the logits is learned
    with pytest.raises(ValueError, match="`target_phase_fraction=0.5` .* trains nothing here"):
        build("merlin", tmp_path, model=model, target_phase_fraction=0.5, learn_logit_scale=False)


@pytest.mark.parametrize("source", [0.7, 0.4, 0.9, 1 / 3])
def test_shares_that_add_up_to_one_leave_no_step_between(source, tmp_path):
    """Whatever rounding makes of 1 - 0.3 - 0.7."""
    trainer = build("merlin", tmp_path, source_phase_fraction=source, target_phase_fraction=1 - source, max_steps=1000)
    assert trainer.phases[1].fraction == 0.0 and trainer.split_steps(1000)[1] == 0


def test_merlin_ft_has_it_by_default(tmp_path):
    options = {"max_steps": 10, "logging_steps": 1, "save_strategy": "no", "report_to": "none"}
    args = METHODS["merlin_ft"].training_args_class(str(tmp_path), use_cpu=True, **options)
    trainer = build("merlin_ft", tmp_path, args=args)
    trainer.train()
    assert kinds(trainer) == ["source"] * 4 + ["merlin"] * 4 + ["fine-tuning"] * 2


def test_a_short_first_phase_says_what_to_change(tmp_path):
    with pytest.raises(
        ValueError, match="less than `first_phase_fraction`.*got 0.4, 0.0 and 0.3.*`source_phase_fraction=0`"
    ):
        METHODS["merlin_ft"].training_args_class(str(tmp_path), use_cpu=True, first_phase_fraction=0.3)


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
        ((0.4, 0.4, 0.2), 9, (4, 3, 2)),
        ((0.4, 0.4, 0.2), 2, (0, 1, 1)),
        ((0.4, 0.4, 0.2), 1, (0, 0, 1)),
        ((0.0, 0.5, 0.5), 1, (0, 0, 1)),
        ((0.4, 0.4, 0.2), 0, (0, 0, 0)),
        ((0.5, 0.0, 0.5), 10, (5, 0, 5)),
        ((0.5, 0.0, 0.5), 1, (0, 0, 1)),
        ((0.4, 0.2, 0.2, 0.2), 10, (4, 2, 2, 2)),
        ((0.4, 0.2, 0.2, 0.2), 3, (0, 1, 1, 1)),
        ((0.4, 0.0, 0.4, 0.2), 2, (0, 0, 1, 1)),
    ],
)
def test_each_phase_has_its_share_of_the_steps(fractions, steps, expected):
    assert split_steps(fractions, steps) == expected


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "merlin",
            {"source_phase_fraction": 1.0},
            "`source_phase_fraction` must be a number of at least 0 and less than 1, got 1.0",
        ),
        ("merlin", {"source_phase_fraction": -0.1}, "at least 0 and less than 1, got -0.1"),
        ("merlin_ft", {"source_phase_fraction": 0.8}, "less than `first_phase_fraction`.*got 0.8, 0.0 and 0.8"),
        (
            "merlin",
            {"target_phase_fraction": 1.0},
            "`target_phase_fraction` must be a number of at least 0 and less than 1, got 1.0",
        ),
        (
            "merlin",
            {"mix_weights": False, "source_phase_fraction": 0.6, "target_phase_fraction": 0.5},
            "add up to more than 1, got 0.6 and 0.5",
        ),
        ("merlin_ft", {"target_phase_fraction": 0.5}, "together not more, got 0.4, 0.5 and 0.8"),
        (
            "merlin_ft",
            {"source_phase_fraction": 0.0, "target_phase_fraction": 0.8},
            "less than `first_phase_fraction`",
        ),
    ],
)
def test_fractions_that_leave_merlin_no_steps_are_refused(method, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        METHODS[method].training_args_class(str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("merlin", {}, 8 + 20 / 7),
        ("merlin", {"mix_weights": False}, 20 + 8),
        ("merlin", {"mix_weights": False, "source_phase_fraction": 0.25}, 0.75 * 20 + 8),
        (
            "merlin",
            {"mix_weights": False, "source_phase_fraction": 0.7, "target_phase_fraction": 0.3},
            0.3 * 20 + 0.7 * 8,
        ),
        ("merlin", {"mix_weights": False, "target_phase_fraction": 0.25}, 20 + 0.75 * 8),
        ("merlin_ft", {"target_phase_fraction": 0.4}, 0.6 * 20 + 0.4 * 8),
        ("merlin_ft", {"source_phase_fraction": 0.0}, 20 + 0.8 * 8),
        ("merlin_ft", {}, 0.6 * 20 + 0.8 * 8),
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


@pytest.mark.parametrize(
    ("method", "phases"), [*PHASES.items(), *TARGET_PHASES.values(), ("merlin", {"mix_weights": True})]
)
@pytest.mark.parametrize("learned", [False, True])
def test_distributed_training_looks_for_unused_parameters_where_there_are_some(
    method, phases, learned, tmp_path, monkeypatch
):
    """Scalars in the source's phase, the source's head in the target's, and a target's head that is trained later."""
    unused = set()

    class Watched(METHODS[method]):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            trained = {name: p for name, p in self.transfer_model.named_parameters() if p.requires_grad}
            unused.update(name for name, p in trained.items() if p.grad is None)
            return loss

    options = {"learn_logit_scale": learned, "ddp_find_unused_parameters": False, **phases}
    trainer = build(method, tmp_path, trainer_class=Watched, **options)
    trainer.train()
    expected = learned or method == "merlin_ft" or "target_phase_fraction" in phases
    assert trainer.has_unused_parameters == bool(unused) == expected
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    if unused:
        with pytest.raises(ValueError, match="ddp_find_unused_parameters=True"):
            trainer.check_settings()
    else:
        trainer.check_settings()
