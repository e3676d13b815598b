"""Rank source data sets before any training."""

from .measures import Alignment, gradient_alignment, leep
from .ranking import rank_sources
from .results import SourceRanking, SourceScore


__all__ = [
    "Alignment",
    "SourceRanking",
    "SourceScore",
    "gradient_alignment",
    "leep",
    "rank_sources",
]
