"""Write rows piece by piece: as csv, JSON lines or Parquet."""

import csv
import os
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from .files import FileError, check_output_dir, to_json
from .validation import ConfigError


FORMATS = ("csv", "jsonl", "parquet")
ROW_GROUP = 10_000  # rows of a group of Parquet; smaller groups are slow to read


class RowWriter(Protocol):
    """Takes tables with the columns of its schema."""

    def write(self, table: pa.Table) -> None:
        """Write some rows."""

    def close(self) -> None:
        """Write what is left."""


class CsvWriter:
    """A line of names, then a line for each row. A missing value is an empty cell; lists are written as JSON."""

    def __init__(self, file: IO[str], schema: pa.Schema):
        self.writer = csv.writer(file, lineterminator="\n")
        self.writer.writerow(schema.names)

    def write(self, table: pa.Table) -> None:
        """Write some rows."""
        for row in table.to_pylist():
            self.writer.writerow([_cell(value) for value in row.values()])

    def close(self) -> None:
        """Write nothing more."""


class JsonlWriter:
    """An object for each row. A missing value, and a number that JSON does not have, is null."""

    def __init__(self, file: IO[str], schema: pa.Schema):
        self.file = file

    def write(self, table: pa.Table) -> None:
        """Write some rows."""
        for row in table.to_pylist():
            self.file.write(to_json(row, sort_keys=False, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Write nothing more."""


class ParquetWriter:
    """Groups of rows, with the types of the schema."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.writer = pq.ParquetWriter(path, schema)
        self.tables: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        """Write some rows, when there are enough for a group."""
        self.tables.append(table)
        if sum(map(len, self.tables)) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        if self.tables:
            self._flush()
        self.writer.close()

    def _flush(self) -> None:
        self.writer.write_table(pa.concat_tables(self.tables))
        self.tables = []


def _cell(value: Any) -> Any:
    return to_json(value, sort_keys=False, ensure_ascii=False) if isinstance(value, list | dict) else value


def text_writer(file: IO[str], schema: pa.Schema, kind: str) -> RowWriter:
    """Return what writes rows as `"csv"` or `"jsonl"` into an open file."""
    return CsvWriter(file, schema) if kind == "csv" else JsonlWriter(file, schema)


def format_of(path: str | os.PathLike, option: str) -> str:
    """
    Return the format of a file by how its name ends.

    Raises:
        ConfigError: it is none that can be written.
    """
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise ConfigError(
            f"`{option}={os.fspath(path)!r}` must end in {', '.join(f'.{one}' for one in FORMATS)}, which says how it "
            "is written."
        )
    return ending


def check_new_file(path: str | os.PathLike, option: str, overwrite: bool) -> None:
    """
    Check that a file can be written, before anything is computed for it.

    Raises:
        FileError: it is there and `overwrite` is not given, it is a folder, or its folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise FileError(f"`{option}={os.fspath(path)!r}` is a folder: give the name of a file.")
    if path.exists() and not overwrite:
        raise FileError(f"`{option}={os.fspath(path)!r}` exists: give another name, or `--overwrite` to replace it.")
    check_output_dir(path.parent, [path.name], option)
