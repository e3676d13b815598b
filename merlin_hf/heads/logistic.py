"""Logistic regression, solved to convergence, with the implicit gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .base import Batch, HeadSolver, LinearHead, Reduce, register_head
from .linalg import centre, centred_gram, centred_rows, scale_of_rows, weight_from_dual
from .losses import Loss, SigmoidLoss, SoftmaxLoss
from .newton import NewtonOptions, fit_dual
from .whole_set import fit_loss_batches


# Numbers in the C blocks of n x n of an exact step. Above, conjugate gradients were faster on a CPU (measured); where
# launching a kernel costs more than running it, fewer and larger operations pay for longer (not measured).
EXACT_MAX_ENTRIES = {"cpu": 2**16, "other": 2**22}


class DualNewtonHead(HeadSolver):
    """
    A head of a classification loss, `min sum_i w_i loss(y_i, W x_i + b) + l2 * s / 2 * ||W||^2`, by Newton's method.

    It is solved over the n dual coefficients of each column, from the Gram matrix, until the stationarity residual
    `max |a + w dloss/df| / max(w)` is below `tolerance`; the gradient comes from the implicit function theorem, by one
    more linear system, so memory does not grow with the number of steps and no step is differentiated.

    - Small problems (`C n^2` up to 2^16 on a CPU, 2^22 elsewhere) factorise exactly: `O(C n^3)` a step, 5 to 10 steps.
    - Larger ones use conjugate gradients: `O(n min(n, d) C)` an iteration, some tens in all.

    `fit` never raises on a solve that did not converge: the head's `info` has `solver_residual`, the largest residual,
    and `solver_unconverged`, the number of heads above the tolerance.

    Args:
        max_iter: Newton steps at most.
        tolerance: of the stationarity residual; `None` is 1e-8 in float64 and 1e-5 in float32.
        dtype: of the solve; `None` is float64, since the second derivative of a confident head is a difference of
            nearly equal numbers. `torch.float32` is faster on a GPU and good to about 1e-4 where `l2 >= 0.1`.
        early_stop: stop when converged, which reads a number from the device in each step (and in each tenth conjugate
            gradient iteration); `None` does so on the CPU and in large problems. Where False, all `max_iter` steps are
            made without waiting for the device.
        max_cg: conjugate gradient iterations in a step at most.
        problem_type, fit_intercept, check_finite: as in `HeadSolver`.

    The gradient is differentiable once. Under `torch.compile` the solve runs uncompiled.
    """

    single_pass = False
    problem_types = ("single_label_classification", "multi_label_classification")
    default_l2 = 1.0

    @property
    def loss(self) -> Loss:
        """What is minimised."""
        raise NotImplementedError

    def __init__(
        self,
        *,
        max_iter: int = 20,
        tolerance: float | None = None,
        early_stop: bool | None = None,
        max_cg: int = 200,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if max_iter < 1 or max_cg < 1:
            raise ValueError(f"max_iter={max_iter} and max_cg={max_cg} must be at least 1.")
        if tolerance is not None and not tolerance > 0:
            raise ValueError(f"tolerance={tolerance} must be positive, or None.")
        self.max_iter = max_iter
        self.tolerance = tolerance
        self.early_stop = early_stop
        self.max_cg = max_cg

    def _working_dtype(self, features: Tensor, l2: float | Tensor, rows: int) -> torch.dtype:
        return torch.float64

    def _options(self, features: Tensor, classes: int) -> NewtonOptions:
        n = features.shape[-2]
        tolerance = self.tolerance or (1e-8 if features.dtype == torch.float64 else 1e-5)
        on_cpu = features.device.type == "cpu"
        exact = classes * n * n <= EXACT_MAX_ENTRIES["cpu" if on_cpu else "other"]
        early_stop = (on_cpu or not exact) if self.early_stop is None else self.early_stop
        return NewtonOptions(tolerance, self.max_iter, exact, early_stop, self.max_cg)

    @torch.compiler.disable
    def _fit(self, features: Tensor, targets: Tensor, l2: float | Tensor, sample_weight: Tensor) -> LinearHead:
        n, d = features.shape[-2:]
        options = self._options(features, targets.shape[-1])
        centred = centre(features, targets, sample_weight, self.fit_intercept)
        if options.exact or n <= d:
            gram, scale = centred_gram(centred)
            design, is_rows = gram / l2, False
        else:
            rows = centred_rows(centred)
            scale = scale_of_rows(rows, centred)
            design, is_rows = rows * (scale.varies / (scale.value * l2)).sqrt(), True
        coef, bias, residual = fit_dual(
            design, is_rows, targets, sample_weight, self.loss, self.fit_intercept, options
        )
        weight = weight_from_dual(coef, centred, scale) / l2
        bias = (bias - centred.feature_mean @ weight.mT).squeeze(-2)
        unconverged = (~(residual <= options.tolerance)).sum()
        return LinearHead(weight, bias, {"solver_residual": residual.amax(), "solver_unconverged": unconverged})

    def fit_batches(
        self, batches: Iterable[Batch], l2: float | Tensor | str = "auto", reduce: Reduce | None = None
    ) -> LinearHead:
        """
        Fit on a whole data set by L-BFGS, one pass for each evaluation; see `HeadSolver.fit_batches`.

        `l2="auto"` takes the one of 8 values from 1e-3 to 1e4 with the least loss in 5-fold cross-validation, and
        reports it in the head's `info["l2"]`.
        """
        return fit_loss_batches(batches, l2, reduce, self.loss, self.fit_intercept)


@register_head("logistic")
class LogisticHead(DualNewtonHead):
    """
    Logistic regression: multinomial (softmax) for single-label targets, one binary problem a label for multi-label.

    With `s` the weighted mean of `||x_i - mean(x)||^2` this is scikit-learn's `LogisticRegression(C=1 / (l2 * s))`; for
    two classes, where scikit-learn fits one column and this class two that are opposite, `C=2 / (l2 * s)`.
    The targets may be soft: rows that sum to 1, or for multi-label any numbers in [0, 1]; gradients flow to them. The
    softmax ignores a constant added to all logits of a row: the head returned has biases that sum to 0 before centring
    is undone, and weights that sum to 0.

    A class without rows would have a bias of minus infinity. It gets weight 0 and the bias of half a row.
    Separable classes have a finite solution as `l2 > 0`.

    Everything else as in `DualNewtonHead`.
    """

    @property
    def loss(self) -> Loss:
        return SoftmaxLoss() if self.problem_type == "single_label_classification" else SigmoidLoss()
