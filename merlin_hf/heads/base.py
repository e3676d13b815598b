"""Define what every head solver does, and the registry that names them."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor


PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
SINGLE_LABEL, MULTI_LABEL, REGRESSION = PROBLEM_TYPES

Batch = tuple[Tensor, Tensor, Tensor | None]
Reduce = Callable[[Tensor], Tensor]


class LinearHead:
    """
    A linear map from features to logits, with any leading dimensions.

    Args:
        weight: `(..., C, d)`.
        bias: `(..., C)`.
        info: 0-dim tensors a caller may log (solver failures, gradient norm, chosen regulariser, ...). They are
            detached and stay on the device, so that collecting them never waits for it.
    """

    def __init__(self, weight: Tensor, bias: Tensor, info: Mapping[str, Tensor] | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self.info = info or {}

    def __call__(self, features: Tensor) -> Tensor:
        """Compute logits `(..., n, C)` of features `(..., n, d)`, in the head's own precision even under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return features.to(self.weight.dtype) @ self.weight.mT + self.bias.unsqueeze(-2)

    def detach(self) -> LinearHead:
        """Return the same head outside the graph."""
        return LinearHead(self.weight.detach(), self.bias.detach(), self.info)

    def to(self, dtype: torch.dtype) -> LinearHead:
        """Return the same head with weight, bias and logits of another precision."""
        return LinearHead(self.weight.to(dtype), self.bias.to(dtype), self.info)

    def add_to_bias(self, change: Tensor) -> LinearHead:
        """Return the head with `change` `(..., C)` added to its logits."""
        return LinearHead(self.weight, self.bias + change, self.info)


@dataclass(frozen=True, eq=False)
class StandardHead(LinearHead):
    """
    A linear head that computes its logits from standardised features, in the precision of the solve.

    Weight and bias for features as they are, which are computed when they are asked for, could not give the same
    logits where the mean of the features is far larger than their spread, or their size near the ends of the
    precision's range.

    Attributes:
        standard_weight: `(..., C, d)` and standard_bias: `(..., C)`, for `(features - origin) * unit`.
        origin: `(..., 1, d)`, a point among the rows that the head was fit on.
        unit: `(..., 1, 1)`, one over their size; `None` is 1.
    """

    standard_weight: Tensor
    standard_bias: Tensor
    origin: Tensor
    unit: Tensor | None
    dtype: torch.dtype
    info: Mapping[str, Tensor]

    @cached_property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Return `(..., C, d)`, for features as they are."""
        return self._whole_weight.to(self.dtype)

    @cached_property
    def bias(self) -> Tensor:  # type: ignore[override]
        """Return `(..., C)`, for features as they are."""
        return (self.standard_bias - (self.origin @ self._whole_weight.mT).squeeze(-2)).to(self.dtype)

    @property
    def _whole_weight(self) -> Tensor:
        return self.standard_weight if self.unit is None else self.standard_weight * self.unit

    def __call__(self, features: Tensor) -> Tensor:
        """Compute logits `(..., n, C)` of features `(..., n, d)`."""
        with torch.autocast(features.device.type, enabled=False):
            rows = features - self.origin
            if self.unit is not None:
                rows = rows * self.unit
            logits = rows.to(self.standard_weight.dtype) @ self.standard_weight.mT + self.standard_bias.unsqueeze(-2)
            return logits.to(self.dtype)

    def detach(self) -> LinearHead:
        """Return the same head outside the graph."""
        return replace(self, standard_weight=self.standard_weight.detach(), standard_bias=self.standard_bias.detach())

    def to(self, dtype: torch.dtype) -> LinearHead:
        """Return the same head with weight, bias and logits of another precision; the solve's own stays."""
        return replace(self, dtype=dtype)

    def add_to_bias(self, change: Tensor) -> LinearHead:
        """Return the head with `change` `(..., C)` added to its logits."""
        return replace(self, standard_bias=self.standard_bias + change)


