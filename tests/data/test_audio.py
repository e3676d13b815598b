"""Recordings of all forms, beside the samples that they hold."""

import io
import sys

import datasets
import numpy as np
import pytest
from scipy.io import wavfile
from transformers import Wav2Vec2FeatureExtractor

from merlin_hf.data import media
from merlin_hf.data.audio import AUDIO, EncodeAudio, Recording, read_audio


RATE = 800
SAMPLES = np.linspace(-1, 1, 401)


def wav(samples, rate=RATE):
    content = io.BytesIO()
    wavfile.write(content, rate, samples)
    return content.getvalue()


def scaled(kind):
    if kind == np.uint8:
        return (SAMPLES * 127 + 128).astype(np.uint8)
    return (SAMPLES * (np.iinfo(kind).max if np.dtype(kind).kind == "i" else 1)).astype(kind)


@pytest.mark.parametrize(
    "value",
    [
        *[{"bytes": wav(scaled(kind)), "path": None} for kind in (np.uint8, np.int16, np.int32, np.float32)],
        {"bytes": wav(np.stack([scaled(np.int16)] * 2, 1)), "path": None},
        {"array": SAMPLES, "sampling_rate": RATE},
        {"array": np.stack([SAMPLES * 1.5, SAMPLES * 0.5]), "sampling_rate": RATE},
        {"array": np.stack([SAMPLES * 1.5, SAMPLES * 0.5], 1).tolist(), "sampling_rate": float(RATE)},
    ],
    ids=["8 bits", "16 bits", "32 bits", "real", "stereo", "array", "channels first", "lists, channels last"],
)
def test_samples_are_of_one_channel_from_minus_one_to_one(value):
    samples, rate = read_audio(value)
    assert rate == RATE and samples.dtype == np.float32
    np.testing.assert_allclose(samples, SAMPLES, atol=0.02)


def test_arrays_without_a_rate_have_none():
    assert read_audio(SAMPLES.tolist()).rate is None and read_audio({"array": SAMPLES}).rate is None


WHOLE = wav(scaled(np.int16))
LONGER = len(WHOLE).to_bytes(4, "little")  # in place of the size that the header says, 8 bytes less


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"bytes": WHOLE[: len(WHOLE) // 2], "path": "x.wav"}, "the file is cut off: 423 of 846 bytes"),
        ({"bytes": WHOLE[:20], "path": "x.wav"}, ""),
        ({"bytes": b"", "path": "x.wav"}, "the file is empty"),
        ({"bytes": b"<html>404 Not Found</html>", "path": "x.mp3"}, "it is a text|unknown|Format not"),
        ({"bytes": wav(np.array([0, np.nan], np.float32)), "path": "x.wav"}, "not finite"),
        ({"bytes": wav(np.array([], np.int16)), "path": "x.wav"}, "no samples"),
        ({"bytes": None, "path": "nowhere.wav"}, "No such file"),
        ({"bytes": None, "path": None}, "no recording in this row"),
        ({"array": np.zeros((20, 30)), "sampling_rate": 8}, r"shape \(20, 30\)"),
        ({"array": np.zeros(20), "sampling_rate": 0}, "sampling rate is 0"),
        (None, "no recording in this row"),
        (["a"], "not numbers"),
    ],
)
def test_what_cannot_be_read_is_named(value, reason):
    with pytest.raises(
        media.UnreadableMediaError, match=rf"^`source_train_dir`: row 3.* cannot be read: .*({reason})"
    ):
        media.read_media(AUDIO, value, "`source_train_dir`", 3)


@pytest.mark.parametrize(
    "content", [WHOLE[:4] + b"\xff" * 4 + WHOLE[8:], WHOLE[:4] + LONGER + WHOLE[8:], WHOLE + b"xx"]
)
def test_streams_and_sizes_that_are_off_by_a_few_bytes_are_read(content):
    assert len(read_audio({"bytes": content, "path": None}).samples) == len(SAMPLES)


@pytest.mark.parametrize("many", [False, True], ids=["in full", "by headers"])
def test_files_are_checked_before_the_first_step(many, tmp_path, monkeypatch):
    if many:
        monkeypatch.setattr(media, "CHECKED_ROWS", 1)
    for name, content in {"a": WHOLE, "b": b"", "c": WHOLE}.items():
        (tmp_path / f"{name}.wav").write_bytes(content)
    values = [{"bytes": None, "path": str(tmp_path / f"{name}.wav")} for name in "abc"]
    rows = datasets.Dataset.from_dict({"audio": values})
    with pytest.raises(
        media.UnreadableMediaError, match=r"^`train_dir`: 1 of 3 recordings .*b.wav \(the file is empty\)"
    ):
        media.check_media(rows, "audio", AUDIO, "`train_dir`")


def test_real_numbers_on_another_scale_are_warned_of(caplog):
    rows = datasets.Dataset.from_dict({"audio": [(SAMPLES * 32767).tolist(), SAMPLES.tolist()]})
    media.check_media(rows, "audio", AUDIO, "`dataset_name`")
    assert (
        "`dataset_name`: 1 recordings have real numbers far outside of -1 to 1, such as row 0 with 32767"
        in caplog.text
    )


def test_other_formats_need_soundfile(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match="'x.flac' is not a WAV file; `pip install soundfile`"):
        media.read_media(AUDIO, {"bytes": b"fLaC\x00\x00\x00", "path": "x.flac"}, "`train_dir`", 1)


def test_pieces_are_cut_at_random_for_training_only():
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE)
    recording = Recording(np.arange(10 * RATE, dtype=np.float32), RATE)
    first = EncodeAudio(extractor, 2.0)
    anywhere = EncodeAudio(extractor, 2.0, at_random=True)
    assert {first.crop(recording)[0] for _ in range(5)} == {0}
    assert len({anywhere.crop(recording)[0] for _ in range(5)}) > 2
    assert len(anywhere.crop(recording)) == 2 * RATE
    # A tone keeps its pitch when the rate changes.
    wave = Recording(np.sin(np.arange(RATE * 2) * 2 * np.pi * 50 / (RATE * 2)), RATE * 2)
    assert np.abs(np.fft.rfft(first.crop(wave))).argmax() == 50


def test_a_rate_that_is_assumed_is_said_once(caplog):
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE)
    recording = Recording(np.zeros(RATE, np.float32), None)
    given = EncodeAudio(extractor, 2.0, array_sampling_rate=2 * RATE)
    assert len(given.crop(recording)) == RATE // 2 and not caplog.records
    assumed = EncodeAudio(extractor, 2.0)
    assert len(assumed.crop(recording)) == len(assumed.crop(recording)) == RATE
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "--array_sampling_rate" in caplog.text
