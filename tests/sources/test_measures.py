"""Each measure against another implementation in float64, and what the papers claim of it."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from merlin_hf.sources.measures import gradient_alignment, h_score, leep, logme, regularized_h_score
from merlin_hf.sources.measures.h_score import shrinkage


def problem(n=60, d=7, classes=3, signal=1.0, seed=0):
    """Features of which the first ones tell the class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    features[:, :classes] += signal * torch.nn.functional.one_hot(labels, classes)
    return features, labels


def rotation(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


# LogME


def paper_logme(features, labels):
    """Algorithm 1 of the paper: MacKay's fixed point from alpha = beta = 1, on the explicit matrices."""
    n, d = features.shape
    gram = features.T @ features
    eigenvalues = np.linalg.eigvalsh(gram)
    scores = []
    for label in np.unique(labels):
        y = (labels == label).astype(float)
        alpha = beta = 1.0
        for _ in range(5000):
            m = beta * np.linalg.solve(alpha * np.eye(d) + beta * gram, features.T @ y)
            gamma = np.sum(beta * eigenvalues / (alpha + beta * eigenvalues))
            before = alpha, beta
            alpha, beta = gamma / (m @ m), (n - gamma) / np.sum((features @ m - y) ** 2)
            if abs(alpha / before[0] - 1) + abs(beta / before[1] - 1) < 1e-11:
                break
        a = alpha * np.eye(d) + beta * gram
        m = beta * np.linalg.solve(a, features.T @ y)
        evidence = n / 2 * np.log(beta) + d / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
        evidence -= beta / 2 * np.sum((features @ m - y) ** 2) + alpha / 2 * m @ m + np.linalg.slogdet(a)[1] / 2
        scores.append(evidence / n)
    return np.mean(scores)


@pytest.mark.parametrize("n, d", [(60, 7), (30, 45), (200, 3)])
def test_logme_is_the_fixed_point_of_the_paper(n, d):
    features, labels = problem(n, d)
    assert logme(features, labels) == pytest.approx(paper_logme(features.numpy(), labels.numpy()), rel=1e-7)


def test_logme_is_the_density_of_the_labels():
    # The weights integrated out: y is normal with covariance I / beta + F F^T / alpha.
    features, labels = problem(20, 4)
    outer = (features @ features.T).numpy()

    def negative(logs, column):
        alpha, beta = np.exp(logs)
        return -multivariate_normal(np.zeros(20), np.eye(20) / beta + outer / alpha).logpdf(column)

    best = [
        -minimize(negative, [1.0, 1.0], (column,), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10}).fun
        for column in torch.nn.functional.one_hot(labels).T.numpy()
    ]
    assert logme(features, labels) == pytest.approx(np.mean(best) / 20, rel=1e-7)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: 1e-6 * f,
        lambda f: 1e6 * f,
        lambda f: f @ rotation(f.shape[1]),
        lambda f: torch.cat([f, f, f], 1),
        lambda f: torch.cat([f, torch.zeros(len(f), 9, dtype=f.dtype)], 1),
    ],
    ids=["scaled down", "scaled up", "rotated", "repeated", "padded"],
)
def test_logme_does_not_change(change):
    features, labels = problem()
    assert logme(change(features), labels) == pytest.approx(logme(features, labels), rel=1e-9)