class HeadSolver(ABC):
    """
    Fits a linear head on features, differentiably.

    Every solver minimises `sum_i w_i loss(y_i, W x_i + b) + l2 * s * ||W||^2` (the classification losses carry a
    factor of one half in front of the penalty, see each class), where `s` is the weighted mean of
    `||x_i - mean(x)||^2` over the rows. So scaling the features does not change the logits, and more rows weaken the
    penalty, as in scikit-learn's `Ridge`. `s` is part of the graph. The bias is never penalised.

    A subclass implements `_fit` and `fit_batches` (in `_fit` inputs are checked and of one dtype, autocast is off),
    names the problem types that it solves in `problem_types`, and enters itself with `register_head`.

    Args:
        problem_type: one of `"single_label_classification"`, `"multi_label_classification"`, `"regression"`, as in a
            Hugging Face config.
        fit_intercept: whether the head has a bias. Without one nothing is centred, the bias is zeros, and `s` is the
            weighted mean of `||x_i||^2`.
        dtype: the precision of the solve, `torch.float32` or `torch.float64`; `None` lets the solver choose.
        check_finite: raise on NaN or infinity in a row whose weight is not 0. `None` checks tensors on the CPU, where
            it costs no synchronisation, unless the call is being compiled; `True` checks everywhere.

    Raises:
        ValueError: for a problem type that the solver does not support, or another dtype.
    """

    default_l2: ClassVar[float] = 1.0
    default_logit_scale: ClassVar[float] = 1.0  # factor of the outputs in a softmax; not 1 where they estimate targets
    problem_types: ClassVar[tuple[str, ...]] = PROBLEM_TYPES
    single_pass: ClassVar[bool] = True  # whether `fit_batches` reads its batches once
    decision_threshold: ClassVar[float] = 0.0  # output above which a label of a multi-label problem counts as on

    def __init__(
        self,
        *,
        problem_type: str = "single_label_classification",
        fit_intercept: bool = True,
        dtype: torch.dtype | None = None,
        check_finite: bool | None = None,
    ) -> None:
        if problem_type not in self.problem_types:
            raise ValueError(
                f"problem_type={problem_type!r} is not supported by {type(self).__name__}; use one of "
                f"{', '.join(map(repr, self.problem_types))}."
            )
        if dtype not in (None, torch.float32, torch.float64):
            raise ValueError(f"dtype={dtype} cannot be solved in; use torch.float32, torch.float64 or None.")
        self.problem_type = problem_type
        self.fit_intercept = fit_intercept
        self.dtype = dtype
        self.check_finite = check_finite

    def fit(self, features: Tensor, targets: Tensor, l2: float, sample_weight: Tensor | None = None) -> LinearHead:
        """
        Fit the head on one batch, or on many at once.

        Args:
            features: `(..., n, d)`, floating point.
            targets: `(..., n, C)`: one-hot, multi-hot or real-valued rows (see `encode_targets`).
            l2: the relative regulariser.
            sample_weight: `(..., n)`, not negative; `None` means ones. A row of weight 0 has no influence at all.

        Leading dimensions broadcast: features `(n, d)` with sample_weight `(S, n)` give a head with leading
        dimension S.

        Returns:
            A head differentiable in features, targets and the positive sample weights; float64 if the features
            are, float32 otherwise.

        Raises:
            ValueError: when shapes do not fit together, `l2` is out of range, or a row that counts holds NaN.
        """
        inputs = self._prepare(features, targets, l2, sample_weight)
        with torch.autocast(features.device.type, enabled=False):
            head = self._fit(*inputs)
        if self._reads(features):
            check_head(head, features)
        return head.to(result_dtype(features))

    @abstractmethod
    def _fit(self, features: Tensor, targets: Tensor, l2: float, sample_weight: Tensor) -> LinearHead:
        """Fit on checked inputs of one dtype."""

    @abstractmethod
    def fit_batches(self, batches: Iterable[Batch], l2: float | str, reduce: Reduce | None = None) -> LinearHead:
        """
        Fit the head on a whole data set, without gradient.

        Memory does not grow with the data set, but for logistic regression.

        Args:
            batches: a re-iterable of `(features (n_i, d), targets (n_i, C), sample_weight (n_i,) or None)`.
            l2: a float, or `"auto"` to choose it by cross-validation.
            reduce: sums a tensor over ranks; `None` for a single process. Every rank must pass it. It is called the
                same number of times, in the same order, on every rank, also on one that has no rows; such a rank
                yields nothing, or one batch of shape (0, d) to say on which device it reduces.

        Returns:
            The same head on every rank.
        """

    def _working_dtype(self, features: Tensor, l2: float, rows: int) -> torch.dtype:
        """Choose the precision of the solve where the user left it open."""
        return result_dtype(features)

    def _prepare(self, features, targets, l2, sample_weight, dtype: torch.dtype | None = None):
        check_shapes(features, targets, sample_weight)
        rows = features.shape[-2]
        l2 = check_l2(l2)
        dtype = self.dtype or dtype or self._working_dtype(features, l2, rows)
        if features.device.type == "mps":
            dtype = torch.float32  # the only one it can solve in
        weighted = sample_weight is not None
        if not weighted:
            sample_weight = torch.ones(rows, dtype=dtype, device=features.device)
        features, targets, sample_weight = (t.to(dtype) for t in (features, targets, sample_weight))
        if weighted:
            # A row that counts nowhere is blanked, so that whatever it holds reaches neither a value nor a gradient.
            counts = sample_weight != 0
            features = torch.where(any_to(counts, features.shape[:-1]).unsqueeze(-1), features, 0.0)
            targets = torch.where(any_to(counts, targets.shape[:-1]).unsqueeze(-1), targets, 0.0)
        if self._reads(features):
            check_values(features, targets, sample_weight if weighted else None)
        return features, targets, l2, sample_weight

    def _reads(self, features: Tensor) -> bool:
        """Check whether numbers may be read from the features' device: for checks and to choose a slower way."""
        if self.check_finite is None:
            return features.device.type == "cpu" and not torch.compiler.is_compiling()
        return self.check_finite


