"""A saved model on labelled rows: what it says, and the features that it says it by."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedModel,
    default_data_collator,
)

from ..comparison.values import ConfigError, did_you_mean, first_sentence
from ..hub.task import task_of
from ..scripts import image_tasks, text_tasks
from ..scripts.text_tasks import Labels
from ..transfer.model import TransferModel
from .programs import IMAGE, TEXT


AUTO_MODELS = {TEXT: AutoModelForSequenceClassification, IMAGE: AutoModelForImageClassification}
TAGS = {"text-classification": TEXT, "image-classification": IMAGE}
SPLITS = ("validation", "validation_matched", "test")


@dataclass
class Rows:
    """
    Labelled rows as a model takes them.

    Args:
        dataset (`datasets.Dataset`): with `labels`, numbered as in `labels.ids`.
        collator (`Callable`): makes a batch of rows.
        labels ([`~merlin_hf.scripts.text_tasks.Labels`]).
        split (`str`): where they are from.
    """

    dataset: datasets.Dataset
    collator: Callable[[list], dict[str, Any]]
    labels: Labels
    split: str


def read_config(model: str) -> PretrainedConfig:
    """
    The configuration of a saved model.

    Raises:
        ConfigError: there is none.
    """
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model!r} has no configuration of a model: {first_sentence(error)}") from error


def kind_of(config: PretrainedConfig, model: str) -> str:
    """
    `"text"` or `"image"`, by the class of the model.

    Raises:
        ConfigError: it is neither's classifier.
    """
    task = task_of(config.architectures or ())
    if task is None or task.tag not in TAGS:
        found = ", ".join(config.architectures or ()) or "a model without a class"
        raise ConfigError(f"{model!r} is {found}; what can be evaluated are classifiers of texts and of images.")
    return TAGS[task.tag]


def load_rows(kind: str, model: str, arguments: argparse.Namespace) -> Rows:
    """
    The rows that the arguments of [`~merlin_hf.cli.evaluate.add_data_arguments`] name.

    Raises:
        ValueError, FileNotFoundError: there is no such data set, split or column.
    """
    return _load_texts(model, arguments) if kind == TEXT else _load_images(model, arguments)


def _load_texts(model: str, arguments: argparse.Namespace) -> Rows:
    names = ("task_name", "dataset_name", "dataset_config_name", "validation_file", "text_columns", "label_column")
    given = {name: getattr(arguments, name) for name in names}
    if arguments.validation_dir is not None or arguments.image_column is not None:
        raise ConfigError("`validation_dir` and `image_column` are about images, and the model is one of texts.")
    data_args = text_tasks.DataTrainingArguments(
        **given, max_seq_length=arguments.max_seq_length, pad_to_max_length=False
    )
    task = text_tasks.load_task(data_args)
    split = choose_split(task.splits, arguments.split, task.argument)
    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.pad_token is None:  # decoders such as GPT-2
        tokenizer.pad_token = tokenizer.eos_token
    rows = text_tasks.select(task.splits[split], task, "validation", arguments.max_eval_samples)
    encoded = text_tasks.tokenize(rows, task, tokenizer, data_args)
    return Rows(encoded, DataCollatorWithPadding(tokenizer), task.labels, split)


def _load_images(model: str, arguments: argparse.Namespace) -> Rows:
    about_texts = [name for name in ("task_name", "validation_file", "text_columns") if getattr(arguments, name)]
    if about_texts:
        raise ConfigError(
            f"`{about_texts[0]}` is about texts, and the model is one of images: give `dataset_name` or `validation_dir`."
        )
    split = {} if arguments.split is None else {"validation_split_name": arguments.split}
    data_args = image_tasks.DataTrainingArguments(
        dataset_name=arguments.dataset_name,
        dataset_config_name=arguments.dataset_config_name,
        validation_dir=arguments.validation_dir,
        label_column_name=arguments.label_column,
        image_column_name=arguments.image_column,
        train_val_split=0,
        **split,
    )
    task = image_tasks.load_task(data_args)
    chosen = choose_split(task.splits, arguments.split and "validation", task.argument)
    task.splits["validation"] = task.splits[chosen]
    # The PIL backend needs no torchvision, and gives the same pixels with and without it.
    encode = image_tasks.EncodeImages(AutoImageProcessor.from_pretrained(model, backend="pil"))
    rows = image_tasks.prepare(task, "validation", arguments.max_eval_samples, encode)
    return Rows(rows, default_data_collator, task.labels, arguments.split or chosen)


def choose_split(splits: datasets.DatasetDict, given: str | None, argument: str) -> str:
    """
    The split that is given, else one that is not trained on, else the only one.

    Raises:
        ConfigError: there is no such split.
    """
    known = ", ".join(splits)
    if given is not None:
        if given not in splits:
            raise ConfigError(f"`split={given!r}` is not in `{argument}`, only {known}.{did_you_mean(given, splits)}")
        return given
    found = [name for name in SPLITS if name in splits] or list(splits)
    if found[0] not in SPLITS and len(found) > 1:
        raise ConfigError(f"`{argument}` has the splits {known}: name one by `--split`.")
    return found[0]


def load_model(kind: str, model: str, device: torch.device, **options: Any) -> PreTrainedModel:
    """
    The classifier, to be evaluated.

    Raises:
        ConfigError: it cannot be loaded.
    """
    try:
        loaded = AUTO_MODELS[kind].from_pretrained(model, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{model!r} cannot be loaded: {first_sentence(error)}") from error
    return loaded.to(device).eval()


def batches(rows: Rows, batch_size: int, device: torch.device) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """The model's inputs, and the labels of their rows."""
    for start in range(0, len(rows.dataset), batch_size):
        batch = rows.collator([rows.dataset[row] for row in range(start, min(start + batch_size, len(rows.dataset)))])
        labels = batch.pop("labels")
        yield {name: value.to(device) for name, value in batch.items()}, labels.numpy()


