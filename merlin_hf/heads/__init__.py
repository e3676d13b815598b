"""
Linear heads fit on features, differentiably.

Pure tensor code that needs torch alone. Every solver is a small class with `fit(features, targets, l2)` for a batch,
through which gradients flow, and `fit_batches` for a whole data set; see `HeadSolver`. A new one is a subclass under
`register_head("name")`.
"""

from .base import HEADS, PROBLEM_TYPES, HeadSolver, LinearHead, available_heads, get_head, register_head
from .centroid import CentroidHead
from .logistic import LogisticHead
from .ridge import RidgeHead
from .targets import encode_targets


__all__ = [
    "HEADS",
    "PROBLEM_TYPES",
    "CentroidHead",
    "HeadSolver",
    "LinearHead",
    "LogisticHead",
    "RidgeHead",
    "available_heads",
    "encode_targets",
    "get_head",
    "register_head",
]
