"""Read csv, json and parquet files: find out how they are written, or say which line cannot be read."""

import bz2
import codecs
import csv
import dataclasses
import gzip
import io
import itertools
import json
import logging
import lzma
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.json.json import Json, JsonConfig
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.text.text import Text

from ..utils import errors
from ..utils.files import FileError


# How a file name ends, and the builder of `datasets` that reads it.
FILE_TYPES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
COMPRESSED = (".gz", ".bz2", ".xz")
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16"}
MARKS |= {codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_BE: "utf-16"}
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SAMPLE = 200  # records that tell the delimiter

INTEGER = r"^-?(?:0|[1-9]\d*)$"
NUMBER = r"^-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
ZERO_PADDED = r"^-?0\d"  # a code, not a number
# Words for a missing value. In a column of texts they are texts; among numbers they can only be missing ones.
NO_NUMBER = ("NA", "N/A", "n/a", "#N/A", "nan", "NaN", "NAN", "null", "NULL", "none", "None", "<NA>")

logger = logging.getLogger("merlin_hf.data")


def file_type(path: str | os.PathLike, argument: str = "path") -> str:
    """Return the builder of `datasets` that reads a file, by how its name ends; a ValueError if there is none."""
    name = Path(path).name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    suffix = Path(name).suffix
    if suffix not in FILE_TYPES:
        raise ValueError(f"`{argument}` must be a {', '.join(FILE_TYPES)} file, got {os.fspath(path)!r}.")
    return FILE_TYPES[suffix]


def read_file(
    path: str, argument: str, cache_dir: str | None = None, as_texts: Sequence[str] = ()
) -> datasets.Dataset:
    """
    Read one file, which the user gave as `argument`.

    Columns of a csv file in `as_texts` are taken as they stand, also where all cells are numbers. A FileError names
    the argument, the file, the reason and the line.
    """
    named = f"`{argument}={path!r}`"
    kind = file_type(path, argument)
    with reading(named):
        _check_content(path, named)
        if kind == "csv":
            dataset = _read_csv(path, named, cache_dir, as_texts)
        else:
            dataset = {"json": _read_json, "parquet": _read_parquet}[kind](path, named, cache_dir)
    if len(dataset) == 0:
        raise FileError(f"{named} has no rows, only the columns {', '.join(dataset.column_names) or 'none'}.")
    return dataset


def read_lines(path: str, argument: str) -> datasets.Dataset:
    """Read a file of text: a row for each line, with the column `text`; a FileError says why it cannot be read."""
    named = f"`{argument}={path!r}`"
    with reading(named):
        _check_content(path, named)
        return _build(Text, path, None, encoding=_encoding(path, named))


def read_csv_files(paths: Sequence[str], named: str, cache_dir: str | None = None) -> datasets.Dataset:
    """Read csv files whose rows belong together; a FileError if one cannot be read or has other columns."""
    parts = []
    for path in paths:
        origin = named if len(paths) == 1 else f"{named} (its file {path!r})"
        with reading(origin):
            _check_content(path, origin)
            parts.append(_read_csv(path, origin, cache_dir))
        if set(parts[-1].column_names) != set(parts[0].column_names):
            raise FileError(
                f"{origin} has the columns {', '.join(parts[-1].column_names)}, and {paths[0]!r} has "
                f"{', '.join(parts[0].column_names)}. Files of one split need the same columns."
            )
        for name, feature in parts[0].features.items():
            if parts[-1].features[name] != feature:
                raise FileError(
                    f"{origin} has {_shown(parts[-1].features[name])} in its column {name!r}, and {paths[0]!r} has "
                    f"{_shown(feature)}. Files of one split need the same kind of values."
                )
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _shown(feature: Any) -> str:
    return {"string": "texts", "int64": "whole numbers", "float64": "numbers"}.get(feature.dtype, str(feature))


@contextmanager
def reading(named: str) -> Iterator[None]:
    """Name the data in the FileError that whatever a library raises becomes, without the wrapping of `datasets`."""
    with errors.reading(f"{named} cannot be read"):
        try:
            yield
        except datasets.exceptions.DatasetGenerationError as error:
            raise error.__cause__ or error from None


# Bytes


def _opened(path: str) -> IO[bytes]:
    """Open a file, unpacked if it is compressed."""
    with open(path, "rb") as file:
        start = file.read(8)
    opener: Any = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), open)
    return opener(path, "rb")


def _check_content(path: str, named: str) -> None:
    """Raise a FileError if a file is empty, or of another kind."""
    with _opened(path) as file:
        start = file.read(1024)
    if not start.strip():
        raise FileError(f"{named} is empty.")
    if start.startswith(b"version https://git-lfs"):
        raise FileError(f"{named} is a pointer of Git LFS, not the data: `git lfs pull` fetches these.")
    if start.startswith(b"PK\x03\x04"):
        raise FileError(f"{named} is a zip archive or a spreadsheet: save what is in it as csv, json or parquet.")


