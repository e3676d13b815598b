"""Find the columns of texts and of labels, and warn wherever that is a guess."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np

from ..utils.validation import ConfigError, did_you_mean


GLUE = "nyu-mll/glue"
GLUE_COLUMNS = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
KNOWN_TEXTS: tuple[tuple[str, ...], ...] = (*dict.fromkeys(GLUE_COLUMNS.values()), ("text",))
LABEL_COLUMNS = ("label", "labels")

SAMPLE = 1000  # rows that tell what a column holds
MOST = 0.95  # share of them that must be alike
DATE = re.compile(r"\s*(\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ].*)?\s*")

logger = logging.getLogger("merlin_hf.data")


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """
    Columns and labels of a data set that a user names; the others are found.

    Args:
        problem_type (`str`, *optional*): whether labels that are numbers are classes, as in a model's configuration.
        labels_by_number (`bool`): match classes of different names by their numbers.
        expected (`str`, *optional*): the problem type of a model that is evaluated, for numbers that could be either.
        names (mapping): what the user calls these options, where that is something else; `None` where there is no such
            option.
    """

    text_columns: Sequence[str] | None = None
    media_column: str | None = None
    label_column: str | None = None
    problem_type: str | None = None
    labels_by_number: bool = False
    expected: str | None = None
    names: Mapping[str, str | None] = field(default_factory=dict)

    def name_of(self, option: str) -> str:
        """Return what the user calls an option."""
        return self.names.get(option) or option

    def has(self, option: str) -> bool:
        """Return whether the user can give an option."""
        return self.names.get(option, option) is not None


# Labels


def rename_label_column(split: datasets.Dataset, given: str | None, origin: str, option: str) -> datasets.Dataset:
    """
    Call the column of labels `label`: the one that is given, else `label`, `labels` or the only column of classes.

    Raise a ConfigError if both `label` and `labels` are there and differ. A split without such a column stays as it
    is.
    """
    names = split.column_names
    if given is None:
        usual = [name for name in LABEL_COLUMNS if name in names]
        if len(usual) == 2 and split["label"][:] != split["labels"][:]:
            raise ConfigError(
                f"{origin} has a column `label` and a column `labels`, which differ: name one by `{option}`."
            )
        classes = [name for name, feature in split.features.items() if isinstance(feature, datasets.ClassLabel)]
        given = usual[0] if usual else classes[0] if len(classes) == 1 else None
    if given is None or given == "label" or given not in names:
        return split
    if "label" in names:
        split = split.remove_columns("label")
    return split.rename_column(given, "label")


def check_label_column(splits: Mapping[str, datasets.Dataset], given: str | None, argument: str, option: str) -> None:
    """Raise a ConfigError, which lists the columns, unless a given column of labels is there in some split."""
    if given is None or any(given in split.column_names for split in splits.values()):
        return
    columns = next(iter(splits.values())).column_names
    raise ConfigError(
        f"`{option}={given!r}` is not a column of `{argument}`.{did_you_mean(given, columns)} Columns: "
        f"{', '.join(columns)}."
    )


def no_label_column(split: datasets.Dataset, origin: str, option: str) -> str:
    """Return what to say of a split without a column of labels."""
    names = split.column_names
    near = [name for name in names if name.strip().casefold() in LABEL_COLUMNS]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if not near and not set(names) & {name for names in KNOWN_TEXTS for name in names}:
        hint = " If these are a row, the first line of the file is missing: it must name the columns."
    return f"{origin} has no column `label`, only {', '.join(names)}: name it by `{option}`.{hint}"


# Texts


def is_text(feature: Any) -> bool:
    """Return whether a column holds texts."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def find_text_columns(
    dataset: datasets.Dataset, given: Sequence[str] | None, argument: str, origin: str = "The data set"
) -> list[str]:
    """
    Find the one or two columns that are tokenized together, or raise a ConfigError.

    They are those that are given, else those of a GLUE task, `text`, or the only one or two of texts. Columns of
    numbers, dates, names of rows or one single value are not texts. What is left is a guess where there were others,
    and is said at WARNING.
    """
    texts = [name for name, feature in dataset.features.items() if is_text(feature) and name != "label"]
    if given is not None:
        return _given_text_columns(dataset, [given] if isinstance(given, str) else list(given), texts, argument)
    if not texts:
        raise ConfigError(
            f"{origin} has no column of texts, only {_described(dataset)}. `{argument}` must be one or two of the "
            "text columns []."
        )
    reasons = {name: _no_text(dataset, name) for name in texts}
    known = [columns for columns in KNOWN_TEXTS if set(columns) <= set(texts)]
    if known:
        longest = max(known, key=len)
        found = list(longest)
        left_out = [name for name in texts if name not in found and reasons[name] is None]
        if not left_out:
            return found
    else:
        found = [name for name in texts if reasons[name] is None]
        left_out = [f"{name} ({reasons[name]})" for name in texts if reasons[name] is not None]
        if found == texts and len(texts) == 1:
            return found
        if not 1 <= len(found) <= 2:
            listed = ", ".join(f"{name} ({reason})" if reason else name for name, reason in reasons.items())
            raise ConfigError(f"{origin} has the columns of texts {listed}: name one or two of them by `{argument}`.")
    verb = "is" if len(left_out) == 1 else "are"
    rest = f", and {', '.join(left_out)} {verb} left out" if left_out else ", read as a pair"
    logger.warning(f"{origin}: the texts are taken from {' and '.join(found)}{rest}; `{argument}` says otherwise.")
    return found


