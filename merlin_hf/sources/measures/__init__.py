"""Numbers that say how much a source has to do with a target: pure functions of features, labels and gradients."""

from .alignment import Alignment, gradient_alignment
from .h_score import h_score, regularized_h_score
from .leep import leep
from .logme import logme


__all__ = ["Alignment", "gradient_alignment", "h_score", "leep", "logme", "regularized_h_score"]