def _encoding(path: str, named: str) -> str:
    """Return the encoding of a file of text, by its byte order mark, else UTF-8; a FileError if it has another one."""
    with _opened(path) as file:
        start = file.read(4)
        encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")
        file.seek(0)
        for number, line in enumerate(file if encoding.startswith("utf-8") else (), 1):
            if b"\0" in line:
                raise FileError(
                    f"{named} has bytes of zero, as UTF-16 has without a byte order mark: save it as UTF-8."
                )
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise FileError(
                    f"{named} is not UTF-8: line {number} has the byte 0x{line[error.start]:02x}. Save it as UTF-8; "
                    "from Windows or Latin-1: `iconv -f CP1252 -t UTF-8`."
                ) from None
        try:
            for _ in io.TextIOWrapper(file, encoding, newline=""):
                pass
        except UnicodeDecodeError as error:
            raise FileError(f"{named} is not {encoding.upper()}: {error.reason}. Save it as UTF-8.") from None
    return encoding


# csv


@dataclass
class CsvForm:
    """
    The form of a csv file.

    Args:
        quoting (`int`): `csv.QUOTE_MINIMAL`, or `csv.QUOTE_NONE` where quotation marks are characters like any other.
        skipinitialspace (`bool`): whether a blank follows each delimiter.
        header (`list[str]`): names of the columns.
    """

    encoding: str
    delimiter: str
    quoting: Any = csv.QUOTE_MINIMAL
    skipinitialspace: bool = False
    header: list[str] = field(default_factory=list)
    rows: int = 0


def _read_csv(path: str, named: str, cache_dir: str | None, as_texts: Sequence[str] = ()) -> datasets.Dataset:
    form = csv_form(path, named)
    texts = _build(
        Csv,
        path,
        cache_dir,
        features=datasets.Features({name: datasets.Value("string") for name in form.header}),
        sep=form.delimiter,
        encoding=form.encoding,
        quoting=form.quoting,
        skipinitialspace=form.skipinitialspace,
        names=form.header,
        header=0,
        index_col=False,
        keep_default_na=False,  # only an empty cell is a missing one
        na_values=[""],
    )
    if len(texts) != form.rows:
        raise FileError(
            f"{named} has {form.rows} rows by its quotation marks, and pandas reads {len(texts)}: close every "
            "quotation mark."
        )
    found = {
        name: _type_of_numbers(texts.data[name], form.delimiter != ",", named, name)
        for name in form.header
        if name not in as_texts
    }
    kinds = {name: datasets.Value(kind) for name, kind in found.items() if kind is not None}
    if not kinds:
        return texts
    features = datasets.Features({**texts.features, **kinds})
    return texts.with_format("arrow").map(
        _cast, batched=True, features=features, fn_kwargs={"names": list(kinds), "schema": features.arrow_schema}
    ).with_format(None)  # fmt: skip


def _type_of_numbers(cells: pa.ChunkedArray, has_decimal_commas: bool, named: str, name: str) -> str | None:
    """Return the type of a column of cells that are numbers, empty or words for missing ones; `None` for texts."""
    cells = pc.utf8_trim_whitespace(cells)
    is_word = pc.is_in(cells, pa.array(NO_NUMBER))
    numbers = cells.filter(pc.invert(pc.or_(is_word, pc.fill_null(pc.equal(cells, ""), True))))
    commas = pc.sum(pc.match_substring(numbers, ",")).as_py() if has_decimal_commas else 0
    if commas:
        numbers = pc.replace_substring(numbers, ",", ".")
    is_number, is_padded, is_whole = (
        pc.match_substring_regex(numbers, pattern) for pattern in (NUMBER, ZERO_PADDED, INTEGER)
    )
    if len(numbers) == 0 or not pc.all(pc.and_not(is_number, is_padded)).as_py():
        return None
    try:
        numbers.filter(is_whole).cast("int64")
    except pa.ArrowInvalid:  # more digits than a number keeps
        return None
    words = pc.value_counts(cells.filter(is_word)).to_pylist()
    if words:
        listed = ", ".join(f"{word['counts']} {word['values']!r}" for word in words)
        logger.warning(
            f"{named}: among the numbers of its column {name!r} there are {listed}, taken as missing values. In a "
            "column of texts they would be texts."
        )
    if commas:
        logger.warning(f"{named}: the commas in the numbers of its column {name!r} are taken as decimal points.")
    return "int64" if pc.all(is_whole).as_py() else "float64"


