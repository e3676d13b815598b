"""Classify by the nearest class mean, as a linear head."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .base import Batch, HeadSolver, LinearHead, Reduce, check_l2, register_head
from .linalg import Scale, centre, centred_rows, scale_of_rows
from .statistics import check_auto, collect_moments, constant_below


@register_head("centroid")
class CentroidHead(HeadSolver):
    """
    Nearest class mean: the prototypes of Snell et al. 2017 (https://arxiv.org/abs/1703.05175), relative to the scale.

    The logit of a class is `(||x - m||^2 - ||x - m_c||^2) / s`, with m the mean of all rows, s their mean squared
    distance to it and `m_c = (sum_i w_i y_ic x_i + l2 m) / (sum_i w_i y_ic + l2)`: `l2` rows at the common mean are
    added to each class, so small classes lean towards it. It is linear in x. For multi-label targets the logit of a
    label is the same difference between the means of its negative and its positive rows.

    A class without rows gets a logit below all others (multi-label: -1, and 1 for a label without negatives). Without
    `fit_intercept` nothing is centred and the logit is `2 <x, m_c> / s`.

    Cost: `O(n d C)` time, `O(C d)` memory.
    """

    default_l2 = 0.1
    problem_types = ("single_label_classification", "multi_label_classification")

    def _fit(self, features: Tensor, targets: Tensor, l2: float, sample_weight: Tensor) -> LinearHead:
        centred = centre(features, targets, sample_weight, self.fit_intercept, reads=self._reads(features))
        rows = centred_rows(centred)
        scale = scale_of_rows(rows, centred)
        rows = rows * scale.varies
        share = sample_weight.unsqueeze(-1)
        weighted = targets * share
        # What is not of a class is summed for itself: rounding of a difference would be divided by l2 where nothing is
        # left.
        rest = share - weighted
        weight, bias = self._prototypes(
            weighted.mT @ rows, weighted.sum(-2), rest.mT @ rows, rest.sum(-2), scale.value, l2
        )
        return centred.head(weight, bias)

    @torch.no_grad()
    def fit_batches(
        self, batches: Iterable[Batch], l2: float | str = "auto", reduce: Reduce | None = None
    ) -> LinearHead:
        """
        Fit on a whole data set in one pass. See `HeadSolver.fit_batches`.

        `l2="auto"` is the default: nothing is cross-validated.
        """
        l2 = self.default_l2 if check_auto(l2) else check_l2(l2)
        moments = collect_moments(batches, reduce=reduce, full=False, shift=self.fit_intercept)
        total, sums, row_sum = moments.weight[:, None], moments.xy[0].mT, moments.x
        mean = moments.x / total if self.fit_intercept else torch.zeros_like(moments.x)
        sums = sums - moments.y.mT * mean
        rest, rest_count = row_sum - total * mean - sums, total[0] - moments.y[0]
        rest_count = torch.where(rest_count > 1e-12 * total[0], rest_count, 0.0)
        square = moments.xx[:, None] / total - mean.square().sum(-1, keepdim=True)
        scale = Scale.of(square.squeeze(-1), constant_below(mean))
        sums, rest = sums * scale.varies[0], torch.where(rest_count[:, None] > 0, rest * scale.varies[0], 0.0)
        weight, bias = self._prototypes(sums, moments.y[0], rest, rest_count, scale.value[0], l2)
        return moments.head(weight, bias - (weight @ mean.mT).squeeze(-1))

    def _prototypes(self, sums, counts, rest, rest_counts, scale, l2) -> tuple[Tensor, Tensor]:
        """
        Compute weight `(..., C, d)` and bias `(..., C)` for centred features.

        From the sums of rows `(..., C, d)` and weights `(..., C)` of each class and of all that is not of the class,
        and the scale `(..., 1, 1)`.
        """
        mean = sums / (counts + l2).unsqueeze(-1)
        square = mean.square().sum(-1)
        scale_of_class = scale.squeeze(-1)
        if self.problem_type == "multi_label_classification":
            other = rest / (rest_counts + l2).unsqueeze(-1)
            one_sided = (rest_counts <= 0).to(square) - (counts <= 0).to(square)
            weight, bias = mean - other, (other.square().sum(-1) - square) / scale_of_class + one_sided
        else:
            below = -2 * square.amax(-1, keepdim=True) / scale_of_class - 1
            weight, bias = mean, torch.where(counts > 0, -square / scale_of_class, below)
        if not self.fit_intercept:
            bias = torch.zeros_like(bias)
        return 2 * weight / scale, bias
