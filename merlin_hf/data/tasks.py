"""Load a data set as a user names it, find its columns, and number its labels alike in all splits."""

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets

from ..utils.validation import ConfigError
from .audio import AUDIO as RECORDINGS
from .columns import (
    ColumnOptions,
    check_label_column,
    check_text_columns,
    find_text_columns,
    no_label_column,
    rename_label_column,
)
from .images import IMAGES
from .labels import Labels, join_label_columns, number_classes, several_labels
from .load import load_dataset, take_split
from .media import MediaKind, find_media_column, load_media_folders, media_label_column
from .tags import find_tag_columns, tag_names


TRAIN, VALIDATION, TEST = "train", "validation", "test"
TEXT, IMAGE, AUDIO, TAGGED = "text", "image", "audio", "tagged sentence"  # kinds of rows
MEDIA: dict[str, MediaKind] = {IMAGE: IMAGES, AUDIO: RECORDINGS}
HELD_OUT_SEED = 0  # rows held out for evaluation are the same in every run, also in one that only evaluates
ROW = "row"  # the column that numbers the rows as stored

logger = logging.getLogger("merlin_hf.data")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """
    One data set as a user names it, and what they say of it.

    Args:
        argument (`str`): how the user calls it, for messages.
        shown (`str`, *optional*): what the user gave, if not `path`.
        files, folders (mapping of `str`): from splits to files, or to folders with a folder of media for each class.
        split_names (mapping of `str`, *optional*): from splits to what they are called in the data set, slices such as
            `train[:80%]` included; all that there are, as they are called there, if not given.
        split_options (mapping of `str`): from splits to the options that name them, for messages.
        lacking (`Sequence[str]`): splits that the data set need not have.
        kind (`str`, *optional*): `"text"`, `"image"` or `"audio"`; images if there is a column of them, else texts, if
            not given.
        prefix (`str`): of the names of arguments, such as `source_`.
        held_out (`float`): share of the training rows that is the validation split where there is no other.
    """

    argument: str
    path: str | None = None
    name: str | None = None
    shown: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    split_names: Mapping[str, str] | None = None
    split_options: Mapping[str, str] = field(default_factory=dict)
    lacking: Sequence[str] = ()
    kind: str | None = TEXT
    options: ColumnOptions = field(default_factory=ColumnOptions)
    prefix: str = ""
    held_out: float = 0.0


@dataclass
class Task:
    """
    A data set with what is known about its columns and labels.

    Args:
        splits (`datasets.DatasetDict`): `label` is the place of a class among the names, a real number, or zeros and
            ones; `None` where there is none. Media are as they are stored, and `row` numbers them.
        columns (`list[str]`): of the texts that are tokenized together, or the one of media or of words.
        kind (`str`): `"text"`, `"image"`, `"audio"` or `"tagged sentence"`.
        argument, origins: how the user named it and each split, for messages.
    """

    argument: str
    splits: datasets.DatasetDict
    columns: list[str]
    labels: Labels
    kind: str = TEXT
    origins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, split: str) -> str:
        """Return how the user named a split, for messages."""
        return self.origins.get(split, f"the {split} split of `{self.argument}`")


# Loading


def load_splits(spec: DataSpec, **hub: Any) -> tuple[datasets.DatasetDict, dict[str, str]]:
    """Load the splits of a data set as they are stored; return them, and how the user named each."""
    splits, origins = datasets.DatasetDict(), {}
    if spec.path is not None:
        loaded = load_dataset(spec.path, spec.name, argument=spec.argument, **hub)
        for split, name in (spec.split_names or {name: name for name in loaded}).items():
            found = _named_split(loaded, split, name, spec)
            if found is not None:
                splits[split] = found
                origins[split] = f"`{spec.argument}={spec.shown or spec.path!r}`, split {name!r},"
        if not splits:
            raise ConfigError(
                f"`{spec.argument}` has only the splits {', '.join(loaded)}: name one by "
                f"`{spec.prefix}..._split_name`."
            )
    for split, path in spec.files.items():
        option = f"{spec.prefix}{split}_file"
        if not os.path.isfile(path):
            is_folder = os.path.isdir(path)
            remedy = f" It is a folder: give it as `{spec.prefix}dataset_name`." if is_folder else ""
            raise FileNotFoundError(f"`{option}={path!r}` is not a file.{remedy}")
        splits[split] = load_dataset(path, argument=option, split=TRAIN, **hub)
        origins[split] = f"`{option}={path!r}`"
    if spec.folders and spec.kind is not None:
        folder_options = {split: f"{spec.prefix}{split}_dir" for split in spec.folders}
        splits.update(load_media_folders(spec.folders, MEDIA[spec.kind], folder_options, **hub))
        origins.update({split: f"`{folder_options[split]}={path!r}`" for split, path in spec.folders.items()})
    return splits, origins


