"""Files of text data are read as they are written, or refused by one line with the file, place and reason."""

import bz2
import gzip
import json
import lzma

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from merlin_hf.data import load_dataset
from merlin_hf.data.files import csv_form
from merlin_hf.utils.files import FileError
from tests.data.test_load import cache  # noqa: F401
from tests.fuzz.data import fuzz
from tests.support import warnings_of


ROWS = [("one, two", "a"), ("café", "b"), ("three", "a")]


def csv_text(rows=ROWS, delimiter=",", header=("text", "label"), newline="\n"):
    def cell(value):
        value = str(value)
        return '"' + value.replace('"', '""') + '"' if delimiter in value or '"' in value or "\n" in value else value

    return newline.join(delimiter.join(map(cell, row)) for row in (header, *rows)) + newline


def read(path, **kwargs):
    return load_dataset(path, argument="train_file", split="train", **kwargs)


def refused(path):
    with pytest.raises(FileError) as error:
        read(path)
    message = str(error.value)
    assert "`train_file=" in message and path.name in message and "\n" not in message
    return message


def columns(dataset):
    return {name: dataset[name][:] for name in dataset.column_names}


EXPECTED = {"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_files_are_read_as_they_are_written(delimiter, encoding, tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(csv_text(delimiter=delimiter).encode(encoding))
    assert columns(read(path)) == EXPECTED


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_end_in_every_way(newline, tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(csv_text(newline=newline).encode())
    assert columns(read(path)) == EXPECTED


@pytest.mark.parametrize(
    "name",
    ["a b.csv", "we[i]rd *?.csv", "#1.CSV", "データ.csv", "100%.csv", "data.csv.gz", "data.tsv.bz2", "x.csv.xz"],
)
def test_names_and_compressed_files(name, tmp_path):
    folder = tmp_path / "in [here]"
    folder.mkdir()
    openers = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    with openers.get(name.rpartition(".")[2], open)(folder / name, "wb") as file:
        file.write(csv_text(delimiter="\t" if ".tsv" in name else ",").encode())
    assert columns(read(folder / name)) == EXPECTED


def test_quotation_marks_of_files_with_tabs_may_stay_open(tmp_path):
    path = tmp_path / "cola.tsv"
    path.write_text('text\tlabel\n"an open one\ta\nboth "sides"\tb\n')
    assert columns(read(path)) == {"text": ['"an open one', 'both "sides"'], "label": ["a", "b"]}


def test_cells_may_have_several_lines(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(csv_text([("one\ntwo\n\nthree", "a"), ('he said "no"', "b")]))
    assert columns(read(path)) == {"text": ["one\ntwo\n\nthree", 'he said "no"'], "label": ["a", "b"]}


def test_only_an_empty_cell_is_missing_in_a_csv_file(tmp_path):
    words = ["None", "NA", "N/A", "null", "nan", "NULL", "", "n/a", "<NA>"]
    path = tmp_path / "data.csv"
    path.write_text(csv_text([(word, word or "empty") for word in words]))
    found = columns(read(path))
    assert found["text"] == [word or None for word in words]
    assert found["label"] == [word or "empty" for word in words]


@pytest.mark.parametrize(
    ("cells", "expected", "dtype"),
    [
        (["1", "2", "", "3"], [1, 2, None, 3], "int64"),
        (["0.5", "", "1", "-2e3"], [0.5, None, 1.0, -2000.0], "float64"),
        (["1.0", "2.0"], [1.0, 2.0], "float64"),
        (["01", "02"], ["01", "02"], "string"),
        (["1", " 2", "3 "], [1, 2, 3], "int64"),
        (["+1", "-1"], ["+1", "-1"], "string"),
        (["True", "False"], ["True", "False"], "string"),
        (["9" * 25, "1"], ["9" * 25, "1"], "string"),
        (["1", "2", "x"], ["1", "2", "x"], "string"),
        (["", ""], [None, None], "string"),
    ],
)
def test_numbers(cells, expected, dtype, tmp_path, caplog):
    path = tmp_path / "data.csv"
    path.write_text(csv_text([(f"t{place}", cell) for place, cell in enumerate(cells)]))
    found = read(path)
    assert found["label"][:] == expected and found.features["label"].dtype == dtype
    assert not warnings_of(caplog)


def test_numbers_are_typed_by_the_whole_file(tmp_path):
    """`datasets` reads a csv file in pieces of 10,000 rows, and takes the types of the first."""
    path = tmp_path / "data.csv"
    path.write_text(csv_text([("t", "1")] * 10_001 + [("t", "x")]))
    assert set(read(path)["label"][:]) == {"1", "x"}


@pytest.mark.parametrize("word", ["NA", "nan", "None"])
def test_words_among_numbers_are_missing_and_said(word, tmp_path, caplog):
    path = tmp_path / "data.csv"
    path.write_text(csv_text([("a", "1"), ("b", word), ("c", "2")]))
    assert read(path)["label"][:] == [1, None, 2]
    assert "WARNING" in caplog.text and "data.csv" in caplog.text and f"1 '{word}'" in caplog.text


def test_decimal_commas_are_said(tmp_path, caplog):
    path = tmp_path / "data.csv"
    path.write_text(csv_text([("a", "0,5"), ("b", "1,25")], delimiter=";"))
    assert read(path)["label"][:] == [0.5, 1.25]
    assert "decimal points" in caplog.text


def test_names_of_columns(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(", text, label\n0, a, pos\n1, b, neg\n")
    assert columns(read(path)) == {"Unnamed: 0": [0, 1], "text": ["a", "b"], "label": ["pos", "neg"]}
    path.write_text("text,label,text\na,b,c\n")
    assert "'text' twice" in refused(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"  \n\n ", "is empty"),
        (b"text,label\n", "no rows, only the columns text, label"),
        (b"text,label\na,b\nnot, quite, fine,a\n", "line 3 has 4 cells separated by commas"),
        (b"text,label\na,b\nc\n", "line 3 has 1 cell"),
        (b"text;label\na;b\nc;d;e\n", "line 3 has 3 cells separated by semicolons"),
        (b'text,label\na,b\n"c,d\ne,f\n', "starts in line 3"),
        (b'text,label\n"a "b" c",d\n', "starts in line 2"),
        (b'text,label\n"a\nb",c\nd,e,f\n', "line 4 has 3 cells"),
        ("text,label\na,b\ncafé,c\n".encode("cp1252"), "line 3 has the byte 0xe9"),
        (csv_text().encode("utf-16-le"), "UTF-16"),
        (b"PK\x03\x04 xlsx", "zip archive or a spreadsheet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8bgarbage", "cannot be read"),
    ],
)
def test_csv_files_that_cannot_be_read(content, said, tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    assert said in refused(path)


def test_a_one_column_file_says_how_many_lines_it_lost(tmp_path, caplog):
    path = tmp_path / "test.csv"
    path.write_text("text\na\n\nb\n")
    assert columns(read(path)) == {"text": ["a", "b"]}
    assert "1 blank lines are left out" in caplog.text


def test_the_form_counts_rows(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(csv_text([("a\nb", "1"), ("c", "2")]))
    form = csv_form(str(path), "`x`")
    assert (form.rows, form.header, form.delimiter) == (2, ["text", "label"], ",")


JSON_ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 2}]
JSON_DOCUMENTS = {
    "a list": JSON_ROWS,
    "a list in an object": {"version": 1, "data": JSON_ROWS},
    "columns": {"text": ["a", "b"], "label": [1, 2]},
    "columns of pandas": {"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 2}},
    "rows of pandas": {"0": JSON_ROWS[0], "1": JSON_ROWS[1]},
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("document", JSON_DOCUMENTS)
def test_json_documents(document, indent, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(JSON_DOCUMENTS[document], indent=indent))
    assert columns(read(path)) == {"text": ["a", "b"], "label": [1, 2]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_lines(encoding, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes("".join(json.dumps(row) + "\n" for row in JSON_ROWS).encode(encoding))
    assert columns(read(path)) == {"text": ["a", "b"], "label": [1, 2]}


def test_json_missing_values(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": 0.5}\n{"text": null, "label": NaN}\n{"label": null}\n')
    found = columns(read(path))
    assert found["text"] == ["a", None, None]
    assert found["label"][0] == 0.5 and all(label is None or label != label for label in found["label"][1:])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b'{"text": "a"}\n{"text": "b",\n{"text": "c"}\n', "line 2 is not JSON"),
        (b'{"text": "a"}\nhello\n', "line 2 is not JSON"),
        (b'[{"text": "a"}, {"te', "is not JSON"),
        (b"null", "neither a list of rows nor an object a line"),  # Arrow's reader crashes at it
        (b'{"text": "a"}\nnull\n', "line 2 is null, not an object"),
        (b"5", "neither a list of rows nor an object a line"),
        (b"[1]\n[2]\n", "line 1 is [1], not an object"),
        (b'{"train": [{"a": 1}], "test": [{"a": 2}]}', "several lists of rows: train, test"),
        ('{"text": "é"}\n'.encode("cp1252"), "line 1 has the byte 0xe9"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_json_files_that_cannot_be_read(content, said, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    assert said in refused(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PAR1garbagePAR1", csv_text().encode()])
def test_parquet_files_that_cannot_be_read(content, tmp_path):
    path = tmp_path / "data.parquet"
    path.write_bytes(content)
    refused(path)


def test_a_parquet_file_whose_texts_are_not_utf_8(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": pa.array([b"caf\xe9"]).view(pa.string())}), path)
    assert "UTF8" in refused(path)


def test_a_parquet_file_that_is_cut_off(tmp_path):
    path = tmp_path / "data.parquet"
    datasets.Dataset.from_dict({"text": ["a"] * 100}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    refused(path)


def test_folders_are_read_as_files_are(tmp_path, caplog):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text(csv_text([("NA", "None")], delimiter=";"))
    (folder / "dev.csv").write_text(csv_text([("null", "a")]))
    loaded = load_dataset(folder)
    assert loaded["train"]["text"][:] == ["NA"] and loaded["validation"]["text"][:] == ["null"]
    assert not warnings_of(caplog)
    (folder / "holdout.csv").write_text(csv_text())
    load_dataset(folder)
    assert "holdout.csv" in caplog.text and "taken for no split" in caplog.text
    (folder / "train.csv").write_text("text,label\na,b,c\n")
    with pytest.raises(FileError, match=r"path='.*data'`, split 'train',: line 2 has 3 cells"):
        load_dataset(folder)


def test_folders_that_cannot_be_read(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(FileError, match="line 2 is not JSON"):
        load_dataset(folder)
    bracketed = tmp_path / "da[t]a"
    bracketed.mkdir()
    (bracketed / "train.csv").write_text(csv_text())
    with pytest.raises(ValueError, match="takes '\\[' in the path of a folder for a pattern"):
        load_dataset(bracketed)


def test_what_save_to_disk_wrote(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "both")
    assert load_dataset(tmp_path / "one", split="train[:1]")["text"][:] == ["a"]
    assert set(load_dataset(tmp_path / "both")) == {"train", "test"}


def test_options_of_datasets_still_reach_it(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("a#b\nc#d\n")
    assert columns(read(path, sep="#", names=["x", "y"])) == {"x": ["a", "c"], "y": ["b", "d"]}


@pytest.mark.parametrize("split", ["train", "train[:2]", "train[50%:]", "train[:1]+train[2:]"])
def test_slices_of_a_file(split, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(csv_text())
    whole = datasets.Dataset(pa.table(EXPECTED))
    expected = {"train": [0, 1, 2], "train[:2]": [0, 1], "train[50%:]": [2], "train[:1]+train[2:]": [0, 2]}[split]
    assert load_dataset(path, split=split)["text"][:] == whole.select(expected)["text"][:]


def test_a_slice_of_the_fuzz(tmp_path):
    """`make fuzz` has more of it."""
    counts, faults = fuzz(60, 1, tmp_path)
    assert not faults and min(counts[name] for name in ("right", "warned", "refused")) > 5
