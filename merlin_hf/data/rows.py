"""Load labelled rows of a task, with a number for the content of each."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np

from ..utils.validation import ConfigError
from .columns import ColumnOptions, warn_of_empty_texts
from .media import check_media
from .tasks import MEDIA, TAGGED, TEXT, TRAIN, DataSpec, Task, load_splits, make_task


class DataSection(Protocol):
    """The part of a configuration that names a data set; it has a field for the name of each split as well."""

    path: str
    name: str | None
    text_columns: list[str] | str | None
    image_column: str | None
    label_column: str | None

    @property
    def problem_type(self) -> str | None:
        """Return `regression`, or another problem type of transformers; `None` where the labels decide."""


@dataclass
class Rows:
    """
    Labelled rows of a task.

    Args:
        dataset (`datasets.Dataset`): the columns of the task as they are stored, and `label`.
        kind (`str`): `"text"`, `"image"` or `"tagged sentence"`.
        labels (`np.ndarray` of shape `(n,)`): places of classes among the names, or real numbers; zeros where each
            word has a label.
        digests (`np.ndarray` of shape `(n,)`, `uint64`): a number for the content of each row, without its label; of a
            tagged sentence with its tags.
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
        """Return whether labels are real numbers."""
        return self.task.labels.is_regression

    @property
    def ids(self) -> np.ndarray:
        """Return the output of the model for each row's class, or the real number."""
        return self.labels if self.is_regression else np.asarray(self.task.labels.ids, dtype=np.int64)[self.labels]

    @cached_property
    def identity(self) -> str:
        """Return a text that changes when a row, a label or their order does."""
        content = self.digests.tobytes() + np.ascontiguousarray(self.labels).tobytes()
        return hashlib.blake2b(content, digest_size=8).hexdigest()


def load_rows(section: DataSection, key: str, split: str, as_flags: bool = False) -> Rows:
    """Load the labelled rows of the split that the field `split` of `section` names; see [`load_splits_of`]."""
    return load_splits_of(section, key, {TRAIN: split}, as_flags)[TRAIN]


def load_splits_of(
    section: DataSection, key: str, splits: Mapping[str, str], as_flags: bool = False
) -> dict[str, Rows]:
    """
    Load the labelled rows of splits of one task, with the same columns and classes.

    Args:
        section ([`DataSection`]): the part of the configuration that names the data set, called `key` there.
        splits (mapping of `str`): from `"train"` and `"test"` to the fields of `section` that name the splits.
        as_flags (`bool`): whether messages call the path `key` and the options by their names alone, as on a command
            line; else `key.path` and so on, as in a file. A ConfigError names the key.
    """
    prefix = "" if as_flags else f"{key}."
    options = ("text_columns", "image_column", "label_column", "problem_type")
    names: dict[str, str | None] = {name: f"{prefix}{name}" for name in options}
    spec = DataSpec(
        argument=key if as_flags else f"{key}.path",
        path=section.path,
        name=section.name,
        split_names={split: getattr(section, field) for split, field in splits.items()},
        split_options={split: f"{prefix}{field}" for split, field in splits.items()},
        kind=None,
        options=ColumnOptions(
            text_columns=section.text_columns,
            media_column=section.image_column,
            label_column=section.label_column,
            problem_type=section.problem_type,
            names={**names, "media_column": names["image_column"], "labels_by_number": None},
        ),
        prefix=prefix,
    )
    try:
        loaded, origins = load_splits(spec)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    task = make_task(loaded, origins, spec, all_labelled=True)
    return {name: rows_of(task, name) for name in splits}


def rows_of(task: Task, split: str) -> Rows:
    """Return the rows of a split that have a label; a ConfigError if there are fewer than two."""
    places = [place for place, label in enumerate(task.splits[split]["label"]) if label is not None]
    if len(places) < 2:
        raise ConfigError(
            f"{task.origin(split)} has {len(places)} rows with a label. Name a split whose labels are public, such as "
            "`validation`."
        )
    dataset = task.splits[split].select(places)
    if task.kind == TEXT:
        dataset = dataset.select_columns([*task.columns, "label"])
        warn_of_empty_texts(dataset, task.columns, task.origin(split))
    elif task.kind == TAGGED:  # any rows may be drawn; their tags are part of what they are
        digests = _digests(dataset, [*task.columns, "label"])
        return Rows(dataset, task, task.kind, np.zeros(len(dataset), dtype=np.int64), digests)
    else:
        check_media(dataset, task.columns[0], MEDIA[task.kind], task.origin(split).rstrip(","))
    labels = np.asarray(dataset["label"], dtype=np.float64 if task.labels.is_regression else np.int64)
    return Rows(dataset, task, task.kind, labels, _digests(dataset, task.columns))


def overlap(rows: Rows, others: Rows) -> int:
    """Count the `rows` that have the same content as one of `others`; 0 where they are not of the same kind."""
    return int(np.isin(rows.digests, others.digests).sum()) if rows.kind == others.kind else 0


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
