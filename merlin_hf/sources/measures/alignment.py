"""Alignment: whether a step on the source also lowers the meta loss of the target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """
    How two gradients in the same parameters lie to each other.

    Attributes:
        cosine (`float`): of the source's gradient and the mean meta gradient, in [-1, 1].
        inner_product (`float`): of the same; the learning rate times this is what a small step of gradient descent on the
            source takes off the meta loss.
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
    The alignment of the source's gradient g with the gradients m_1, ..., m_R of MeRLin's meta loss.

        cosine = <g, m> / (|g| |m|),    m = mean over r of m_r

    To first order, the step `phi - eta g` on the source changes the meta loss by `-eta <g, m>`: with a positive cosine it
    lowers what MeRLin (Liu, HaoChen, Wei and Ma 2020, arXiv 2011.01418) minimises, with a negative one it raises it. That is
    the condition of gradient surgery (Yu et al. 2020, arXiv 2001.06782) and of weighting auxiliary tasks by their cosine (Du
    et al. 2018, arXiv 1812.02224), here with the loss of a head on rows that it was not fit on.

    Args:
        source (`Sequence[torch.Tensor]`): a gradient for each parameter.
        metas (`Sequence[Sequence[torch.Tensor]]`): R of them, with the same shapes.

    Returns:
        [`Alignment`]; all zeros where a gradient is zero. Higher means a better source. Cosines in millions of dimensions are
        small: the mean of few rows is mostly noise, which takes from the cosine what it adds to the norms. Compare sources by
        it, on as many rows of each.

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


def _dot(first: Tensor, second: Tensor) -> float:
    """The inner product, summed in float64 as millions of terms of either sign would cancel; without a float64 copy."""
    return float((first * second).sum(dtype=torch.float64))
