"""Read csv, json and parquet files: find out how they are written, or say which line cannot be read."""

import bz2
import codecs
import csv
import dataclasses
import gzip
import itertools
import json
import logging
import lzma
import os
import re
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

INTEGER = re.compile(r"-?(?:0|[1-9]\d*)")
NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
ZERO_PADDED = re.compile(r"-?0\d")  # a code, not a number
# Words for a missing value. In a column of texts they are texts; among numbers they can only be missing ones.
NO_NUMBER = {"NA", "N/A", "n/a", "#N/A", "nan", "NaN", "NAN", "null", "NULL", "none", "None", "<NA>"}

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


def read_lines(path: str, argument: str, cache_dir: str | None = None) -> datasets.Dataset:
    """Read a file of text: a row for each line, with the column `text`; a FileError says why it cannot be read."""
    named = f"`{argument}={path!r}`"
    with reading(named):
        _check_content(path, named)
        return _build(Text, path, cache_dir, encoding=_encoding(path, named))


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
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            while block := file.read(1 << 20):
                if encoding.startswith("utf-8") and b"\0" in block:
                    raise FileError(
                        f"{named} has bytes of zero, as UTF-16 has without a byte order mark: save it as UTF-8."
                    )
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise FileError(
                f"{named} is not {encoding.upper()[:6].strip('-')}: {_first_bad_line(path, error)}"
            ) from None
    return encoding


def _first_bad_line(path: str, error: UnicodeDecodeError) -> str:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as found:
                return (
                    f"line {number} has the byte 0x{line[found.start]:02x}. Save it as UTF-8; from Windows or "
                    "Latin-1: `iconv -f CP1252 -t UTF-8`."
                )
    return f"{error.reason}. Save it as UTF-8."


# csv


@dataclass
class CsvForm:
    """
    The form of a csv file: encoding, delimiter, columns and rows.

    Args:
        encoding (`str`).
        delimiter (`str`): between cells.
        quoting (`int`): `csv.QUOTE_MINIMAL`, or `csv.QUOTE_NONE` where quotation marks are characters like any other.
        skipinitialspace (`bool`): whether a blank follows each delimiter.
        header (`list[str]`): names of the columns.
        rows (`int`).
        numbers (`list`): a [`NumberColumn`] for each column of numbers, `None` for one of texts.
    """

    encoding: str
    delimiter: str
    quoting: Any = csv.QUOTE_MINIMAL
    skipinitialspace: bool = False
    header: list[str] = field(default_factory=list)
    rows: int = 0
    numbers: list[Any] = field(default_factory=list)


@dataclass
class NumberColumn:
    """
    A column of numbers, as far as its cells have been looked at.

    Args:
        count (`int`): numbers.
        is_whole (`bool`): whether all are whole.
        empty (`int`): cells with nothing in them.
        words (`dict[str, int]`): words for a missing value, and how often each is there.
        is_plain (`bool`): whether pandas can read them as they stand.
        decimal_commas (`int`): numbers with a comma for the point.
    """

    count: int = 0
    is_whole: bool = True
    empty: int = 0
    words: dict[str, int] = field(default_factory=dict)
    is_plain: bool = True
    decimal_commas: int = 0

    def add(self, cell: str, decimal_comma: bool) -> bool:
        """Take in a cell; return whether the column may still be one of numbers."""
        if not cell:
            self.empty += 1
            return True
        stripped = cell.strip()
        self.is_plain = self.is_plain and stripped == cell
        if stripped in NO_NUMBER or not stripped:
            self.words[stripped] = self.words.get(stripped, 0) + 1
            return True
        if decimal_comma and "," in stripped and "." not in stripped:
            stripped = stripped.replace(",", ".")
            self.decimal_commas += 1
        if ZERO_PADDED.match(stripped):
            return False
        self.count += 1
        if INTEGER.fullmatch(stripped):
            return -(2**63) <= int(stripped) < 2**63
        self.is_whole = False
        return NUMBER.fullmatch(stripped) is not None

    @property
    def feature(self) -> datasets.Value:
        """Return the type of the column."""
        return datasets.Value("int64" if self.is_whole else "float64")

    @property
    def needs_conversion(self) -> bool:
        """Return whether it is read as text first."""
        missing = bool(self.words) or (self.is_whole and self.empty > 0)
        return missing or not self.is_plain or self.decimal_commas > 0


