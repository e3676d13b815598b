"""Load folders of images and recordings with a folder for each class, and name the files that cannot be read."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from ..utils.errors import reason
from ..utils.validation import ConfigError, did_you_mean
from .columns import LABEL_COLUMNS, ColumnOptions
from .files import reading
from .labels import match_names


# How folders of splits are called, besides in upper case.
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
LABEL_NAMES = ("fine_label", "class")  # of columns, besides label and labels
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLES_AND_ARCHIVES = (".csv", ".json", ".jsonl", ".parquet", ".arrow", ".zip", ".tar", ".gz", ".py")
CHECKED_ROWS = 2000  # of a larger set, only the headers of files are read before the first step

logger = logging.getLogger("merlin_hf.data")


class UnreadableMediaError(ValueError):
    """Raise where images or recordings cannot be read as what they are; the message names them."""


@dataclass(frozen=True)
class MediaKind:
    """
    A kind of media; the column that is loaded has its `name`.

    Args:
        feature (`Callable`): the feature of `datasets`, which takes `decode`.
        is_media (`Callable`): whether a column with a feature of `datasets` has such media.
        read (`Callable`): from a stored value to the image, or to the samples and their rate.
        glance (`Callable`): the same, reading no more than the header where there is one.
        facts (`Callable`): from what `read` or `glance` gave to what `survey` needs of it, or `None`.
        survey (`Callable`): takes how the user named the data and pairs of a name and facts; raises or warns where all
            together cannot be right.
    """

    name: str
    plural: str
    endings: tuple[str, ...]
    feature: Callable[..., Any]
    is_media: Callable[[Any], bool]
    read: Callable[[Any], Any]
    glance: Callable[[Any], Any]
    facts: Callable[[Any], Any]
    survey: Callable[[str, list[tuple[str, Any]]], None]


# Columns


def media_label_column(split: datasets.Dataset, origin: str, options: ColumnOptions) -> str | None:
    """Return the column of labels of media if it has a usual name; warn where others could be meant."""
    if set(LABEL_COLUMNS) & set(split.column_names):
        return None  # what is found anyway
    found = next((name for name in LABEL_NAMES if name in split.column_names), None)
    classes = [name for name, feature in split.features.items() if isinstance(feature, datasets.ClassLabel)]
    others = [name for name in classes if name != found]
    if found is not None and others:
        logger.warning(
            f"{origin}: the labels are taken from {found}, not from {', '.join(others)}; "
            f"`{options.name_of('label_column')}` names another."
        )
    return found


def find_media_column(split: datasets.Dataset, kind: MediaKind, options: ColumnOptions, origin: str) -> str:
    """
    Find the column of images or recordings: as given, else the one called as its kind, else the only one.

    A ConfigError lists the columns if there is none, or several.
    """
    given, option = options.media_column, options.name_of("media_column")
    media = [name for name, feature in split.features.items() if kind.is_media(feature)]
    found = given or (kind.name if kind.name in media else media[0] if len(media) == 1 else None)
    if found is not None and found in media:
        return found
    listed = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in split.features.items())
    if given is None:
        raise ConfigError(f"{origin} has the columns {listed}: give one of {kind.plural} by `{option}`.")
    hint = did_you_mean(given, media)
    raise ConfigError(f"`{option}` must be one of the columns of {kind.plural} {media}, got {given!r}.{hint}")


# Folders


def load_media_folders(
    folders: Mapping[str, str],
    kind: MediaKind,
    arguments: Mapping[str, str],
    **kwargs: Any,
) -> datasets.DatasetDict:
    """
    Load files in a folder for each class, with a column of the kind's name, and `label` where there are classes.

    A file may lie deeper: its class is the first folder on its way. Hidden files are left out. Splits have the same
    classes, those of `train` where it is one of them. `test` may have files without classes. Where a folder has a
    `metadata` file, that has the labels, and `kwargs` are for [`datasets.load_dataset`].

    Raises:
        FileNotFoundError: a folder is not there, or has no such files.
        ValueError: it is not clear which folder is the class of a file, or a split has classes that `train` does not
            have.
    """
    for split, folder in folders.items():
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"`{arguments[split]}={folder!r}` is not a folder.")
    if any((Path(folder) / name).is_file() for folder in folders.values() for name in METADATA):
        files = {split: os.path.join(glob.escape(str(folder)), "**") for split, folder in folders.items()}
        with reading(" and ".join(f"`{arguments[split]}={folder!r}`" for split, folder in folders.items())):
            return datasets.load_dataset(f"{kind.name}folder", data_files=files, **kwargs)
    listed = {split: _list_by_class(folder, kind, arguments[split], split) for split, folder in folders.items()}
    classes = {split: sorted({parts[0] for parts in files if len(parts) > 1}) for split, files in listed.items()}
    names = classes.get("train") or sorted({name for known in classes.values() for name in known})
    origins = {split: f"`{arguments[split]}={folder!r}`" for split, folder in folders.items()}
    places = {
        split: dict(zip(known, match_names(known, names, origins[split], origins.get("train", "")), strict=True))
        for split, known in classes.items()
    }
    return datasets.DatasetDict(
        {split: _dataset(folders[split], files, kind, names, places[split]) for split, files in listed.items()}
    )


def list_media_files(folder: str, kind: MediaKind, argument: str) -> list[str]:
    """List the files of a kind in a folder, however deep, by their paths within it; hidden files are left out."""
    files, others = _files_in(folder, kind)
    if files and others:
        logger.warning(
            f"`{argument}={folder!r}`: {len(others)} files that do not end in {', '.join(kind.endings)} are left out."
        )
    return ["/".join(parts) for parts in files]


def _files_in(folder: str, kind: MediaKind) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the files of a kind in a folder, however deep, and the other files, each by the parts of its path."""
    files: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for parts in _walk(folder):
        (files if parts[-1].lower().endswith(kind.endings) else others).append(parts)
    return files, others


