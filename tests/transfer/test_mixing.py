"""Weights that were trained on two halves of the target and on the source, and the mix that target rows choose."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from merlin_hf import METHODS, MerlinTrainer, MerlinTrainingArguments
from merlin_hf.transfer.mixing import (
    HALVES,
    L2,
    SOURCE,
    START,
    HalfBatches,
    choose_shares,
    halves_of,
    rows_that_choose,
)
from merlin_hf.transfer.model import is_untrained
from tests.methods.support import digits, tiny_resnet
from tests.support import make_args, make_trainer
from tests.tiny import (
    NUM_LABELS,
    as_trained,
    pad_tagged,
    tagged_dataset,
    tiny_bert,
    tiny_dataset,
    tiny_sentence_encoder,
    tiny_token_bert,
)


def mixing(output_dir, callbacks=(), trainer_class=MerlinTrainer, **options):
    options = {"max_steps": 14, "target": tiny_dataset(rows=24), "rho": 1.0, "balance_gradients": False, **options}
    trainer = make_trainer(output_dir, trainer_class=trainer_class, mix_weights=True, **options)
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


class Watched(MerlinTrainer):
    """Keeps the weights of the phases, which a finished run forgets, and the target rows of each step."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.__dict__.setdefault("seen", []).append((self.phase.name, inputs["input_ids"].tolist()))
        return super().training_step(model, inputs, num_items_in_batch)

    def finish_phases(self):
        self.branches.mix_weights, mix_weights = self.keep_and_mix, self.branches.mix_weights
        self.mix_weights = mix_weights
        super().finish_phases()

    def keep_and_mix(self):
        self.kept = dict(self.branches.weights)
        self.mix_weights()


def test_it_is_the_default_and_the_paper_is_a_call_away(tmp_path):
    assert MerlinTrainingArguments(str(tmp_path)).mix_weights
    paper = MerlinTrainingArguments.paper(str(tmp_path), max_steps=7)
    assert (paper.mix_weights, paper.balance_gradients, paper.head, paper.max_steps) == (False, False, "ridge", 7)


@pytest.mark.parametrize("classes", [1, 3])
def test_halves_share_out_each_class(classes):
    labels = torch.arange(31) % classes
    halves = halves_of(labels, seed=0)
    for number in range(classes):
        counts = torch.bincount(halves[labels == number], minlength=2)
        assert abs(int(counts[0] - counts[1])) <= 1
    assert not torch.equal(halves, halves_of(labels, seed=1))


def test_batches_of_a_half_have_no_row_twice_and_are_shared_out():
    rows = [1, 3, 5, 7, 9, 11, 13]
    seen = []
    for number in range(6):
        parts = [
            HalfBatches(range(20), rows, list, batch_size=2, seed=0, rank=rank, world_size=2)[number]
            for rank in (0, 1)
        ]
        whole = HalfBatches(range(20), rows, list, batch_size=4, seed=0)[number]
        assert sorted(parts[0] + parts[1]) == sorted(whole)
        assert len(set(whole)) == 4
        seen += whole
    assert set(seen) == set(rows)


def test_rows_that_choose_are_of_both_halves():
    halves = torch.arange(1000) % 2
    chosen = rows_that_choose(halves, seed=0)
    assert len(chosen) == 256
    assert torch.bincount(halves[chosen]).tolist() == [128, 128]


def test_each_phase_starts_from_the_same_weights_and_sees_its_rows(tmp_path):
    model = tiny_bert()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = mixing(tmp_path, trainer_class=Watched, model=model, max_steps=28)
    trainer.train()
    assert list(trainer.kept) == [START, *HALVES, SOURCE]
    for name, weight in trainer.kept[START].items():
        if name.startswith("model."):
            assert torch.equal(weight, before[name.removeprefix("model.")])
    rows = [tuple(ids) for ids in trainer.train_dataset["input_ids"]]
    for number, half in enumerate(HALVES):
        own = {rows[index] for index in torch.nonzero(trainer.branches.halves == number).squeeze(-1).tolist()}
        steps = [{tuple(ids) for ids in batch} for name, batch in trainer.seen if name == half]
        assert len(steps) == 2
        assert all(step <= own for step in steps)
    weights = trainer.model.state_dict()
    mix = trainer.branches.mix
    for name, start in trainer.kept[START].items():
        if name.startswith("model."):
            change = mix.source * (trainer.kept[SOURCE][name] - start)
            change += mix.target * ((trainer.kept[HALVES[0]][name] + trainer.kept[HALVES[1]][name]) / 2 - start)
            torch.testing.assert_close(weights[name.removeprefix("model.")], start + change)


