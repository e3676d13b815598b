"""Class means with the log prior of the classes."""

import copy
import math

import pytest
import torch
from torch import nn

from merlin_hf import MerlinTrainer
from merlin_hf.heads import LinearHead, encode_targets, get_head
from merlin_hf.transfer.class_prior import add_log_prior, class_prior
from tests.support import SOURCE_LABELS, make_args, make_trainer
from tests.tiny import NUM_LABELS, tiny_bert, tiny_dataset


COUNTS = [14, 7, 3]


class Untold(MerlinTrainer):
    """Class means without the frequencies."""

    def adds_class_prior(self, problem_type):
        return False


BOTH = (Untold, MerlinTrainer)


def unequal():
    """Texts of which most are of the first class."""
    labels = [label for label, count in enumerate(COUNTS) for _ in range(count)]
    return tiny_dataset(rows=len(labels)).remove_columns("label").add_column("label", labels)


def test_probabilities_are_bayes_rule_for_spherical_classes():
    """Two classes at -1 and 1 with variance v: the posterior is p_c N(x; m_c, v) over its sum."""
    generator = torch.Generator().manual_seed(0)
    features = torch.cat(
        [torch.randn(900, 3, generator=generator) - 1, torch.randn(100, 3, generator=generator) + 1]
    ).double()
    labels = torch.tensor([0] * 900 + [1] * 100)
    targets, weight = encode_targets(labels, 2, "single_label_classification", dtype=torch.float64)
    head = get_head("centroid").fit(features, targets, 1e-9, weight)
    means = torch.stack([features[labels == c].mean(0) for c in (0, 1)])
    scatter = (features - features.mean(0)).square().sum(-1).mean()
    scale = (scatter / 2).item()  # for variance 1: (||x - m||^2 - ||x - m_c||^2) / scatter * scale
    known = add_log_prior(head, targets.sum(0), scale)
    found = (scale * known(features)).softmax(-1)
    densities = torch.exp(-(features[:, None] - means).square().sum(-1) / 2)
    expected = densities * class_prior(torch.tensor([900.0, 100.0]).double())
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))


def shrunk(counts):
    """The estimator's own formula, row by row in Python."""
    n, k = sum(counts), len(counts)
    shares = [count / n for count in counts]
    unequal = (n - 1) * sum((1 / k - share) ** 2 for share in shares)
    shrinkage = (1 - sum(share**2 for share in shares)) / unequal if unequal else 1.0
    shrinkage = max(min(shrinkage, 1.0), k / (n + k))
    return [shrinkage / k + (1 - shrinkage) * share for share in shares]


