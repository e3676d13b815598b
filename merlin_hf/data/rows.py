"""Labelled rows of a task, with a number for the content of each."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np

from ..utils.validation import ConfigError, did_you_mean
from .columns import ColumnOptions, check_text_columns, find_text_columns, warn_of_empty_texts
from .images import IMAGES, is_image
from .load import load_dataset
from .media import check_media
from .tasks import IMAGE, TEXT, TRAIN, Task, find_labels_of


class DataSection(Protocol):
    """The part of a configuration that names a data set; it has a field for the name of each split as well."""

    path: str
    name: str | None
    text_columns: list[str] | str | None
    image_column: str | None
    label_column: str | None
    problem_type: str | None


@dataclass
class Rows:
    """
    Labelled rows of a task.

    Args:
        dataset (`datasets.Dataset`): the columns of the task as they are stored, and `label`.
        task ([`~merlin_hf.data.tasks.Task`]): its columns (of texts, or the one of images) and labels.
        kind (`str`): `"text"` or `"image"`.
        labels (`np.ndarray` of shape `(n,)`): places of classes among the names, or real numbers.
        digests (`np.ndarray` of shape `(n,)`, `uint64`): a number for the content of each row, without its label.
    """

    dataset: datasets.Dataset
    task: Task
    kind: str
    labels: np.ndarray
    digests: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: list[int]) -> "Rows":
        """Return the rows of these numbers."""
        return Rows(self.dataset.select(rows), self.task, self.kind, self.labels[rows], self.digests[rows])

    @property
    def is_regression(self) -> bool:
        """Whether labels are real numbers."""
        return self.task.labels.is_regression

    @property
    def ids(self) -> np.ndarray:
        """The output of the model for each row's class, or the real number."""
        return self.labels if self.is_regression else np.asarray(self.task.labels.ids, dtype=np.int64)[self.labels]

    @cached_property
    def identity(self) -> str:
        """A text that changes when a row, a label or their order does."""
        content = self.digests.tobytes() + np.ascontiguousarray(self.labels).tobytes()
        return hashlib.blake2b(content, digest_size=8).hexdigest()


def load_rows(section: DataSection, key: str, split: str, as_flags: bool = False) -> Rows:
    """
    Load the labelled rows of one split; see [`load_splits_of`].

    Args:
        split (`str`): the field of `section` that names the split.
    """
    return load_splits_of(section, key, {TRAIN: split}, as_flags)[TRAIN]


def load_splits_of(
    section: DataSection, key: str, splits: Mapping[str, str], as_flags: bool = False
) -> dict[str, Rows]:
    """
    Load the labelled rows of splits of one task, with the same columns and classes.

    Args:
        section ([`DataSection`]): the part of the configuration that names the data set.
        key (`str`): how it is called there, for messages.
        splits (mapping of `str`): from `"train"` and `"test"` to the fields of `section` that name the splits.
        as_flags (`bool`): whether messages call the path `key` and the options by their names alone, as on a command line; else
            `key.path` and so on, as in a file.

    Raises:
        ConfigError: there is no such split or column, or no row with a label; the message names the key.
    """
    prefix = "" if as_flags else f"{key}."
    argument = key if as_flags else f"{key}.path"
    loaded, origins = datasets.DatasetDict(), {}
    for name, field in splits.items():
        split = getattr(section, field)
        whole = f"`{argument}={section.path!r}`, split {split!r}," if as_flags else None
        origins[name] = whole or f"`{prefix}{field}={split!r}` of {section.path!r}"
        loaded[name] = _load(section, argument, split, origins[name])
    options = ColumnOptions(
        text_columns=section.text_columns,
        label_column=section.label_column,
        problem_type=section.problem_type,
        names={
            **{name: f"{prefix}{name}" for name in ("text_columns", "label_column", "problem_type")},
            "labels_by_number": None,
        },
    )
    loaded, labels = find_labels_of(loaded, origins, argument, options, all_labelled=True)
    kind, columns = _find_columns(loaded[TRAIN], section, prefix, origins[TRAIN])
    task = Task(argument, loaded, columns, labels, origins, kind)
    for name, split in loaded.items():
        if kind == TEXT:
            check_text_columns(split, columns, origins[name], origins[TRAIN], f"{prefix}text_columns")
        elif columns[0] not in split.column_names:
            raise ConfigError(f"{origins[name]} has no column {columns[0]!r}.")
    return {name: rows_of(task, name) for name in splits}


