"""The rows of a task as they are stored, with what is known about their columns and labels."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..data import load_dataset
from ..data.images import IMAGES, is_image
from ..data.media import check_media
from ..scripts.text_tasks import Labels, Task, find_labels, find_text_columns, labelled_rows
from .config import SourceConfig, TargetConfig
from .values import ConfigError, did_you_mean, first_sentence


TEXT, IMAGE = "text", "image"


@dataclass
class Rows:
    """
    Labelled rows of a task.

    Args:
        dataset (`datasets.Dataset`): the columns of the task and `label`, as they are stored.
        task ([`~merlin_hf.scripts.text_tasks.Task`]): its columns (of texts, or the one of images) and labels.
        kind (`str`): `"text"` or `"image"`.
        labels (`np.ndarray` of shape `(n,)`): ids of classes, or real numbers.
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
        """The rows of these numbers."""
        return Rows(self.dataset.select(rows), self.task, self.kind, self.labels[rows], self.digests[rows])

    @property
    def is_regression(self) -> bool:
        """Whether labels are real numbers."""
        return self.task.labels.is_regression

    @cached_property
    def identity(self) -> str:
        """A text that changes when a row, a label or their order does."""
        content = self.digests.tobytes() + np.ascontiguousarray(self.labels).tobytes()
        return hashlib.blake2b(content, digest_size=8).hexdigest()


def load_rows(section: TargetConfig | SourceConfig, key: str, split: str, like: Rows | None = None) -> Rows:
    """
    The labelled rows of a split.

    Args:
        section: the part of the configuration that names the data set.
        key (`str`): how it is called there, for messages.
        split (`str`): the field of `section` that names the split.
        like ([`Rows`], *optional*): other rows of the same task, whose columns and labels these have.

    Raises:
        ConfigError: there is no such data set, split or column, or no row with a label.
    """
    dataset = _load(section, key, split)
    dataset = _name_label(dataset, section.label_column, key)
    if like is None:
        kind, columns = _find_columns(dataset, section, key)
        task = Task(f"{key}.path", datasets.DatasetDict(), columns, _find_labels(dataset, key))
    else:
        kind, task = like.kind, like.task
    missing = [name for name in task.text_columns if name not in dataset.column_names]
    if missing:
        raise ConfigError(f"`{key}.{split}={getattr(section, split)!r}` has no column {missing[0]!r}.")
    try:
        rows = labelled_rows(dataset, task)
    except ValueError as error:
        raise ConfigError(f"`{key}.{split}`: {error}") from None
    if len(rows) < 2:
        raise ConfigError(
            f"`{key}.{split}={getattr(section, split)!r}` has {len(rows)} rows with a label. Name a split whose labels are "
            "public, such as `validation`."
        )
    dataset = dataset.select_columns([*task.text_columns, "label"])
    if kind == IMAGE:
        dataset = _checked_images(dataset, rows, task.text_columns[0], f"{key}.{split}")
    dataset = dataset.select(rows)
    return Rows(dataset, task, kind, _label_ids(dataset, task.labels), _digests(dataset, task, kind))


def overlap(rows: Rows, others: Rows) -> int:
    """How many of `rows` have the same content as one of `others`; 0 where they are not of the same kind."""
    return int(np.isin(rows.digests, others.digests).sum()) if rows.kind == others.kind else 0


def _load(section: Any, key: str, split: str) -> datasets.Dataset:
    name = getattr(section, split)
    try:
        return load_dataset(section.path, section.name, argument=f"{key}.path", split=name)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    except ValueError as error:
        where = f"{key}.{split}" if "split" in str(error) else f"{key}.path"
        given = name if where.endswith(split) else section.path
        raise ConfigError(f"`{where}={given!r}` cannot be read: {first_sentence(error)}") from error


def _name_label(dataset: datasets.Dataset, given: str | None, key: str) -> datasets.Dataset:
    names = dataset.column_names
    classes = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]
    found = given or next((name for name in ("label", "labels") if name in names), None)
    if found is None and len(classes) == 1:
        found = classes[0]
    if found not in names:
        start = f"`{key}.label_column={given!r}` is no column." if given else f"`{key}` has no column `label`."
        raise ConfigError(
            f"{start}{did_you_mean(given, names) if given else ''} Set `{key}.label_column` to one of {', '.join(names)}."
        )
    if found == "label":
        return dataset
    if "label" in names:
        dataset = dataset.remove_columns("label")
    return dataset.rename_column(found, "label")


def _find_columns(dataset: datasets.Dataset, section: Any, key: str) -> tuple[str, list[str]]:
    images = [name for name, feature in dataset.features.items() if is_image(feature)]
    if section.image_column is not None and section.image_column not in images:
        hint = did_you_mean(section.image_column, images)
        raise ConfigError(
            f"`{key}.image_column` must be one of the image columns {images}, got {section.image_column!r}.{hint}"
        )
    if section.image_column is not None or (images and section.text_columns is None):
        return IMAGE, [section.image_column or images[0]]
    try:
        columns = find_text_columns(dataset, section.text_columns, f"{key}.text_columns")
    except ValueError as error:
        raise ConfigError(f"{error} The columns are {', '.join(dataset.column_names)}.") from None
    return TEXT, columns


def _find_labels(dataset: datasets.Dataset, key: str) -> Labels:
    try:
        return find_labels(dataset, f"{key}.path")
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _label_ids(dataset: datasets.Dataset, labels: Labels) -> np.ndarray:
    column = dataset["label"][:]
    if labels.is_regression:
        return np.asarray(column, dtype=np.float64)
    ids = dict(zip(labels.values, labels.ids, strict=True))
    return np.asarray([ids[label] for label in column], dtype=np.int64)


def _checked_images(dataset: datasets.Dataset, rows: list[int], column: str, argument: str) -> datasets.Dataset:
    """Return the data set with its images as they are stored, after a check that those of some rows can be read."""
    if isinstance(dataset.features[column], datasets.Image):
        dataset = dataset.cast_column(column, datasets.Image(decode=False))
    try:
        check_media(dataset.add_column("row", list(range(len(dataset)))).select(rows), column, IMAGES, f"`{argument}`")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return dataset


def _digests(dataset: datasets.Dataset, task: Task, kind: str) -> np.ndarray:
    dataset = dataset.select_columns(task.text_columns)
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
    """The bytes of an image, in the row or in a file; its path where that is neither, as within an archive."""
    if image["bytes"] is not None:
        return image["bytes"]
    path = Path(image["path"])
    return path.read_bytes() if path.is_file() else image["path"]
