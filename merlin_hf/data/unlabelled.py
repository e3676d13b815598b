"""Rows to be predicted: of a file, a folder of images or recordings, or a data set, read piece by piece."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.errors import reason
from ..utils.files import FileError
from ..utils.validation import ConfigError, did_you_mean
from .columns import LABEL_COLUMNS, ColumnOptions, find_text_columns, is_text
from .files import read_file, read_lines
from .load import load_dataset
from .media import (
    Damaged,
    MediaKind,
    UnreadableMediaError,
    find_damaged,
    find_media_column,
    list_media_files,
    listed_damage,
    name_of,
    read_media,
)
from .tasks import MEDIA, ROW


FILE = "file"  # the column of the paths of a folder's files
PATH_COLUMNS = ("file_name", "path", FILE)  # that hold paths of media, besides one with the name of the kind
MEDIA_OF_PATHS = "_media"  # the column of media that is made of them
PIECE = 10_000  # rows that are looked at together

logger = logging.getLogger("merlin_hf.data")


class Piece(NamedTuple):
    """
    Rows that can be predicted, in order.

    Args:
        kept (`pa.Table`): their identifiers and other columns that are kept.
        values (`list[list]`): of each column that the model is shown.
        damaged (`list[Damaged]`): rows that were found to be damaged only when they were read.
        read (`int`): rows, the damaged ones with them.
    """

    kept: pa.Table
    values: list[list]
    damaged: list[Damaged]
    read: int


@dataclass
class UnlabelledRows:
    """
    Rows to be predicted, as they are stored: media are not decoded.

    Args:
        columns (`list[str]`): of the texts that are tokenized together, or the one of media.
        kept (`list[str]`): columns that go with the predictions; their numbers as `row` before these, if
            `numbers_rows`.
        damaged (`dict` of [`~merlin_hf.data.media.Damaged`]): the rows that are known to be damaged, by their number.
    """

    dataset: datasets.Dataset
    kind: str
    columns: list[str]
    origin: str
    kept: list[str]
    numbers_rows: bool
    damaged: dict[int, Damaged] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def kept_schema(self) -> pa.Schema:
        """Return the names and types of what [`Piece.kept`] has."""
        schema = self.dataset.features.arrow_schema
        fields = [schema.field(name).remove_metadata() for name in self.kept]
        return pa.schema([pa.field(ROW, pa.int64()), *fields] if self.numbers_rows else fields)

    def check(self) -> None:
        """
        Find the damaged rows: with a missing or empty text, or with media that cannot be read.

        Of more than `CHECKED_ROWS` media only the headers are read. An UnreadableMediaError if all together cannot be
        right.
        """
        if self.kind in MEDIA:
            kind = MEDIA[self.kind]
            damaged, found = find_damaged(self.dataset.select_columns(self.columns), self.columns[0], kind)
            kind.survey(self.origin, found)
        else:
            damaged = list(self._empty_texts())
        self.damaged = {one.row: one for one in damaged}

    def _empty_texts(self) -> Iterator[Damaged]:
        texts = self.dataset.select_columns(self.columns).with_format("arrow")
        for start in range(0, len(texts), PIECE):
            table = texts[start : start + PIECE]
            for name in self.columns:
                is_empty = pc.equal(pc.utf8_trim_whitespace(table[name]), "")
                for place in np.flatnonzero(pc.fill_null(is_empty, True)):
                    reason = "no value" if table[name][int(place)].as_py() is None else "an empty text"
                    yield Damaged(start + int(place), f"row {start + place}", f"{reason} in {name!r}")

    def pieces(self, size: int) -> Iterator[Piece]:
        """Yield the rows that are not damaged, at most so many together."""
        shown = self.dataset.select_columns(self.columns)
        kept = self.dataset.select_columns(self.kept).with_format("arrow") if self.kept else None
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(self.dataset), size):
                batch = shown[start : start + size]
                values = [batch[name] for name in self.columns]
                count, new = len(values[0]), []
                rows = [row for row in range(start, start + count) if row not in self.damaged]
                values = [[column[row - start] for row in rows] for column in values]
                if self.kind in MEDIA:
                    read = list(pool.map(self._read, values[0], rows))
                    new = [one for one in read if isinstance(one, Damaged)]
                    rows = [row for row, one in zip(rows, read, strict=True) if not isinstance(one, Damaged)]
                    values = [[one for one in read if not isinstance(one, Damaged)]]
                columns = [pa.array(rows, pa.int64())] if self.numbers_rows else []
                if kept is not None:
                    columns += kept[start : start + count].take(pa.array([row - start for row in rows])).columns
                yield Piece(pa.Table.from_arrays(columns, schema=self.kept_schema), values, new, count)

    def _read(self, value: Any, row: int) -> Any:
        try:
            return read_media(MEDIA[self.kind], value, self.origin, row)
        except UnreadableMediaError as error:
            return Damaged(row, name_of(value, row), reason(error.__cause__ or error).rstrip("."))

    def refusal(self, damaged: list[Damaged], option: str) -> ConfigError:
        """Return the error about damaged rows, which names the first ones, and the option that leaves them out."""
        remedy = f"Mend them, or leave them out by `{option}`"
        if len(damaged) == len(self):
            remedy = "There is nothing to predict"
        return ConfigError(f"{self.describe(damaged)}. Rows are counted from 0. {remedy}.")

    def describe(self, damaged: list[Damaged]) -> str:
        """Return how many rows are damaged, with the numbers, names and reasons of the first ones."""
        named = [
            one if one.name.startswith("row ") else one._replace(name=f"row {one.row}, {one.name}") for one in damaged
        ]
        return f"{self.origin}: {len(damaged)} of {len(self)} rows cannot be predicted: {listed_damage(named, 10)}"


def load_unlabelled(
    path: str,
    kind: str,
    options: ColumnOptions,
    name: str | None = None,
    split: str | None = None,
    id_column: str | None = None,
    keep_columns: bool = False,
) -> UnlabelledRows:
    """
    Load rows to be predicted, and find the columns that a model is shown, as where there are labels.

    Args:
        path (`str`): a csv, tsv, json, jsonl, parquet or txt file, a folder of media, or a data set as for
            [`~merlin_hf.data.load_dataset`].
        id_column (`str`, *optional*): a column that is kept in place of numbers of rows.
        keep_columns (`bool`): keep all columns but media.

    Raises:
        ConfigError: a split or column is missing, or not clear.
        FileError, FileNotFoundError: the data cannot be read, or are not there.
    """
    origin = f"`data={path!r}`"
    dataset = _load(path, kind, name, split, id_column)
    if len(dataset) == 0:
        raise FileError(f"{origin} has no rows, only the columns {', '.join(dataset.column_names)}.")
    if id_column is not None and id_column not in dataset.column_names:
        raise ConfigError(
            f"`id_column={id_column!r}` is not a column of {origin}, which has {', '.join(dataset.column_names)}."
            f"{did_you_mean(id_column, dataset.column_names)}"
        )
    given = {*(options.text_columns or ()), options.media_column}
    labels = [
        column
        for column, feature in dataset.features.items()
        if column not in given and (column in LABEL_COLUMNS or isinstance(feature, datasets.ClassLabel))
    ]
    if labels:
        logger.warning(
            f"{origin}: the labels in {', '.join(labels)} are not looked at; `merlin-hf evaluate` scores a model."
        )
    left_out = {*labels, id_column} - {None, *given}
    shown = dataset.remove_columns([column for column in dataset.column_names if column in left_out])
    if kind in MEDIA:
        dataset, columns = _find_media(dataset, shown, MEDIA[kind], options, path, origin)
    else:
        option = options.name_of("text_columns")
        columns = find_text_columns(shown, options.text_columns, option, origin)
    ids = FILE if id_column is None and dataset.column_names == [FILE, MEDIA_OF_PATHS] else id_column
    kept = [] if ids is None else [ids]
    if keep_columns:
        kept += [name for name in dataset.column_names if name != ids]
    media = {name for name in kept if _is_media(dataset.features[name]) or (kind in MEDIA and name in columns)}
    return UnlabelledRows(dataset, kind, columns, origin, [name for name in kept if name not in media], ids is None)


def _load(path: str, kind: str, name: str | None, split: str | None, id_column: str | None) -> datasets.Dataset:
    is_media_file = kind in MEDIA and path.lower().endswith(MEDIA[kind].endings)
    if os.path.isfile(path) and (name or split):
        option = "dataset_config_name" if name else "split"
        raise ConfigError(f"`{option}` is of a data set, and `data={path!r}` is a file.")
    if os.path.isfile(path):
        if is_media_file:
            files = datasets.Dataset.from_dict({FILE: [os.path.basename(path)]})
            return _with_media(files, FILE, os.path.dirname(path), MEDIA[kind])
        if path.lower().endswith(".txt"):
            return read_lines(path, "data")
        return read_file(path, "data", as_texts=[] if id_column is None else [id_column])
    if os.path.isdir(path) and kind in MEDIA and split is None:
        files = list_media_files(path, MEDIA[kind], "data")
        if files:
            return _with_media(datasets.Dataset.from_dict({FILE: files}), FILE, path, MEDIA[kind])
    loaded = load_dataset(path, name, argument="data")
    if split is None and len(loaded) > 1:
        raise ConfigError(f"`data={path!r}` has the splits {', '.join(loaded)}: name one by `--split`.")
    if split is not None and split not in loaded:
        raise ConfigError(
            f"`split={split!r}` is not in `data={path!r}`, only {', '.join(loaded)}.{did_you_mean(split, loaded)}"
        )
    return loaded[split or next(iter(loaded))]


def _with_media(dataset: datasets.Dataset, column: str, folder: str, kind: MediaKind) -> datasets.Dataset:
    """Add the media that a column of paths names, relative to a folder."""
    value = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({**dataset.features, MEDIA_OF_PATHS: value})
    options = {"column": column, "folder": folder}
    dataset = dataset.map(_to_media, batched=True, features=features, fn_kwargs=options)
    # A cast in place of the feature itself: that of audio needs torchcodec to take a row.
    return dataset.cast_column(MEDIA_OF_PATHS, kind.feature(decode=False))


def _to_media(rows: dict[str, list], column: str, folder: str) -> dict[str, list]:
    paths = [os.path.join(folder, path) if path else None for path in rows[column]]
    return {MEDIA_OF_PATHS: [{"bytes": None, "path": path} for path in paths]}


def _is_media(feature: Any) -> bool:
    arrays = (datasets.Array2D, datasets.Array3D, datasets.Array4D, datasets.Array5D)
    return isinstance(feature, (datasets.Image, datasets.Audio, *arrays))


def _find_media(
    dataset: datasets.Dataset,
    shown: datasets.Dataset,
    kind: MediaKind,
    options: ColumnOptions,
    path: str,
    origin: str,
) -> tuple[datasets.Dataset, list[str]]:
    """Find the column of media, or of paths of media; media stay as they are stored."""
    if MEDIA_OF_PATHS in shown.column_names:
        return dataset, [MEDIA_OF_PATHS]
    texts = [name for name in shown.column_names if is_text(shown.features[name])]
    usual = [name for name in (kind.name, *PATH_COLUMNS) if name in texts]
    has_media = any(kind.is_media(feature) for feature in shown.features.values())
    paths = options.media_column if options.media_column in texts else None
    if paths is None and options.media_column is None and not has_media and usual:
        paths = usual[0]
    if paths is not None:
        return _with_media(dataset, paths, os.path.dirname(path), kind), [MEDIA_OF_PATHS]
    column = find_media_column(shown, kind, options, origin)
    if isinstance(dataset.features[column], datasets.Image | datasets.Audio):
        dataset = dataset.cast_column(column, kind.feature(decode=False))
    return dataset, [column]
