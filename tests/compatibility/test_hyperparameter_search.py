"""`hyperparameter_search` with Optuna over our own options."""

import optuna
import pytest
from transformers import TrainerCallback

from merlin_hf import MerlinTrainer
from tests.support import SOURCE_LABELS, make_args
from tests.tiny import tiny_bert, tiny_dataset


class Record(TrainerCallback):
    """What each trial trained with, as the arguments and the logs have it."""

    def __init__(self):
        self.trials = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.trials.append({"rho": args.rho, "head_l2": args.head_l2, "head": args.head, "model": model})

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.trials[-1].update(metrics)


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def search(output_dir, space, n_trials, **kwargs):
    record = Record()
    trainer = MerlinTrainer(
        args=make_args(output_dir, balance_gradients=False, eval_strategy="epoch", max_steps=3, **kwargs),
        model_init=lambda: tiny_bert(dropout=0.0),
        train_dataset=tiny_dataset(),
        eval_dataset=tiny_dataset(rows=12, seed=2),
        source_dataset=tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1),
        callbacks=[record],
    )
    best = trainer.hyperparameter_search(
        hp_space=space,
        n_trials=n_trials,
        direction="minimize",
        backend="optuna",
        compute_objective=lambda metrics: metrics["eval_loss"],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    return trainer, best, record.trials


def test_search_over_rho_and_head_l2(tmp_path):
    def space(trial):
        return {
            "rho": trial.suggest_float("rho", 0.01, 10.0, log=True),
            "head_l2": trial.suggest_float("head_l2", 0.1, 100.0, log=True),
        }

    trainer, best, trials = search(tmp_path, space, n_trials=4, save_strategy="epoch")
    assert len({trial["rho"] for trial in trials}) == len({trial["head_l2"] for trial in trials}) == 4
    assert len({id(trial["model"]) for trial in trials}) == 4, "each trial has a model of its own"
    assert [trial["eval_head_l2"] for trial in trials] == pytest.approx([trial["head_l2"] for trial in trials])
    winner = min(trials, key=lambda trial: trial["eval_loss"])
    assert best.objective == winner["eval_loss"]
    assert best.hyperparameters == {name: pytest.approx(winner[name]) for name in ("rho", "head_l2")}
    assert {folder.name for folder in tmp_path.glob("run-*/checkpoint-3")} == {"checkpoint-3"}
    assert len(list(tmp_path.glob("run-*"))) == 4


def test_equal_trials_are_equal_runs_and_rho_matters(tmp_path):
    order = iter([1.0, 5.0, 1.0])
    _, _, trials = search(tmp_path, lambda trial: {"rho": next(order)}, n_trials=3)
    assert trials[0]["eval_loss"] == trials[2]["eval_loss"] != trials[1]["eval_loss"]


def test_search_over_solvers(tmp_path):
    order = iter(["ridge", "logistic", "centroid"])
    _, _, trials = search(tmp_path, lambda trial: {"head": next(order)}, n_trials=3)
    assert [trial["head"] for trial in trials] == ["ridge", "logistic", "centroid"]
    assert len({trial["eval_loss"] for trial in trials}) == 3


def test_values_of_a_search_are_checked_and_numbers_for_the_final_regulariser_are_numbers(tmp_path):
    _, _, trials = search(tmp_path, lambda trial: {"refit_l2": trial.suggest_float("refit_l2", 0.5, 2.0)}, n_trials=1)
    assert 0.5 <= trials[0]["eval_head_l2"] <= 2.0
    with pytest.raises(ValueError, match="`split` must be one of half, kfold, loo, got 'halves'"):
        search(tmp_path, lambda trial: {"split": "halves"}, n_trials=1)