@torch.no_grad()
def answers(model: PreTrainedModel, rows: Rows, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """
    What a model says of rows.

    Returns:
        logits `(n, num_labels)` in double precision, and labels `(n,)` as the data set numbers them.
    """
    logits, labels = [], []
    for inputs, of_batch in batches(rows, batch_size, model.device):
        outputs = model(**inputs)
        logits.append(outputs.logits.double().cpu().numpy())
        labels.append(of_batch.reshape(-1))
    return np.concatenate(logits), np.concatenate(labels)


@torch.no_grad()
def features(model: PreTrainedModel, rows: Rows, batch_size: int) -> np.ndarray:
    """What enters the last layer of a model, `(n, hidden_size)`."""
    found = []
    transfer_model = TransferModel(model, num_source_labels=0)
    with transfer_model.attached():
        for inputs, _ in batches(rows, batch_size, model.device):
            found.append(transfer_model.features(inputs).float().cpu().numpy())
    return np.concatenate(found)


def model_ids(labels: Labels, config: PretrainedConfig, by_number: bool) -> np.ndarray:
    """
    The output of the model for each class of the data.

    Args:
        labels ([`~merlin_hf.scripts.text_tasks.Labels`]): of the data; they may be some of the model's.
        config ([`~transformers.PretrainedConfig`]): of the model.
        by_number (`bool`): take the classes by their numbers where the names are others.

    Returns:
        `np.ndarray` of shape `(classes,)`.

    Raises:
        ConfigError: names or kinds of labels do not fit together.
    """
    ids = {name.lower(): int(id) for name, id in config.label2id.items()}
    names = [name.lower() for name in labels.names]
    if all(name in ids for name in names):
        return np.array([ids[name] for name in names])
    numbers = list(labels.ids)
    if all(isinstance(value, int) for value in labels.values):
        numbers = list(labels.values)
    generic = config.label2id == PretrainedConfig(num_labels=config.num_labels).label2id
    are_numbers = all(name.isdigit() for name in names)
    if (generic or are_numbers or by_number) and 0 <= min(numbers) and max(numbers) < config.num_labels:
        return np.array(numbers)
    raise ConfigError(
        f"The data has the labels {labels.names[:20]}, the model {list(config.id2label.values())[:20]}. Give data with the model's names, or "
        f"`--labels_by_number` where both number the same {config.num_labels} classes alike."
    )
