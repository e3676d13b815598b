"""Which source data set to take, before any training."""

from .measures import Alignment, gradient_alignment, h_score, leep, logme, regularized_h_score
from .ranking import rank_sources
from .results import SourceRanking, SourceScore


__all__ = [
    "Alignment",
    "SourceRanking",
    "SourceScore",
    "gradient_alignment",
    "h_score",
    "leep",
    "logme",
    "rank_sources",
    "regularized_h_score",
]
