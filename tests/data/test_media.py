"""Folders of images and recordings: which folder is the class, which file is left out, and how that is said."""

import os
import re

import datasets
import numpy as np
import pytest
from PIL import Image

from merlin_hf.data import load_dataset
from merlin_hf.data.audio import AUDIO
from merlin_hf.data.encoding import encode_media
from merlin_hf.data.images import IMAGES
from merlin_hf.data.media import UnreadableMediaError, check_media, is_hidden, load_media_folders
from merlin_hf.data.tasks import load_task
from merlin_hf.scripts.data_arguments import ImageDataArguments


KINDS = {"image": (IMAGES, ".png"), "audio": (AUDIO, ".wav")}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param][0]


@pytest.fixture
def make(kind, tmp_path):
    """Empty files, each by its path without the kind's ending; those with an ending of their own are as they are."""

    def make(*paths):
        for path in paths:
            file = tmp_path / (path if "." in os.path.basename(path) else path + KINDS[kind.name][1])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
        return tmp_path

    return make


def loaded(kind, **folders):
    arguments = {split: f"{split}_dir" for split in folders}
    return load_media_folders({split: str(folder) for split, folder in folders.items()}, kind, arguments)


def classes_of(rows, kind):
    """Names of files and the classes that they have, in order."""
    names = rows.features["label"].names
    files = [os.path.splitext(os.path.basename(value["path"]))[0] for value in rows[kind.name]]
    return list(zip(files, [names[id] for id in rows["label"]], strict=True))


@pytest.mark.parametrize(
    ("paths", "found", "warned"),
    [
        (["cat/a", "cat/b", "dog/a"], [("a", "cat"), ("b", "cat"), ("a", "dog")], None),
        (
            ["cat/1/a", "cat/2/b", "dog/1/c"],
            [("a", "cat"), ("b", "cat"), ("c", "dog")],
            "3 of 3 files are in deeper folders",
        ),
        (["cat/a", "cat/new/b", "dog/c"], [("a", "cat"), ("b", "cat"), ("c", "dog")], "1 of 3 .*cat/new/b"),
        (["a [old]/x*", "b?{1}/x"], [("x*", "a [old]"), ("x", "b?{1}")], None),
        (["cat/a", "dog/a", "fox/.keep"], [("a", "cat"), ("a", "dog")], "folders fox have no .* are not classes"),
        (["cat/a", "dog/a", "dog/a.txt", "x.heic"], [("a", "cat"), ("a", "dog")], "left out .*1 .heic"),
        (
            ["cat/a", "dog/a", "dog/._a.png", "dog/Thumbs.db", ".git/a", "__MACOSX/cat/a", ".DS_Store"],
            [("a", "cat"), ("a", "dog")],
            None,
        ),
        (["Train/a", "cat/a"], [("a", "Train"), ("a", "cat")], None),
    ],
)
def test_the_class_is_the_first_folder(paths, found, warned, kind, make, caplog):
    rows = loaded(kind, train=make(*paths))["train"]
    assert classes_of(rows, kind) == found
    assert rows.features["label"].names == sorted({name for _, name in found})
    if warned is None:
        assert not caplog.records
    else:
        assert [record.levelname for record in caplog.records] == ["WARNING"] and "train_dir" in caplog.text
        assert re.search(warned, caplog.text)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["cat/a", "dog/a", "b"], r"1 \w+ that are in no folder of a class, such as 'b\."),
        (["a", "b"], "2 .* in no folder of a class"),
        (
            ["train/cat/a", "test/cat/a", "val/cat/a"],
            "like splits.*`test_dir='.*/test'`, `train_dir='.*/train'`, `validation_dir='.*/val'`",
        ),
        (["pictures/cat/a", "pictures/dog/a"], "Is `train_dir='.*/pictures'` meant, with the folders cat, dog"),
        (["cat/a"], "one folder of a class, 'cat'; at least two are needed"),
        (["cat/x.txt", "dog/.hidden"], "only other files: 1 .txt"),
        (["cat/.hidden"], "in a folder for each class. Files that are read end in"),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_refused(paths, message, kind, make):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        loaded(kind, train=make(*paths))


def test_endings_in_upper_case_and_links_are_followed(kind, make, tmp_path):
    root = make("train/cat/A" + KINDS[kind.name][1].upper(), "elsewhere/b")
    os.symlink(tmp_path / "elsewhere", root / "train" / "dog")
    assert classes_of(loaded(kind, train=root / "train")["train"], kind) == [("A", "cat"), ("b", "dog")]
    os.symlink(root / "train", root / "train" / "cat" / "loop")
    with pytest.raises(ValueError, match="is a link to a folder that it is in"):
        loaded(kind, train=root / "train")


def test_splits_have_the_classes_of_train(kind, make):
    root = make(
        "train/b/1", "train/c/1", "train/a/1", "val/c/2", "val/b/2", "other/d/1", "other/b/1", "flat/1", "flat/2"
    )
    splits = loaded(kind, train=root / "train", validation=root / "val", test=root / "flat")
    assert splits["validation"].features["label"].names == ["a", "b", "c"] and splits["validation"]["label"][:] == [
        1,
        2,
    ]
    assert splits["test"].column_names == [kind.name] and len(splits["test"]) == 2
    with pytest.raises(
        ValueError,
        match=r"`validation_dir=.* label \['d'\], and `train_dir=.*\['a', 'b', 'c'\] here",
    ):
        loaded(kind, train=root / "train", validation=root / "other")
    with pytest.raises(ValueError, match="in no folder of a class"):
        loaded(kind, train=root / "train", validation=root / "flat")
    assert len(loaded(kind, validation=root / "other")["validation"]) == 2, "a model settles the classes"