def _cast(table: pa.Table, names: list[str], schema: pa.Schema) -> pa.Table:
    """Cast columns of texts to numbers; what is none becomes missing."""
    for name in names:
        texts = pc.replace_substring(pc.utf8_trim_whitespace(table[name]), ",", ".")
        texts = pc.if_else(pc.is_in(texts, pa.array([*NO_NUMBER, ""])), None, texts)
        table = table.set_column(table.schema.get_field_index(name), name, texts.cast(schema.field(name).type))
    return table


def csv_form(path: str, named: str) -> CsvForm:
    """
    Find out how a csv file is written, and check every line of it.

    A FileError says which line has more or fewer cells than the header or an open quotation mark, or which name the
    header has twice.
    """
    encoding = _encoding(path, named)
    limit = csv.field_size_limit(sys.maxsize)
    try:
        form = _sniffed(path, encoding)
        try:
            return _checked(path, named, form)
        except FileError:
            if form.delimiter != "\t":
                raise
            # GLUE's files have tabs, and quotation marks that are not closed.
            return _checked(path, named, dataclasses.replace(form, quoting=csv.QUOTE_NONE))
    finally:
        csv.field_size_limit(limit)


def _lines(path: str, encoding: str) -> Iterator[str]:
    """Yield the lines of a file with their ends, of which `str.splitlines` knows more than there are."""
    with _opened(path) as file, io.TextIOWrapper(file, encoding, newline="") as text:
        yield from text


def _sniffed(path: str, encoding: str) -> CsvForm:
    """Choose the delimiter by which the first records have as many cells as the header, and more than one."""
    lines = list(itertools.islice(_lines(path, encoding), SAMPLE))
    usual = "\t" if ".tsv" in Path(path).name.lower() else ","
    records = {
        one: [record for record in csv.reader(lines, delimiter=one) if record] or [[]]
        for one in sorted(DELIMITERS, key=lambda one: one != usual)
    }
    widths = {one: len(found[0]) for one, found in records.items()}
    end = -1 if len(lines) == SAMPLE else None  # the last one may go on after the sample
    even = (one for one in records if all(len(record) == widths[one] for record in records[one][1:end]))
    widest = max(widths, key=widths.__getitem__)
    delimiter = next((one for one in even if widths[one] > 1), usual if widths[usual] > 1 else widest)
    if delimiter != usual:
        logger.info(f"{path}: cells are separated by {DELIMITERS[delimiter]}")
    header = records[delimiter][0]
    is_spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    return CsvForm(encoding, delimiter, skipinitialspace=is_spaced)


def _checked(path: str, named: str, form: CsvForm) -> CsvForm:
    reader = csv.reader(
        _lines(path, form.encoding),
        delimiter=form.delimiter,
        quoting=form.quoting,
        skipinitialspace=form.skipinitialspace,
        strict=True,
    )
    start, blank = 1, 0
    form = dataclasses.replace(form, header=[], rows=0)
    try:
        for record in reader:
            if not record:
                blank += 1
            elif not form.header:
                form.header = _header(record, named)
            else:
                if len(record) != len(form.header):
                    raise FileError(_uneven(named, start, len(record), form))
                form.rows += 1
            start = reader.line_num + 1
    except csv.Error as error:
        raise FileError(
            f"{named}: the cells of the record that starts in line {start} cannot be separated ({error}). Close its "
            "quotation marks, and double those within a cell."
        ) from None
    if blank and len(form.header) == 1:
        logger.warning(f'{named}: {blank} blank lines are left out; an empty text is written as "".')
    if not form.rows:
        raise FileError(f"{named} has no rows, only the columns {', '.join(form.header)}.")
    return form


def _header(record: list[str], named: str) -> list[str]:
    header = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(record)]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise FileError(
            f"{named} has the column {twice!r} twice in its first line. Give each column a name of its own."
        )
    return header


def _uneven(named: str, line: int, cells: int, form: CsvForm) -> str:
    expected = f"{len(form.header)} {'cells' if len(form.header) > 1 else 'cell'} ({', '.join(form.header[:8])})"
    return (
        f"{named}: line {line} has {cells} {'cells' if cells != 1 else 'cell'} separated by "
        f"{DELIMITERS[form.delimiter]}, the header has {expected}. Put a cell with a separator in it between "
        'quotation marks: "...".'
    )


# json and parquet


def _read_json(path: str, named: str, cache_dir: str | None) -> datasets.Dataset:
    encoding = _encoding(path, named)
    options = {"parse_agent_traces": False} if "parse_agent_traces" in JsonConfig.__dataclass_fields__ else {}
    reason: Exception | None = None
    if encoding == "utf-8" and _has_an_object_a_line(path):
        try:
            return _build(Json, path, cache_dir, **options)
        except Exception as error:
            reason = error
    rows = _json_rows(path, named, encoding)
    try:
        return datasets.Dataset.from_list(rows)
    except (pa.ArrowException, TypeError, ValueError) as error:
        kinds = _mixed_kinds(rows)
        found = kinds or " ".join(str(reason or error).split())[:300]
        raise FileError(f"{named} cannot be read: {found}") from error