def _named_split(loaded: datasets.DatasetDict, split: str, name: str, spec: DataSpec) -> datasets.Dataset | None:
    if name in loaded:
        return loaded[name]
    if split in spec.lacking and name == split:
        return None
    try:
        if "[" in name or "+" in name:
            return take_split(loaded, name)
        reason = "is not a split"
    except ValueError as error:
        reason = f"cannot be read ({error}): it is not a slice"
    option = spec.split_options.get(split, f"{split}_split_name")
    raise ConfigError(
        f"`{option}={name!r}` {reason} of `{spec.argument}={spec.shown or spec.path!r}`, which has "
        f"{', '.join(loaded)}."
    )


def load_task(spec: DataSpec, kinds: Iterable[str] | None = None, **hub: Any) -> Task:
    """
    Load a data set, and find its columns and labels.

    `kinds` are the splits that are used, of `"train"`, `"validation"` and `"test"`; all that there are if not given. A
    ConfigError says what is missing, what there is and what to give.
    """
    splits, origins = load_splits(spec, **hub)
    kinds = set(kinds or [name.split("_")[0] for name in splits])
    holds_out = spec.held_out > 0 and TRAIN in splits and VALIDATION not in splits
    for kind in (TRAIN, VALIDATION, TEST):
        there = {kind, f"{kind}_matched"} & set(splits) or (kind == VALIDATION and holds_out)
        if kind in kinds and not there:
            remedy = f" Give `{kind}_split_name` or `{kind}_dir`." if spec.kind in MEDIA else f" Give `{kind}_file`."
            raise ConfigError(
                f"`{spec.argument}` has no {kind} split, only {', '.join(splits)}.{'' if spec.prefix else remedy}"
            )
    # MNLI has two validation splits.
    used = [name for name in splits if name.split("_")[0] in kinds or (name == TRAIN and holds_out)]
    task = make_task({name: splits[name] for name in used}, origins, spec)
    if holds_out:
        parts = task.splits[TRAIN].train_test_split(spec.held_out, seed=HELD_OUT_SEED)
        task.splits[TRAIN], task.splits[VALIDATION] = parts[TRAIN], parts[TEST]
        held_out = f"`{spec.argument}`: {len(parts[TEST])} rows of the train split are for evaluation"
        if VALIDATION in kinds:
            logger.info(held_out)
        else:
            logger.warning(f"{held_out}, which is not asked for; `train_val_split=0` trains on them as well.")
    return task


def make_task(
    splits: Mapping[str, datasets.Dataset],
    origins: Mapping[str, str],
    spec: DataSpec,
    several: Sequence[str] | None = None,
    all_labelled: bool = False,
) -> Task:
    """
    Find the columns and the labels of a data set; a ConfigError names the split and the option.

    Args:
        splits, origins (mappings): as [`load_splits`] gives them, of the splits that are used; `train`, else the
            first, says what the columns and the classes are.
        several (`Sequence[str]`, *optional*): names of a model's labels, where a row may have several of them.
        all_labelled (`bool`): whether a split called `test` needs labels as well.
    """
    main = TRAIN if TRAIN in splits else next(iter(splits))
    kind = spec.kind or _kind_of(splits[main], spec.options)
    if kind == TAGGED:
        return _tagged_task(splits, origins, spec, main)
    options = spec.options
    if kind in MEDIA and options.label_column is None:
        options = dataclasses.replace(options, label_column=media_label_column(splits[main], origins[main], options))
    if several is not None and spec.options.label_column is None:
        splits = join_label_columns(datasets.DatasetDict(splits), several)
    labelled, labels = _find_labels(splits, origins, spec.argument, options, several, all_labelled)
    if kind in MEDIA:
        columns, labelled = _find_media(labelled, origins, main, MEDIA[kind], options)
    else:
        option = options.name_of("text_columns")
        columns = find_text_columns(labelled[main], options.text_columns, option, origins[main])
        for name, split in labelled.items():
            check_text_columns(split, columns, origins[name], origins[main], option)
    logger.info(f"{spec.argument}: {kind}s {columns}, labels {labels.names or 'real numbers'}")
    return Task(spec.argument, labelled, columns, labels, kind, dict(origins))


def _tagged_task(
    splits: Mapping[str, datasets.Dataset], origins: Mapping[str, str], spec: DataSpec, main: str
) -> Task:
    """Find words and tags; in each row, `label` is the list of its tags, as they are stored."""
    found = find_tag_columns(splits[main], spec.options.text_columns, spec.options.label_column)
    assert found is not None  # as `_kind_of` makes sure
    words, tags = found
    for name, split in splits.items():
        missing = next((column for column in found if column not in split.column_names), None)
        if missing is not None:
            raise ConfigError(
                f"{origins[name]} has no column {missing!r}, which {origins[main]} has: its columns are "
                f"{', '.join(split.column_names)}."
            )
    labels = Labels(tag_names(splits[main], tags, spec.argument))
    named = {name: split.select_columns([words, tags]).rename_column(tags, "label") for name, split in splits.items()}
    logger.info(f"{spec.argument}: {TAGGED}s {words}, tags {labels.names}")
    return Task(spec.argument, datasets.DatasetDict(named), [words], labels, TAGGED, dict(origins))