def test_the_choice_is_that_of_heads_of_scikit_learn(tmp_path):
    """The loss of the chosen mix, with scikit-learn's logistic regression in place of the package's."""
    noisy = np.random.default_rng(0).integers(NUM_LABELS, size=24).tolist()
    target = tiny_dataset(rows=24).remove_columns("label").add_column("label", noisy)
    trainer = mixing(
        tmp_path, trainer_class=Watched, model=tiny_bert(dropout=0.0).double(), max_steps=28, target=target
    )
    trainer.train()
    branches, mix = trainer.branches, trainer.branches.mix
    branches.weights = trainer.kept
    labels = np.array(trainer.train_dataset["label"])
    ids = torch.tensor(trainer.train_dataset["input_ids"])
    total = 0.0
    for half, name in enumerate(HALVES):
        branches.write(branches.mixed(mix.source, {name: mix.target} if mix.target else {}))
        trainer.model.eval()
        with torch.no_grad():
            features = trainer.model.bert(input_ids=ids).pooler_output.numpy()
        judged = np.flatnonzero(branches.halves.numpy() != half)
        parts = branches.parts(torch.tensor(labels), torch.from_numpy(branches.halves.numpy() != half)).numpy()
        assert sorted(np.flatnonzero(parts.any(0))) == sorted(judged)
        for part in parts[parts.any(1)]:
            rest, centre = ~part, features[~part].mean(0)
            spread = np.square(features[rest] - centre).sum(1).mean()
            head = LogisticRegression(C=1 / (mix.l2 * spread), tol=1e-10, max_iter=10_000)
            head.fit(features[rest] - centre, labels[rest])
            logits = torch.tensor(head.predict_log_proba(features[part] - centre))
            total += cross_entropy(logits, torch.tensor(labels[part]), reduction="sum").item()
    assert NUM_LABELS > 2
    assert mix.l2 in L2
    assert mix.loss == pytest.approx(total / len(labels), rel=1e-2)
    assert mix.loss > 0.5


@pytest.mark.parametrize(("given", "expected"), [(None, 1e-2), (5e-3, 5e-3)])
def test_the_source_head_learns_ten_times_as_fast(tmp_path, given, expected):
    trainer = mixing(tmp_path, max_steps=3, lr_scheduler_type="constant", head_learning_rate=given)
    trainer.train()
    head = {id(parameter) for parameter in trainer.transfer_model.source_head.parameters()}
    rates = {
        g["lr"] for g in trainer.optimizer.param_groups if any(id(parameter) in head for parameter in g["params"])
    }
    assert rates == {expected}


