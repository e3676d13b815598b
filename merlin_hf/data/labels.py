"""Find the classes of a task by name, the rows without a label, and rows with several labels."""

import collections
import logging
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from ..utils.validation import ConfigError
from .columns import ColumnOptions


HIDDEN_LABEL = -1  # what GLUE writes where a label is not public
IGNORED_LABEL = -100  # what losses of torch leave out
SINGLE_LABEL, REGRESSION = "single_label_classification", "regression"
PROBLEM_TYPES = (SINGLE_LABEL, REGRESSION)
LABEL_TYPES = ("int", "uint", "float", "string", "large_string", "bool", "null", "decimal")
MISSING = "empty, null, NaN or -100"

NEW_LABEL = "__label__"
SHOWN = 20  # names in a message
MANY_CLASSES = 50  # whole numbers, of which so many are rather counts or scores
FEW_VALUES = 20  # whole numbers written as decimals, of which so few are rather classes

logger = logging.getLogger("merlin_hf.data")


@dataclass
class Labels:
    """
    The labels of a task.

    Args:
        names (`list[str]`): of the classes, in the order of their places in the data; empty for real numbers.
        ids (`list[int]`): the output of the model that stands for each; their places if not given.
        is_multi_label (`bool`): whether a row has any number of them, as zeros and ones.
        numbers (`list[int]`): what the data itself numbers each class by; their places if not given.
        has_names (`bool`): whether the classes are called something other than their numbers.
    """

    names: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    is_multi_label: bool = False
    numbers: list[int] = field(default_factory=list)
    has_names: bool = True

    def __post_init__(self):
        self.ids = self.ids or list(range(len(self.names)))
        self.numbers = self.numbers or list(range(len(self.names)))

    @property
    def is_regression(self) -> bool:
        """Return whether labels are real numbers."""
        return not self.names

    @property
    def num_labels(self) -> int:
        """Return the number of outputs that a model needs."""
        return len(self.names) or 1


# Names


class LabelMismatchError(ConfigError):
    """Classes of two data sets, or of a data set and a model, do not have the same names."""


def match_names(names: Sequence[str], known: Sequence[str], of: str, known_of: str) -> list[int]:
    """
    Return the place of each name among known ones.

    It is the same name, else one that differs in upper and lower case or invisible characters alone. The latter counts
    only where no other name could be meant, and is said at WARNING. A LabelMismatchError has both lists; `of` and
    `known_of` say whose names these are.
    """
    places = {name: place for place, name in enumerate(known)}
    folded = collections.defaultdict(list)
    for name in known:
        folded[folded_name(name)].append(name)
    found = {name: name for name in names if name in places}
    taken, by_case, missing = set(found), {}, []
    for name in names:
        if name in found:
            continue
        near = folded[folded_name(name)]
        if len(near) == 1 and near[0] not in taken:
            found[name] = by_case[name] = near[0]
            taken.add(near[0])
        else:
            missing.append(name)
    if missing:
        word = "label" if len(missing) == 1 else "labels"
        raise LabelMismatchError(
            f"{of} has the {word} {shown(missing)}, and {known_of} has no such {word}. The labels are "
            f"{shown(names)} there, and {shown(known)} here. Give both the same names."
        )
    if by_case:
        pairs = ", ".join(f"{name!r} as {other!r}" for name, other in by_case.items())
        logger.warning(
            f"{of}: labels that differ in upper and lower case or invisible characters from those of {known_of} are "
            f"taken as these: {pairs}."
        )
    return [places[found[name]] for name in names]


def folded_name(name: str) -> str:
    """Return a name without differences of case, invisible characters, kinds of blanks and composed accents."""
    visible = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
    return " ".join(visible.casefold().split())


def shown(names: Sequence[Any]) -> str:
    """Return names for a message, not more of them than can be read."""
    return f"{list(names[:SHOWN])}" if len(names) <= SHOWN else f"{list(names[:SHOWN])} and {len(names) - SHOWN} more"


