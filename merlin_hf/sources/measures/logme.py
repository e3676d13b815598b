"""LogME: the evidence of a linear model of the labels."""

import math

import torch
from torch import Tensor

from .labels import check_features, encode_columns


# Signal to noise, `t * mean(s)` below, is looked for in this range. Labels that are a linear function of the features have no
# maximum: their evidence grows with t, and stops here.
LOG_RANGE = (math.log(1e-10), math.log(1e10))
GRID, ZOOMS = 101, 5


def logme(features: Tensor, labels: Tensor, fit_intercept: bool = False) -> float:
    """
    The logarithm of maximum evidence of You, Liu, Wang and Long (2021, arXiv 2102.11005), per row.

    Each column y of the labels (one-hot for classes) has the model `w ~ N(0, I/alpha)`, `y ~ N(F w, I/beta)`, and

        LogME = mean over columns of  max over alpha, beta of  log p(y | F, alpha, beta) / n

    The weights are integrated out, so unlike the fit itself it does not grow with features that are of no use. The paper
    ranks **models** by it, with F the features that each model has for the target's rows. With one model all sources have the
    same F; see [`~merlin_hf.sources.rank_sources`] for what stands there instead.

    With `t = beta / alpha`, s the squared singular values of F, z the coordinates of y in its left singular vectors and r the
    part of y outside them, beta has the maximum `n / E(t)`, `E(t) = r + sum z^2 / (1 + t s)`, which leaves

        log p = n/2 log(n / E(t)) - n/2 log(2 pi) - n/2 - 1/2 sum log(1 + t s)

    a function of one number, whose maximum is found on a grid that is refined around it: no fixed-point iteration that may
    end in another stationary point.

    Args:
        features (`torch.Tensor` of shape `(n, d)`).
        labels (`torch.Tensor` of shape `(n,)`): class ids, of which those present count, or real numbers.
        fit_intercept (`bool`): as if there were a constant feature whose weight has a flat prior: columns of features and
            labels are centred, and n - 1 rows count. The paper has none, which matters where d is small.

    Returns:
        `float`: any real number; higher means that the labels are more nearly a linear function of the features. It does not
        change where features are scaled, rotated, repeated or padded with zeros (section 3 of the extended version, arXiv
        2110.10545).

    Raises:
        ValueError: shapes do not fit together, a value is not finite, or all labels are the same.
    """
    features = check_features(features, labels)
    columns = encode_columns(labels)
    rows = len(features)
    if fit_intercept:
        features, columns, rows = features - features.mean(0), columns - columns.mean(0), rows - 1
    left, singular, _ = torch.linalg.svd(features, full_matrices=False)
    squared = singular.square()
    inside = (left.mT @ columns).square()
    outside = (columns.square().sum(0) - inside.sum(0)).clamp(min=0)
    if not squared.sum() > 0:
        inside, outside = torch.zeros_like(inside), columns.square().sum(0)
        squared = torch.ones_like(squared)
    evidence = _maximum(squared / squared.mean(), inside, outside, columns.square().sum(0), rows)
    return float(evidence.mean() / rows)


def _maximum(squared: Tensor, inside: Tensor, outside: Tensor, total: Tensor, rows: int) -> Tensor:
    """The evidence of each column `(C,)` at its maximum over t, from s `(k,)`, z^2 `(k, C)`, r and |y|^2 `(C,)`."""
    step = (LOG_RANGE[1] - LOG_RANGE[0]) / (GRID - 1)
    centre = torch.full_like(outside, sum(LOG_RANGE) / 2)
    offsets = torch.arange(GRID, dtype=squared.dtype, device=squared.device) - (GRID - 1) / 2
    for _ in range(ZOOMS):
        log_ratio = (centre + step * offsets.unsqueeze(-1)).clamp(*LOG_RANGE)
        evidence = _evidence(log_ratio, squared, inside, outside, total, rows)
        best, place = evidence.max(0)
        centre = log_ratio.gather(0, place.unsqueeze(0)).squeeze(0)
        step = 2 * step / (GRID - 1)
    return best


def _evidence(log_ratio: Tensor, squared: Tensor, inside: Tensor, outside: Tensor, total: Tensor, rows: int) -> Tensor:
    """`log p` above at values of `log t` of shape `(g, C)`."""
    grown = 1 + log_ratio.exp().unsqueeze(1) * squared.unsqueeze(-1)
    error = outside + (inside / grown).sum(1)
    error = error.clamp(min=torch.finfo(error.dtype).eps * total)  # an exact fit, up to rounding
    constant = rows / 2 * (math.log(rows) - math.log(2 * math.pi) - 1)
    return constant - rows / 2 * error.log() - grown.log().sum(1) / 2