@pytest.mark.parametrize("counts", [[66, 34], [14, 7, 3], [3, 2, 2, 1], [7, 0, 0], [1, 0], [43, 23, 9, 25], [5, 5]])
def test_frequencies_are_those_of_the_shrinkage_estimator(counts):
    found = class_prior(torch.tensor(counts, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(shrunk(counts), dtype=torch.float64))
    assert found.min() > 0


def test_shares_as_unequal_as_chance_makes_them_count_as_equal():
    """For draws from equal classes the estimate is closer to the truth than the shares, and often the truth itself."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(10, (200, 100), generator=generator)
    counts = torch.nn.functional.one_hot(draws, 10).sum(1).double()
    error = (class_prior(counts) - 0.1).square().sum(-1)
    assert error.mean() < 0.25 * (counts / 100 - 0.1).square().sum(-1).mean()
    assert 0.25 < (error < 1e-20).double().mean() < 0.75


def test_clearly_unequal_shares_stay():
    found = class_prior(torch.tensor([800.0, 150.0, 50.0]))
    torch.testing.assert_close(found, torch.tensor([0.8, 0.15, 0.05]), atol=2e-3, rtol=0)


def test_without_rows_all_classes_are_equal():
    found = class_prior(torch.tensor([[0.0, 0.0], [3.0, 3.0]]))
    torch.testing.assert_close(found, torch.full((2, 2), 0.5))


def test_equal_frequencies_change_no_probability():
    head = LinearHead(torch.randn(4, 3, 5), torch.randn(4, 3))
    features = torch.randn(4, 6, 5)
    known = add_log_prior(head, torch.full((4, 3), 7.0), 2.5)
    torch.testing.assert_close((2.5 * known(features)).softmax(-1), (2.5 * head(features)).softmax(-1))


def test_the_final_head_knows_the_frequencies_of_all_target_rows(tmp_path):
    heads = []
    for trainer_class in BOTH:
        trainer = make_trainer(tmp_path, trainer_class=trainer_class, target=unequal(), max_steps=2, rho=0.0)
        trainer.train()
        heads.append(trainer.model.classifier)
    untold, told = heads
    torch.testing.assert_close(told.weight, untold.weight)
    expected = torch.tensor([math.log(frequency) for frequency in shrunk(COUNTS)])
    torch.testing.assert_close((told.bias - untold.bias).detach(), expected)


def test_the_head_of_a_split_knows_those_of_its_train_half(tmp_path):
    options = {"target": unequal(), "num_splits": 2, "logit_scale": 3.0}
    plain, trainer = (make_trainer(tmp_path, trainer_class=trainer_class, **options) for trainer_class in BOTH)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, -100])
    features = torch.randn(8, trainer.transfer_model.head.in_features)
    train = torch.tensor([[1, 1, 0, 0, 1, 0, 0, 1], [1, 1, 1, 0, 0, 1, 1, 0]]).bool()
    known, unknown = (one.fit_head(features, labels, train) for one in (trainer, plain))
    expected = torch.tensor([shrunk([2, 1, 0]), shrunk([3, 1, 1])]).log() / 3.0
    torch.testing.assert_close(known.bias - unknown.bias, expected)
    assert torch.equal(known.weight, unknown.weight)


def test_the_learned_scale_does_not_scale_the_frequencies(tmp_path):
    """Their part of the loss has no gradient in the scale."""
    trainer = make_trainer(tmp_path, target=unequal())
    scalar = torch.tensor(0.5, requires_grad=True)
    weight = torch.zeros(NUM_LABELS, 4)
    head = add_log_prior(
        LinearHead(weight, torch.zeros(NUM_LABELS)),
        torch.tensor(COUNTS),
        trainer.logit_scale({"log_logit_scale": scalar}),
    )
    logits = head(torch.randn(5, 4)).unsqueeze(0)
    loss = trainer.row_losses(logits, torch.tensor([0, 1, 2, 0, 1]), trainer.logit_scale({"log_logit_scale": scalar}))
    (gradient,) = torch.autograd.grad(loss.sum(), scalar)
    assert gradient.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"head": "ridge"}, {"head": "logistic"}, {"split": "loo"}],
)
def test_heads_that_learn_them_are_not_told(options, tmp_path):
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 0])
    features = torch.randn(8, tiny_bert().classifier.in_features)
    heads = []
    for trainer_class in BOTH:
        trainer = make_trainer(tmp_path, trainer_class=trainer_class, target=unequal(), **options)
        assert not trainer.adds_class_prior(trainer.problem_type(labels))
        split = trainer.split(labels)
        heads.append(trainer.fit_head(features, labels, split.train)(features))
    assert torch.equal(*heads)


def test_a_last_layer_without_a_bias_cannot_keep_them(tmp_path):
    model = tiny_bert()
    model.classifier = nn.Linear(model.config.hidden_size, NUM_LABELS, bias=False)
    trainer = make_trainer(tmp_path, model=model, target=unequal(), max_steps=1)
    assert not trainer.adds_class_prior("single_label_classification")
    trainer.train()
    assert trainer.model.classifier.bias is None


def test_a_loss_of_ones_own_may_weigh_classes_otherwise(tmp_path):
    def weighted(outputs, labels, num_items_in_batch=None):
        return nn.functional.cross_entropy(outputs.logits, labels, torch.tensor([1.0, 2.0, 5.0]))

    heads = []
    for trainer_class in BOTH:
        trainer = trainer_class(
            model=tiny_bert(),
            args=make_args(tmp_path, max_steps=1),
            train_dataset=unequal(),
            source_dataset=tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1),
            compute_loss_func=weighted,
        )
        trainer.train()
        heads.append(trainer.model.classifier.bias)
    assert torch.equal(*heads)


@pytest.mark.parametrize("kind", ["several labels per row", "real labels"])
def test_without_classes_there_are_no_frequencies(kind, tmp_path):
    rows = tiny_dataset()
    labels = rows["label"][:]
    model = tiny_bert(num_labels=1) if kind == "real labels" else tiny_bert()
    if kind == "real labels":
        target = rows.remove_columns("label").add_column("label", [float(label) for label in labels])
    else:
        model.config.problem_type = "multi_label_classification"
        several = [[float(label == 0), float(label < 2), 1.0 - float(label == 1)] for label in labels]
        target = rows.remove_columns("label").add_column("labels", several)
    weights = []
    for trainer_class in BOTH:
        trainer = make_trainer(
            tmp_path,
            trainer_class=trainer_class,
            model=copy.deepcopy(model),
            target=target,
            evaluation=target,
            max_steps=1,
        )
        trainer.train()
        weights.append(trainer.model.classifier.bias)
    assert torch.equal(*weights)
