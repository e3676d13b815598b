"""Read recordings as they are stored, and bring them to one channel and the sampling rate that a model takes."""

import io
import logging
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from .media import MediaKind, check_not_empty


ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
MOST_CHANNELS = 8

logger = logging.getLogger("merlin_hf.data")


class Recording(NamedTuple):
    """Samples of shape `(n,)`, from -1 to 1, and their rate, `None` where the data do not say it."""

    samples: np.ndarray
    rate: int | None


def is_audio(feature: Any) -> bool:
    """Return whether a column has recordings: `Audio`, lists of numbers, or dictionaries with such an `array`."""
    if isinstance(feature, dict):
        return "array" in feature
    return isinstance(feature, datasets.Audio) or getattr(feature, "feature", None) in (
        datasets.Value("float32"),
        datasets.Value("float64"),
    )


def read_audio(value: Any) -> Recording:
    """
    Read a recording of a file, of bytes as `datasets` stores them or of an array; channels are averaged.

    An array is of shape `(n,)`, `(n, channels)` or `(channels, n)`. Errors do not name the file; `read_media` does.
    """
    if value is None:
        raise ValueError("there is no recording in this row")
    if not isinstance(value, dict):
        return Recording(_one_channel(np.asarray(value)), None)
    if "array" in value:
        return Recording(_one_channel(np.asarray(value["array"])), _checked_rate(value.get("sampling_rate")))
    check_not_empty(value, "recording")
    content, path = value.get("bytes"), value.get("path")
    content = content if content is not None else Path(str(path)).read_bytes()
    if content[:4] in (b"RIFF", b"RIFX", b"RF64"):
        samples, rate = _read_wav(content)
    else:
        try:
            import soundfile
        except ImportError as error:
            if _is_text(content):
                raise ValueError("it is a text, not a recording") from None
            raise ImportError(
                f"{path!r} is not a WAV file; `pip install soundfile` to read it, or convert it."
            ) from error
        samples, rate = soundfile.read(io.BytesIO(content))
    return Recording(_one_channel(samples), _checked_rate(rate))


def _is_text(content: bytes) -> bool:
    """Return whether the beginning of a file is text: printable ASCII throughout."""
    return all(32 <= byte < 127 or byte in b"\t\n\r" for byte in content[:256])


def _one_channel(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind not in "iuf":
        raise ValueError(f"its samples are not numbers ({samples.dtype})")
    if samples.size == 0:
        raise ValueError("it has no samples")
    if samples.ndim == 2 and min(samples.shape) <= MOST_CHANNELS:
        samples = samples.mean(int(np.argmin(samples.shape)))
    if samples.ndim != 1:
        raise ValueError(f"its samples have the shape {samples.shape}; give (n,), (n, channels) or (channels, n)")
    samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise ValueError("it has samples that are not finite (NaN or infinity)")
    return samples


def _checked_rate(rate: Any) -> int | None:
    if rate is None:
        return None
    if rate != int(rate) or rate < 1:
        raise ValueError(f"its sampling rate is {rate}")
    return int(rate)


def _read_wav(content: bytes) -> tuple[np.ndarray, int]:
    from scipy.io import wavfile  # half a second to import, and not needed for images and texts

    declared = 8 + int.from_bytes(content[4:8], "big" if content[:4] == b"RIFX" else "little")
    # A stream is written without its size. A few bytes less are a header's mistake.
    if content[:4] != b"RF64" and len(content) + 64 < declared != 8 + 0xFFFFFFFF:
        raise ValueError(f"the file is cut off: {len(content)} of {declared} bytes")
    rate, samples = wavfile.read(io.BytesIO(content))
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return samples, rate


def glance_at_audio(value: Any) -> Recording | None:
    """Check that a file is there and not empty; read what is not a file in full."""
    if not isinstance(value, dict) or "array" in value:
        return read_audio(value)
    check_not_empty(value, "recording")
    if value.get("bytes") is None:
        os.stat(value["path"])  # raises where there is none
    return None


class _Facts(NamedTuple):
    rate: int | None
    high: float


def _facts_of(recording: Recording | None) -> _Facts | None:
    return None if recording is None else _Facts(recording.rate, float(np.abs(recording.samples).max()))


def _survey(where: str, found: list[tuple[str, _Facts]]) -> None:
    loud = [(name, facts.high) for name, facts in found if facts.high > 2]
    if loud:
        name, high = loud[0]
        logger.warning(
            f"{where}: {len(loud)} recordings have real numbers far outside of -1 to 1, such as {name} with {high:g}. "
            "They are taken as they are; divide them by the largest value that they can have."
        )


AUDIO = MediaKind(
    name="audio",
    plural="recordings",
    endings=ENDINGS,
    feature=datasets.Audio,
    is_media=is_audio,
    read=read_audio,
    glance=glance_at_audio,
    facts=_facts_of,
    survey=_survey,
)


# From recordings to what a model takes


@dataclass
class EncodeAudio:
    """
    Make a model's inputs of recordings, at its sampling rate.

    At most `max_length_seconds` are kept: the first ones, or a piece anywhere if `at_random`. Raw arrays have
    `array_sampling_rate`, in Hz; the extractor's if not given, with a warning.
    """

    extractor: Any
    max_length_seconds: float
    array_sampling_rate: int | None = None
    at_random: bool = False

    def __call__(self, recordings: list[Recording]) -> dict[str, list]:
        """Return inputs of different lengths; the collator pads them."""
        samples = [self.crop(recording) for recording in recordings]
        return self.extractor(samples, sampling_rate=self.extractor.sampling_rate)

    def crop(self, recording: Recording) -> np.ndarray:
        """Return the samples that are kept; the draw is of `random`, which Trainer seeds and saves."""
        wanted = self.extractor.sampling_rate
        samples, rate = recording
        if rate is None:
            rate = self._assumed_rate()
        longest = max(1, round(self.max_length_seconds * rate))
        if len(samples) > longest:
            start = random.randint(0, len(samples) - longest) if self.at_random else 0
            samples = samples[start : start + longest]
        if rate != wanted:
            from scipy.signal import resample_poly

            common = math.gcd(rate, wanted)
            samples = resample_poly(samples, wanted // common, rate // common).astype(np.float32)
        return samples

    def _assumed_rate(self) -> int:
        if self.array_sampling_rate is None:
            self.array_sampling_rate = self.extractor.sampling_rate
            logger.warning(
                "The recordings are arrays without a sampling rate: taken for the model's, "
                f"{self.array_sampling_rate} Hz. If it is another, give `--array_sampling_rate`."
            )
        return self.array_sampling_rate