# One column of labels


@dataclass
class LabelColumn:
    """
    The labels of one split, each distinct one once.

    Args:
        values (`list`): distinct labels, `None` for those that are missing.
        codes (`np.ndarray` of shape `(rows,)`): the place of each row's label in `values`.
        feature: the type of the column.
    """

    origin: str
    values: list[Any]
    codes: np.ndarray
    feature: Any

    @classmethod
    def read(cls, split: datasets.Dataset, origin: str) -> "LabelColumn":
        """Read the column `label` of a split; a ConfigError if it has something other than one label per row."""
        feature = split.features["label"]
        is_value = isinstance(feature, datasets.Value) and feature.dtype.startswith(LABEL_TYPES)
        if not is_value and not isinstance(feature, datasets.ClassLabel):
            raise ConfigError(
                f"{origin} needs a column of labels with one label per row, of one kind, got {feature} in the columns "
                f"{', '.join(split.column_names)}. Name the column (`label_column`); for several labels per row, or a "
                "tag for each word, use `MerlinTrainer` directly."
            )
        column = split.select_columns(["label"]).with_format("arrow")[:]["label"]
        encoded = pc.dictionary_encode(column.combine_chunks() if hasattr(column, "combine_chunks") else column)
        values = [*encoded.dictionary.to_pylist(), None]
        codes = np.asarray(encoded.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False), dtype=np.int64)
        found = cls(origin, values, codes, feature)
        found._strip()
        found.values = [None if found.is_missing(value) else value for value in found.values]
        return found

    @property
    def counts(self) -> np.ndarray:
        """Return how many rows have each value."""
        return np.bincount(self.codes, minlength=len(self.values))

    @property
    def present(self) -> list[Any]:
        """Return the values that rows have, without the missing ones."""
        return [value for value, count in zip(self.values, self.counts, strict=True) if count and value is not None]

    @property
    def missing(self) -> int:
        """Return how many rows have no label."""
        return int(sum(count for value, count in zip(self.values, self.counts, strict=True) if value is None))

    @property
    def is_float(self) -> bool:
        """Return whether the column has real numbers."""
        return isinstance(self.feature, datasets.Value) and self.feature.dtype.startswith("float")

    @property
    def is_whole(self) -> bool:
        """Return whether the column has whole numbers that are not the numbers of named classes."""
        dtype = getattr(self.feature, "dtype", "")
        return isinstance(self.feature, datasets.Value) and dtype.startswith(("int", "uint"))

    @property
    def is_number(self) -> bool:
        """Return whether the labels can be real numbers."""
        return self.is_float or self.is_whole

    def is_missing(self, value: Any) -> bool:
        """Return whether a value stands for no label."""
        if value is None or value == "" or value != value:
            return True
        if isinstance(self.feature, datasets.ClassLabel):
            return value in (HIDDEN_LABEL, IGNORED_LABEL)
        if value != IGNORED_LABEL or not self.is_number:
            return False
        # Among lower ones it may be a temperature.
        return self.is_whole or not any(one is not None and one < IGNORED_LABEL for one in self.values)

    def name(self, value: Any) -> str:
        """Return the name of a class."""
        if isinstance(self.feature, datasets.ClassLabel):
            return self.feature.names[value].strip()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value)

    def hide(self, value: Any) -> None:
        """Count a value as missing."""
        self.values = [None if one == value else one for one in self.values]

    def _strip(self) -> None:
        """Take names that differ in surrounding blanks alone as one; a ConfigError for the number of no class."""
        if isinstance(self.feature, datasets.ClassLabel):
            names = self.feature.names
            allowed = (None, HIDDEN_LABEL, IGNORED_LABEL, *range(len(names)))
            wrong = [value for value in self.values if value not in allowed]
            if wrong:
                raise ConfigError(
                    f"{self.origin} has the class number {wrong[0]}, and names of {len(names)} classes, "
                    f"{shown(names)}."
                )
            padded = [name for name in names if name != name.strip()]
            first = {name.strip(): place for place, name in reversed(list(enumerate(names)))}
            self.values = [
                value if value is None or value < 0 else first[names[value].strip()] for value in self.values
            ]
        else:
            stripped = [value.strip() if isinstance(value, str) else value for value in self.values]
            padded = [one for one in self.values if isinstance(one, str) and one.strip() not in ("", one)]
            places = {value: place for place, value in enumerate(dict.fromkeys(stripped))}
            self.values = list(places)
            self.codes = np.array([places[value] for value in stripped])[self.codes]
        if padded:
            logger.warning(
                f"{self.origin}: labels with a space before or behind are taken without it: {shown(padded)}."
            )


