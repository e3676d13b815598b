r"""
Train an audio classifier on a small target task with the help of a large source task:

    accelerate launch examples/run_audio_classification.py --model_name_or_path facebook/wav2vec2-base \
        --dataset_name PolyAI/minds14 --dataset_config_name fr-FR --label_column_name intent_class \
        --source_dataset_name PolyAI/minds14 --source_dataset_config_name en-US --source_label_column_name intent_class \
        --max_steps 500 --per_device_train_batch_size 32 --do_train --do_eval --output_dir french-intents-merlin

    python examples/run_audio_classification.py --model_name_or_path FOLDER --train_dir FOLDER \
        --source_train_dir FOLDER --max_steps 100 --do_train --do_eval --output_dir runs/audio

Rows are a column of `datasets.Audio`, of raw arrays (lists of numbers at `--array_sampling_rate`), or `.wav` files in a folder
for each class. WAV is read by SciPy, so that neither torchcodec nor FFmpeg is needed; other formats need soundfile.
"""

import io
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, DataCollatorWithPadding, set_seed

from merlin_hf.scripts.image_classification import (
    load_data,
    load_model,
    make_program,
    parse_args,
    publish,
)
from merlin_hf.scripts.image_tasks import MediaArguments, MediaKind, MediaTask, load_task
from merlin_hf.scripts.model_arguments import BaseModelArguments
from merlin_hf.scripts.text_classification import Program, choose_method, run, setup_logging


FILE_TYPES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass
class ModelArguments(BaseModelArguments):
    """[`BaseModelArguments`] for audio."""

    feature_extractor_name: str | None = field(
        default=None, metadata={"help": "Feature extractor, if not the model's."}
    )
    freeze_feature_encoder: bool = field(
        default=True, metadata={"help": "Leave the convolutions at the bottom of a Wav2Vec2 as they are."}
    )


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


def load_audio_folders(folders: dict[str, str], **kwargs) -> datasets.DatasetDict:
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
        ImportError: the file is no WAV, and soundfile is missing.
    """
    if not isinstance(value, dict):
        return np.asarray(value, dtype=np.float32), array_sampling_rate
    if "array" in value:
        return np.asarray(value["array"], dtype=np.float32), value.get("sampling_rate") or array_sampling_rate
    content = value["bytes"] if value.get("bytes") is not None else Path(value["path"]).read_bytes()
    if content[:4] in (b"RIFF", b"RIFX", b"RF64"):
        rate, samples = wavfile.read(io.BytesIO(content))
        if samples.dtype == np.uint8:
            samples = (samples.astype(np.float32) - 128) / 128
        elif samples.dtype.kind == "i":
            samples = samples / -float(np.iinfo(samples.dtype).min)
    else:
        try:
            import soundfile
        except ImportError as error:
            raise ImportError(
                f"{value.get('path')!r} is no WAV file; `pip install soundfile` to read it, or convert it."
            ) from error
        samples, rate = soundfile.read(io.BytesIO(content))
    return (samples if samples.ndim == 1 else samples.mean(-1)).astype(np.float32), rate


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
            common = math.gcd(rate, wanted)
            samples = resample_poly(samples, wanted // common, rate // common).astype(np.float32)
        return samples


def build(model_args: ModelArguments, data_args: DataTrainingArguments, args) -> Program:
    """Load what the arguments name, and make the trainer; nothing is trained."""
    args.remove_unused_columns = False  # rows are encoded when read, from columns that the model does not take
    trainer_class = choose_method(model_args, data_args, args.do_train)
    with args.main_process_first(desc="loading data"):
        hub = {"cache_dir": model_args.cache_dir, "token": model_args.token}
        target = undecoded(load_task(data_args, kind=AUDIO, **hub))
        wants_source = args.do_train and data_args.has_source and trainer_class.takes_source
        source = undecoded(load_task(data_args, "source_", AUDIO, **hub)) if wants_source else None
        model = load_model(model_args, target.labels, AutoModelForAudioClassification)
        if model_args.freeze_feature_encoder and hasattr(model, "freeze_feature_encoder"):
            model.freeze_feature_encoder()
        extractor = AutoFeatureExtractor.from_pretrained(
            model_args.feature_extractor_name or model_args.model_name_or_path, **model_args.hub_options
        )
        options = (extractor, data_args.max_length_seconds, data_args.array_sampling_rate)
        encode, encode_train = EncodeAudio(*options), EncodeAudio(*options, at_random=True)
        data = load_data(target, source, data_args, args, encode, encode_train)
    return make_program(
        trainer_class,
        model,
        extractor,
        DataCollatorWithPadding(extractor),
        args,
        data,
        target,
        source,
        publish=lambda trainer: publish(trainer, model_args, data_args, task="audio-classification"),
    )


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict as the arguments say."""
    model_args, data_args, args = parse_args(argv, ModelArguments, DataTrainingArguments)
    setup_logging(args)
    set_seed(args.seed)
    run(build(model_args, data_args, args))


if __name__ == "__main__":
    main()
