"""A task: the splits of a data set, with its columns found and its labels numbered alike in all of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets

from ..utils.validation import ConfigError
from .columns import (
    ColumnOptions,
    check_label_column,
    check_text_columns,
    find_text_columns,
    name_label,
    no_label_column,
)
from .labels import Labels, join_label_columns, settle_labels, several_labels


TRAIN, VALIDATION, TEST = "train", "validation", "test"
TEXT, IMAGE, AUDIO = "text", "image", "audio"  # kinds of rows

logger = logging.getLogger("merlin_hf.data")


@dataclass
class Task:
    """
    A data set with what is known about its columns and labels.

    Args:
        argument (`str`): how the user named it, for messages.
        splits (`datasets.DatasetDict`): `label` is the place of a class among the names, or a real number; `None` where there is none.
        text_columns (`list[str]`): what is tokenized together; for images the one column of these.
        labels ([`~merlin_hf.data.labels.Labels`]).
        origins (mapping of `str`): how the user named each split, for messages.
        kind (`str`): `"text"` or `"image"`.
    """

    argument: str
    splits: datasets.DatasetDict
    text_columns: list[str]
    labels: Labels
    origins: Mapping[str, str] | None = None
    kind: str = TEXT

    def origin(self, split: str) -> str:
        """Return how the user named a split, for messages."""
        return (self.origins or {}).get(split, f"the {split} split of `{self.argument}`")


def make_task(
    splits: Mapping[str, datasets.Dataset],
    origins: Mapping[str, str],
    argument: str,
    options: ColumnOptions,
    several: Sequence[str] | None = None,
) -> Task:
    """
    Find the columns and the labels of a data set of texts.

    Args:
        splits (mapping of `datasets.Dataset`): those that are used; `train`, else the first, says what the classes are.
        origins (mapping of `str`): how the user named each split, for messages.
        argument (`str`): how the user named the data set.
        options ([`~merlin_hf.data.columns.ColumnOptions`]).
        several (`Sequence[str]`, *optional*): names of a model's labels, where a row may have several of them.

    Raises:
        ConfigError: columns or labels are missing, or do not fit together; the message names the split and the option.
    """
    splits = datasets.DatasetDict(splits)
    if several is not None and options.label_column is None:
        splits = join_label_columns(splits, several)
    splits, labels = find_labels_of(splits, origins, argument, options, several)
    main = TRAIN if TRAIN in splits else next(iter(splits))
    texts = find_text_columns(splits[main], options.text_columns, options.name_of("text_columns"), origins[main])
    for name, split in splits.items():
        check_text_columns(split, texts, origins[name], origins[main], options.name_of("text_columns"))
    logger.info(f"{argument}: texts {texts}, labels {labels.names or 'real numbers'}")
    return Task(argument, splits, texts, labels, dict(origins))


def find_labels_of(
    splits: datasets.DatasetDict,
    origins: Mapping[str, str],
    argument: str,
    options: ColumnOptions,
    several: Sequence[str] | None = None,
    all_labelled: bool = False,
) -> tuple[datasets.DatasetDict, Labels]:
    """
    Find the column of labels in each split, and number the classes alike in all of them.

    Args:
        splits, origins, argument, options, several: as for [`make_task`].
        all_labelled (`bool`): whether a split called `test` needs labels as well.
    """
    option = options.name_of("label_column")
    check_label_column(splits, options.label_column, argument, option)
    named = datasets.DatasetDict(
        {name: name_label(split, options.label_column, origins[name], option) for name, split in splits.items()}
    )
    for name, split in named.items():
        may_lack = name.startswith(TEST) and len(named) > 1 and not all_labelled
        if "label" not in split.column_names and not may_lack:
            raise ConfigError(no_label_column(split, origins[name], option))
    found = None if several is None else several_labels(named, several, argument)
    return found or settle_labels(named, origins, argument, options)


def check_several_classes(task: Task) -> None:
    """
    Check that there is something to tell apart.

    Raises:
        ConfigError: all labels are one class.
    """
    if not task.labels.is_regression and task.labels.num_labels < 2:
        raise ConfigError(f"{task.origin(TRAIN)} has one class, {task.labels.names}; there is nothing to tell apart.")


def warn_of_shared_rows(target: Task, source: Task | None = None) -> None:
    """Say how many rows that a model is judged by stand among those that it is trained on as well."""
    trained = [(target, TRAIN)] if TRAIN in target.splits else []
    trained += [(source, TRAIN)] if source is not None and TRAIN in source.splits else []
    for name in target.splits:
        if name == TRAIN or not trained:
            continue
        judged = set(_texts_of(target, name))
        for task, split in trained:
            shared = len(judged.intersection(_texts_of(task, split)))
            if shared:
                logger.warning(
                    f"{target.origin(name)}: {shared} of its {len(judged)} different texts stand in {task.origin(split)} as well, which "
                    "the model is trained on; scores are too high by as much as it remembers them."
                )


def _texts_of(task: Task, split: str) -> zip:
    return zip(*(task.splits[split][column][:] for column in task.text_columns), strict=True)
