"""H-score: how much of the features' variance is between the classes."""

import torch
from torch import Tensor

from .labels import check_classes, check_features, encode_columns


def h_score(features: Tensor, labels: Tensor) -> float:
    """
    The H-score of Bao et al. (2019, "An information-theoretic approach to transferability in task transfer learning").

        H = tr( cov(F)^-1  cov(E[F | y]) )

    The trace of the share of variance that lies between classes, over all directions of the features. It **overfits where the
    rows are not many times the features**: with n <= d + 1 rows in general position every labelling gets the full C - 1,
    and random labels get about (C - 1) d / n. Use [`regularized_h_score`] to compare anything.

    Args:
        features (`torch.Tensor` of shape `(n, d)`).
        labels (`torch.LongTensor` of shape `(n,)`): class ids.

    Returns:
        `float`: in [0, min(d, C - 1)] for the C classes that are present; higher means that classes lie further apart. It
        does not change under invertible linear maps of the features.

    Raises:
        ValueError: shapes do not fit together, a value is not finite, or labels are all the same or real numbers.
    """
    check_classes(labels)
    features = check_features(features, labels)
    centred = features - features.mean(0)
    between = _between_classes(centred, labels)
    return float(torch.trace(torch.linalg.pinv(_covariance(centred), hermitian=True) @ between))


def regularized_h_score(features: Tensor, labels: Tensor) -> float:
    """
    The H-score with a covariance shrunk as by Ledoit and Wolf (Ibrahim, Ponomareva and Mazumder 2021, arXiv 2110.06893).

        H_a = tr( S_a^-1  (1 - a) cov(E[F | y]) ),    S_a = (1 - a) cov(F) + a tr(cov(F)) / d I

    with the weight `a` of Ledoit and Wolf (2004), chosen from the rows: near 1 where they are too few to tell directions
    apart, so that H_a is small there and not large. The paper ranks **models** by it; see
    [`~merlin_hf.sources.rank_sources`] for sources.

    Args:
        features (`torch.Tensor` of shape `(n, d)`).
        labels (`torch.LongTensor` of shape `(n,)`): class ids.

    Returns:
        `float`: in [0, min(d, C - 1)] for the C classes that are present; higher means that classes lie further apart. It
        does not change where features are scaled, shifted or rotated.

    Raises:
        ValueError: as for [`h_score`].
    """
    check_classes(labels)
    features = check_features(features, labels)
    centred = features - features.mean(0)
    covariance = _covariance(centred)
    mean_variance = covariance.diagonal().mean()
    if not mean_variance > 0:
        return 0.0
    weight = shrinkage(centred)
    shrunk = (1 - weight) * covariance
    shrunk.diagonal().add_(weight * mean_variance)
    between = (1 - weight) * _between_classes(centred, labels)
    return float(torch.trace(torch.linalg.pinv(shrunk, hermitian=True) @ between))


def shrinkage(centred: Tensor) -> float:
    """
    The weight in [0, 1] of the multiple of the identity in Ledoit and Wolf's estimate of a covariance.

    Args:
        centred (`torch.DoubleTensor` of shape `(n, d)`): rows whose mean is 0.
    """
    rows, width = centred.shape
    covariance = _covariance(centred)
    identity = covariance.diagonal().mean() * torch.eye(width, dtype=centred.dtype, device=centred.device)
    distance = (covariance - identity).square().sum()
    # The mean over rows of |x x^T - S|^2, as |x|^4 summed less |S|^2.
    variance = (centred.square().sum(-1).square().mean() - covariance.square().sum()) / rows
    if not distance > torch.finfo(centred.dtype).eps * covariance.square().sum():  # one direction, or all alike
        return 0.0
    return float((variance / distance).clamp(0, 1))


def _covariance(centred: Tensor) -> Tensor:
    return centred.mT @ centred / len(centred)


def _between_classes(centred: Tensor, labels: Tensor) -> Tensor:
    """The covariance of each row's class mean, `(d, d)`."""
    members = encode_columns(labels)
    sums = members.mT @ centred
    return sums.mT @ (sums / members.sum(0).unsqueeze(-1)) / len(centred)