def _given_text_columns(
    dataset: datasets.Dataset, columns: list[str], texts: Sequence[str], argument: str
) -> list[str]:
    """Return the columns that a user named, if they are one or two of texts."""
    if 1 <= len(columns) <= 2 and set(columns) <= set(texts) and len(set(columns)) == len(columns):
        return columns
    wrong = next((name for name in columns if name not in texts), "")
    is_there = wrong in dataset.features
    why = f" {wrong!r} holds {_kind(dataset.features[wrong])}." if is_there else did_you_mean(wrong, texts)
    raise ConfigError(f"`{argument}` must be one or two of the text columns {list(texts)}, got {columns}.{why}")


def check_text_columns(
    split: datasets.Dataset, columns: Sequence[str], origin: str, known_of: str, option: str = "text_columns"
) -> None:
    """Raise a ConfigError unless a split has the texts that were found in another."""
    for name in columns:
        if name not in split.column_names:
            raise ConfigError(
                f"{origin} has no column of texts `{name}`, as {known_of} has, only {', '.join(split.column_names)}. "
                "Give the columns of both the same names, or others by "
                f"`{option}`.{did_you_mean(name, split.column_names)}"
            )
        if not is_text(split.features[name]):
            raise ConfigError(
                f"{origin} holds {_kind(split.features[name])} in its column `{name}`, and {known_of} texts. Give "
                "texts in both."
            )


def warn_of_empty_texts(split: datasets.Dataset, columns: Sequence[str], origin: str) -> None:
    """Say how many rows have no text, at all or in one of two columns; raise a ConfigError if none has one."""
    texts = {name: [bool(text and text.strip()) for text in split[name][:]] for name in columns}
    empty = sum(not any(row) for row in zip(*texts.values(), strict=True))
    if empty and empty == len(split):
        raise ConfigError(f"{origin} has no text in {' and '.join(columns)}: all {empty} rows are empty there.")
    if empty:
        logger.warning(
            f"{origin}: {empty} of {len(split)} rows have an empty text in {' and '.join(columns)}; they are kept."
        )
    for name, is_there in texts.items():
        if len(texts) > 1 and not all(is_there):
            logger.warning(
                f"{origin}: {is_there.count(False)} of {len(split)} rows have an empty text in {name}; they are kept."
            )


def _no_text(dataset: datasets.Dataset, name: str) -> str | None:
    """Return why a column of texts holds no texts to classify, if it does not."""
    values = [value.strip() for value in dataset[:SAMPLE][name] if value and value.strip()]
    if not values:
        return "empty"
    different = len(set(values))
    if len(values) > 2 and different == 1:
        return "always the same"
    if np.mean([bool(DATE.fullmatch(value)) for value in values]) >= MOST:
        return "dates"
    single = np.mean([not re.search(r"\s", value) for value in values]) >= MOST
    if single and np.mean([any(sign.isdigit() for sign in value) for value in values]) >= MOST:
        return "names of rows" if different > MOST * len(values) else "codes"
    if single and len(values) > 2 and 2 * different <= len(values):
        return "a few words again and again"
    return None


def _kind(feature: Any) -> str:
    if isinstance(feature, datasets.ClassLabel):
        return "classes"
    dtype = str(getattr(feature, "dtype", None))
    if dtype.startswith(("int", "uint", "float", "double")):
        return "numbers"
    return {"bool": "true and false", "null": "nothing"}.get(dtype, f"no texts ({type(feature).__name__})")


def _described(dataset: datasets.Dataset) -> str:
    others = [f"{name} ({_kind(feature)})" for name, feature in dataset.features.items() if name != "label"]
    return ", ".join(others) or "the labels"
