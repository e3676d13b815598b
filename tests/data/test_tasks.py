"""A task as it is named: its splits, columns and labels, and the rows that are used of them."""

import datasets
import pytest

from merlin_hf.data.columns import ColumnOptions
from merlin_hf.data.tasks import (
    DataSpec,
    Task,
    check_several_classes,
    load_splits,
    load_task,
    make_task,
    select,
    warn_of_shared_texts,
)
from merlin_hf.utils.validation import ConfigError
from tests.data.test_load import cache  # noqa: F401
from tests.support import warnings_of


def table(count=6, labels=("a", "b"), **columns):
    texts = {"text": [f"text {place} of these" for place in range(count)]}
    rows = {**(columns or texts), "label": [labels[place % len(labels)] for place in range(count)]}
    return datasets.Dataset.from_dict(rows)


def files(tmp_path, **tables):
    paths = {}
    for split, rows in tables.items():
        paths[split] = str(tmp_path / f"{split}.csv")
        rows.to_csv(paths[split])
    return paths


def of_files(tmp_path, options=None, **tables):
    spec = DataSpec(argument="train_file", files=files(tmp_path, **tables), options=options or ColumnOptions())
    return spec


def folder(tmp_path, **tables):
    for split, rows in tables.items():
        rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
    return str(tmp_path / "data")


def test_files_make_one_task(tmp_path):
    task = load_task(of_files(tmp_path, train=table(), validation=table(4, ("b", "a")), test=table(2)))
    assert (task.kind, task.columns, task.labels.names) == ("text", ["text"], ["a", "b"])
    assert task.splits["train"]["label"][:] == [0, 1] * 3 and task.splits["validation"]["label"][:] == [1, 0] * 2
    assert task.origin("validation") == f"`validation_file={str(tmp_path / 'validation.csv')!r}`"


def test_only_the_splits_that_are_used_are_looked_at(tmp_path, caplog):
    hidden = table(4, [None, "a"])
    spec = of_files(tmp_path, train=table(), test=hidden)
    assert set(load_task(spec, ["train"]).splits) == {"train"} and not warnings_of(caplog)
    assert None in load_task(spec, ["train", "test"]).splits["test"]["label"][:]
    assert not warnings_of(caplog), "said where its rows are predicted"
    load_task(of_files(tmp_path, train=hidden), ["train"])
    assert "2 of 4 rows have no label" in caplog.text


def test_a_split_that_is_missing_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="`train_file` has no validation split, only train. Give `validation_file`."):
        load_task(of_files(tmp_path, train=table()), ["train", "validation"])


def test_a_file_is_no_folder_and_no_name(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="`train_file=.*` is not a file. It is a folder: give it as `dataset_name`"
    ):
        load_task(DataSpec(argument="train_file", files={"train": str(tmp_path)}))
    with pytest.raises(FileNotFoundError, match="`train_file='imdb'` is not a file.$"):
        load_task(DataSpec(argument="train_file", files={"train": "imdb"}))


def test_files_of_other_columns_are_named(tmp_path):
    sentences = table(4, sentence=["one two", "three four", "five six", "seven eight"])
    with pytest.raises(ConfigError, match=r"validation.csv'` has no column of texts `text`, .*only sentence, label"):
        load_task(of_files(tmp_path, train=table(), validation=sentences))
    numbers = table(4, text=[1, 2, 3, 4])
    with pytest.raises(ConfigError, match="validation.csv'` holds numbers in its column `text`"):
        load_task(of_files(tmp_path, train=table(), validation=numbers))
    unlabelled = table(4).remove_columns("label")
    with pytest.raises(ConfigError, match="validation.csv'` has no column `label`, only text"):
        load_task(of_files(tmp_path, train=table(), validation=unlabelled))
    assert "label" not in load_task(of_files(tmp_path, train=table(), test=unlabelled)).splits["test"].column_names


def test_splits_of_a_data_set(tmp_path):
    path = folder(tmp_path, train=table(10), test=table(4))
    whole = DataSpec(argument="dataset_name", path=path)
    splits, origins = load_splits(whole)
    assert set(splits) == {"train", "test"} and origins["test"] == f"`dataset_name={path!r}`, split 'test',"
    sliced = DataSpec(argument="target.path", path=path, split_names={"train": "train[:60%]", "test": "train[60%:]"})
    assert [len(split) for split in load_splits(sliced)[0].values()] == [6, 4]
    for name in ("tset", "tset[:2]", "train[:x]"):
        wrong = DataSpec(
            argument="target.path",
            path=path,
            split_names={"test": name},
            split_options={"test": "target.test_split"},
        )
        with pytest.raises(
            ConfigError, match=r"`target.test_split='t.*` .* of `target.path=.*`, which has train, test"
        ):
            load_splits(wrong)