def _read_csv(path: str, named: str, cache_dir: str | None, as_texts: Sequence[str] = ()) -> datasets.Dataset:
    form = csv_form(path, named)
    features, later = {}, {}
    for name, numbers in zip(form.header, form.numbers, strict=True):
        numbers = None if name in as_texts else numbers
        features[name] = datasets.Value("string") if numbers is None or numbers.needs_conversion else numbers.feature
        if numbers is not None and numbers.needs_conversion:
            later[name] = numbers
    dataset = _build(
        Csv,
        path,
        cache_dir,
        features=datasets.Features(features),
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
    if len(dataset) != form.rows:
        raise FileError(
            f"{named} has {form.rows} rows by its quotation marks, and pandas reads {len(dataset)}: close every "
            "quotation mark."
        )
    for name, numbers in later.items():
        if any(numbers.words):
            words = ", ".join(f"{count} {word!r}" for word, count in numbers.words.items() if word)
            logger.warning(
                f"{named}: among the numbers of its column {name!r} there are {words}, taken as missing values. In a "
                "column of texts they would be texts."
            )
        if numbers.decimal_commas:
            logger.warning(f"{named}: the commas in the numbers of its column {name!r} are taken as decimal points.")
    return _to_numbers(dataset, {name: numbers.feature for name, numbers in later.items()})


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
    with _opened(path) as file, codecs.getreader(encoding)(file) as text:
        # Only these end a line; `str.splitlines` has more.
        rest = ""
        while block := text.read(1 << 20):
            lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", rest + block)
            rest = lines.pop() if not lines[-1].endswith("\r") else ""
            if len(lines) and lines[-1].endswith("\r") and not rest:
                rest = lines.pop()  # a "\n" may follow
            yield from (line for line in lines if line)
        if rest:
            yield rest


def _sniffed(path: str, encoding: str) -> CsvForm:
    """Choose the delimiter by which the first records have as many cells as the header, and more than one."""
    lines = list(itertools.islice(_lines(path, encoding), SAMPLE))
    usual = "\t" if ".tsv" in Path(path).name.lower() else ","
    best = CsvForm(encoding, usual)
    for delimiter in sorted(DELIMITERS, key=lambda one: one != usual):
        records = [record for record in csv.reader(lines, delimiter=delimiter) if record]
        width = len(records[0]) if records else 0
        # The last one may go on after the sample.
        body = records[1:-1] if len(lines) == SAMPLE else records[1:]
        if width > 1 and all(len(record) == width for record in body):
            best = CsvForm(encoding, delimiter)
            break
    else:
        widths = {one: len(next(csv.reader(lines, delimiter=one), ())) for one in DELIMITERS}
        if widths[usual] < 2 and max(widths.values()) > 1:
            best = CsvForm(encoding, max(widths, key=widths.__getitem__))
    if best.delimiter != usual:
        logger.info(f"{path}: cells are separated by {DELIMITERS[best.delimiter]}")
    header = next(csv.reader(lines, delimiter=best.delimiter), [])
    best.skipinitialspace = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    return best


def _checked(path: str, named: str, form: CsvForm) -> CsvForm:
    reader = csv.reader(
        _lines(path, form.encoding),
        delimiter=form.delimiter,
        quoting=form.quoting,
        skipinitialspace=form.skipinitialspace,
        strict=True,
    )
    start, blank = 1, 0
    form = dataclasses.replace(form, header=[], rows=0, numbers=[])
    alive: list[int] = []
    try:
        for record in reader:
            if not record:
                blank += 1
            elif not form.header:
                form.header = _header(record, named)
                form.numbers = [NumberColumn() for _ in record]
                alive = list(range(len(record)))
            else:
                if len(record) != len(form.header):
                    raise FileError(_uneven(named, start, len(record), form))
                form.rows += 1
                for place in alive:
                    if not form.numbers[place].add(record[place], form.delimiter != ","):
                        form.numbers[place] = None
                alive = [place for place in alive if form.numbers[place] is not None]
            start = reader.line_num + 1
    except csv.Error as error:
        raise FileError(
            f"{named}: the cells of the record that starts in line {start} cannot be told apart ({error}). Close its "
            "quotation marks, and double those within a cell."
        ) from None
    if blank and len(form.header) == 1:
        logger.warning(f'{named}: {blank} blank lines are left out; an empty text is written as "".')
    if not form.rows:
        raise FileError(f"{named} has no rows, only the columns {', '.join(form.header)}.")
    form.numbers = [None if one is None or not one.count else one for one in form.numbers]
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


def _to_numbers(dataset: datasets.Dataset, kinds: dict[str, datasets.Value]) -> datasets.Dataset:
    """Cast columns of texts to numbers; what is none becomes missing."""
    if not kinds:
        return dataset
    features = datasets.Features({**dataset.features, **kinds})
    return dataset.with_format("arrow").map(
        _cast, batched=True, features=features, fn_kwargs={"names": list(kinds), "schema": features.arrow_schema}
    ).with_format(None)  # fmt: skip


def _cast(table: pa.Table, names: list[str], schema: pa.Schema) -> pa.Table:
    for name in names:
        texts = pc.replace_substring(pc.utf8_trim_whitespace(table[name]), ",", ".")
        texts = pc.if_else(pc.is_in(texts, pa.array([*NO_NUMBER, ""])), None, texts)
        table = table.set_column(table.schema.get_field_index(name), name, texts.cast(schema.field(name).type))
    return table


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
    seen: dict[str, tuple[int, Any]] = {}
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            if value is None:
                continue
            kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
            first = seen.setdefault(name, (number, kind))
            if first[1] != kind:
                known = {"str": "text", "bool": "true or false", "dict": "object"}
                first_kind, kind = known.get(first[1], first[1]), known.get(kind, kind)
                return (
                    f"its column {name!r} has a {first_kind} in row {first[0]} and a {kind} in row {number}. Give one "
                    "kind of values."
                )
    return None


def _read_parquet(path: str, named: str, cache_dir: str | None) -> datasets.Dataset:
    dataset = _build(Parquet, path, cache_dir)
    dataset.data.validate(full=True)  # that texts are UTF-8, which the format does not check
    return dataset


def _build(builder_class: type, path: str, cache_dir: str | None, **options: Any) -> datasets.Dataset:
    """Read a file with a builder of `datasets`; brackets and stars in its path are no pattern."""
    path = os.path.abspath(path)
    if "::" in path:
        raise FileError(f"{path!r} has `::` in it, by which `datasets` chains addresses: rename it.")
    stat = os.stat(path)
    files = DataFilesList([path], [(str(stat.st_mtime_ns), str(stat.st_size))])
    builder = builder_class(cache_dir=cache_dir, data_files=DataFilesDict({"train": files}), **options)
    builder.download_and_prepare()
    return builder.as_dataset("train")
