"""Weighted centring and symmetric positive definite solves, the two operations that every solver shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class _CholeskySolve(torch.autograd.Function):
    """
    `A^-1 B` given the Cholesky factor of A, with the gradient of the *solution* instead of that of the factorisation.

    dB = A^-1 dX and dA = -dB X^T: two triangular solves; the derivative of the factor costs several n^3 products.
    The backward is written with the function itself, so it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, rhs: Tensor, factor: Tensor) -> Tensor:
        return torch.cholesky_solve(rhs, factor)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        matrix, _, factor = inputs
        ctx.save_for_backward(matrix, factor, output)

    @staticmethod
    def backward(ctx, grad: Tensor):
        matrix, factor, solution = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            grad_rhs = _CholeskySolve.apply(matrix, grad, factor)
            grad_matrix = -grad_rhs @ solution.mT if ctx.needs_input_grad[0] else None
        return grad_matrix, grad_rhs, None


def solve_spd(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
    """
    Solve `matrix @ X = rhs` for a symmetric positive definite matrix, without waiting for the device.

    Args:
        matrix: `(..., m, m)`; rhs: `(..., m, k)`, of the same or broadcastable leading dimensions.

    Returns:
        X `(..., m, k)`, and the number of matrices that could not be factorised (a 0-dim tensor).
    """
    leading = torch.broadcast_shapes(matrix.shape[:-2], rhs.shape[:-2])
    factor, info = torch.linalg.cholesky_ex(matrix.detach())
    matrix, factor = (t.expand(*leading, *t.shape[-2:]) for t in (matrix, factor))
    rhs = rhs.expand(*leading, *rhs.shape[-2:])
    return _CholeskySolve.apply(matrix, rhs, factor), (info != 0).sum()


def identity_like(matrix: Tensor) -> Tensor:
    """The identity `(m, m)` beside matrix `(..., m, m)`, made on its device."""
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


@dataclass(frozen=True, eq=False)
class Centred:
    """
    Features and targets around their weighted means; see `centre`.

    Attributes:
        features: `(..., n, d)`, around their mean; around a common reference point when `shared`.
        targets: `(..., n, C)` around their mean.
        root: `(..., n, 1)`, the square roots of the weights.
        share: `(..., n, 1)`, the weights divided by their sum.
        direction: `(..., n, 1)`, the unit vector that centring removes from weighted rows; 0 without centring.
        feature_mean, target_mean: `(..., 1, d)` and `(..., 1, C)`.
        offset: `(..., 1, d)`, the mean of `features`; 0 unless `shared`.
        floor: the spread below which the features count as constant.
        shared: whether one feature matrix serves several sets of weights.
    """

    features: Tensor
    targets: Tensor
    root: Tensor
    share: Tensor
    direction: Tensor
    feature_mean: Tensor
    target_mean: Tensor
    offset: Tensor
    floor: Tensor
    shared: bool


def safe_sqrt(values: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 instead of infinite."""
    if not values.requires_grad:
        return values.sqrt()
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)


def weighted_mean(rows: Tensor, normalised: Tensor) -> Tensor:
    """Mean `(..., 1, k)` of rows `(..., n, k)` under weights `(..., n)` that sum to 1."""
    if rows.dim() == 2 and normalised.dim() > 1:
        return (normalised @ rows).unsqueeze(-2)
    return normalised.unsqueeze(-2) @ rows


def centre(features: Tensor, targets: Tensor, sample_weight: Tensor, fit_intercept: bool = True) -> Centred:
    """
    Centre features `(..., n, d)` and targets `(..., n, C)` by their means under `sample_weight` `(..., n)`.

    The features are centred twice: first by a detached reference point, then by what is left of the mean. So a large
    common offset costs no precision, and constant features become exact zeros. Without `fit_intercept` both stay as
    they are, and all means are 0.
    """
    total = sample_weight.sum(-1, keepdim=True)
    share = sample_weight / torch.where(total > 0, total, 1.0)
    root = safe_sqrt(sample_weight).unsqueeze(-1)
    info = torch.finfo(features.dtype)
    if not fit_intercept:
        zero_feature, zero_target = features.new_zeros(1, features.shape[-1]), targets.new_zeros(1, targets.shape[-1])
        floor = features.new_full((), 1e6 * info.tiny)
        share, direction = share.unsqueeze(-1), torch.zeros_like(root)
        return Centred(
            features, targets, root, share, direction, zero_feature, zero_target, zero_feature, floor, shared=False
        )
    shared = sample_weight.dim() > features.dim() - 1
    overall = share.detach()
    if shared:
        overall = overall.reshape(-1, *features.shape[:-1]).mean(0)
    reference = weighted_mean(features.detach(), overall)
    features = features - reference
    offset = weighted_mean(features, share)
    feature_mean = reference + offset
    if not shared:
        features = features - offset
        offset = torch.zeros_like(offset)
    target_mean = weighted_mean(targets, share)
    return Centred(
        features=features,
        targets=targets - target_mean,
        root=root,
        share=share.unsqueeze(-1),
        direction=safe_sqrt(share).unsqueeze(-1),
        feature_mean=feature_mean,
        target_mean=target_mean,
        offset=offset,
        floor=(8 * info.eps) ** 2 * reference.square().sum((-2, -1)) + 1e6 * info.tiny,
        shared=shared,
    )


@dataclass(frozen=True, eq=False)
class Scale:
    """
    The mean squared distance of the rows to their mean, `s`, guarded against constant features.

    Attributes:
        value: `(..., 1, 1)`, s, or 1 where the features are constant.
        varies: `(..., 1, 1)` of 0 and 1: whether they vary at all.
    """

    value: Tensor
    varies: Tensor

    @classmethod
    def of(cls, value: Tensor, floor: Tensor) -> Scale:
        """From s `(...)` and the spread below which the features count as constant."""
        varies = value > floor
        value = torch.where(varies, value, 1.0)
        return cls(value[..., None, None], varies.to(value.dtype)[..., None, None])


def centred_gram(centred: Centred) -> tuple[Tensor, Scale]:
    """
    Gram matrix `(..., n, n)` of the centred rows divided by their scale, and that scale.

    Several sets of weights share one product `X X^T`, which is then centred for each by a rank-two correction.
    """
    rows = centred.features
    gram = rows @ rows.mT
    floor = centred.floor
    weights = centred.share
    if centred.shared:
        norms = torch.diagonal(gram, dim1=-2, dim2=-1)
        # The correction cancels: what is left below the rounding of the product is not a spread.
        floor = floor + 16 * torch.finfo(rows.dtype).eps * (norms.detach() * weights.squeeze(-1)).sum(-1)
        column = gram @ weights
        gram = gram - column - column.mT + (column * weights).sum((-2, -1), keepdim=True)
    scale = Scale.of((torch.diagonal(gram, dim1=-2, dim2=-1) * weights.squeeze(-1)).sum(-1), floor)
    return gram * (scale.varies / scale.value), scale


def centred_rows(centred: Centred) -> Tensor:
    """The centred rows `(..., n, d)`, one copy for each set of weights."""
    return centred.features - centred.offset if centred.shared else centred.features


def scale_of_rows(rows: Tensor, centred: Centred) -> Scale:
    """The scale of centred rows."""
    return Scale.of((rows.square().sum(-1) * centred.share.squeeze(-1)).sum(-1), centred.floor)


def weight_from_dual(coef: Tensor, centred: Centred, scale: Scale) -> Tensor:
    """
    Head weights `(..., C, d)` as the combination `coef` `(..., n, C)` of the centred rows.

    `coef` sums to 0 over rows up to rounding; the rest is removed, so that the reference point has no influence.
    """
    coef = coef - centred.direction.square() * coef.sum(-2, keepdim=True)
    return (coef * (scale.varies / scale.value)).mT @ centred.features


def bias_from_weight(weight: Tensor, centred: Centred) -> Tensor:
    """The bias `(..., C)` under which the mean row has the mean target."""
    return (centred.target_mean - centred.feature_mean @ weight.mT).squeeze(-2)
