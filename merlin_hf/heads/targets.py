"""Encode labels of a Hugging Face dataset as the target rows that a head is fit on."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import PROBLEM_TYPES


IGNORE_INDEX = -100


def encode_targets(
    labels: Tensor, num_labels: int, problem_type: str, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """
    Encode labels as target rows and row weights.

    Args:
        labels: `(n,)` class indices for `"single_label_classification"`, with -100 for rows to ignore;
            `(n, num_labels)` zeros and ones (or probabilities) for `"multi_label_classification"`;
            `(n,)` or `(n, num_labels)` numbers for `"regression"`.
        num_labels: C, the number of outputs.
        problem_type: as in a Hugging Face config.
        dtype: of both results.

    Returns:
        targets `(n, C)` and sample_weight `(n,)`, 0 for ignored rows and 1 elsewhere.

    Raises:
        ValueError: for a wrong shape or type, and, when the labels are on the CPU, for a class index out of range or a
            label that is NaN. Elsewhere the values are not looked at, since that would wait for the device: there a
            class index out of range gives a row of weight 0.
    """
    if problem_type not in PROBLEM_TYPES:
        raise ValueError(f"problem_type={problem_type!r} is not one of {', '.join(map(repr, PROBLEM_TYPES))}.")
    if num_labels < 1:
        raise ValueError(f"num_labels={num_labels} must be at least 1.")
    if problem_type == "single_label_classification":
        return _one_hot(labels, num_labels, dtype)
    if problem_type == "regression" and labels.dim() == 1 and num_labels == 1:
        labels = labels.unsqueeze(-1)
    if labels.dim() != 2 or labels.shape[1] != num_labels:
        raise ValueError(
            f"labels for {problem_type} must have shape (n, num_labels={num_labels}), got {tuple(labels.shape)}."
        )
    if _readable(labels) and labels.is_floating_point() and not torch.isfinite(labels).all():
        raise ValueError(f"labels for {problem_type} must be finite numbers; NaN or infinity found.")
    return labels.to(dtype), torch.ones(labels.shape[0], dtype=dtype, device=labels.device)


def _one_hot(labels: Tensor, num_labels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(
            "labels for single_label_classification must be integers of shape (n,), got "
            f"{labels.dtype} of shape {tuple(labels.shape)}."
        )
    labels = labels.long()
    in_range = (labels >= 0) & (labels < num_labels)
    if _readable(labels) and not (in_range | (labels == IGNORE_INDEX)).all():
        wrong = labels[~in_range & (labels != IGNORE_INDEX)]
        raise ValueError(
            f"labels must lie in 0..{num_labels - 1} (num_labels={num_labels}) or be {IGNORE_INDEX}, got "
            f"{sorted(set(wrong.tolist()))[:5]}."
        )
    targets = labels.unsqueeze(-1) == torch.arange(num_labels, device=labels.device)
    return targets.to(dtype), in_range.to(dtype)


def _readable(labels: Tensor) -> bool:
    return labels.device.type == "cpu" and not torch.compiler.is_compiling()