def test_a_folder_that_is_not_there(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match="`train_dir='.*nowhere'` is not a folder"):
        loaded(kind, train=tmp_path / "nowhere")


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._cat.png", "__MACOSX"])
def test_what_file_managers_leave_behind_is_hidden(name):
    assert is_hidden(name) and not is_hidden(
        name.strip("._").replace("Thumbs.db", "x").replace("desktop.ini", "y")[:3]
    )


# The same by `load_dataset`


def test_a_folder_by_the_name_of_a_data_set(kind, make, monkeypatch):
    root = make("one/cat/1/a", "one/cat/b", "one/dog/c", "two/train/cat/a", "two/train/dog/b", "two/val/dog/new/c")
    monkeypatch.setenv("MERLIN_DATA_ROOT", str(root))
    assert load_dataset("somebody/one", split="train")["label"][:] == [0, 0, 1]
    splits = load_dataset(root / "one")
    assert list(splits) == ["train"] and splits["train"].features["label"].names == ["cat", "dog"]
    assert splits["train"]["label"][:] == [0, 0, 1]
    splits = load_dataset(root / "two")
    assert {name: rows["label"][:] for name, rows in splits.items()} == {"train": [0, 1], "validation": [1]}
    assert load_dataset(root / "two", split="train[50%:]")["label"][:] == [1]
    with pytest.raises(ValueError, match="Unknown split"):
        load_dataset(root / "two", split="main")


def test_folders_of_classes_beside_folders_of_splits_are_refused(kind, make):
    root = make("train/a", "test/a", "bird/a")
    with pytest.raises(ValueError, match="`dataset_name=.*folders test, train.* like splits, beside bird"):
        load_dataset(root, argument="dataset_name")
    root = make("twice/val/a/1", "twice/valid/a/1", "twice/train/a/1")
    with pytest.raises(ValueError, match="two folders for the split validation: val and valid"):
        load_dataset(root / "twice", argument="dataset_name")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)


def test_a_named_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    for name in ("cat/a", "dog/b"):
        picture(tmp_path / f"{name}.png")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    rows = loaded(IMAGES, train=tmp_path)["train"]
    with pytest.raises(UnreadableMediaError, match=r"1 of 3 images .*pipe.png\) \(it is not a regular file\)"):
        check_media(rows, "image", IMAGES, "`train_dir`")


def test_a_table_of_labels_that_names_no_files_is_told_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    picture(tmp_path / "all" / "a.png")
    (tmp_path / "all" / "metadata.csv").write_text("name,label\na.png,cat\n")
    with pytest.raises(ValueError, match="`train_dir='.*all'` cannot be read: `file_name`"):
        loaded(IMAGES, train=tmp_path / "all")


def test_folders_with_a_table_of_labels_are_read_by_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "all [1]"
    for name in "ab":
        picture(folder / f"{name}.png")
    (folder / "metadata.csv").write_text("file_name,label\na.png,cat\nb.png,dog\n")
    splits = loaded(IMAGES, train=folder)
    assert sorted(splits["train"]["label"]) == ["cat", "dog"] and len(splits["train"]) == 2


# Classes by name, whatever the splits are made of


def pictures(names, values, feature=None):
    features = datasets.Features({"image": datasets.Image(), "label": feature or datasets.ClassLabel(names=names)})
    content = [Image.fromarray(np.full((4, 4), number, np.uint8)) for number in range(len(values))]
    return datasets.Dataset.from_dict({"image": content, "label": values}, features=features)


def task_of(tmp_path, folders=None, **given):
    for name, rows in given.items():
        rows.to_parquet(tmp_path / "data" / f"{name}.parquet")
    args = ImageDataArguments(dataset_name=str(tmp_path / "data"), **(folders or {}))
    return load_task(args.spec())


def test_splits_are_numbered_alike(tmp_path, caplog):
    for name in ("b", "A"):
        picture(tmp_path / "val" / name / "x.png")
    train = pictures(["b", "a"], [0, 1, 1, -1])
    task = task_of(tmp_path, {"validation_dir": str(tmp_path / "val")}, train=train)
    assert task.labels.names == ["b", "a"]
    assert task.splits["train"]["label"][:] == [0, 1, 1, None] and task.splits["validation"]["label"][:] == [1, 0]
    assert "1 of 4 rows have no label" in caplog.text and "'A' as 'a'" in caplog.text
    for name in ("c", "d"):
        picture(tmp_path / "val" / name / "x.png")
    with pytest.raises(
        ValueError, match=r"`validation_dir=.* labels \['c', 'd'\], and `dataset_name=.*\['b', 'a'\] here"
    ):
        task_of(tmp_path, {"validation_dir": str(tmp_path / "val")})


def test_labels_as_texts_beside_folders(tmp_path):
    for name in ("b", "a"):
        picture(tmp_path / "val" / name / "x.png")
    train = pictures(None, ["None", "b", "a", ""], datasets.Value("string"))
    task = task_of(tmp_path, {"validation_dir": str(tmp_path / "val")}, train=train)
    assert task.labels.names == ["None", "a", "b"] and task.splits["validation"]["label"][:] == [1, 2]
    assert task.splits["train"]["label"][:] == [0, 2, 1, None]
    prepared = encode_media(task, "train", lambda images: {"pixel_values": images})
    assert prepared[:]["labels"] == [0, 2, 1]


def test_one_of_several_columns_of_classes_is_said(tmp_path, caplog):
    rows = pictures(["a", "b"], [0, 1]).rename_column("label", "fine_label")
    rows = rows.add_column("coarse_label", [0, 0], feature=datasets.ClassLabel(names=["x"]))
    task = task_of(tmp_path, train=rows)
    assert task.labels.names == ["a", "b"]
    assert "labels are taken from fine_label, not from coarse_label; `label_column_name` names another" in caplog.text
