"""
Write data sets in the ways that people write them, damage some, and load them as training does.

    python -m tests.fuzz.data

What is read must be what was written, or a WARNING says what was left out or taken otherwise, or one line refuses the
file by name.
"""

import argparse
import bz2
import collections
import contextlib
import csv
import gzip
import io
import json
import logging
import lzma
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from merlin_hf.data.tasks import DataSpec, load_task, select


LIMIT = 10  # seconds
FAULTS = ("traceback", "unnamed", "silently wrong", "hangs")
TEXTS = [
    "lovely film", "awful acting", "NA", "None", "null", "nan", "café au lait", 'he said "no"', "a, b", "a;b|c",
    "two\nlines", " blank ahead", "☃ snow", "1", "=1+1", "# no comment", "tab\there", "it's", "", "x" * 3000, "N/A",
    "True", "0.5", "\\backslash\\", "a\r\nb", "ﬁ", "'",
]  # fmt: skip
LABELS: dict[str, list[Any]] = {
    "names": ["positive", "negative"],
    "words for nothing": ["None", "NA", "null"],
    "whole numbers": [1, 2, 3],
    "from zero": [0, 1],
    "codes": ["01", "02", "1"],
    "with blanks": ["yes", "no", "yes ", " no"],
    "cases": ["Yes", "yes", "no"],
    "real": [0.25, 1.5, -3.0, 2.0],
    "whole decimals": [1.0, 2.0],
    "truth": ["True", "False"],
    "missing names": ["a", "b", None],
    "missing numbers": [1, 2, None],
    "hidden": [0, 1, -100],
}
CSV_FORMS = (
    "csv",
    "csv;",
    "csv|",
    "csv\t",
    "tsv",
    "csv quoted",
    "csv utf-8-sig",
    "csv utf-16",
    "csv cp1252",
    "csv.gz",
    "csv.bz2",
    "csv.xz",
)
JSON_FORMS = ("jsonl", "json list", "json columns", "json nested", "json pretty", "jsonl.gz")
TABLE_FORMS = ("parquet", "parquet large", "parquet dictionary", "parquet classes")
DAMAGES = (
    "byte",
    "cut",
    "insert",
    "line twice",
    "line gone",
    "cell gone",
    "cell more",
    "header gone",
    "header twice",
    "blank lines",
    "nothing",
)


class TookTooLong(BaseException):
    """A file was not loaded in time."""


# Writing


def draw_rows(draw: random.Random) -> list[tuple[str, Any]]:
    """Return texts and labels of one kind."""
    kind = draw.choice(list(LABELS))
    count = draw.randrange(8, 30)
    rows = [(draw.choice(TEXTS) or "empty", draw.choice(LABELS[kind])) for _ in range(count)]
    # Every label is there, and a text that can be told from a number.
    return [("a plain text", label) for label in LABELS[kind]] + rows


def write(path: Path, rows: list[tuple[str, Any]], form: str, draw: random.Random) -> bytes:
    """Return the content of a file with these rows."""
    name = form.partition(" ")[0].partition(".")[0]
    if name.startswith(("csv", "tsv")):
        return write_csv(rows, form)
    if name == "parquet":
        return write_parquet(rows, form)
    objects = [{"text": text, "label": label} for text, label in rows]
    if name == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) + "\n" for row in objects).encode()
    if form == "json columns":
        return json.dumps({"text": [text for text, _ in rows], "label": [label for _, label in rows]}).encode()
    nested = {"version": 1, "data": objects} if form == "json nested" else objects
    return json.dumps(nested, indent=2 if form == "json pretty" else None).encode()


def write_csv(rows: list[tuple[str, Any]], form: str) -> bytes:
    delimiter = "\t" if form.startswith("tsv") else form[3:4] if form[3:4] in (";", "|", "\t") else ","
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if form == "csv quoted" else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows([(one, "" if label is None else label) for one, label in rows])
    encoding = form.partition(" ")[2]
    return text.getvalue().encode(encoding if encoding and encoding != "quoted" else "utf-8", errors="replace")


def write_parquet(rows: list[tuple[str, Any]], form: str) -> bytes:
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    buffer = io.BytesIO()
    if form == "parquet classes" and isinstance(labels[0], str):
        names = list(dict.fromkeys(label for label in labels if label is not None))
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names[::-1])}
        )
        places = [-1 if label is None else names[::-1].index(label) for label in labels]
        datasets.Dataset.from_dict({"text": texts, "label": places}, features=features).to_parquet(buffer)
        return buffer.getvalue()
    texts_array = pa.array(texts, type=pa.large_string() if form == "parquet large" else pa.string())
    labels_array = pa.array(labels)
    if form == "parquet dictionary" and isinstance(labels[0], str):
        labels_array = labels_array.dictionary_encode()
    pq.write_table(pa.table({"text": texts_array, "label": labels_array}), buffer)
    return buffer.getvalue()


