"""
Numbers that say how much a source has to do with a target: functions of labels and gradients alone.

Alignment asks whether a step on the source also lowers the meta loss of the target, LEEP how well the classes of a
source tell those of the target.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """
    The angle and the sizes of two gradients in the same parameters.

    Attributes:
        cosine (`float`): of the source's gradient and the mean meta gradient, in [-1, 1].
        inner_product (`float`): of the same; the learning rate times this is what a small step of gradient descent on
            the source takes off the meta loss.
        contributions (`list[float]`): what each meta gradient adds to the cosine; their mean is `cosine`.
        source_norm, meta_norm (`float`): of the gradients.
    """

    cosine: float
    inner_product: float
    contributions: list[float]
    source_norm: float
    meta_norm: float


def gradient_alignment(source: Sequence[Tensor], metas: Sequence[Sequence[Tensor]]) -> Alignment:
    """
    Return the alignment of the source's gradient g with the gradients m_1, ..., m_R of MeRLin's meta loss.

        cosine = <g, m> / (|g| |m|),    m = mean over r of m_r

    To first order, the step `phi - eta g` on the source changes the meta loss by `-eta <g, m>`: with a positive cosine
    it lowers what MeRLin (Liu, HaoChen, Wei and Ma 2020, arXiv 2011.01418) minimises, with a negative one it raises
    it. That is the condition of gradient surgery (Yu et al. 2020, arXiv 2001.06782) and of weighting auxiliary tasks
    by their cosine (Du et al. 2018, arXiv 1812.02224), here with the loss of a head on rows that it was not fit on.

    Args:
        source (`Sequence[torch.Tensor]`): a gradient for each parameter.
        metas (`Sequence[Sequence[torch.Tensor]]`): R of them, with the same shapes.

    Returns:
        [`Alignment`]; all zeros where a gradient is zero. Higher means a better source. Cosines in millions of
        dimensions are small: the mean of few rows is mostly noise, which takes from the cosine what it adds to the
        norms. Compare sources by it, on as many rows of each.

    Raises:
        ValueError: there is no meta gradient, or shapes differ.
    """
    if not metas:
        raise ValueError("`metas` must have at least one gradient.")
    shapes = [tensor.shape for tensor in source]
    if any([tensor.shape for tensor in meta] != shapes for meta in metas):
        raise ValueError("`source` and each of `metas` must be gradients of the same parameters.")
    products = [0.0] * len(metas)
    source_squared = meta_squared = 0.0
    for place, gradient in enumerate(source):
        of_metas = [meta[place] for meta in metas]
        source_squared += _dot(gradient, gradient)
        mean = sum(of_metas[1:], of_metas[0]) / len(metas)
        meta_squared += _dot(mean, mean)
        for number, meta in enumerate(of_metas):
            products[number] += _dot(gradient, meta)
    norms = math.sqrt(source_squared), math.sqrt(meta_squared)
    scale = norms[0] * norms[1]
    contributions = [product / scale if scale > 0 else 0.0 for product in products]
    mean_product = sum(products) / len(products)
    return Alignment(sum(contributions) / len(contributions), mean_product, contributions, *norms)


def leep(source_probabilities: Tensor, labels: Tensor) -> float:
    """
    Return the log expected empirical prediction of Nguyen, Hassner, Seeger and Archambeau (2020, arXiv 2002.12462).

        P(y, z) = 1/n sum over rows i of class y of p_i(z),    LEEP = 1/n sum_i log sum_z P(y_i | z) p_i(z)

    with `p_i(z)` the probability that the source's classifier gives its class z on target row i: the log-likelihood of
    a classifier that draws a source class and then a target class from what the two had in common on these rows. It
    ranks **trained source models**, backbone and head; where backbones are the same it ranks sources by their heads.

    The table P(y | z) is read off the very rows that it is judged by. A source with more classes has a larger table,
    and the more so the fewer the rows, so that LEEP favours it a little.

    Args:
        source_probabilities (`torch.Tensor` of shape `(n, num_source_labels)`): rows that sum to 1.
        labels (`torch.LongTensor` of shape `(n,)`): class ids of the target.

    Returns:
        `float`: in [-H(y), 0], with H(y) the entropy of the labels in nats; higher means that the source's classes say
        more about the target's. -H(y) is that of a source that says nothing.

    Raises:
        ValueError: shapes do not fit together, rows are not probabilities, or labels are all the same or real numbers.
    """
    if labels.is_floating_point():
        raise ValueError("`labels` must be class ids, got real numbers, for which this measure is not defined.")
    given = source_probabilities
    if given.ndim != 2 or not given.is_floating_point() or labels.shape != given.shape[:1]:
        raise ValueError(
            f"`source_probabilities` must be numbers of shape ({len(labels)}, num_source_labels), one row for each of "
            f"`labels`, got {given.dtype} of shape {tuple(given.shape)}."
        )
    if len(labels) < 2 or bool((labels == labels[0]).all()):
        raise ValueError(f"`labels` are all the same in {len(labels)} rows; at least two classes are needed.")
    probabilities = given.detach().double()
    sums = torch.isfinite(probabilities).all() and torch.allclose(
        probabilities.sum(-1), probabilities.new_ones(()), atol=1e-4
    )
    if not sums or (probabilities < 0).any():
        raise ValueError("`source_probabilities` must be rows of numbers from 0 to 1 that sum to 1.")
    classes, ids = labels.unique(return_inverse=True)
    joint = probabilities.new_zeros(len(classes), probabilities.shape[1]).index_add_(0, ids, probabilities)
    conditional = joint / joint.sum(0).clamp(min=torch.finfo(joint.dtype).tiny)
    expected = (conditional[ids] * probabilities).sum(-1)
    return float(expected.clamp(min=torch.finfo(joint.dtype).tiny).log().mean())


def _dot(first: Tensor, second: Tensor) -> float:
    """Return the inner product, summed in float64, as millions of terms of either sign would cancel."""
    return float((first * second).sum(dtype=torch.float64))
