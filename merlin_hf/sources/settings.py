"""The settings of a ranking, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from ..comparison.config import check_seeds
from ..data.tasks import IMAGE, TEXT
from ..utils.validation import Count, check_options, interval


DEFAULT_MODELS = {TEXT: "google-bert/bert-base-uncased", IMAGE: "google/vit-base-patch16-224-in21k"}


@dataclass
class RankingSettings:
    """
    The settings of [`~merlin_hf.sources.rank_sources`], and a [`~merlin_hf.comparison.models.ModelSection`].

    Args:
        model (`str`): empty until the kind of data is known, where none is given.
        target_rows, source_rows (`int`, *optional*): rows of the target and of each candidate, drawn anew for each
            seed; all if `None` or if there are not more. More rows give less noise, in the alignment above all.
        seeds (`int` or `list[int]`): how many draws, or which.
        batch_size (`int`): rows that go through the model at a time; results do not depend on it.
        num_splits (`int`): meta gradients, each the mean over 8 random halves of the target's rows; memory holds so
            many gradients and one more.
        layers (`int`, *optional*): compare gradients in the last so many layers only. All by default.
        max_seq_length (`int`): longer texts are cut to so many tokens.
        image_size (`int`, *optional*): height and width in pixels, for models without an image processor.
        device (`torch.device` or `str`, *optional*): a GPU if there is one, else the CPU.
        sentence_encoder (`bool`, *optional*): whether the model is one of sentence-transformers, whose own pooling is
            used; if it has a `modules.json` if not given.

    Raises:
        ConfigError: a value cannot be used; the message names it.
    """

    model: str = ""
    target_rows: Annotated[int, interval("[4, inf)")] | None = 200
    source_rows: Annotated[int, interval("[4, inf)")] | None = 500
    seeds: int | Sequence[int] = 1
    batch_size: Count = 16
    num_splits: Annotated[int, interval("[1, 100_000]")] = 4
    layers: Annotated[int, interval("[1, 10_000]")] | None = None
    max_seq_length: Annotated[int, interval("[1, 1_000_000]")] = 128
    image_size: Annotated[int, interval("[1, 100_000]")] | None = None
    device: torch.device | str | None = None
    from_scratch: bool = False
    freeze_layers: Annotated[int, interval("[0, 10_000]")] = 0
    attn_implementation: str | None = None
    sentence_encoder: bool | None = None

    def __post_init__(self):
        self.seeds = check_seeds(self.seeds, "seeds")
        check_options(self)
        self.device = str(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