def _dataset(
    folder: str, files: list[tuple[str, ...]], kind: MediaKind, names: list[str], places: dict[str, int]
) -> datasets.Dataset:
    """Make a data set of files, with `label` where `names` are those of their folders of classes."""
    columns: dict[str, list] = {kind.name: [{"bytes": None, "path": os.path.join(folder, *parts)} for parts in files]}
    features: dict[str, Any] = {kind.name: {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    if places:
        columns["label"] = [places[parts[0]] for parts in files]
        features["label"] = datasets.ClassLabel(names=names)
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    # A cast in place of the feature itself: that of audio needs torchcodec to take a row.
    return dataset.cast_column(kind.name, kind.feature(decode=False))


def _list_by_class(folder: str, kind: MediaKind, argument: str, split: str) -> list[tuple[str, ...]]:
    """List the files of a kind, each by the parts of its path, and check that folders of classes can be told."""
    given = f"`{argument}={folder!r}`"
    files, others = _files_in(folder, kind)
    endings = Counter(os.path.splitext(parts[-1])[1].lower() or parts[-1] for parts in others)
    left_out = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(8))
    if not files:
        has = f", only other files: {left_out}" if others else ""
        raise FileNotFoundError(
            f"{given} has no {kind.plural} in a folder for each class{has}. Files that are read end in "
            f"{', '.join(kind.endings)}."
        )
    flat = [parts[0] for parts in files if len(parts) == 1]
    classes = sorted({parts[0] for parts in files if len(parts) > 1})
    if flat and (classes or split != "test"):
        raise ValueError(
            f"{given} has {len(flat)} {kind.plural} that are in no folder of a class, such as {flat[0]!r}. Move each "
            "into the folder of its class."
        )
    if len(classes) > 1 and all(name.lower() in SPLIT_FOLDERS for name in classes):
        raise ValueError(
            f"{given} has the folders {listing(classes)}, which are called like splits, not like classes. Give "
            + ", ".join(sorted(f"`{_of_split(argument, name)}={os.path.join(folder, name)!r}`" for name in classes))
            + ", or call the folders otherwise."
        )
    if len(classes) == 1 and split == "train":
        inner = sorted({parts[1] for parts in files if len(parts) > 2})
        if inner:
            remedy = f"Is `{argument}={os.path.join(folder, classes[0])!r}` meant, with the folders {listing(inner)}?"
        else:
            remedy = "Give a folder with a folder for each of at least two classes."
        raise ValueError(f"{given} has one folder of a class, {classes[0]!r}; at least two are needed. {remedy}")
    deeper = [parts for parts in files if len(parts) > 2]
    if deeper:
        logger.warning(
            f"{given}: {len(deeper)} of {len(files)} files are in deeper folders, such as "
            f"{os.path.join(*deeper[0])!r}. Their class is the first folder, one of {listing(classes)}. If it is "
            f"another, give that folder's parent as `{argument}`."
        )
    without = sorted(entry.name for entry in _visible(folder) if entry.is_dir() and entry.name not in classes)
    if without:
        logger.warning(f"{given}: the folders {listing(without)} have no {kind.plural}, and are not classes.")
    if others:
        logger.warning(f"{given}: left out what does not end in {', '.join(kind.endings)}: {left_out}.")
    return files


def _walk(folder: str, parts: tuple[str, ...] = (), above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of files by their parts, in order."""
    real = os.path.realpath(folder)
    if real in above:
        raise ValueError(f"{folder!r} is a link to a folder that it is in. Remove the link.")
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _walk(entry.path, (*parts, entry.name), (*above, real))
        else:
            yield (*parts, entry.name)


def _visible(folder: str) -> list[os.DirEntry]:
    return sorted((entry for entry in os.scandir(folder) if not is_hidden(entry.name)), key=lambda entry: entry.name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is one that file managers and archives leave behind."""
    return name.startswith((".", "__MACOSX")) or name.lower() in ("thumbs.db", "desktop.ini")


def _of_split(argument: str, folder: str) -> str:
    """Return the argument for the folder of a split, beside that for another one."""
    if argument.startswith("source_"):
        return argument
    return f"{SPLIT_FOLDERS[folder.lower()]}_dir"


def listing(names: Sequence[str]) -> str:
    """Return names with commas, the first 20 of many."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


# A folder under the name of a data set


def find_split_folders(folder: str, kind: MediaKind, argument: str) -> dict[str, str] | None:
    """
    Find the folders of splits of a data set that is nothing but files of a kind in folders of classes.

    `None` where `datasets` should read the folder: there are tables or archives, or no such files. A ValueError if
    some folders are called like splits and others are not, or two are the same split.
    """
    with_files = set()
    for parts in _walk(folder):
        name, is_media = parts[-1].lower(), parts[-1].lower().endswith(kind.endings)
        if name.endswith(TABLES_AND_ARCHIVES) or (is_media and len(parts) == 1):
            return None
        if is_media:
            with_files.add(parts[0])
    splits = [name for name in with_files if name.lower() in SPLIT_FOLDERS]
    if len(with_files) == 0 or (len(with_files) == 1 and not splits):
        return None
    if not splits:
        return {"train": folder}
    if len(splits) < len(with_files):
        others = sorted(with_files - set(splits))
        raise ValueError(
            f"`{argument}={folder!r}` has the folders {listing(sorted(splits))}, which are called like splits, beside "
            f"{listing(others)}. Put the folders of classes into those of splits, or, if all are classes, give the "
            "folder as `train_dir`."
        )
    found: dict[str, str] = {}
    for name in sorted(splits):
        split = SPLIT_FOLDERS[name.lower()]
        if split in found:
            raise ValueError(
                f"`{argument}={folder!r}` has two folders for the split {split}: {os.path.basename(found[split])} and "
                f"{name}. Keep one."
            )
        found[split] = os.path.join(folder, name)
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


# Reading by name


def name_of(value: Any, row: int | None) -> str:
    """Return the path of a stored value, or the number of its row."""
    path = value.get("path") if isinstance(value, dict) else None
    if path and (row is None or os.path.isfile(path)):
        return str(path)
    return f"row {row}" + (f" ({path})" if path else "") if row is not None else "a row"


def read_media(kind: MediaKind, value: Any, where: str, row: int | None = None) -> Any:
    """Read an image or a recording; an UnreadableMediaError names the file, or the row."""
    found = _tried(kind.read, value)
    if isinstance(found, Exception):
        name = name_of(value, row)
        raise UnreadableMediaError(
            f"{where}: {name} cannot be read: {reason(found).rstrip('.')}. Replace or remove it."
        ) from found
    return found


def _tried(look: Callable[[Any], Any], value: Any) -> Any:
    """Return what `look` gives for a stored value, or the error about the value that it raises."""
    try:
        _check_regular(value)
        return look(value)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        return error


class Damaged(NamedTuple):
    """A row that cannot be used: its number as stored, how to name it, and why."""

    row: int
    name: str
    reason: str


def check_media(dataset: datasets.Dataset, column: str, kind: MediaKind, where: str) -> None:
    """
    Check that the media of a data set can be read: in full, or for more than `CHECKED_ROWS` rows by their headers.

    An UnreadableMediaError names the first of those that cannot be read, and says how many there are.
    """
    damaged, found = find_damaged(dataset, column, kind)
    if damaged:
        raise UnreadableMediaError(
            f"{where}: {len(damaged)} of {len(dataset)} {kind.plural} cannot be read: {listed_damage(damaged)}. "
            "Replace or remove them."
        )
    kind.survey(where, found)


def listed_damage(damaged: Sequence[Damaged], limit: int = 3) -> str:
    """Return the names of rows with the reasons, the first ones of many."""
    more = f" and {len(damaged) - limit} more" if len(damaged) > limit else ""
    return ", ".join(f"{one.name} ({one.reason})" for one in damaged[:limit]) + more


def find_damaged(
    dataset: datasets.Dataset, column: str, kind: MediaKind
) -> tuple[list[Damaged], list[tuple[str, Any]]]:
    """
    Read the media of a data set: in full, or for more than `CHECKED_ROWS` rows their headers.

    The column is not decoded; a column `row` numbers the rows as stored. Return those that cannot be read, and what
    `kind.survey` takes of the others.
    """
    look = kind.read if len(dataset) <= CHECKED_ROWS else kind.glance
    dataset = dataset.select_columns([name for name in (column, "row") if name in dataset.column_names])
    facts_of = partial(_tried, lambda value: kind.facts(look(value)))
    found: list[tuple[str, Any]] = []
    damaged: list[Damaged] = []
    start = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for batch in dataset.iter(batch_size=64):
            rows = batch.get("row") or range(start, start + len(batch[column]))
            start += len(batch[column])
            for row, value, facts in zip(rows, batch[column], pool.map(facts_of, batch[column]), strict=True):
                name = name_of(value, row)
                if isinstance(facts, Exception):
                    damaged.append(Damaged(row, name, reason(facts).rstrip(".")))
                elif facts is not None:
                    found.append((name, facts))
    return damaged, found


def check_not_empty(value: Mapping[str, Any], what: str) -> None:
    """Raise a ValueError unless a stored value has bytes, or the path of a file that is not empty."""
    content, path = value.get("bytes"), value.get("path")
    if content is None and path is None:
        raise ValueError(f"there is no {what} in this row")
    if content == b"" or (content is None and os.path.isfile(path or "") and os.path.getsize(path or "") == 0):
        raise ValueError("the file is empty")


def _check_regular(value: Any) -> None:
    """Raise a ValueError if a path is a folder, or something that would be waited for, such as a named pipe."""
    path = value.get("path") if isinstance(value, dict) and not value.get("bytes") else None
    if path and os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is not a regular file")