def _kind_of(split: datasets.Dataset, options: ColumnOptions) -> str:
    if find_tag_columns(split, options.text_columns, options.label_column) is not None:
        return TAGGED
    has_images = any(IMAGES.is_media(feature) for feature in split.features.values())
    return IMAGE if options.media_column is not None or (has_images and options.text_columns is None) else TEXT


def _find_media(
    splits: datasets.DatasetDict, origins: Mapping[str, str], main: str, kind: MediaKind, options: ColumnOptions
) -> tuple[list[str], datasets.DatasetDict]:
    """Find the column of media, and leave it as it is stored, so that what cannot be read is named."""
    column = find_media_column(splits[main], kind, options, origins[main])
    found = datasets.DatasetDict()
    for name, split in splits.items():
        own = column if column in split.column_names else find_media_column(split, kind, options, origins[name])
        split = split if own == column else split.rename_column(own, column)
        split = split.select_columns([one for one in (column, "label") if one in split.column_names])
        if isinstance(split.features[column], datasets.Image | datasets.Audio):
            split = split.cast_column(column, kind.feature(decode=False))
        found[name] = split.add_column(ROW, list(range(len(split))))
    return [column], found


def _find_labels(
    splits: Mapping[str, datasets.Dataset],
    origins: Mapping[str, str],
    argument: str,
    options: ColumnOptions,
    several: Sequence[str] | None,
    all_labelled: bool,
) -> tuple[datasets.DatasetDict, Labels]:
    """Find the column of labels in each split, and number the classes alike in all of them."""
    option = options.name_of("label_column")
    check_label_column(splits, options.label_column, argument, option)
    named = datasets.DatasetDict(
        {
            name: rename_label_column(split, options.label_column, origins[name], option)
            for name, split in splits.items()
        }
    )
    predicted = [name for name in named if name.startswith(TEST) and not all_labelled]
    for name, split in named.items():
        if "label" not in split.column_names and not (name in predicted and len(named) > 1):
            raise ConfigError(no_label_column(split, origins[name], option))
    found = None if several is None else several_labels(named, several, argument)
    return found or number_classes(named, origins, argument, options, predicted)


# Rows


def select(task: Task, split: str, limit: int | None = None, seed: int | None = None) -> datasets.Dataset:
    """
    Return the rows of a split that have a label; of a test split all, and without labels where one has none.

    At most `limit` rows are kept: drawn by `seed`, or the first ones if not given. A ConfigError if there is none.
    """
    rows = task.splits[split]
    is_test = split.startswith(TEST)
    if "label" in rows.column_names:
        places = [place for place, label in enumerate(rows["label"]) if label is not None]
        if is_test and len(places) < len(rows):
            if places:
                logger.warning(
                    f"{task.origin(split)}: {len(rows) - len(places)} of {len(rows)} rows have no label, so that no "
                    "prediction is scored."
                )
            else:
                logger.info(f"{task.argument}: the test labels are not public, predictions are not scored")
            rows = rows.remove_columns("label")
        elif len(places) < len(rows):
            rows = rows.select(places)
    if len(rows) == 0:
        raise ConfigError(f"{task.origin(split)} has no row with a label.")
    if limit is not None and seed is not None:
        rows = rows.shuffle(seed=seed)  # a folder has its rows class by class
    return rows.select(range(min(limit or len(rows), len(rows))))


# Checks


def check_several_classes(task: Task) -> None:
    """Raise a ConfigError if all labels are one class."""
    if not task.labels.is_regression and task.labels.num_labels < 2:
        raise ConfigError(f"{task.origin(TRAIN)} has one class, {task.labels.names}; at least two are needed.")


def warn_of_shared_texts(target: Task, sources: Sequence[Task] = ()) -> None:
    """Say how many texts that a model is judged by stand among those that it is trained on as well."""
    trained = [(target, TRAIN)] if TRAIN in target.splits else []
    trained += [(source, TRAIN) for source in sources if TRAIN in source.splits]
    for name in target.splits:
        if name == TRAIN or not trained:
            continue
        judged = set(_texts_of(target, name))
        for task, split in trained:
            shared = len(judged.intersection(_texts_of(task, split)))
            if shared:
                logger.warning(
                    f"{target.origin(name)}: {shared} of its {len(judged)} different texts stand in "
                    f"{task.origin(split)} as well, which the model is trained on; scores are too high by as much as "
                    "it remembers them."
                )


def _texts_of(task: Task, split: str) -> zip:
    return zip(*(task.splits[split][column][:] for column in task.columns), strict=True)
