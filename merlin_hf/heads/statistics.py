"""Fit a head on a whole data set from sums of products: one pass over the rows, and memory for none of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import (
    Batch,
    LinearHead,
    NotFiniteFeaturesError,
    Reduce,
    StandardHead,
    check_head,
    check_shapes,
    result_dtype,
)


L2_GRID = tuple(10.0 ** (half / 2) for half in range(-6, 9))  # 1e-3 ... 1e4, two values a decade
NUM_FOLDS = 5
COLUMN_BLOCK = 128


@dataclass(eq=False)
class Moments:
    """
    Weighted sums over the rows of each of F folds, in float64.

    Attributes:
        weight: `(F,)`; x: `(F, d)`; y: `(F, C)`; xy: `(F, d, C)`; yy: `(F,)` sums of squared targets.
        xx: `(F, d, d)`, or its traces `(F,)` when only those were asked for.
        dtype: float64 if any features were, float32 otherwise.
        origin: `(1, d)`, a point among the rows that was subtracted from the features first, so that a mean far larger
            than the spread costs no precision; zeros where the head has no bias.
    """

    weight: Tensor
    x: Tensor
    y: Tensor
    xy: Tensor
    yy: Tensor
    xx: Tensor
    dtype: torch.dtype
    origin: Tensor

    @classmethod
    def of(cls, sums: Iterable[Tensor], dtype: torch.dtype, origin: Tensor) -> Moments:
        """Make them from tensors as [`Moments.sums`] gives them."""
        weight, x, y, xy, yy, xx = sums
        return cls(weight, x, y, xy, yy, xx, dtype, origin)

    def sums(self) -> tuple[Tensor, ...]:
        """Return the tensors that add up over rows, folds and ranks."""
        return self.weight, self.x, self.y, self.xy, self.yy, self.xx

    def total(self) -> Moments:
        """Return all folds together, as one."""
        return Moments.of((t.sum(0, keepdim=True) for t in self.sums()), self.dtype, self.origin)

    def without_each_fold(self) -> Moments:
        """Return for each fold the rows of all the others."""
        return Moments.of((t.sum(0, keepdim=True) - t for t in self.sums()), self.dtype, self.origin)

    def moved_to(self, origin: Tensor) -> Moments:
        """Return the moments of the same rows around another origin."""
        step = origin - self.origin
        weight = self.weight.unsqueeze(-1)
        x = self.x - weight * step
        xy = self.xy - step.unsqueeze(-1) * self.y.unsqueeze(-2)
        if self.xx.dim() == 3:
            both = self.x.unsqueeze(-1) * step.unsqueeze(-2)
            xx = self.xx - both - both.mT + weight.unsqueeze(-1) * step.mT * step
        else:
            xx = self.xx - (self.x + x).mul(step).sum(-1)
        return Moments(self.weight, x, self.y, xy, self.yy, xx, self.dtype, origin)

    def head(self, weight: Tensor, bias: Tensor, info: Mapping[str, Tensor] | None = None) -> LinearHead:
        """
        Return the head with weight `(C, d)` and, at the origin, bias `(C,)`, in the precision of the features.

        Warns where that is too coarse for the logits of a linear layer, whose bias is not at the origin.
        """
        standard = StandardHead(weight, bias, self.origin, None, self.dtype, info or {})
        check_head(LinearHead(standard.weight, standard.bias), weight)
        rounding = float(torch.finfo(self.dtype).eps * (self.origin.abs() @ weight.abs().mT).max())
        if rounding > 1e-2 * float((self.yy.sum() / self.weight.sum()).sqrt()):
            warnings.warn(
                "The features' mean is so much larger than their spread that the logits of a linear layer, computed "
                f"in {self.dtype}, are rounded by up to {rounding:.1g}. Normalise the features (a LayerNorm before "
                "the head).",
                RuntimeWarning,
                stacklevel=2,
            )
        return standard


def constant_below(mean: Tensor) -> Tensor:
    """Bound the mean squared distance `(...)` to a mean `(..., d)` that rounding of sums could have made."""
    info = torch.finfo(mean.dtype)
    return 1e6 * info.tiny + 16 * info.eps * mean.square().sum(-1)


def clean_batches(
    batches: Iterable[Batch], dtype: torch.dtype | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor, torch.dtype]]:
    """
    Yield checked `(features, targets, sample_weight, dtype of the features)`, on the device of the first batch.

    In precision `dtype`, or that in which a head for such features is returned; rows of weight 0 are blanked.
    """
    device = None
    for features, targets, sample_weight in batches:
        if features.dim() != 2:
            raise ValueError(f"fit_batches takes features of shape (n, d), got {tuple(features.shape)}.")
        if features.shape[0] > 0:
            check_shapes(features, targets, sample_weight)
        if device is None:
            # MPS has no float64.
            device = torch.device("cpu") if features.device.type == "mps" else features.device
        own = result_dtype(features)
        if sample_weight is None:
            sample_weight = torch.ones(features.shape[0], device=device)
        features, targets, sample_weight = (
            t.detach().to(device=device, dtype=dtype or own) for t in (features, targets, sample_weight)
        )
        counts = (sample_weight != 0).unsqueeze(-1)
        if not counts.all():
            features, targets = torch.where(counts, features, 0.0), torch.where(counts, targets, 0.0)
        yield features, targets, sample_weight, own


def fold_of_rows(start: int, rows: int, folds: int) -> Tensor:
    """Compute the folds of rows start, start + 1, ...: scattered, and the same however the rows are batched."""
    hashes = torch.arange(start, start + rows, dtype=torch.int64) * 2654435761 & 0xFFFFFFFF
    return (hashes >> 7) % folds


@torch.no_grad()
def collect_moments(
    batches: Iterable[Batch], folds: int = 1, reduce: Reduce | None = None, full: bool = True, shift: bool = True
) -> Moments:
    """
    Sum the moments of every fold over all rows of all ranks.

    `reduce` is called exactly three times, after all batches. `full` keeps the whole of `xx`, not its trace alone;
    `shift` subtracts a row of the features from all others first. A ValueError, on every rank alike, when there is no
    row, when ranks differ in d or C, or when the sums hold NaN.
    """
    moments, seen, has_origin = None, 0, False
    for features, targets, weight, dtype in clean_batches(batches, torch.float64):
        if moments is None:
            moments = _empty_moments(folds, features.shape[1], targets.shape[1], features.device, dtype, full)
        if dtype == torch.float64:
            moments.dtype = dtype
        if shift and not has_origin and (weight > 0).any():
            moments.origin, has_origin = features[(weight > 0).nonzero()[0]], True
        features = torch.where((weight != 0).unsqueeze(-1), features - moments.origin, 0.0)
        fold = fold_of_rows(seen, len(features), folds)
        seen += len(features)
        for f in range(folds):
            if folds == 1:
                _add(moments, f, features, targets, weight)
            else:
                rows = (fold == f).nonzero().squeeze(-1).to(features.device)
                _add(moments, f, features[rows], targets[rows], weight[rows])
    if moments is not None and full:
        moments.xx = moments.xx.tril() + moments.xx.tril(-1).mT
    if reduce is not None:
        moments = _reduce_moments(moments, folds, reduce, full, has_origin)
    if moments is None or not bool(moments.weight.sum() > 0):
        if moments is None or bool(torch.isfinite(moments.weight).all()):
            raise ValueError("batches hold no row whose sample_weight is positive; a head needs at least one.")
    for name, tensor in (("features", moments.xx), ("targets", moments.yy), ("sample_weight", moments.weight)):
        if not torch.isfinite(tensor).all():
            raise (NotFiniteFeaturesError if name == "features" else ValueError)(
                f"{name} in batches hold NaN or infinity, or have squares that do. Find where they arise (a diverged "
                "model, an overflow in float16), or give those rows sample_weight 0."
            )
    return moments


def _empty_moments(folds: int, d: int, c: int, device: torch.device, dtype: torch.dtype, full: bool) -> Moments:
    shapes = [(folds,), (folds, d), (folds, c), (folds, d, c), (folds,), (folds, d, d) if full else (folds,)]
    sums = (torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)
    origin = torch.zeros(1, d, dtype=torch.float64, device=device)
    return Moments.of(sums, torch.float64 if dtype == torch.float64 else torch.float32, origin)


def _add(moments: Moments, fold: int, features: Tensor, targets: Tensor, weight: Tensor) -> None:
    column = weight.unsqueeze(-1)
    weighted = features * column
    moments.weight[fold] += weight.sum()
    moments.x[fold] += weighted.sum(0)
    moments.y[fold] += (targets * column).sum(0)
    moments.xy[fold].addmm_(weighted.mT, targets)
    moments.yy[fold] += (targets.square() * column).sum()
    if moments.xx.dim() == 3:
        for start in range(0, features.shape[1], COLUMN_BLOCK):
            # The lower triangle of blocks; the rest follows by symmetry.
            rows = slice(start, start + COLUMN_BLOCK)
            moments.xx[fold, rows, : rows.stop].addmm_(weighted[:, rows].mT, features[:, : rows.stop])
    else:
        moments.xx[fold] += (weighted * features).sum()


def _reduce_moments(
    moments: Moments | None, folds: int, reduce: Reduce, full: bool, has_origin: bool
) -> Moments | None:
    """
    Sum moments over ranks.

    The first message tells a rank without rows the shapes of the others. The second agrees on an origin, the mean of
    those of all ranks, and the third has the sums around it.
    """
    shape = torch.zeros(6, dtype=torch.float64)
    if moments is not None:
        d, c = moments.x.shape[1], moments.y.shape[1]
        double = float(moments.dtype == torch.float64)
        shape = torch.tensor([1, d, c, d * d, c * c, double], dtype=torch.float64, device=moments.x.device)
    received = reduce(shape)
    ranks, d, c, dd, cc, double = received.tolist()
    if ranks == 0:
        return None
    d, c = d / ranks, c / ranks
    if dd != ranks * d * d or cc != ranks * c * c:
        raise ValueError(f"features or targets have different widths on different ranks (on average {d:g} and {c:g}).")
    if moments is None:
        moments = _empty_moments(folds, int(d), int(c), received.device, torch.float32, full)
    vote = torch.full_like(moments.origin[:, :1], float(has_origin))
    votes = reduce(torch.cat([moments.origin, vote], dim=-1))
    moments = moments.moved_to(votes[:, :-1] / votes[:, -1:].clamp_min(1))
    flat = reduce(torch.cat([t.reshape(-1) for t in moments.sums()]))
    parts = flat.split([t.numel() for t in moments.sums()])
    sums = (part.view_as(t) for part, t in zip(parts, moments.sums(), strict=True))
    return Moments.of(sums, torch.float64 if double else torch.float32, moments.origin)


def check_auto(l2: float | str) -> bool:
    """Check whether `l2` asks for cross-validation; raise a ValueError for any other word."""
    if isinstance(l2, str):
        if l2 != "auto":
            raise ValueError(f'l2={l2!r} must be a number or "auto".')
        return True
    return False


def warn_of_small_l2(l2: float, least: float) -> None:
    """Warn when l2 is below `least`, where rounding may show in the logits."""
    if l2 < least:
        warnings.warn(
            f"l2={l2:g} is so small that rounding may show in the logits; use at least {least:.0e}.",
            RuntimeWarning,
            stacklevel=3,
        )
