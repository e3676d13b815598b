"""The program for audio, on generated tones and a tiny Wav2Vec2."""

import io
import json

import datasets
import numpy as np
import pytest
import run_audio_classification as program
import torch
import transformers
from scipy.io import wavfile
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

from merlin_hf.data import audio
from tests.tiny import TINY_CLASSIFIERS


RATE = 800  # of the model; the files have twice as many samples a second
TARGET = {"high": 90, "low": 20, "middle": 45}  # cycles a second
SOURCE = {"a": 15, "b": 30, "c": 60, "d": 110}


def tone(frequency, draw, rate=2 * RATE):
    """Half a second or a little more of a sine wave with noise, from -1 to 1."""
    seconds = np.arange(int(rate * draw.uniform(0.5, 0.6))) / rate
    wave = np.sin(2 * np.pi * (frequency * seconds + draw.uniform()))
    return (0.5 * wave + 0.05 * draw.normal(size=len(seconds))).clip(-1, 1)


def wav(samples, rate=2 * RATE, kind=np.int16):
    content = io.BytesIO()
    wavfile.write(content, rate, (samples * np.iinfo(kind).max).astype(kind))
    return content.getvalue()


def folders(root, frequencies, count, seed):
    draw = np.random.default_rng(seed)
    for number in range(count):
        name = sorted(frequencies)[number % len(frequencies)]
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{number}.wav").write_bytes(wav(tone(frequencies[name], draw)))
    return str(root)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders with target and source, and a tiny Wav2Vec2 without a head."""
    root = tmp_path_factory.mktemp("audio")
    folders(root / "train", TARGET, 30, seed=1)
    folders(root / "validation", TARGET, 30, seed=2)
    folders(root / "source", SOURCE, 48, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        TINY_CLASSIFIERS["wav2vec2"]().wav2vec2.save_pretrained(root / "model")
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=False).save_pretrained(root / "model")
    return root


def options(root, output_dir, *more):
    return [
        *("--model_name_or_path", str(root / "model"), "--output_dir", str(output_dir), "--use_cpu"),
        *("--per_device_train_batch_size", "12", "--learning_rate", "3e-3", "--logging_steps", "1"),
        *("--report_to", "none", "--disable_tqdm", "True", "--freeze_feature_encoder", "False", *more),
    ]


def results(output_dir):
    return json.loads((output_dir / "all_results.json").read_text())


def test_folders_of_wav_files(root, tmp_path):
    output = tmp_path / "out"
    data = ["--train_dir", str(root / "train"), "--validation_dir", str(root / "validation")]
    data += ["--test_dir", str(root / "validation"), "--source_train_dir", str(root / "source")]
    program.main([*options(root, output, *data), "--max_steps", "25", "--do_train", "--do_eval", "--do_predict"])
    found = results(output)
    assert (found["train_samples"], found["source_samples"], found["eval_samples"]) == (30, 48, 30)
    assert found["eval_accuracy"] > 0.6, "three classes"
    assert found["predict_accuracy"] == found["eval_accuracy"]

    model = AutoModelForAudioClassification.from_pretrained(output).eval()
    assert type(model) is transformers.Wav2Vec2ForSequenceClassification
    assert model.config.id2label == dict(enumerate(sorted(TARGET)))
    extractor = AutoFeatureExtractor.from_pretrained(output)
    encode = audio.EncodeAudio(extractor, 20.0)
    lines = (output / "predict_results.txt").read_text().splitlines()[1:]
    paths = [path for name in sorted(TARGET) for path in sorted((root / "validation" / name).iterdir())]
    with torch.no_grad():
        for path, line in list(zip(paths, lines, strict=True))[::6]:
            inputs = encode([audio.read_audio({"bytes": None, "path": str(path)})])
            said = model(input_values=torch.tensor(np.stack(inputs["input_values"]))).logits.argmax().item()
            assert model.config.id2label[said] == line.split("\t")[1]


def parquet(folder, column, features, frequencies=TARGET, count=24):
    """A data set with a column of recordings."""
    draw, names = np.random.default_rng(4), sorted(frequencies)
    labels = [number % len(names) for number in range(count)]
    rows = {"label": labels, "audio": [column(tone(frequencies[names[label]], draw)) for label in labels]}
    features = datasets.Features({"label": datasets.ClassLabel(names=names), "audio": features})
    rows = datasets.Dataset.from_dict(rows, features=features)
    if isinstance(features["audio"], dict) and "bytes" in features["audio"]:
        # `Audio` itself needs torchcodec to take a row, but not to be the name of what is there.
        rows = rows.cast_column("audio", datasets.Audio(decode=False)).cast_column("audio", datasets.Audio())
    rows.to_parquet(folder / "train.parquet")
    return ["--dataset_name", str(folder)]


@pytest.mark.parametrize("kind", ["files", "arrays", "dictionaries"])
def test_columns(kind, root, tmp_path):
    numbers = datasets.Sequence(datasets.Value("float32"))
    column, features = {
        "files": (
            lambda samples: {"bytes": wav(samples), "path": "x.wav"},
            {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        ),
        "arrays": (lambda samples: samples, numbers),
        "dictionaries": (
            lambda samples: {"array": samples, "sampling_rate": 2 * RATE},
            {"array": numbers, "sampling_rate": datasets.Value("int32")},
        ),
    }[kind]
    data = parquet(tmp_path / "data", column, features)
    data += ["--source_train_dir", str(root / "source"), "--array_sampling_rate", str(2 * RATE)]
    # Half a second of the model's rate, whatever the recording's is.
    seen = []
    piece = audio.EncodeAudio.crop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio.EncodeAudio, "crop", lambda *args: seen.append(piece(*args)) or seen[-1])
        more = [
            "--max_steps",
            "2",
            "--do_train",
            "--do_eval",
            "--max_length_seconds",
            "0.5",
            "--train_val_split",
            "0.25",
        ]
        program.main([*options(root, tmp_path / "out", *data), *more])
    assert {len(samples) for samples in seen} == {RATE // 2}
    assert (results(tmp_path / "out")["train_samples"], results(tmp_path / "out")["eval_samples"]) == (18, 6)


def test_a_folder_without_recordings_is_told(root, tmp_path, refused):
    (tmp_path / "empty" / "a").mkdir(parents=True)
    arguments = options(root, tmp_path / "out", "--train_dir", str(tmp_path / "empty"))
    refused(program.main, arguments, "has no recordings in a folder for each class")