# All splits of a task


def number_classes(
    splits: Mapping[str, datasets.Dataset],
    origins: Mapping[str, str],
    argument: str,
    options: ColumnOptions,
    kept: Collection[str] = (),
) -> tuple[datasets.DatasetDict, Labels]:
    """
    Find the classes of a task and number them alike in all its splits, by their names.

    The classes are those of `train`, or of the first split; a split without a column `label` stays as it is. `kept`
    names splits to predict, whose rows stay where they have no label. A ConfigError names the split and has both lists
    of names.

    Returns:
        The splits, and the labels. `label` is then the place of a class in `labels.names`, or a real number, and
        `None` in a row that has no label.
    """
    columns = {
        name: LabelColumn.read(split, origins[name]) for name, split in splits.items() if "label" in split.column_names
    }
    if not columns:
        raise ConfigError(f"`{argument}` has no column of labels.")
    main = columns.get("train") or next((one for one in columns.values() if one.present), next(iter(columns.values())))
    _hide_unknown(main, columns.values())
    if not main.present and not main.is_float and not isinstance(main.feature, datasets.ClassLabel):
        raise ConfigError(f"{main.origin} has no row with a label.")
    is_regression = _is_regression(main, list(columns.values()), options)
    known = Labels() if is_regression else _classes_of(main, options)
    settled = datasets.DatasetDict(splits)
    for name, column in columns.items():
        # Of a test split all labels may be hidden, which is nothing to warn of.
        if column.missing and column.present and name not in kept:
            logger.warning(
                f"{column.origin}: {column.missing} of {len(column.codes)} rows have no label ({MISSING}) and are "
                "left out."
            )
        new: list[Any]
        if is_regression:
            new, feature = _as_numbers(column), datasets.Value("float64")
        else:
            new, feature = _as_places(column, main, known, options), datasets.ClassLabel(names=known.names)
        rows = np.array(new, dtype=object)[column.codes].tolist()
        # Added before the old one goes, which may be the only column.
        added = splits[name].add_column(NEW_LABEL, rows, feature=feature)
        settled[name] = added.remove_columns("label").rename_column(NEW_LABEL, "label")
    return settled, known


def _hide_unknown(main: LabelColumn, columns: Any) -> None:
    """Count -1 as missing where it cannot be a class or a score."""
    for column in columns:
        if HIDDEN_LABEL not in column.present or not column.is_number:
            continue
        others = [value for value in main.present if value != HIDDEN_LABEL]
        if column.present == [HIDDEN_LABEL] or (not main.is_float and HIDDEN_LABEL not in main.present):
            column.hide(HIDDEN_LABEL)  # a split of nothing else is a test of GLUE, also of scores
        elif column.is_whole and sorted(others) == list(range(len(others))) and len(others) > 2:
            logger.warning(
                f"{column.origin}: rows with the label {HIDDEN_LABEL} are taken as rows without a label, beside the "
                f"classes {shown(sorted(others))}. If it is a class, give the labels as names."
            )
            column.hide(HIDDEN_LABEL)
        elif column.is_whole and column is main:
            logger.warning(
                f"{column.origin}: the label {HIDDEN_LABEL} is taken as a class of its own, beside "
                f"{shown(sorted(others))}. If it stands for no label, leave these rows out or their labels empty."
            )


