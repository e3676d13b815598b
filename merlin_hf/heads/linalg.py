"""Centre rows under weights, and solve symmetric positive definite systems, as every solver does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import LinearHead, NotFiniteFeaturesError, StandardHead


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
    Solve `matrix @ X = rhs`, `(..., m, m)` and `(..., m, k)`, positive definite, without waiting for the device.

    Return X `(..., m, k)`, and the number of matrices that could not be factorised (a 0-dim tensor).
    """
    leading = torch.broadcast_shapes(matrix.shape[:-2], rhs.shape[:-2])
    factor, info = torch.linalg.cholesky_ex(matrix.detach())
    matrix, factor = (t.expand(*leading, *t.shape[-2:]) for t in (matrix, factor))
    rhs = rhs.expand(*leading, *rhs.shape[-2:])
    return _CholeskySolve.apply(matrix, rhs, factor), (info != 0).sum()


def identity_like(matrix: Tensor) -> Tensor:
    """Make the identity `(m, m)` beside matrix `(..., m, m)`, on its device."""
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


@dataclass(frozen=True, eq=False)
class Centred:
    """
    Features and targets around their weighted means, the features in units that their squares fit in; see `centre`.

    Attributes:
        features: `(..., n, d)`, `(x - origin) * unit`; around their mean unless `shared`.
        targets: `(..., n, C)` around their mean.
        root: `(..., n, 1)`, the square roots of the weights.
        share: `(..., n, 1)`, the weights divided by their sum.
        direction: `(..., n, 1)`, the unit vector that centring removes from weighted rows; 0 without centring.
        origin: `(..., 1, d)`, a row of the features; 0 without centring.
        unit: `(..., 1, 1)`, one over the largest distance to the origin in any column; `None` is 1.
        mean: `(..., 1, d)`, the mean of `(x - origin) * unit`.
        target_mean: `(..., 1, C)`.
        offset: `(..., 1, d)`, the mean of `features`; 0 unless `shared`.
        shared: whether one feature matrix serves several sets of weights.
    """

    features: Tensor
    targets: Tensor
    root: Tensor
    share: Tensor
    direction: Tensor
    origin: Tensor
    unit: Tensor | None
    mean: Tensor
    target_mean: Tensor
    offset: Tensor
    shared: bool

    def head(self, weight: Tensor, bias: Tensor, info: Mapping[str, Tensor] | None = None) -> LinearHead:
        """Return the head of the given features, from weight `(..., C, d)` and bias `(..., C)` at their mean."""
        bias = bias - (self.mean @ weight.mT).squeeze(-2)
        return StandardHead(weight, bias, self.origin, self.unit, weight.dtype, info or {})


def safe_sqrt(values: Tensor) -> Tensor:
    """Take the square root, whose gradient at 0 is here 0 instead of infinite."""
    if not values.requires_grad:
        return values.sqrt()
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)


def weighted_mean(rows: Tensor, normalised: Tensor) -> Tensor:
    """Compute the mean `(..., 1, k)` of rows `(..., n, k)` under weights `(..., n)` that sum to 1."""
    if rows.dim() == 2 and normalised.dim() > 1:
        return (normalised @ rows).unsqueeze(-2)
    return normalised.unsqueeze(-2) @ rows


def centre(
    features: Tensor, targets: Tensor, sample_weight: Tensor, fit_intercept: bool = True, reads: bool = False
) -> Centred:
    """
    Centre features `(..., n, d)` and targets `(..., n, C)` by their means under `sample_weight` `(..., n)`.

    Features are centred twice: by one row, then by what is left of the mean. So a large common offset costs no
    precision, and constant columns become exact zeros. Between the two they are divided by their largest absolute
    value, so that no square leaves the range of the dtype. No gradient flows to that row and that value, as the logits
    do not depend on them.

    Where numbers may be read from the device (`reads`), rows of ordinary size are not divided. Sets of weights, which
    share one feature matrix, are then centred one by one where a row that one of them leaves out is so far away that
    it would hide the spread of the others.
    """
    total = sample_weight.sum(-1, keepdim=True)
    share = sample_weight / torch.where(total > 0, total, 1.0)
    extra = sample_weight.dim() - (features.dim() - 1)
    zero_feature, zero_target = features.new_zeros(1, features.shape[-1]), targets.new_zeros(1, targets.shape[-1])
    origin, rows = zero_feature, features
    if fit_intercept:
        origin = _row_that_counts(features.detach(), sample_weight.detach())
        rows = features - origin
    size = rows.detach().abs().amax((-2, -1), keepdim=True)
    unit = None
    if not (reads and size.numel() == 1 and 1e-6 < float(size) < 1e6):
        if reads and not bool(size.isfinite().all()):
            raise NotFiniteFeaturesError(
                f"features differ by more than the range of {size.dtype}: divide them, or use float64."
            )
        unit = torch.where(size > 0, size, 1.0).clamp_min(torch.finfo(size.dtype).tiny).reciprocal()
        rows = rows * unit
    mean = weighted_mean(rows, share) if fit_intercept else zero_feature
    if extra > 0 and reads and _is_hidden(rows.detach(), share.detach(), mean.detach()):
        rows = torch.where((sample_weight != 0).unsqueeze(-1), features, 0.0)
        return centre(rows, targets, sample_weight, fit_intercept)
    shared = extra > 0 and fit_intercept
    target_mean = weighted_mean(targets, share) if fit_intercept else zero_target
    return Centred(
        features=rows if shared or not fit_intercept else rows - mean,
        targets=targets - target_mean if fit_intercept else targets,
        root=safe_sqrt(sample_weight).unsqueeze(-1),
        share=share.unsqueeze(-1),
        direction=safe_sqrt(share).unsqueeze(-1) if fit_intercept else torch.zeros_like(share).unsqueeze(-1),
        origin=origin,
        unit=unit,
        mean=mean,
        target_mean=target_mean,
        offset=mean if shared else zero_feature,
        shared=shared,
    )


