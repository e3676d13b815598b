"""Run a saved model on labelled rows: its logits, and the features that enter its last layer."""

import argparse
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedModel,
    default_data_collator,
)

from ..data.audio import EncodeAudio
from ..data.columns import GLUE, GLUE_COLUMNS, ColumnOptions
from ..data.encoding import count_cut, encode_media, encode_texts
from ..data.images import EncodeImages, mode_of
from ..data.labels import REGRESSION, SINGLE_LABEL, Labels
from ..data.models import longest_text, model_names, pad_by_known_token
from ..data.sentence_encoders import text_collator
from ..data.tasks import AUDIO, IMAGE, TEXT, VALIDATION, DataSpec, Task, load_splits, make_task, select
from ..scripts.data_arguments import AudioDataArguments
from ..transfer.labels import MULTI_LABEL
from ..transfer.model import TransferModel
from ..utils.files import FileError
from ..utils.validation import ConfigError, did_you_mean
from .saved_model import SavedModel, read_saved


logger = logging.getLogger("merlin_hf.cli")

ROWS = {TEXT: "texts", IMAGE: "images", AUDIO: "recordings"}
# Flags that are not for models of all kinds.
KINDS_OF_FLAGS = {
    **dict.fromkeys(("task_name", "validation_file", "text_columns"), (TEXT,)),
    "image_column": (IMAGE,),
    "validation_dir": (IMAGE, AUDIO),
    **dict.fromkeys(("audio_column", "array_sampling_rate"), (AUDIO,)),
}
SPLITS = ("validation", "validation_matched", "test")


@dataclass
class EncodedRows:
    """Labelled rows as a model takes them, where they are from, and how many texts were cut to what length."""

    dataset: datasets.Dataset
    collator: Callable[[list], dict[str, Any]]
    labels: Labels
    split: str
    cut: int | None = None
    max_length: int | None = None
    warning: str | None = None


def load_saved(arguments: argparse.Namespace) -> SavedModel:
    """Find out which classifier the arguments name; raise a ConfigError if there is none, or no adapter."""
    saved = read_saved(arguments.model, arguments.base_model)
    if arguments.base_model is not None and saved.adapter is None:
        raise ConfigError(f"`--base_model` is for adapters, and {arguments.model!r} is a whole model.")
    return saved


def check_no_flags(saved: SavedModel, arguments: argparse.Namespace) -> None:
    """Raise a ConfigError if a flag is given that is about another kind of data."""
    for name, kinds in KINDS_OF_FLAGS.items():
        if saved.kind not in kinds and getattr(arguments, name, None) is not None:
            about = " or ".join(ROWS[kind] for kind in kinds)
            raise ConfigError(f"`{name}` is about {about}, and the model is one of {ROWS[saved.kind]}.")


def load_rows(saved: SavedModel, arguments: argparse.Namespace) -> EncodedRows:
    """Load the rows that the arguments of [`~merlin_hf.cli.evaluate.add_data_arguments`] name."""
    check_no_flags(saved, arguments)
    task, split = _load_task(saved, arguments)
    limit = arguments.max_eval_samples
    if saved.kind != TEXT:
        encode, collator = media_encoder(saved, arguments.array_sampling_rate)
        return EncodedRows(encode_media(task, VALIDATION, encode, limit), collator, task.labels, split)
    tokenizer, max_length = text_encoder(saved, arguments.max_seq_length)
    encoded = encode_texts(task, VALIDATION, tokenizer, max_length, limit)
    texts = select(task, VALIDATION, limit)
    cut = count_cut([texts[name] for name in task.columns], encoded["input_ids"], tokenizer, max_length)
    warning = cut_warning(cut, len(encoded), max_length, arguments.max_seq_length)
    return EncodedRows(encoded, text_collator(tokenizer), task.labels, split, cut, max_length, warning)


def cut_warning(cut: int, rows: int, max_length: int, asked: int) -> str | None:
    """Return the warning about texts that a model was not shown in full; `None` where there are none."""
    if not cut:
        return None
    remedy = "which is all that the model takes" if max_length < asked else "`--max_seq_length` takes more"
    return f"{cut} of {rows} rows were cut to {max_length} tokens; {remedy}"


def text_encoder(saved: SavedModel, max_seq_length: int) -> tuple[Any, int]:
    """Load the tokenizer of a model; return it with the number of tokens that the model is shown, at most."""
    tokenizer = saved.load_processor(AutoTokenizer)
    pad_by_known_token(getattr(tokenizer, "tokenizer", tokenizer), saved.config)  # a sentence encoder's is inside
    return tokenizer, longest_text(tokenizer, saved.config, max_seq_length)


def media_encoder(
    saved: SavedModel, array_sampling_rate: int | None = None
) -> tuple[Callable[[list], dict[str, Any]], Callable[[list], dict[str, Any]]]:
    """Load what makes inputs of images or recordings, and the collator that makes a batch of these."""
    if saved.kind == IMAGE:
        # The PIL backend needs no torchvision, and gives the same pixels with and without it.
        processor = saved.load_processor(AutoImageProcessor, backend="pil")
        return EncodeImages(processor, mode_of(saved.config)), default_data_collator
    extractor = saved.load_processor(AutoFeatureExtractor)
    encode = EncodeAudio(extractor, AudioDataArguments.max_length_seconds, array_sampling_rate)
    return encode, DataCollatorWithPadding(extractor)


