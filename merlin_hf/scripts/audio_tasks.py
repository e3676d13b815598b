"""Tasks whose rows are recordings: their arguments."""

from dataclasses import dataclass, field
from typing import Annotated

from ..utils.validation import interval
from .image_tasks import MediaArguments


@dataclass
class DataTrainingArguments(MediaArguments):
    """[`MediaArguments`] for audio."""

    audio_column_name: str | None = field(
        default=None, metadata={"help": "Target: column of the audio. Default: found by its type."}
    )
    source_audio_column_name: str | None = field(default=None, metadata={"help": "The same for the source."})
    array_sampling_rate: Annotated[int, interval("[1, 10_000_000]")] | None = field(
        default=None, metadata={"help": "Sampling rate of raw arrays. Default: that of the feature extractor."}
    )
    max_length_seconds: Annotated[float, interval("(0, 100_000]")] = field(
        default=20.0,
        metadata={"help": "Longer recordings are cut: to train, at random; to evaluate, after so many seconds."},
    )
