"""The rows of a comparison's tasks; see [`merlin_hf.data.rows`]."""

from ..data.rows import Rows, load_rows, load_splits_of, overlap
from ..data.tasks import IMAGE, TEXT


__all__ = ["IMAGE", "TEXT", "Rows", "load_rows", "load_splits_of", "overlap"]