def _is_regression(main: LabelColumn, columns: list[LabelColumn], options: ColumnOptions) -> bool:
    """Return whether labels are real numbers, said at WARNING where they could be either."""
    flag, problem_type = options.name_of("problem_type"), options.problem_type
    if problem_type is not None:
        if problem_type not in PROBLEM_TYPES:
            raise ConfigError(f"`{flag}` must be {' or '.join(PROBLEM_TYPES)}, got {problem_type!r}.")
        if problem_type == REGRESSION and not main.is_number:
            raise ConfigError(
                f"`{flag}={REGRESSION}` needs numbers as labels, and {main.origin} has {shown(_names(main))}."
            )
        return problem_type == REGRESSION
    values = main.present
    everywhere = [value for column in columns if column.is_number for value in column.present]
    if main.is_number and options.expected is not None and all(float(value).is_integer() for value in everywhere):
        return options.expected == REGRESSION
    if main.is_whole:
        if len(values) > MANY_CLASSES and 2 * len(values) > len(main.codes) - main.missing:
            logger.warning(
                f"{main.origin}: the labels are {len(values)} whole numbers, taken as so many classes; "
                f"`{flag}={REGRESSION}` takes them as real numbers."
            )
        return False
    if not main.is_float:
        return False
    if not values or not all(float(value).is_integer() for value in everywhere):
        return True
    are_classes = len(values) <= FEW_VALUES and 2 * len(values) <= len(main.codes) - main.missing
    taken = (f"{len(values)} classes", REGRESSION) if are_classes else ("real numbers", SINGLE_LABEL)
    logger.warning(
        f"{main.origin}: the labels are whole numbers written as decimals, {shown(sorted(values))}, taken as "
        f"{taken[0]}; `{flag}={taken[1]}` takes them otherwise."
    )
    return not are_classes


def _names(column: LabelColumn) -> list[str]:
    return [column.name(value) for value in column.present]


def _classes_of(main: LabelColumn, options: ColumnOptions) -> Labels:
    """Return the classes of a split, in the order of their numbers or names."""
    if isinstance(main.feature, datasets.ClassLabel):
        names = list(dict.fromkeys(name.strip() for name in main.feature.names))
        numbers = list(range(len(names)))
    else:
        values = sorted(main.present)
        names = [main.name(value) for value in values]
        numbers = [int(value) for value in values] if main.is_number else list(range(len(values)))
        if len(values) > 2 and len(values) == len(main.codes) - main.missing:
            message = (
                f"{main.origin}: each of its {len(values)} rows has a label of its own, such as {names[0][:40]!r}; is "
                f"this the column of labels? `{options.name_of('label_column')}` names another."
            )
            if len(values) > MANY_CLASSES:
                raise ConfigError(message)
            logger.warning(message)
    if len(main.present) == 1 and len(names) > 1:
        logger.warning(
            f"{main.origin}: all rows have the label {main.name(main.present[0])!r}, one of {shown(names)}."
        )
    by_case = collections.defaultdict(list)
    for name in names:
        by_case[folded_name(name)].append(name)
    alike = [same for same in by_case.values() if len(same) > 1]
    if alike:
        logger.warning(
            f"{main.origin}: labels that differ in upper and lower case or invisible characters alone are classes of "
            f"their own: {', '.join(' and '.join(map(repr, same)) for same in alike[:5])}. Write them alike if they "
            "are one."
        )
    return Labels(names, numbers=numbers, has_names=not main.is_number)


def _as_numbers(column: LabelColumn) -> list[float | None]:
    if not column.is_number and column.present:
        raise ConfigError(f"{column.origin} has the labels {shown(_names(column))}, and the others are real numbers.")
    infinite = [value for value in column.present if abs(value) == float("inf")]
    if infinite:
        raise ConfigError(f"{column.origin} has the label {infinite[0]}; real labels must be finite.")
    return [None if value is None else float(value) for value in column.values]