def damage(content: bytes, kind: str, draw: random.Random) -> bytes:
    """Return the content with something wrong in it."""
    lines = content.split(b"\n")
    place = min(draw.randrange(1, max(len(lines) - 1, 2)), len(lines) - 1)
    cut = draw.randrange(1, len(content))
    if kind == "byte":
        return content[: cut - 1] + bytes([draw.randrange(256)]) + content[cut:]
    if kind == "cut":
        return content[:cut]
    if kind == "insert":
        junk = draw.choice(
            [b"\0", b'"', b",", b"\n", b"\xff\xfe", b"{", b"]", b"NaN", b"\r", b";;;", draw.randbytes(20)]
        )
        return content[:cut] + junk + content[cut:]
    if kind == "line twice":
        lines.insert(place, lines[place])
    elif kind == "line gone":
        del lines[place]
    elif kind == "cell gone":
        lines[place] = lines[place].rpartition(b",")[0]
    elif kind == "cell more":
        lines[place] += b",more"
    elif kind == "header gone":
        del lines[0]
    elif kind == "header twice":
        lines.insert(place, lines[0])
    elif kind == "blank lines":
        lines.insert(place, b"")
    elif kind == "nothing":
        return draw.choice([b"", b"\n", b"text,label\n", b"null", b"[]", b"{}"])
    return b"\n".join(lines)


# Loading


@contextlib.contextmanager
def warnings() -> Iterator[list[str]]:
    """Collect what the package warns of."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("merlin_hf")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def load(paths: dict[str, str], cache_dir: str) -> dict[str, list[tuple[str, str]]]:
    """Return the rows of files as training has them: texts, and names of labels or real numbers."""
    task = load_task(DataSpec(argument="train_file", files=paths), cache_dir=cache_dir)
    found = {}
    for split in paths:
        rows = select(task, split)
        names = task.labels.names
        labels = [names[label] if names else repr(float(label)) for label in rows["label"][:]]
        found[split] = list(zip((text or "" for text in rows[task.columns[0]][:]), labels, strict=True))
    return found


def expected(rows: list[tuple[str, Any]]) -> tuple[list[tuple[str, str]], bool]:
    """Return rows as they should be read, and whether something is to be said of them."""
    labelled = [(text, label) for text, label in rows if label not in (None, -100)]
    is_real = all(isinstance(label, float) for _, label in labelled) and not all(
        float(label).is_integer() for _, label in labelled
    )
    found = [(text, repr(label) if is_real else name_of(label)) for text, label in labelled]
    return found, len(labelled) < len(rows) or any(str(label) != str(label).strip() for _, label in rows)


def name_of(label: Any) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label).strip()


def judge(folder: Path, draw: random.Random) -> tuple[str, str]:
    """Write a file, damage it perhaps, load it, and return what came of it, with the details."""
    form = draw.choice([*CSV_FORMS, *CSV_FORMS, *JSON_FORMS, *TABLE_FORMS])
    rows = draw_rows(draw)
    content = write(folder / "x", rows, form, draw)
    kind = draw.choice(DAMAGES) if draw.random() < 0.5 else None
    if kind is not None:
        content = damage(content, kind, draw)
    ending = form.partition(" ")[0]
    ending = "csv" if ending.startswith("csv") and "." not in ending else ending
    path = folder / f"data-{draw.randrange(10**9)}.{ending}"
    opener = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(ending.rpartition(".")[2], bytes)
    path.write_bytes(opener(content))
    how = f"{form}, {kind}: {content[:300]!r}"

    def stop(*_: Any) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    start = time.monotonic()
    try:
        with warnings() as said:
            found = load({"train": str(path)}, str(folder / "cache"))["train"]
    except TookTooLong:
        return "hangs", how
    except (ValueError, OSError) as error:
        named = path.name in str(error) or "train_file" in str(error)
        return ("refused" if named and "\n" not in str(error) else "unnamed"), f"{how}: {error}"
    except BaseException:
        return "traceback", f"{how}: {traceback.format_exc()[-400:]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if time.monotonic() - start > LIMIT:
        return "hangs", how
    if kind is None:
        right, has_to_be_said = expected(rows)
        is_right = found == right or form == "csv cp1252"
        if not is_right or (has_to_be_said and not said):
            return (
                "silently wrong",
                f"{how}: {[pair for pair in zip(found, right, strict=False) if pair[0] != pair[1]][:3]} {said}",
            )
        return ("warned" if said else "right"), how
    # Of a damaged file it is known how many lines it has, where no cell goes over several.
    records = count_records(content, form)
    if records is not None and len(found) < records and not said:
        return "silently wrong", f"{how}: {len(found)} of {records} rows"
    return ("warned" if said else "right"), how


def count_records(content: bytes, form: str) -> int | None:
    """Return the rows of a file of lines; `None` where this cannot be told."""
    if form.startswith("jsonl"):
        return sum(bool(line.strip()) for line in content.split(b"\n"))
    if not form.startswith(("csv", "tsv")) or b'"' in content or b"\r" in content or "utf-16" in form:
        return None
    return sum(bool(line) for line in content.split(b"\n")) - 1


def fuzz(count: int, seed: int, folder: Path) -> tuple[collections.Counter, list[str]]:
    """Judge so many files; return the counts, and the details of faults."""
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    draw = random.Random(seed)
    counts: collections.Counter = collections.Counter()
    faults = []
    for _ in range(count):
        verdict, details = judge(folder, draw)
        counts[verdict] += 1
        if verdict in FAULTS:
            faults.append(f"{verdict}: {details}")
    return counts, faults


def main() -> None:
    """Print counts and the first faults; exit with 1 where there is one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, faults = fuzz(arguments.count, arguments.seed, Path(folder))
    for fault in faults[:20]:
        print(fault[:900])
    print(", ".join(f"{counts[name]} {name}" for name in ("right", "warned", "refused", *FAULTS)))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
