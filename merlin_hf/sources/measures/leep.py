"""LEEP: how well the classes of a source tell those of the target."""

import torch
from torch import Tensor

from .labels import check_classes, check_features


def leep(source_probabilities: Tensor, labels: Tensor) -> float:
    """
    The log expected empirical prediction of Nguyen, Hassner, Seeger and Archambeau (2020, arXiv 2002.12462).

        P(y, z) = 1/n sum over rows i of class y of p_i(z),    LEEP = 1/n sum_i log sum_z P(y_i | z) p_i(z)

    with `p_i(z)` the probability that the source's classifier gives its class z on target row i: the log-likelihood of a
    classifier that draws a source class and then a target class from what the two had in common on these rows. It ranks
    **trained source models**, backbone and head; where backbones are the same it ranks sources by their heads.

    The table P(y | z) is read off the very rows that it is judged by. A source with more classes has a larger table, and the
    more so the fewer the rows, so that LEEP favours it a little.

    Args:
        source_probabilities (`torch.Tensor` of shape `(n, num_source_labels)`): rows that sum to 1.
        labels (`torch.LongTensor` of shape `(n,)`): class ids of the target.

    Returns:
        `float`: in [-H(y), 0], with H(y) the entropy of the labels in nats; higher means that the source's classes say more
        about the target's. -H(y) is that of a source that says nothing.

    Raises:
        ValueError: shapes do not fit together, rows are no probabilities, or labels are all the same or real numbers.
    """
    check_classes(labels)
    probabilities = check_features(source_probabilities, labels, "source_probabilities")
    if (probabilities < 0).any() or not torch.allclose(probabilities.sum(-1), probabilities.new_ones(()), atol=1e-4):
        raise ValueError("`source_probabilities` must be rows of numbers from 0 to 1 that sum to 1.")
    classes, ids = labels.unique(return_inverse=True)
    joint = probabilities.new_zeros(len(classes), probabilities.shape[1]).index_add_(0, ids, probabilities)
    conditional = joint / joint.sum(0).clamp(min=torch.finfo(joint.dtype).tiny)
    expected = (conditional[ids] * probabilities).sum(-1)
    return float(expected.clamp(min=torch.finfo(joint.dtype).tiny).log().mean())