def usual_problem_type(config: PretrainedConfig) -> str:
    """Return the problem type of a model by its configuration, else by its number of outputs."""
    return config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)


def _load_task(saved: SavedModel, arguments: argparse.Namespace) -> tuple[Task, str]:
    """Load the data that the arguments name as a validation split; return also what that split is called there."""
    names = ("task_name", "dataset_name", "validation_file", "validation_dir")
    argument = next(name for name in names if getattr(arguments, name) is not None)
    task_name = arguments.task_name and arguments.task_name.lower()
    if task_name is not None and task_name not in GLUE_COLUMNS:
        raise ConfigError(
            f"`task_name` must be a GLUE task ({', '.join(GLUE_COLUMNS)}), got "
            f"{task_name!r}.{did_you_mean(task_name, GLUE_COLUMNS)}"
        )
    media_column = f"{saved.kind}_column"
    spec = DataSpec(
        argument=argument,
        path=arguments.dataset_name if task_name is None else GLUE,
        name=arguments.dataset_config_name if task_name is None else task_name,
        shown=task_name,
        files={} if arguments.validation_file is None else {VALIDATION: arguments.validation_file},
        folders={} if arguments.validation_dir is None else {VALIDATION: arguments.validation_dir},
        kind=saved.kind,
        options=ColumnOptions(
            text_columns=arguments.text_columns or GLUE_COLUMNS.get(task_name),
            media_column=getattr(arguments, media_column, None),
            label_column=arguments.label_column,
            expected=usual_problem_type(saved.config),
            names={"media_column": media_column},
        ),
    )
    splits, origins = load_splits(spec)
    split = choose_split(splits, arguments.split, argument)
    may_have_several = saved.config.num_labels > 1 and saved.config.problem_type in (None, MULTI_LABEL)
    several = model_names(saved.config) if may_have_several else None
    task = make_task({VALIDATION: splits[split]}, {VALIDATION: origins[split]}, spec, several)
    return task, split


def choose_split(splits: datasets.DatasetDict, given: str | None, argument: str) -> str:
    """Return the split that is given, else one that is not trained on, else the only one."""
    known = ", ".join(splits)
    if given is not None:
        if given not in splits:
            raise ConfigError(f"`split={given!r}` is not in `{argument}`, only {known}.{did_you_mean(given, splits)}")
        return given
    found = [name for name in SPLITS if name in splits] or list(splits)
    if found[0] not in SPLITS and len(found) > 1:
        raise ConfigError(f"`{argument}` has the splits {known}: name one by `--split`.")
    if found[0] not in SPLITS:
        logger.warning(
            f"`{argument}` has only the split {found[0]!r}: a model that was trained on it knows these rows."
        )
    return found[0]


def batches(rows: EncodedRows, batch_size: int, device: torch.device) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yield the model's inputs, and the labels of their rows."""
    for batch in DataLoader(rows.dataset, batch_size, collate_fn=rows.collator):
        labels = batch.pop("labels")
        yield {name: value.to(device) for name, value in batch.items()}, labels.numpy()


def device_of(arguments: argparse.Namespace) -> torch.device:
    """Return where a model is run: on a GPU if there is one and `--use_cpu` is not given."""
    return torch.device("cuda" if torch.cuda.is_available() and not arguments.use_cpu else "cpu")


def check_finite(logits: np.ndarray, model: str) -> None:
    """Raise a FileError if some of the answers of a model are not finite."""
    broken = int((~np.isfinite(logits)).reshape(len(logits), -1).any(-1).sum())
    if broken:
        raise FileError(
            f"{model!r} answers {broken} of {len(logits)} rows with NaN or infinity: its training has diverged, or "
            "its weights are damaged."
        )


@torch.no_grad()
def logits_of(model: PreTrainedModel, inputs: dict[str, Any]) -> np.ndarray:
    """Return the logits of a batch, `(n, num_labels)` in double precision."""
    outputs = model(**{name: value.to(model.device) for name, value in inputs.items()})
    return outputs.logits.double().cpu().numpy()


def predict_logits(model: PreTrainedModel, rows: EncodedRows, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits `(n, num_labels)` in double precision, and labels `(n,)` or `(n, classes)` of the data."""
    logits, labels = [], []
    for inputs, of_batch in batches(rows, batch_size, model.device):
        logits.append(logits_of(model, inputs))
        labels.append(of_batch if rows.labels.is_multi_label else of_batch.reshape(-1))
    return np.concatenate(logits), np.concatenate(labels)


@torch.no_grad()
def features(model: PreTrainedModel, rows: EncodedRows, batch_size: int) -> np.ndarray:
    """Return what enters the last layer of a model, `(n, hidden_size)`."""
    found = []
    transfer_model = TransferModel(model, num_source_labels=0)
    with transfer_model.feature_mode():
        for inputs, _ in batches(rows, batch_size, model.device):
            found.append(transfer_model.features(inputs).float().cpu().numpy())
    return np.concatenate(found)
