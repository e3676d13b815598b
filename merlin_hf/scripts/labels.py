"""What labels a task has, and rows with several of them as zeros and ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import datasets
import numpy as np


HIDDEN_LABEL = -1  # what GLUE writes where a label is not public


@dataclass
class Labels:
    """
    The labels of a task.

    Args:
        values (`list`): each label as it stands in the data set; empty for regression.
        names (`list[str]`): what it is called.
        ids (`list[int]`): the output of the model that stands for it.
        is_multi_label (`bool`): whether a row has any number of them, as zeros and ones.
    """

    values: list = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    is_multi_label: bool = False

    @property
    def is_regression(self) -> bool:
        """Whether labels are real numbers."""
        return not self.values

    @property
    def num_labels(self) -> int:
        """Outputs that a model needs."""
        return len(self.values) or 1


class LabelledTask(Protocol):
    """A task of any kind of data; `argument` is how the user named it, for messages."""

    argument: str
    labels: Labels


def find_labels(dataset: datasets.Dataset, argument: str) -> Labels:
    """The labels of a column `label`: real numbers make a regression, all else is classes."""
    feature = dataset.features.get("label")
    if not isinstance(feature, datasets.Value | datasets.ClassLabel):
        raise ValueError(
            f"`{argument}` needs a column of labels with one label per row, got the columns {dataset.features}. Name it "
            "(`label_column` of the program); for several labels per row, use `MerlinTrainer` directly."
        )
    if isinstance(feature, datasets.ClassLabel):
        return Labels(list(range(feature.num_classes)), feature.names, list(range(feature.num_classes)))
    if feature.dtype.startswith("float"):
        return Labels()
    values = sorted(value for value in dataset.unique("label") if value is not None)
    return Labels(values, [str(value) for value in values], list(range(len(values))))


# Rows with several labels


def element_of(feature: Any) -> Any | None:
    """What a column of lists has lists of; `None` for another column."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", None)


def join_label_columns(splits: datasets.DatasetDict, names: Sequence[str]) -> datasets.DatasetDict:
    """
    The splits with a column `label` made of a column of zeros and ones for each label, as csv files have them.

    Args:
        splits (`datasets.DatasetDict`): those that have `label` or `labels` already, or lack one of the columns, stay as they are.
        names (`Sequence[str]`): of the labels, in their order.
    """
    return datasets.DatasetDict({name: _joined(split, names) for name, split in splits.items()})


def _joined(split: datasets.Dataset, names: Sequence[str]) -> datasets.Dataset:
    if {"label", "labels"} & set(split.column_names) or not set(names) <= set(split.column_names):
        return split
    columns = [split[name][:] for name in names]
    # An empty cell is a label that is not known, and so is the row.
    rows = [None if None in row else [float(value) for value in row] for row in zip(*columns, strict=True)]
    feature = datasets.Sequence(datasets.Value("float32"))
    return split.remove_columns(list(names)).add_column("label", rows, feature=feature)


def several_labels(
    splits: datasets.DatasetDict, names: Sequence[str], argument: str
) -> tuple[datasets.DatasetDict, Labels] | None:
    """
    The splits with a column `label` of zeros and ones, where it has lists: of classes, of names, of ids, or of zeros and ones.

    Args:
        splits (`datasets.DatasetDict`).
        names (`Sequence[str]`): of the model's labels, for which rows of zeros and ones stand in their order.
        argument (`str`): how the user named the data, for messages.

    Returns:
        the splits and what their columns stand for; `None` where a row has one label.

    Raises:
        ValueError: the lists hold other numbers.
    """
    given = [split for split in splits.values() if element_of(split.features.get("label")) is not None]
    if not given:
        return None
    element = element_of(given[0].features["label"])
    columns = {name: split["label"][:] for name, split in splits.items() if "label" in split.column_names}
    lists = [value for column in columns.values() for value in column if value is not None]
    values: list
    if isinstance(element, datasets.ClassLabel):
        values, labels = list(range(element.num_classes)), list(element.names)
    elif _are_flags(lists, len(names)):
        columns = {
            name: [None if value is None else np.flatnonzero(value).tolist() for value in column]
            for name, column in columns.items()
        }
        values, labels = list(range(len(names))), list(names)
    else:
        values = sorted({label for value in lists for label in value}) or list(names)
        labels = [str(value) for value in values]
        if not all(isinstance(value, int | str) for value in values):
            raise ValueError(
                f"`{argument}` has lists of labels such as {lists[0][:8]}; give lists of names, of ids, or of {len(names)} zeros and ones."
            )
    places = {value: place for place, value in enumerate(values)}
    feature = datasets.Sequence(datasets.Value("float32"))
    converted = datasets.DatasetDict(splits)
    for name, column in columns.items():
        flags = [None if value is None else _flags(value, places) for value in column]
        converted[name] = splits[name].remove_columns("label").add_column("label", flags, feature=feature)
    return converted, Labels(values, labels, list(range(len(values))), is_multi_label=True)


def _are_flags(lists: list[list], length: int) -> bool:
    return all(len(value) == length and set(value) <= {0, 1} for value in lists)


def _flags(given: Sequence[Any], places: dict[Any, int]) -> list[float]:
    flags = [0.0] * len(places)
    for label in given:
        flags[places[label]] = 1.0
    return flags
