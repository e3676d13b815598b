import pytest
import torch
from sklearn.neighbors import NearestCentroid

from merlin_hf.heads import CentroidHead


def problem(seed=0, n=30, d=4, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[:classes] = torch.arange(classes)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64) + 3 * torch.eye(classes, d)[labels]
    return features, labels, torch.eye(classes, dtype=torch.float64)[labels]


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    features, labels, targets = problem(seed)
    head = CentroidHead().fit(features, targets, 1e-12)
    expected = NearestCentroid().fit(features.numpy(), labels.numpy()).predict(features.numpy())
    assert torch.equal(head(features).argmax(-1), torch.as_tensor(expected))


def test_logits_are_differences_of_squared_distances():
    features, labels, targets = problem()
    l2, mean = 0.7, features.mean(0)
    scale = (features - mean).square().sum(1).mean()
    logits = CentroidHead().fit(features, targets, l2)(features)
    for c in range(3):
        rows = features[labels == c]
        centre = (rows.sum(0) + l2 * mean) / (len(rows) + l2)
        expected = ((features - mean).square().sum(1) - (features - centre).square().sum(1)) / scale
        torch.testing.assert_close(logits[:, c], expected)


def test_multi_label_compares_positives_with_negatives():
    features, _, _ = problem()
    targets = (features[:, :2] > 1).double()
    logits = CentroidHead(problem_type="multi_label_classification").fit(features, targets, 1e-9)(features)
    scale = (features - features.mean(0)).square().sum(1).mean()
    for c in range(2):
        positive, negative = (features[targets[:, c] == value].mean(0) for value in (1, 0))
        expected = ((features - negative).square().sum(1) - (features - positive).square().sum(1)) / scale
        torch.testing.assert_close(logits[:, c], expected)


def test_absent_classes_never_win():
    features, _, targets = problem()
    targets = torch.cat([targets, torch.zeros(30, 1)], dim=1)
    head = CentroidHead().fit(features, targets, 0.1)
    probes = 10 * torch.randn(1000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probes = torch.cat([probes, features, features.mean(0, keepdim=True)])
    assert (head(probes).argmax(-1) != 3).all()
    multi = CentroidHead(problem_type="multi_label_classification").fit(
        features, torch.stack([torch.zeros(30), torch.ones(30)], dim=1), 0.1
    )
    assert (multi(features)[:, 0] < 0).all() and (multi(features)[:, 1] > 0).all()


@pytest.mark.parametrize("problem_type", CentroidHead.problem_types)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_gradients(problem_type, fit_intercept):
    features, _, targets = problem(n=6)
    solver = CentroidHead(problem_type=problem_type, fit_intercept=fit_intercept)

    def fit(features, targets):
        head = solver.fit(features, targets, 0.3)
        return head.weight, head.bias

    inputs = [t.requires_grad_() for t in (features, targets)]
    assert torch.autograd.gradcheck(fit, inputs)
    assert torch.autograd.gradgradcheck(fit, inputs)
