"""Rows of comparisons and rankings: named as in a file or as on a command line, and counted by their content."""

import datasets
import numpy as np
import pytest

from merlin_hf.comparison.config import SourceConfig, TargetConfig
from merlin_hf.data.rows import load_rows, load_splits_of, overlap
from merlin_hf.utils.validation import ConfigError
from tests.data.test_load import cache  # noqa: F401


def write(path, labels, start=0):
    rows = {"text": [f"text {place} of these" for place in range(start, start + len(labels))], "label": labels}
    datasets.Dataset.from_dict(rows).to_csv(path)
    return str(path)


def splits_of(path):
    section = TargetConfig(path, train_split="train[:50%]", test_split="train[50%:]")
    return load_splits_of(section, "target", {"train": "train_split", "test": "test_split"})


def test_both_splits_have_the_same_classes(tmp_path):
    found = splits_of(write(tmp_path / "x.csv", ["b", "a", "b", "a", "a", "b", "b", "a"]))
    assert found["train"].task is found["test"].task and found["train"].task.labels.names == ["a", "b"]
    assert found["train"].labels.tolist() == [1, 0, 1, 0] and found["test"].labels.tolist() == [0, 1, 1, 0]
    assert overlap(found["train"], found["test"]) == 0 and overlap(found["train"], found["train"]) == 4


def test_rows_count_by_their_content_and_their_labels(tmp_path):
    first = load_rows(SourceConfig(write(tmp_path / "a.csv", ["a", "b"] * 3)), "source", "split")
    same = load_rows(SourceConfig(write(tmp_path / "b.csv", ["a", "b"] * 3)), "source", "split")
    other = load_rows(SourceConfig(write(tmp_path / "c.csv", ["b", "a"] * 3)), "source", "split")
    assert first.identity == same.identity != other.identity and overlap(first, other) == 6
    assert first.select([1, 0]).identity != first.select([0, 1]).identity
    np.testing.assert_array_equal(first.ids, first.labels)
    first.task.labels.ids = [1, 0]
    np.testing.assert_array_equal(first.ids, 1 - first.labels)


@pytest.mark.parametrize("as_flags", [False, True])
def test_what_is_said_is_named_as_the_user_named_it(as_flags, tmp_path, caplog):
    path = write(tmp_path / "x.csv", [1.0, None, 2.0, 1.0, 2.0, 1.0])
    load_rows(SourceConfig(path), "source", "split", as_flags)
    argument, prefix = ("source", "") if as_flags else ("source.path", "source.")
    start = f"`{argument}={path!r}`, split 'train',: "
    said = [record.getMessage() for record in caplog.records]
    assert any(message.startswith(f"{start}1 of 6 rows have no label") for message in said)
    assert any(f"`{prefix}problem_type=regression`" in message for message in said)
    assert load_rows(SourceConfig(path, problem_type="regression"), "source", "split").is_regression
    with pytest.raises(ConfigError, match=f"`{prefix}split='tset'` is not a split of `{argument}="):
        load_rows(SourceConfig(path, split="tset"), "source", "split", as_flags)
    with pytest.raises(ConfigError, match=f"`{prefix}text_columns` must be one or two"):
        load_rows(SourceConfig(path, text_columns="txet"), "source", "split", as_flags)
    (tmp_path / "x.csv").write_text("text,label\na,b,c\n")
    with pytest.raises(ValueError, match=f"`{argument}=.*x.csv'`: line 2 has 3 cells"):
        load_rows(SourceConfig(path), "source", "split", as_flags)


def test_numbers_are_refused_where_names_are_needed(tmp_path):
    path = write(tmp_path / "x.csv", ["a", "b", "a", "b", "0", "1", "0", "1"])
    with pytest.raises(ConfigError, match=r"split 'train\[50%:\]', has the labels \['0', '1'\]") as error:
        splits_of(path)
    assert "labels_by_number" not in str(error.value), "a comparison has no such option"


def test_a_split_without_labels(tmp_path):
    with pytest.raises(ConfigError, match="has 1 rows with a label. Name a split whose labels are public"):
        splits_of(write(tmp_path / "x.csv", ["a", "b", "a", "b", None, None, None, "a"]))
