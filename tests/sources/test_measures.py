"""Each measure against another implementation in float64, and what the papers claim of it."""

import math

import numpy as np
import pytest
import torch

from merlin_hf.sources.measures import gradient_alignment, leep


def problem(n=60, d=7, classes=3, signal=1.0, seed=0):
    """Features of which the first ones tell the class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    features[:, :classes] += signal * torch.nn.functional.one_hot(labels, classes)
    return features, labels


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
    "probabilities, labels, message",
    [
        (torch.ones(4, 2), torch.arange(4), "sum to 1"),
        (torch.full((4, 2), math.nan), torch.arange(4), "sum to 1"),
        (torch.tensor([[2.0, -1.0]] * 4), torch.arange(4), "from 0 to 1"),
        (torch.ones(4), torch.arange(4), "`source_probabilities` must be"),
        (torch.ones(4, 1, dtype=torch.long), torch.arange(4), "`source_probabilities` must be"),
        (torch.ones(4, 1), torch.arange(3), r"of shape \(3, num_source_labels\)"),
        (torch.ones(4, 1), torch.zeros(4, dtype=torch.long), "all the same"),
        (torch.ones(4, 1), torch.arange(4.0), "class ids"),
    ],
)
def test_what_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        leep(probabilities, labels)
