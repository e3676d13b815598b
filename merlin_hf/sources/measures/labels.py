"""Checking and encoding what measures are given."""

import torch
from torch import Tensor


def check_features(features: Tensor, labels: Tensor, name: str = "features") -> Tensor:
    """
    The features in float64, on which all measures are computed: they are few numbers, and differences of them matter.

    Raises:
        ValueError: the message names what does not fit.
    """
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        raise ValueError(
            f"`{name}` must be floating point of shape (n, d), got {features.dtype} of shape {tuple(features.shape)}."
        )
    if labels.shape != features.shape[:1]:
        raise ValueError(f"`labels` must have shape ({len(features)},), as `{name}`, got {tuple(labels.shape)}.")
    if len(labels) < 2 or bool((labels == labels[0]).all()):
        raise ValueError(f"`labels` are all the same in {len(labels)} rows; there is nothing to tell apart.")
    if not torch.isfinite(features).all():
        raise ValueError(f"`{name}` holds NaN or infinity.")
    return features.detach().double()


def encode_columns(labels: Tensor) -> Tensor:
    """
    What a linear model is fit to: a column of zeros and ones for each class that is present, or the real numbers.

    Returns:
        `torch.DoubleTensor` of shape `(n, C)`, or `(n, 1)`.
    """
    if labels.is_floating_point():
        return labels.double().unsqueeze(-1)
    return (labels.unsqueeze(-1) == labels.unique()).double()


def check_classes(labels: Tensor) -> None:
    """
    Raises:
        ValueError: labels are real numbers.
    """
    if labels.is_floating_point():
        raise ValueError("`labels` must be class ids, got real numbers, for which this measure is not defined.")