@pytest.mark.parametrize(("lead", "chosen"), [(0.5, (1.0, 0.0)), (0.05, (0.5, 0.5)), (-0.5, (0.5, 0.5))])
def test_the_middle_is_left_for_what_is_clearly_better(lead, chosen):
    rows = torch.randn(1, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = rows - lead + torch.randn(1, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    losses = {(0.5, 0.5): torch.cat([rows, rows + 1]), (1.0, 0.0): torch.cat([other + 1, other])}
    assert choose_shares(losses) == chosen


@pytest.mark.parametrize("step", [1, 2, 8])
def test_a_resumed_run_is_the_same(tmp_path, step):
    whole = mixing(tmp_path / "whole", max_steps=14, save_strategy="steps", save_steps=1)
    whole.train()
    resumed = mixing(tmp_path / "whole", max_steps=14)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert resumed.branches.mix == whole.branches.mix
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


@pytest.mark.parametrize("labels", ["regression", "several", "stream"])
def test_other_targets(tmp_path, labels):
    target, options = tiny_dataset(rows=24), {}
    if labels == "stream":
        target = target.to_iterable_dataset()
    else:
        values = [float(value) for value in target["label"]]
        if labels == "several":
            values = [[float(label == value) for label in range(NUM_LABELS)] for value in values]
        columns = {"input_ids": target["input_ids"], "attention_mask": target["attention_mask"], "labels": values}
        target = Dataset.from_dict(columns)
        options["model"] = tiny_bert(num_labels=1 if labels == "regression" else NUM_LABELS)
    trainer = mixing(tmp_path, target=target, evaluation=None if labels == "stream" else target, **options)
    trainer.train()
    assert np.isfinite(trainer.branches.mix.loss)
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_tokens(tmp_path):
    """Heads are fit on tokens and judged on those of other sentences."""
    trainer = MerlinTrainer(
        model=tiny_token_bert(),
        args=make_args(tmp_path, max_steps=14, mix_weights=True),
        train_dataset=tagged_dataset(24),
        eval_dataset=tagged_dataset(12),
        source_dataset=tagged_dataset(40),
        data_collator=pad_tagged,
    )
    trainer.train()
    assert np.isfinite(trainer.branches.mix.loss)
    assert np.isfinite(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize("frozen", [False, True])
def test_statistics_of_batch_norm_are_of_the_target_under_the_mixed_weights(tmp_path, frozen):
    kind = {"dtype": torch.float32, "size": 16}
    model, target = as_trained(tiny_resnet()), digits([0, 1, 2], 24, **kind)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    first = next(iter(norms))
    if frozen:  # statistics that training leaves as they are
        norms[first].momentum = 0.0
        kept = norms[first].running_mean.clone()
    trainer = METHODS["merlin"](
        model=model,
        args=MerlinTrainingArguments(
            str(tmp_path), max_steps=14, per_device_train_batch_size=24, num_source_labels=4, report_to="none",
            disable_tqdm=True, use_cpu=True, save_strategy="no", learning_rate=1e-2,
        ),
        train_dataset=target,
        source_dataset=digits([3, 4, 5, 6], 40, **kind),
    )  # fmt: skip
    trainer.train()
    assert trainer.branches.mix.source or trainer.branches.mix.target
    seen = {}
    for name, module in norms.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: inputs[0]}))
    model.eval()
    with torch.no_grad():
        model(pixel_values=torch.stack([row["pixel_values"] for row in target]))
    variance, mean = torch.var_mean(seen[first], dim=(0, 2, 3))
    if frozen:
        torch.testing.assert_close(norms[first].running_mean, kept)
    else:
        torch.testing.assert_close(norms[first].running_mean, mean)
        torch.testing.assert_close(norms[first].running_var, variance)
    assert all(module.momentum is not None and not module.training for module in norms.values())


def test_fewer_steps_than_phases_and_no_rows_to_spare(tmp_path):
    trainer = mixing(tmp_path, max_steps=1, target=tiny_dataset(rows=6))
    trainer.train()
    assert trainer.branches.mix.target == 0.0


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize(("step", "mixes"), [(10, True), (3, False)])
def test_a_run_that_is_stopped_early_is_mixed_if_it_has_come_to_the_source(tmp_path, step, mixes):
    trainer = mixing(tmp_path, max_steps=28)
    trainer.add_callback(StopAt(step))
    trainer.train()
    assert (trainer.branches.mix is not None) == mixes
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def with_random_weights(**options):
    """A classifier whose normalisation layers are as they were initialised."""
    model = tiny_bert(**options)
    for name, value in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            value.data.fill_(1.0)
    return model


def test_random_weights_learn_the_source_then_the_target(tmp_path, caplog):
    trainer = mixing(tmp_path, model=with_random_weights(), logging_steps=1)
    assert [(phase.name, phase.uses_source, phase.uses_target) for phase in trainer.phases] == [
        (SOURCE, True, False),
        ("target", False, True),
    ]
    assert "has random weights" in caplog.text and "mix_weights=False" in caplog.text
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert ["source_loss" in log for log in logs] == [True] * 7 + [False] * 7
    assert ["meta_loss" in log for log in logs] == [False] * 7 + [True] * 7
    assert not any("mix_loss" in log for log in trainer.state.log_history)


def test_a_model_without_normalisation_or_with_a_trained_one_is_mixed(tmp_path):
    linear, norm = torch.nn.Linear(3, 3), torch.nn.LayerNorm(3)
    assert not is_untrained(torch.nn.Sequential(linear)) and is_untrained(torch.nn.Sequential(linear, norm))
    assert is_untrained(with_random_weights()) and not is_untrained(tiny_bert())
    assert not is_untrained(tiny_sentence_encoder())
    assert mixing(tmp_path).mixes_weights


