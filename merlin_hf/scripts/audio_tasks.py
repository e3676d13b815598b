"""Tasks whose rows are recordings: where they and their labels are found, and how they become a model's inputs."""

import importlib.util
import io
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from .image_tasks import MediaArguments, MediaKind, MediaTask


FILE_TYPES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass
class DataTrainingArguments(MediaArguments):
    """[`MediaArguments`] for audio."""

    audio_column_name: str | None = field(
        default=None, metadata={"help": "Target: column of the audio. Default: found by its type."}
    )
    source_audio_column_name: str | None = field(default=None, metadata={"help": "The same for the source."})
    array_sampling_rate: int | None = field(
        default=None, metadata={"help": "Sampling rate of raw arrays. Default: that of the feature extractor."}
    )
    max_length_seconds: float = field(
        default=20.0,
        metadata={"help": "Longer recordings are cut: to train, at random; to evaluate, after so many seconds."},
    )


# Where recordings are found


def is_audio(feature: Any) -> bool:
    """Whether a column has recordings: `Audio`, lists of numbers, or dictionaries with such a list as `array`."""
    if isinstance(feature, dict):
        return "array" in feature
    return isinstance(feature, datasets.Audio) or getattr(feature, "feature", None) in (
        datasets.Value("float32"),
        datasets.Value("float64"),
    )


def load_audio_folders(folders: dict[str, str], **kwargs: Any) -> datasets.DatasetDict:
    """Files in a folder for each class; `datasets`' own loader for them needs torchcodec."""
    files = {
        split: sorted(path for path in Path(folder).glob("*/*") if path.suffix.lower() in FILE_TYPES)
        for split, folder in folders.items()
    }
    for split, found in files.items():
        if not found:
            raise FileNotFoundError(
                f"`{folders[split]}` has no {', '.join(FILE_TYPES)} files in a folder for each class."
            )
    names = sorted({path.parent.name for paths in files.values() for path in paths})
    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=names),
        }
    )
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "audio": [{"bytes": None, "path": str(path)} for path in paths],
                    "label": [names.index(path.parent.name) for path in paths],
                },
                features=features,
            ).cast_column("audio", datasets.Audio(decode=False))
            for split, paths in files.items()
        }
    )


AUDIO = MediaKind("audio", is_audio, load_audio_folders)


def undecoded(task: MediaTask) -> MediaTask:
    """The task with its files as they are, for [`read_audio`]."""
    for name, split in task.splits.items():
        if isinstance(split.features["audio"], datasets.Audio):
            task.splits[name] = split.cast_column("audio", datasets.Audio(decode=False))
    return task


# From rows to what the model takes


def read_audio(value: Any, array_sampling_rate: int) -> tuple[np.ndarray, int]:
    """
    The samples of a recording, from -1 to 1 and one channel, and their rate.

    Raises:
        ImportError: the package that reads such files is missing.
    """
    if not isinstance(value, dict):
        return np.asarray(value, dtype=np.float32), array_sampling_rate
    if "array" in value:
        return np.asarray(value["array"], dtype=np.float32), value.get("sampling_rate") or array_sampling_rate
    content = value["bytes"] if value.get("bytes") is not None else Path(value["path"]).read_bytes()
    if content[:4] in (b"RIFF", b"RIFX", b"RF64"):
        samples, rate = _read_wav(content)
    else:
        try:
            import soundfile
        except ImportError as error:
            raise ImportError(
                f"{value.get('path')!r} is no WAV file; `pip install soundfile` to read it, or convert it."
            ) from error
        samples, rate = soundfile.read(io.BytesIO(content))
    return (samples if samples.ndim == 1 else samples.mean(-1)).astype(np.float32), rate


def _read_wav(content: bytes) -> tuple[np.ndarray, int]:
    check_scipy()
    from scipy.io import wavfile

    rate, samples = wavfile.read(io.BytesIO(content))
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return samples, rate


def check_scipy() -> None:
    """
    Check that recordings can be read and brought to another sampling rate.

    Raises:
        ImportError: scipy is missing.
    """
    if importlib.util.find_spec("scipy") is None:
        raise ImportError("Recordings are read by scipy: pip install scipy.")


@dataclass
class EncodeAudio:
    """
    From recordings to a model's inputs, at its sampling rate.

    Args:
        extractor ([`~transformers.SequenceFeatureExtractor`]).
        max_length_seconds (`float`): of what is kept.
        array_sampling_rate (`int`, *optional*): of rows that are raw arrays; the extractor's if not given.
        at_random (`bool`): cut out a piece anywhere, not the first one.
    """

    extractor: Any
    max_length_seconds: float
    array_sampling_rate: int | None = None
    at_random: bool = False

    def __call__(self, recordings: list) -> dict[str, list]:
        """Inputs of different lengths; the collator pads them."""
        samples = [self.piece(recording) for recording in recordings]
        return self.extractor(samples, sampling_rate=self.extractor.sampling_rate)

    def piece(self, recording: Any) -> np.ndarray:
        """The samples that are kept; the draw is of `random`, which Trainer seeds and saves."""
        wanted = self.extractor.sampling_rate
        samples, rate = read_audio(recording, self.array_sampling_rate or wanted)
        longest = round(self.max_length_seconds * rate)
        if len(samples) > longest:
            start = random.randint(0, len(samples) - longest) if self.at_random else 0
            samples = samples[start : start + longest]
        if rate != wanted:
            check_scipy()
            from scipy.signal import resample_poly

            common = math.gcd(rate, wanted)
            samples = resample_poly(samples, wanted // common, rate // common).astype(np.float32)
        return samples