def _has_an_object_a_line(path: str) -> bool:
    """Return whether a json file has several lines, of an object each; Arrow's reader crashes at `null` and others."""
    count = 0
    for line in _lines(path, "utf-8"):
        line = line.strip()
        if line and not (line.startswith("{") and line.endswith("}")):
            return False
        count += bool(line)
    return count > 1


def _json_rows(path: str, named: str, encoding: str) -> list[dict[str, Any]]:
    """Read a json file: an object a line, a list of objects, or one object with a list of them or of columns."""
    text = "".join(_lines(path, encoding))
    try:
        document = json.loads(text)
    except ValueError as whole:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = []
        for number, line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                if number == lines[0][0] and isinstance(whole, json.JSONDecodeError):
                    raise FileError(f"{named}: line {whole.lineno} is not JSON: {whole.msg}.") from None
                raise FileError(
                    f"{named}: line {number} is not JSON: {getattr(error, 'msg', error)}. Each line must be an object "
                    'such as {"text": "...", "label": 0}.'
                ) from None
            if not isinstance(rows[-1], dict):
                raise FileError(f"{named}: line {number} is {line.strip()[:40]}, not an object of columns.") from None
        return rows
    except RecursionError:
        raise FileError(f"{named} is nested too deeply.") from None
    return _rows_of_document(document, named)


def _rows_of_document(document: Any, named: str) -> list[dict[str, Any]]:
    if isinstance(document, list):
        for place, row in enumerate(document):
            if not isinstance(row, dict):
                raise FileError(f"{named}: item {place} of its list is {str(row)[:40]!r}, not an object of columns.")
        return document
    if not isinstance(document, dict):
        raise FileError(f"{named} is neither a list of rows nor an object a line.")
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    of_rows = [key for key, value in lists.items() if value and all(isinstance(row, dict) for row in value)]
    if len(of_rows) == 1:
        logger.warning(f"{named} is one object; the list {of_rows[0]!r} in it is taken as its rows.")
        return lists[of_rows[0]]
    if len(of_rows) > 1:
        raise FileError(f"{named} has several lists of rows: {', '.join(of_rows)}. Write a file for each.")
    if len(lists) == len(document) and len({len(value) for value in lists.values()}) == 1:
        return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    mappings = [value for value in document.values() if isinstance(value, dict)]
    if mappings and len(mappings) == len(document):
        keys = list(mappings[0])
        if all(list(value) == keys for value in mappings):
            # As `DataFrame.to_json` writes: an object of rows for each column, or of columns for each row.
            if all(key.isdigit() for key in keys):
                return [{name: column[key] for name, column in document.items()} for key in keys]
            return mappings
    if len(lists) + len(mappings) < len(document):
        return [document]
    raise FileError(
        f"{named} is one object with {', '.join(list(document)[:8])}, in which no list of rows is found. Write a list "
        "of objects, or an object a line."
    )


def _mixed_kinds(rows: list[dict[str, Any]]) -> str | None:
    """Say which column has values of several kinds."""
    names = {str: "text", bool: "true or false", dict: "object", int: "number", float: "number"}
    first: dict[str, tuple[int, str]] = {}
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            kind = names.get(type(value), type(value).__name__)
            known = (number, kind) if value is None else first.setdefault(name, (number, kind))
            if known[1] != kind:
                return (
                    f"its column {name!r} has a {known[1]} in row {known[0]} and a {kind} in row {number}. Give one "
                    "kind of values."
                )
    return None


def _read_parquet(path: str, named: str, cache_dir: str | None) -> datasets.Dataset:
    dataset = _build(Parquet, path, cache_dir)
    dataset.data.validate(full=True)  # that texts are UTF-8, which the format does not check
    return dataset


def _build(builder_class: type, path: str, cache_dir: str | None, **options: Any) -> datasets.Dataset:
    """Read a file with a builder of `datasets`; brackets and stars in its path are not a pattern."""
    path = os.path.abspath(path)
    if "::" in path:
        raise FileError(f"{path!r} has `::` in it, by which `datasets` chains addresses: rename it.")
    stat = os.stat(path)
    files = DataFilesList([path], [(str(stat.st_mtime_ns), str(stat.st_size))])
    builder = builder_class(cache_dir=cache_dir, data_files=DataFilesDict({"train": files}), **options)
    builder.download_and_prepare()
    return builder.as_dataset("train")