class WithoutLastEvaluation(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate &= state.global_step < state.max_steps


def worse_each_time():
    """Return metrics by which the first evaluation, of weights of a phase, is the best."""
    evaluations = itertools.count()
    return lambda output: {"score": -float(next(evaluations))}


BEST = {"eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True}
BEST |= {"metric_for_best_model": "score", "greater_is_better": True}


@pytest.mark.parametrize(
    ("options", "callback", "best"),
    [
        ({"eval_steps": 2, "save_steps": 2}, None, 14),
        ({"eval_steps": 4, "save_steps": 4, "save_total_limit": 1}, None, 14),
        ({"eval_strategy": "epoch", "save_strategy": "epoch"}, None, 14),
        ({"eval_steps": 4, "save_strategy": "best"}, None, 14),
        ({"eval_steps": 4, "save_steps": 4, "save_total_limit": 1}, WithoutLastEvaluation(), None),
        ({"eval_steps": 2, "save_steps": 2, "max_steps": 28}, StopAt(14), None),
    ],
    ids=["steps", "only one is kept", "epochs", "best", "without a last evaluation", "stopped early"],
)
def test_the_best_checkpoint_is_one_of_the_mix(tmp_path, options, callback, best):
    trainers = []
    for load_best in (False, True):
        given = {**BEST, "compute_metrics": worse_each_time(), **options, "load_best_model_at_end": load_best}
        trainer = mixing(tmp_path / f"best-{load_best}", [callback] if callback else [], **given)
        trainer.train()
        trainers.append(trainer)
    expected, trainer = trainers
    assert trainer.branches.mix == expected.branches.mix
    assert trainer.state.best_global_step == best
    for name, weight in expected.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], weight), name
    if best is not None:
        folder = tmp_path / "best-True" / f"checkpoint-{best}"
        assert trainer.state.best_model_checkpoint == str(folder)
        saved = load_file(folder / "model.safetensors")
        assert all(torch.equal(saved[name], weight) for name, weight in trainer.model.state_dict().items())
    if options.get("save_total_limit") == 1:
        assert [path.name for path in (tmp_path / "best-True").glob("checkpoint-*")] == ["checkpoint-14"]


def test_a_resumed_run_forgets_the_best_of_its_phases(tmp_path):
    trainer = mixing(tmp_path, **BEST, eval_steps=2, save_steps=2, compute_metrics=worse_each_time())
    trainer.train()
    resumed = mixing(tmp_path, **BEST, eval_steps=2, save_steps=2, compute_metrics=worse_each_time())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.state.best_global_step == 14
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


def test_training_goes_on_from_a_phase_and_not_from_the_mix(tmp_path):
    mixing(tmp_path, max_steps=4, save_strategy="steps", save_steps=1).train()
    finished = mixing(tmp_path, max_steps=4)
    finished.train(resume_from_checkpoint=True)
    assert finished.checkpoints.is_finished and finished.state.global_step == 4
    longer = mixing(tmp_path, max_steps=6)
    with pytest.raises(ValueError, match=r"step 4 holds the mix .* Resume from an earlier checkpoint, or load its"):
        longer.train(resume_from_checkpoint=True)
    longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert longer.branches.mix is not None and longer.state.global_step == 6


LENGTH = r"and this run has .* Resume with the same `max_steps` \(or `num_train_epochs` and batch size\)\."
OVER = r"step 2 holds weights of a phase of a longer run, and this run has 2 steps"


@pytest.mark.parametrize(
    ("before", "step", "now", "message"), [(2, 1, 14, LENGTH), (28, 2, 14, LENGTH), (14, 2, 2, OVER)]
)
def test_a_checkpoint_of_another_phase_is_refused(tmp_path, before, step, now, message):
    """Two steps leave the first phase none, so there are two schedules, and not three."""
    mixing(tmp_path, [StopAt(step)], max_steps=before, save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match=message):
        mixing(tmp_path, max_steps=now).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))


def test_a_second_training_reads_a_stream_again(tmp_path):
    trainer = mixing(tmp_path, max_steps=3, target=tiny_dataset(rows=24).to_iterable_dataset())
    trainer.train()
    assert len(trainer.branches.rows) == 24
    trainer.train_dataset = tiny_dataset(rows=16).to_iterable_dataset()
    trainer.train()
    assert len(trainer.branches.rows) == len(trainer.branches.halves) == 16


def test_phases_of_ones_own_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`source_phase_fraction=0.5`.*Leave them out, or set `mix_weights=False`"):
        MerlinTrainingArguments(str(tmp_path), source_phase_fraction=0.5)
