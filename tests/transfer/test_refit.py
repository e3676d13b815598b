"""The head that ships: fit on all target rows, each once, with the backbone as it is."""

import logging
import logging.handlers
from functools import partial

import pytest
import torch
from datasets import Value
from sklearn.linear_model import LogisticRegression, Ridge

from merlin_hf import MerlinTrainer
from merlin_hf.heads import get_head, whole_set
from merlin_hf.transfer.labels import split_labels
from merlin_hf.transfer.refit import FeatureBatches
from merlin_hf.transfer.source import RankRows
from tests.support import make_args, make_trainer
from tests.tiny import tiny_bert, tiny_dataset


def trained(tmp_path, **kwargs):
    trainer = make_trainer(tmp_path, max_steps=3, **kwargs)
    trainer.train()
    return trainer


def features_and_labels(trainer):
    columns = {name: torch.tensor(trainer.train_dataset[name][:]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad(), trainer.transfer_model.feature_mode():
        features = trainer.transfer_model.eval()(target_inputs=columns).target_features
    features = features.double()
    spread = (features - features.mean(0)).square().sum(-1).mean().item()
    return features.numpy(), trainer.train_dataset["label"][:], spread


def test_ridge_refit_is_scikit_learns_on_all_rows(tmp_path):
    trainer = trained(tmp_path, head="ridge", refit_l2=0.5, logit_scale=4.0, learn_logit_scale=False)
    features, labels, spread = features_and_labels(trainer)
    expected = Ridge(alpha=0.5 * spread).fit(
        features, torch.nn.functional.one_hot(torch.tensor(labels)).double().numpy()
    )
    head = trainer.model.classifier
    torch.testing.assert_close(head.weight.detach().double(), 4 * torch.tensor(expected.coef_), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        head.bias.detach().double(), 4 * torch.tensor(expected.intercept_), rtol=1e-3, atol=1e-3
    )


def test_logistic_refit_is_scikit_learns_on_all_rows(tmp_path):
    trainer = trained(tmp_path, head="logistic", refit_l2=0.5, learn_logit_scale=False)
    features, labels, spread = features_and_labels(trainer)
    expected = LogisticRegression(C=1 / (0.5 * spread), tol=1e-10, max_iter=10_000).fit(features, labels)
    probabilities = trainer.model.classifier.double()(torch.tensor(features)).softmax(-1)
    torch.testing.assert_close(
        probabilities.detach(), torch.tensor(expected.predict_proba(features)), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("head", ["centroid", "ridge"])
@pytest.mark.parametrize("refit_l2", ["auto", "meta", 3.0])
def test_every_choice_of_the_final_regulariser_gives_a_finite_head(tmp_path, refit_l2, head):
    trainer = trained(tmp_path, refit_l2=refit_l2, head=head)
    before = trainer.model.classifier.weight.clone()
    assert before.isfinite().all() and before.abs().sum() > 0
    trainer.refit_head()
    assert torch.equal(before, trainer.model.classifier.weight), "the same backbone gives the same head"


def test_refitting_leaves_mode_and_random_numbers_alone(tmp_path):
    trainer = trained(tmp_path)
    trainer.transfer_model.train()
    state = torch.get_rng_state()
    trainer.refit_head()
    assert trainer.transfer_model.training and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("head", ["ridge", "logistic"])
def test_metrics_of_the_final_head(tmp_path, head):
    target = tiny_dataset().remove_columns("label").add_column("label", [number // 8 for number in range(24)])
    trainer = trained(tmp_path, head=head, refit_l2=0.5, target=target)
    predicted = trainer.predict(trainer.train_dataset).predictions.argmax(-1)
    accuracy = (predicted == trainer.train_dataset["label"][:]).mean()
    assert 0 < accuracy < 1, "or it shows little"
    metrics = trainer.evaluate()
    assert (metrics["eval_head_l2"], metrics["eval_head_train_accuracy"]) == (0.5, pytest.approx(accuracy))
    assert not [
        name for name in trainer.predict(trainer.eval_dataset.remove_columns("label")).metrics if "head" in name
    ]


@pytest.mark.parametrize("keep", [False, True])
def test_features_are_kept_for_solvers_that_read_them_again_and_else_a_sample(keep):
    calls = []

    def features(inputs):
        calls.append(len(inputs["x"]))
        return inputs["x"]

    loader = [{"x": torch.full((4, 2), float(number)), "labels": torch.zeros(4)} for number in range(6)]
    own = lambda: ((batch, True) for batch in loader)  # noqa: E731
    batches = FeatureBatches(own, features, lambda labels: (labels, labels), split_labels, keep=keep, sample_size=5)
    passes = [torch.cat([x for x, _, _ in batches]) for _ in range(2)]
    assert torch.equal(*passes) and len(passes[0]) == 24
    assert sum(calls) == (24 if keep else 48)
    assert sum(len(x) for x, _, _ in batches.sample) == (24 if keep else 8)


class Shifting(torch.optim.SGD):
    """Evaluates other weights than it trains, as schedule-free optimizers do."""

    shift = 0.0

    def move(self, shift):
        with torch.no_grad():
            for parameter in (p for group in self.param_groups for p in group["params"]):
                parameter += shift - self.shift
        self.shift = shift

    def train(self):
        self.move(0.0)

    def eval(self):
        self.move(0.1)


def test_the_head_belongs_to_the_weights_that_are_evaluated(tmp_path):
    shifting = partial(MerlinTrainer, optimizer_cls_and_kwargs=(Shifting, {"lr": 0.1}))
    trainer = trained(tmp_path, trainer_class=shifting, learn_logit_scale=False)
    trainer.evaluate()
    assert trainer.optimizer.optimizer.shift == 0.1
    head = trainer.model.classifier.weight.clone()
    trainer.refit_head()
    torch.testing.assert_close(trainer.model.classifier.weight, head)


def test_a_head_that_did_not_converge_is_told(tmp_path, caplog, monkeypatch):
    trainer = trained(tmp_path, head="logistic")
    monkeypatch.setattr(whole_set, "MAX_STEPS", 1)
    with caplog.at_level(logging.WARNING):
        trainer.refit_head()
    assert "LogisticHead did not converge" in caplog.text


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_out_the_rows_each_once(tmp_path, world_size):
    rows = tiny_dataset(rows=10).to_iterable_dataset()
    seen = [row["input_ids"] for rank in range(world_size) for row in RankRows(rows, rank, world_size)]
    assert sorted(seen) == sorted(row["input_ids"] for row in rows)


@pytest.mark.parametrize(
    ("head", "refit_l2", "said"),
    [
        ("ridge", 0.5, "  l2 = 0.5"),
        ("ridge", "auto", " (chosen by cross-validation)"),
        ("centroid", "auto", "  l2 = 0.1"),  # it has nothing to choose
    ],
)
def test_each_fit_is_told_once_by_trainers_logger(tmp_path, monkeypatch, head, refit_l2, said):
    handler = logging.handlers.BufferingHandler(1000)
    logger = logging.getLogger("transformers.trainer")
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "handlers", [handler])
    logger.manager._clear_cache()  # of which levels are on
    trainer = trained(tmp_path, head=head, refit_l2=refit_l2)
    trainer.evaluate()
    told = [record.getMessage() for record in handler.buffer]
    assert told.count("***** Fitted the final head *****") == 1, "evaluation has the same backbone"
    begin = told.index("***** Fitted the final head *****")
    assert told[begin + 1 : begin + 3] == [
        f"  Solver = {head.capitalize()}Head",
        f"  Num examples = {len(trainer.train_dataset)}",
    ]
    assert told[begin + 3].startswith("  l2 = ") and told[begin + 3].endswith(said)
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    handler.buffer.clear()
    trainer.refit_head()
    assert not any("final head" in record.getMessage() for record in handler.buffer), "by the main process only"


def test_one_label_that_may_be_there_or_not_is_no_real_number(tmp_path):
    model = tiny_bert(num_labels=1, problem_type="multi_label_classification")
    trainer = MerlinTrainer(
        model=model, args=make_args(tmp_path), train_dataset=tiny_dataset(), source_dataset=tiny_dataset()
    )
    solver = get_head("centroid")
    assert not trainer.is_regression and "log_logit_scale" in trainer.learned_scalars()
    assert trainer.head_l2 == solver.default_l2 and trainer.logit_scale(None) == solver.default_logit_scale
    model, real = tiny_bert(num_labels=1), tiny_dataset().cast_column("label", Value("float32"))
    trainer = MerlinTrainer(model=model, args=make_args(tmp_path), train_dataset=real, source_dataset=tiny_dataset())
    assert trainer.is_regression and trainer.head_l2 == get_head("ridge").default_l2
