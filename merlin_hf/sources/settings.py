"""What a ranking is made with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..comparison.config import check_seeds
from ..comparison.tasks import IMAGE, TEXT
from ..comparison.values import check_at_least


DEFAULT_MODELS = {TEXT: "google-bert/bert-base-uncased", IMAGE: "google/vit-base-patch16-224-in21k"}


@dataclass
class RankingSettings:
    """
    See [`~merlin_hf.sources.rank_sources`]. The last two are what [`merlin_hf.comparison.models`] asks for beside them.

    Raises:
        ConfigError: a value cannot be used; the message names it.
    """

    model: str | None = None
    target_rows: int | None = 200
    source_rows: int | None = 500
    seeds: int | Sequence[int] = 1
    batch_size: int = 16
    num_splits: int = 4
    layers: int | None = None
    max_seq_length: int = 128
    image_size: int | None = None
    device: torch.device | str | None = None
    from_scratch: bool = False
    freeze_layers: int = 0
    attn_implementation: str | None = None

    def __post_init__(self):
        self.seeds = check_seeds(self.seeds, "seeds")
        for name in ("batch_size", "num_splits", "layers", "max_seq_length", "image_size"):
            check_at_least(getattr(self, name), 1, name)
        for name in ("target_rows", "source_rows"):
            check_at_least(getattr(self, name), 4, name)
        self.device = str(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def set_model(self, kind: str) -> None:
        """Fill in the model for texts or images where none is given."""
        self.model = self.model or DEFAULT_MODELS[kind]