def test_a_share_of_the_training_rows_is_held_out(tmp_path):
    rows = table(20)
    path = folder(tmp_path, train=rows)
    task = load_task(DataSpec(argument="dataset_name", path=path, held_out=0.25), ["train", "validation"])
    again = load_task(DataSpec(argument="dataset_name", path=path, held_out=0.25), ["validation"])
    held = task.splits["validation"]["text"][:]
    assert len(held) == 5 and held == again.splits["validation"]["text"][:]
    assert sorted(held + task.splits["train"]["text"][:]) == sorted(rows["text"][:])


def test_a_data_set_without_a_kind_is_images_where_it_has_some(tmp_path):
    from PIL import Image

    rows = table(4).add_column(
        "photo", [{"bytes": None, "path": str(tmp_path / "x.png")}] * 4, feature=datasets.Image(decode=False)
    )
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    spec = DataSpec(argument="x", kind=None)
    task = make_task({"train": rows}, {"train": "x"}, spec)
    assert (task.kind, task.columns) == ("image", ["photo"]) and "row" in task.splits["train"].column_names
    texts = DataSpec(argument="x", kind=None, options=ColumnOptions(text_columns=["text"]))
    assert make_task({"train": rows}, {"train": "x"}, texts).kind == "text"


# Rows


def settled(split, labels, feature=None):
    feature = feature or datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    rows = datasets.Dataset.from_dict({"text": ["x"] * len(labels), "label": labels}, features=features)
    spec = DataSpec(argument="dataset_name")
    return make_task({split: rows}, {split: f"the {split} split"}, spec)


def test_rows_without_a_label_are_not_trained_or_evaluated_on():
    assert select(settled("train", [0, 1, -1] * 3), "train")["label"][:] == [0, 1] * 3
    assert select(settled("validation", [0, 1, -1] * 3), "validation", 4)["label"][:] == [0, 1] * 2
    tested = select(settled("test", [0, 1, -1] * 3), "test")
    assert len(tested) == 9 and "label" not in tested.column_names
    with pytest.raises(ConfigError, match="the validation split has no row with a label"):
        select(settled("validation", [-1, -1]), "validation")


def test_scores_of_minus_one_are_hidden_only_when_all_are():
    real = datasets.Value("float32")
    assert len(select(settled("validation", [0.5, -1.0] * 2, real), "validation")) == 4
    assert "label" not in select(settled("test", [-1.0] * 4, real), "test").column_names


def test_predictions_are_not_scored_where_labels_are_missing(caplog):
    select(settled("test", [0, 1, -1]), "test")
    assert "1 of 3 rows have no label, so that no prediction is scored" in caplog.text


def test_rows_are_drawn_where_a_seed_is_given():
    task = settled("train", [0] * 30 + [1] * 30)
    assert select(task, "train", 10)["label"][:] == [0] * 10
    drawn = select(task, "train", 10, seed=0)["label"][:]
    assert 0 < sum(drawn) < 10 and drawn == select(task, "train", 10, seed=0)["label"][:]
    assert drawn != select(task, "train", 10, seed=1)["label"][:]


# Checks


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    with pytest.raises(ConfigError, match=r"train.csv'` has one class, \['a'\]"):
        check_several_classes(load_task(of_files(tmp_path, train=table(labels=["a"]))))


def test_texts_that_are_trained_on_and_judged_by_are_counted(tmp_path, caplog):
    target = load_task(of_files(tmp_path, train=table(), validation=table(4)))
    warn_of_shared_texts(target)
    assert "4 of its 4 different texts stand in `train_file=" in caplog.text
    caplog.clear()
    others = load_task(of_files(tmp_path, train=table(4, text=[f"other {place}" for place in range(4)])))
    alone = Task("x", datasets.DatasetDict(validation=target.splits["validation"]), ["text"], target.labels)
    warn_of_shared_texts(alone, [others])
    assert not warnings_of(caplog)
    warn_of_shared_texts(alone, [target])
    assert "the validation split of `x`: 4 of its 4" in caplog.text