def rows_of(task: Task, split: str) -> Rows:
    """
    Return the labelled rows of a split.

    Raises:
        ConfigError: there are fewer than two.
    """
    dataset = task.splits[split].select_columns([*task.text_columns, "label"])
    labels = dataset["label"][:]
    places = [place for place, label in enumerate(labels) if label is not None]
    if len(places) < 2:
        raise ConfigError(
            f"{task.origin(split)} has {len(places)} rows with a label. Name a split whose labels are public, such as `validation`."
        )
    column = task.text_columns[0]
    if task.kind == IMAGE:
        if isinstance(dataset.features[column], datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        where = task.origin(split).partition("=")[0].strip("`")
        check_media(dataset.add_column("row", list(range(len(dataset)))).select(places), column, IMAGES, f"`{where}`")
    dataset = dataset.select(places)
    if task.kind == TEXT:
        warn_of_empty_texts(dataset, task.text_columns, task.origin(split))
    dtype = np.float64 if task.labels.is_regression else np.int64
    found = np.asarray([labels[place] for place in places], dtype=dtype)
    return Rows(dataset, task, task.kind, found, _digests(dataset, task.text_columns))


def overlap(rows: Rows, others: Rows) -> int:
    """Count the `rows` that have the same content as one of `others`; 0 where they are not of the same kind."""
    return int(np.isin(rows.digests, others.digests).sum()) if rows.kind == others.kind else 0


def _load(section: DataSection, argument: str, split: str, origin: str) -> datasets.Dataset:
    try:
        return load_dataset(section.path, section.name, argument=argument, split=split)
    except (ValueError, FileNotFoundError) as error:
        if "split" in str(error).lower():
            reason = str(error).rpartition("cannot be read: ")[2]
            raise ConfigError(f"{origin} cannot be read: {reason}") from error
        raise ConfigError(str(error)) from error


def _find_columns(dataset: datasets.Dataset, section: DataSection, prefix: str, origin: str) -> tuple[str, list[str]]:
    images = [name for name, feature in dataset.features.items() if is_image(feature)]
    given = section.image_column
    if given is not None and given not in images:
        raise ConfigError(
            f"`{prefix}image_column` must be one of the image columns {images}, got {given!r}.{did_you_mean(given, images)}"
        )
    if given is None and len(images) > 1 and section.text_columns is None:
        raise ConfigError(
            f"{origin} has the columns of images {', '.join(images)}: name one by `{prefix}image_column`."
        )
    if given is not None or (images and section.text_columns is None):
        return IMAGE, [given or images[0]]
    return TEXT, find_text_columns(dataset, section.text_columns, f"{prefix}text_columns", origin)


def _digests(dataset: datasets.Dataset, columns: list[str]) -> np.ndarray:
    dataset = dataset.select_columns(columns)
    digests = []
    for batch in dataset.iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            digest = hashlib.blake2b(digest_size=8)
            for value in values:
                if isinstance(value, dict):
                    value = _image_content(value)
                content = value if isinstance(value, bytes) else str(value).encode()
                digest.update(len(content).to_bytes(8, "big") + content)
            digests.append(int.from_bytes(digest.digest(), "big"))
    return np.asarray(digests, dtype=np.uint64)


def _image_content(image: dict[str, Any]) -> bytes | str:
    """Return the bytes of an image, in the row or in a file; its path where that is neither, as within an archive."""
    if image["bytes"] is not None:
        return image["bytes"]
    path = Path(image["path"])
    return path.read_bytes() if path.is_file() else image["path"]