def result_dtype(features: Tensor) -> torch.dtype:
    """Return float64 for float64 features, float32 for all others."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def any_to(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Check for each entry of `shape` whether any entry of a boolean mask that broadcasts onto it is True."""
    whole = torch.broadcast_shapes(mask.shape, shape)
    return mask.expand(whole).to(torch.int32).sum_to_size(shape) > 0


def check_shapes(features: Tensor, targets: Tensor, sample_weight: Tensor | None) -> None:
    """Raise a ValueError that names the argument whose shape or type does not fit."""
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}.")
    if features.dim() < 2 or features.shape[-2] == 0 or features.shape[-1] == 0:
        raise ValueError(f"features must have shape (..., n, d) with n, d > 0, got {tuple(features.shape)}.")
    rows = features.shape[-2]
    if targets.dim() < 2 or targets.shape[-2] != rows or targets.shape[-1] == 0:
        raise ValueError(
            f"targets must have shape (..., n, C) with n={rows} as in features {tuple(features.shape)}, got "
            f"{tuple(targets.shape)}; encode_targets turns class labels into such rows."
        )
    leading = [features.shape[:-2], targets.shape[:-2]]
    if sample_weight is not None:
        if sample_weight.dim() < 1 or sample_weight.shape[-1] != rows:
            raise ValueError(
                f"sample_weight must have shape (..., n) with n={rows}, got {tuple(sample_weight.shape)}."
            )
        leading.append(sample_weight.shape[:-1])
    try:
        torch.broadcast_shapes(*leading)
    except RuntimeError:
        raise ValueError(
            "The leading dimensions of features, targets and sample_weight must broadcast, got "
            f"{', '.join(str(tuple(shape)) for shape in leading)}."
        ) from None


L2_RANGE = (1e-30, 1e30)  # float32 can divide by the least; under the largest, weights still differ from 0