def _as_places(column: LabelColumn, main: LabelColumn, known: Labels, options: ColumnOptions) -> list[int | None]:
    """Return the place of each value among the classes."""
    values = column.present
    names = _names(column)
    try:
        found = match_names(names, known.names, column.origin, main.origin)
    except LabelMismatchError as error:
        numbers = [
            int(value) if column.is_number or isinstance(column.feature, datasets.ClassLabel) else None
            for value in values
        ]
        if not options.labels_by_number:
            either = column.is_number != main.is_number and None not in numbers
            hint = f" Or give `{options.name_of('labels_by_number')}`, if both number the classes alike."
            known_flag = either and options.has("labels_by_number")
            raise LabelMismatchError(f"{error}{hint if known_flag else ''}") from None
        if not set(numbers) <= set(known.numbers):
            raise LabelMismatchError(f"{error} By number, the classes are {shown(known.numbers)}.") from None
        found = [known.numbers.index(number) for number in numbers if number is not None]
    places = dict(zip(values, found, strict=True))
    return [None if value is None else places.get(value) for value in column.values]


# Rows with several labels


def element_of(feature: Any) -> Any | None:
    """Return what a column of lists has lists of; `None` for another column."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", None)


def join_label_columns(splits: datasets.DatasetDict, names: Sequence[str]) -> datasets.DatasetDict:
    """
    Return the splits with a column `label` made of a column of zeros and ones for each label, as csv files have them.

    Splits that have `label` or `labels` already, or lack one of the columns, stay as they are.
    """
    return datasets.DatasetDict({name: _joined(split, names) for name, split in splits.items()})


def _joined(split: datasets.Dataset, names: Sequence[str]) -> datasets.Dataset:
    if {"label", "labels"} & set(split.column_names) or not set(names) <= set(split.column_names):
        return split
    if not all(str(split.features[name].dtype).startswith(("int", "uint", "float", "bool")) for name in names):
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
    Return the splits with a column `label` of zeros and ones in place of lists, and the labels.

    The lists may be of classes, of names, of ids, or of zeros and ones, which stand for `names` in their order. `None`
    where a row has one label; a ConfigError where the lists hold other numbers.
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
    elif all(len(value) == len(names) and set(value) <= {0, 1} for value in lists):
        columns = {
            name: [None if value is None else np.flatnonzero(value).tolist() for value in column]
            for name, column in columns.items()
        }
        values, labels = list(range(len(names))), list(names)
    else:
        values = sorted({label for value in lists for label in value}) or list(names)
        labels = [str(value) for value in values]
        if not all(isinstance(value, int | str) for value in values):
            raise ConfigError(
                f"`{argument}` has lists of labels such as {lists[0][:8]}; give lists of names, of ids, or of "
                f"{len(names)} zeros and ones."
            )
    places = {value: place for place, value in enumerate(values)}
    feature = datasets.Sequence(datasets.Value("float32"))
    converted = datasets.DatasetDict(splits)
    for name, column in columns.items():
        missing = sum(value is None for value in column)
        if missing:
            logger.warning(f"`{argument}`: {missing} of {len(column)} rows have no labels and are left out.")
        flags = [None if value is None else _flags(value, places) for value in column]
        converted[name] = splits[name].remove_columns("label").add_column("label", flags, feature=feature)
    are_numbers = all(isinstance(value, int) for value in values) and [str(value) for value in values] == labels
    return converted, Labels(
        labels, is_multi_label=True, numbers=values if are_numbers else [], has_names=not are_numbers
    )


def _flags(given: Sequence[Any], places: dict[Any, int]) -> list[float]:
    found = {places[label] for label in given}
    return [float(place in found) for place in places.values()]