def test_logme_grows_with_signal_and_not_with_useless_features():
    weak, labels = problem(signal=0.5)
    strong, _ = problem(signal=2.0)
    assert logme(strong, labels) > logme(weak, labels)
    noise = torch.randn(60, 50, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert logme(torch.cat([strong, noise], 1), labels) < logme(strong, labels)


def test_logme_of_features_that_say_nothing_is_that_of_none():
    _, labels = problem()
    columns = torch.nn.functional.one_hot(labels).double()
    none = np.mean([-30 * math.log(2 * math.pi * float(c.square().mean())) - 30 for c in columns.T]) / 60
    assert logme(torch.zeros(60, 3), labels) == pytest.approx(none, rel=1e-9)


def test_logme_with_an_intercept():
    features, labels = problem()
    with_intercept = logme(features, labels, fit_intercept=True)
    assert logme(features + 100, labels, fit_intercept=True) == pytest.approx(with_intercept, rel=1e-8)
    # n - 1 rows in coordinates that sum to 0 have the evidence without an intercept.
    basis = torch.linalg.svd(torch.eye(60, dtype=torch.float64) - 1 / 60)[0][:, :59]
    columns = torch.nn.functional.one_hot(labels).double()
    each = [logme(basis.T @ features, basis.T @ column) for column in columns.T]
    assert with_intercept == pytest.approx(np.mean(each), rel=1e-9)


def test_logme_of_real_labels_and_of_an_exact_fit():
    features, _ = problem()
    exact = features @ torch.arange(7.0, dtype=torch.float64)
    noisy = exact + torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert math.isfinite(logme(features, exact)) and logme(features, exact) > logme(features, noisy) + 1
    scaled = logme(features, 10 * noisy)
    assert scaled == pytest.approx(logme(features, noisy) - math.log(10), rel=1e-9)  # a density of the labels


# H-score


def test_h_score_is_the_formula():
    features, labels = (tensor.numpy() for tensor in problem())
    means = np.stack([features[labels == label].mean(0) for label in labels])
    expected = np.trace(np.linalg.inv(np.cov(features.T, bias=True)) @ np.cov(means.T, bias=True))
    assert h_score(*map(torch.as_tensor, (features, labels))) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n, d", [(60, 7), (20, 40)])
def test_regularized_h_score_is_the_formula(n, d):
    features, labels = (tensor.numpy() for tensor in problem(n, d))
    means = np.stack([features[labels == label].mean(0) for label in labels])
    covariance, weight = ledoit_wolf(features)
    assert shrinkage(torch.as_tensor(features - features.mean(0))) == pytest.approx(weight, rel=1e-10)
    expected = np.trace(np.linalg.inv(covariance) @ ((1 - weight) * np.cov(means.T, bias=True)))
    assert regularized_h_score(*map(torch.as_tensor, (features, labels))) == pytest.approx(expected, rel=1e-9)


def test_the_plain_h_score_overfits_and_the_regularized_one_does_not():
    features, labels = problem(n=30, d=40, signal=0.0)
    assert h_score(features, labels) == pytest.approx(2, rel=1e-9)  # C - 1, whatever the labels
    assert regularized_h_score(features, labels) < 0.5


def test_what_h_scores_do_not_depend_on():
    features, labels = problem()
    mixed = features @ (rotation(7) + 2 * torch.eye(7, dtype=torch.float64)) + 5
    assert h_score(mixed, labels) == pytest.approx(h_score(features, labels), rel=1e-8)
    similar = 1e3 * features @ rotation(7) - 5
    assert regularized_h_score(similar, labels) == pytest.approx(regularized_h_score(features, labels), rel=1e-8)


@pytest.mark.parametrize("score", [h_score, regularized_h_score])
def test_the_range_of_h_scores(score):
    values = [score(*problem(signal=signal)) for signal in (0.0, 1.0, 5.0, 100.0)]
    assert values == sorted(values) and values[0] >= 0 and 1.5 < values[-1] < 2
    one = torch.arange(60.0).unsqueeze(-1) % 2
    assert score(one, torch.arange(60) % 2) == pytest.approx(1)
    assert score(torch.ones(60, 3), torch.arange(60) % 2) == 0


# LEEP


def paper_leep(probabilities, labels):
    """The definition, by loops."""
    n, sources = len(probabilities), len(probabilities[0])
    joint = {(y, z): 0.0 for y in set(labels) for z in range(sources)}
    for i in range(n):
        for z in range(sources):
            joint[labels[i], z] += probabilities[i][z] / n
    total = 0.0
    for i in range(n):
        total += math.log(
            sum(
                joint[labels[i], z] / sum(joint[y, z] for y in set(labels)) * probabilities[i][z]
                for z in range(sources)
            )
        )
    return total / n


def test_leep_is_the_definition():
    features, labels = problem()
    probabilities = torch.softmax(features, -1)
    assert leep(probabilities, labels) == pytest.approx(paper_leep(probabilities.tolist(), labels.tolist()), rel=1e-12)


def test_the_range_of_leep():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    share = torch.tensor([3, 1, 2]) / 6
    entropy = float(-(share * share.log()).sum())
    says_nothing = torch.full((6, 4), 0.25)
    assert leep(says_nothing, labels) == pytest.approx(-entropy, rel=1e-6)
    other_names = torch.eye(4)[torch.tensor([3, 3, 3, 0, 1, 1])]
    assert leep(other_names, labels) == pytest.approx(0, abs=1e-9)  # a class of its own for each, under other names
    for seed in range(20):
        random = torch.softmax(3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)), -1)
        assert -entropy <= leep(random, labels) <= 0
        assert leep(random[:, [2, 0, 3, 1]], labels) == pytest.approx(leep(random, labels), rel=1e-9)


# Alignment


def test_alignment_is_the_cosine_with_the_mean():
    generator = torch.Generator().manual_seed(0)
    source = [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]
    metas = [[torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)] for _ in range(3)]
    flat = [torch.cat([t.flatten() for t in gradient]).double().numpy() for gradient in (source, *metas)]
    g, m = flat[0], np.mean(flat[1:], 0)
    found = gradient_alignment(source, metas)
    assert found.cosine == pytest.approx(g @ m / np.linalg.norm(g) / np.linalg.norm(m), rel=1e-6)
    assert found.inner_product == pytest.approx(g @ m, rel=1e-6)
    assert (found.source_norm, found.meta_norm) == pytest.approx((np.linalg.norm(g), np.linalg.norm(m)), rel=1e-6)
    assert np.mean(found.contributions) == pytest.approx(found.cosine) and len(found.contributions) == 3


def test_the_range_of_the_alignment():
    gradient = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    opposite = [-2 * tensor for tensor in gradient]
    assert gradient_alignment(gradient, [gradient]).cosine == pytest.approx(1)
    assert gradient_alignment(opposite, [gradient]).cosine == pytest.approx(-1)
    assert gradient_alignment([0 * tensor for tensor in gradient], [gradient]).cosine == 0
    with pytest.raises(ValueError, match="same parameters"):
        gradient_alignment(gradient[:1], [gradient])
    with pytest.raises(ValueError, match="at least one"):
        gradient_alignment(gradient, [])


# What is refused


@pytest.mark.parametrize(
    "measure, features, labels, message",
    [
        (logme, torch.ones(4), torch.arange(4), r"`features` must be .* of shape \(n, d\)"),
        (logme, torch.ones(4, 2), torch.arange(3), r"`labels` must have shape \(4,\)"),
        (logme, torch.ones(4, 2), torch.zeros(4), "all the same"),
        (logme, torch.full((4, 2), math.nan), torch.arange(4), "NaN or infinity"),
        (h_score, torch.ones(4, 2), torch.arange(4.0), "class ids"),
        (regularized_h_score, torch.ones(4, 2), torch.arange(4.0), "class ids"),
        (leep, torch.ones(4, 2), torch.arange(4), "sum to 1"),
        (leep, torch.ones(4), torch.arange(4), "`source_probabilities` must be"),
    ],
)
def test_what_is_refused(measure, features, labels, message):
    with pytest.raises(ValueError, match=message):
        measure(features, labels)