def _row_that_counts(features: Tensor, sample_weight: Tensor) -> Tensor:
    """Return the row `(..., 1, d)` of features `(..., n, d)` that has the largest weight, over all sets of weights."""
    extra = sample_weight.dim() - (features.dim() - 1)
    if extra > 0:
        sample_weight = sample_weight.flatten(0, extra - 1).sum(0)
    if features.dim() == 2:
        return features.index_select(-2, sample_weight.argmax().reshape(1))
    largest = sample_weight.expand(features.shape[:-1]).argmax(-1)
    return torch.take_along_dim(features, largest[..., None, None], -2)


def _is_hidden(rows: Tensor, share: Tensor, mean: Tensor) -> bool:
    """Check whether rounding of products of all rows hides the spread of a set of weights. Waits for the device."""
    norms = rows.square().sum(-1)
    spread = (share * norms).sum(-1) - mean.square().sum((-2, -1))
    lost = spread < 1e4 * torch.finfo(rows.dtype).eps * norms.amax(-1)
    return bool((lost & (share.sum(-1) > 0)).any())


@dataclass(frozen=True, eq=False)
class Scale:
    """
    The mean squared distance of the rows to their mean, `value` `(..., 1, 1)`, or 1 where the features are constant.

    `varies`, `(..., 1, 1)` of 0 and 1, says whether they vary at all.
    """

    value: Tensor
    varies: Tensor

    @classmethod
    def of(cls, value: Tensor, floor: Tensor | float | None = None) -> Scale:
        """Make it from s `(...)` and the spread that still counts as none, by default the least to divide by."""
        varies = value > (1e6 * torch.finfo(value.dtype).tiny if floor is None else floor)
        value = torch.where(varies, value, 1.0)
        return cls(value[..., None, None], varies.to(value.dtype)[..., None, None])


def centred_gram(centred: Centred) -> tuple[Tensor, Scale]:
    """
    Compute the Gram matrix `(..., n, n)` of the centred rows divided by their scale, and that scale.

    Several sets of weights share one product `X X^T`, which is then centred for each by a rank-two correction.
    """
    rows = centred.features
    gram = rows @ rows.mT
    floor = None
    weights = centred.share
    if centred.shared:
        norms = torch.diagonal(gram, dim1=-2, dim2=-1)
        # The correction cancels: what is left below the rounding of the product is not a spread.
        floor = 16 * torch.finfo(rows.dtype).eps * (norms.detach() * weights.squeeze(-1)).sum(-1)
        column = gram @ weights
        gram = gram - column - column.mT + (column * weights).sum((-2, -1), keepdim=True)
    scale = Scale.of((torch.diagonal(gram, dim1=-2, dim2=-1) * weights.squeeze(-1)).sum(-1), floor)
    return gram * (scale.varies / scale.value), scale


def centred_rows(centred: Centred) -> Tensor:
    """Return the centred rows `(..., n, d)`, one copy for each set of weights."""
    return centred.features - centred.offset if centred.shared else centred.features


def scale_of_rows(rows: Tensor, centred: Centred) -> Scale:
    """Compute the scale of centred rows."""
    return Scale.of((rows.square().sum(-1) * centred.share.squeeze(-1)).sum(-1))


def weight_from_dual(coef: Tensor, centred: Centred, scale: Scale) -> Tensor:
    """
    Compute head weights `(..., C, d)` as the combination `coef` `(..., n, C)` of the centred rows.

    `coef` sums to 0 over rows up to rounding; the rest is removed, so that the reference point has no influence.
    """
    coef = coef - centred.direction.square() * coef.sum(-2, keepdim=True)
    return (coef * (scale.varies / scale.value)).mT @ centred.features