def check_l2(l2: float | str) -> float:
    """Return `l2` as a float; raise a `ValueError` if it is none in the range."""
    if isinstance(l2, bool) or not isinstance(l2, int | float):
        raise ValueError(f"l2 must be a float, got {l2!r}.")
    if not L2_RANGE[0] <= l2 <= L2_RANGE[1]:
        raise ValueError(
            f"l2={l2!r} must be a finite number greater than 0, from 1e-30 to 1e30; 1.0 is a usual start."
        )
    return float(l2)


class NotFiniteFeaturesError(ValueError):
    """Features hold NaN or infinity, or give a head that does: where a model is trained, it has diverged."""


def check_values(features: Tensor, targets: Tensor, sample_weight: Tensor | None) -> None:
    """Raise a ValueError that says which argument holds NaN, infinity or a negative weight. Waits for the device."""
    given = {"features": features, "targets": targets, "sample_weight": sample_weight}
    tensors = {name: tensor.detach() for name, tensor in given.items() if tensor is not None}
    # One number first: a sum is finite unless a value is not, or it overflows.
    if not math.isfinite(float(sum(tensor.sum() for tensor in tensors.values()))):
        for name, tensor in tensors.items():
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise (NotFiniteFeaturesError if name == "features" else ValueError)(
                    f"{name} holds {bad} values that are NaN or infinite (shape {tuple(tensor.shape)}). Find where "
                    "they arise (a diverged model, an overflow in float16), or give those rows sample_weight 0."
                )
    if sample_weight is not None and tensors["sample_weight"].min() < 0:
        raise ValueError(f"sample_weight must not be negative, its smallest value is {float(sample_weight.min()):g}.")


def check_head(head: LinearHead, features: Tensor) -> None:
    """Raise a ValueError when the head of checked input is out of its dtype's range. Waits for the device."""
    if isinstance(head, StandardHead):
        weight, bias, unit = head.standard_weight, head.standard_bias, head.unit
        # The gradient in the features is as large as their unit.
        if unit is not None and not float(unit.detach().max()) < 1e-5 * torch.finfo(result_dtype(features)).max:
            raise ValueError(
                f"features differ by less than {1e5 / torch.finfo(result_dtype(features)).max:.0e}, too little for "
                "their gradient: multiply them, or use float64."
            )
    else:
        weight, bias = head.weight, head.bias
    if not math.isfinite(float(weight.detach().sum() + bias.detach().sum())):
        raise NotFiniteFeaturesError(
            f"The head of these features and targets is out of the range of {weight.dtype}: divide the features, or "
            "the targets, by their standard deviation, give a larger l2, or use float64."
        )


HEADS: dict[str, type[HeadSolver]] = {}


def register_head(name: str) -> Callable[[type[HeadSolver]], type[HeadSolver]]:
    """
    Enter the decorated `HeadSolver` under a name, so that `head="name"` finds it.

    Raises:
        ValueError: when another class has the name.
        TypeError: when the class is not a `HeadSolver`.
    """

    def register(cls: type[HeadSolver]) -> type[HeadSolver]:
        if not (isinstance(cls, type) and issubclass(cls, HeadSolver)):
            raise TypeError(f"register_head({name!r}) decorates subclasses of HeadSolver, got {cls!r}.")
        known = HEADS.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"The head name {name!r} already belongs to {known.__name__}; choose another one.")
        HEADS[name] = cls
        return cls

    return register


def available_heads() -> list[str]:
    """Return the names that `get_head` knows, sorted."""
    return sorted(HEADS)


def get_head(name: str, **kwargs) -> HeadSolver:
    """
    Construct the solver registered under `name` with `kwargs`.

    Raises:
        ValueError: for an unknown name, with the known ones and the nearest.
    """
    if name not in HEADS:
        near = difflib.get_close_matches(str(name), HEADS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"head={name!r} is not known; available: {', '.join(available_heads())}.{hint}")
    return HEADS[name](**kwargs)
