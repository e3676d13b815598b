"""Write rows piece by piece: as csv, JSON lines or Parquet."""

import csv
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .files import to_json


FORMATS = ("csv", "jsonl", "parquet")
ROW_GROUP = 10_000  # rows of a group of Parquet; smaller groups are slow to read


def write_rows(tables: Iterable[pa.Table], schema: pa.Schema, kind: str, file: Any) -> None:
    """
    Write tables as they come into an open file of text; for Parquet, `file` is a path.

    In csv, a missing value is an empty cell, and lists are JSON; in JSON lines, numbers that JSON does not have are
    null.
    """
    if kind == "parquet":
        with pq.ParquetWriter(file, schema) as writer:
            for group in _groups(tables):
                writer.write_table(group)
        return
    lines = csv.writer(file, lineterminator="\n")
    if kind == "csv":
        lines.writerow(schema.names)
    for table in tables:
        for row in table.to_pylist():
            if kind == "csv":
                lines.writerow(_json(value) if isinstance(value, list | dict) else value for value in row.values())
            else:
                file.write(_json(row) + "\n")


def _json(value: Any) -> str:
    return to_json(value, sort_keys=False, ensure_ascii=False)


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join tables until they have the rows of a group."""
    group: list[pa.Table] = []
    for table in tables:
        group.append(table)
        if sum(map(len, group)) >= ROW_GROUP:
            yield pa.concat_tables(group)
            group = []
    if group:
        yield pa.concat_tables(group)
