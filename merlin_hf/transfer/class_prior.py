"""Class priors, for heads of class means, which do not learn how frequent a class is."""

import torch
from torch import Tensor

from ..heads import LinearHead


def class_prior(counts: Tensor) -> Tensor:
    """
    Estimate the probability of each class from few rows: its share of the rows, shrunk towards an equal share.

        p_c = lambda / C + (1 - lambda) n_c / n

    With `lambda = (1 - sum_c (n_c / n)^2) / ((n - 1) sum_c (1 / C - n_c / n)^2)`, at most 1: the James-Stein estimator
    of Hausser and Strimmer 2009 (JMLR 10, equation 6). Shares that are as unequal as chance makes those of equal
    classes become equal, and clearly unequal ones stay. `lambda` is at least that of one more row for each class
    (Laplace), so that no class has a prior of 0. `counts` are the rows of each class, `(..., C)`.
    """
    classes = counts.shape[-1]
    rows = counts.sum(-1, keepdim=True)
    shares = counts / rows.clamp(min=1)
    variance = (1 - shares.square().sum(-1, keepdim=True)) / (rows - 1).clamp(min=0)
    distance = (shares - 1 / classes).square().sum(-1, keepdim=True)
    shrinkage = torch.where(variance < distance, variance / distance, 1.0)
    shrinkage = torch.maximum(shrinkage, classes / (rows + classes))
    return shrinkage / classes + (1 - shrinkage) * shares


def add_log_prior(head: LinearHead, counts: Tensor, scale: Tensor | float) -> LinearHead:
    """
    Return the head, with bias `(..., C)`, with the log prior of each class added to its logits.

    Class means are the Gaussian model of the classes with one spherical covariance and equal priors. By Bayes' rule
    the priors enter as `log p_c` in the logits. They are estimated from `counts` of rows, `(..., C)`, and not
    multiplied by `scale`, the factor of the head's outputs in a softmax.
    """
    return head.add_to_bias(class_prior(counts.to(head.bias)).log() / scale)
