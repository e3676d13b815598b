"""The description of a run: what it compares, and the digest of rows."""

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value, concatenate_datasets
from PIL import Image as Picture
from transformers import TrainingArguments

from merlin_hf import METHODS, MerlinTrainingArguments
from merlin_hf.transfer import run_record
from merlin_hf.transfer.run_record import COMPARED, compared_arguments, describe_data, differences, digest


def texts(rows=300):
    return Dataset.from_dict({
        "input_ids": [list(range(i % 7)) for i in range(rows)],
        "text": [None if i % 11 == 0 else f"row {i}" for i in range(rows)],
        "label": [i % 3 for i in range(rows)],
    })  # fmt: skip


def test_the_same_rows_have_the_same_digest_however_they_are_kept(tmp_path):
    rows = texts()
    rows.to_parquet(tmp_path / "a.parquet")
    same = [
        concatenate_datasets([rows.select(range(0, 77)), rows.select(range(77, 300))]),
        rows.select(list(range(300))[::-1]).select(list(range(300))[::-1]),
        Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache")),
        rows.with_format("torch"),
        rows.with_transform(lambda batch: 1 / 0),
        rows.select_columns(["label", "text", "input_ids"]),
    ]
    assert {digest(one) for one in same} == {digest(rows)}


@pytest.mark.parametrize("limit", [run_record.DIGEST_LIMIT, 0], ids=["all", "sample"])
def test_other_rows_have_another_digest(monkeypatch, limit):
    monkeypatch.setattr(run_record, "DIGEST_LIMIT", limit)
    rows = texts()

    def changed(name, row, value):
        values = list(rows[name])
        values[row] = value
        return rows.remove_columns(name).add_column(name, values)

    others = [
        rows.select(range(299)), rows.shuffle(seed=0), rows.rename_column("label", "labels"), changed("label", 150, 7),
        changed("text", 299, "row"), changed("text", 11, ""), changed("input_ids", 3, [0, 1, 3]),
    ]  # fmt: skip
    assert len({digest(one) for one in [rows, *others]}) == len(others) + 1


def test_images_are_told_apart_by_what_is_in_their_files(tmp_path):
    def folder(name, value):
        (tmp_path / name).mkdir()
        paths = []
        for number in range(3):
            paths.append(str(tmp_path / name / f"{number}.png"))
            Picture.fromarray(np.full((4, 4, 3), value + number, dtype=np.uint8)).save(paths[-1])
        features = Features({"image": Image(), "label": Value("int64")})
        return Dataset.from_dict({"image": paths, "label": [0, 1, 0]}, features=features)

    one, moved, other = folder("one", 5), folder("moved", 5), folder("other", 6)
    assert digest(one) == digest(moved) != digest(other)
    assert digest(one.remove_columns("label")) == digest(moved.remove_columns("label"))


def test_other_data_sets_are_known_by_their_size():
    assert describe_data([1, 2]) == {"rows": 2, "columns": None, "digest": None}
    assert describe_data(iter([1]))["rows"] is None
    assert describe_data(texts(0))["rows"] == 0


def test_every_compared_argument_is_one_of_transformers_or_of_an_older_release():
    known = set(TrainingArguments.__dataclass_fields__)
    assert COMPARED - known <= {"warmup_ratio", "group_by_length"}, "gone in version 5"


@pytest.mark.parametrize("method", METHODS)
def test_all_options_of_a_method_are_compared(tmp_path, method):
    options = METHODS[method].training_args_class
    own = set(options.__dataclass_fields__) - set(TrainingArguments.__dataclass_fields__)
    found = compared_arguments(options(str(tmp_path), use_cpu=True, hub_token="hf_abcdefghijk"))
    assert own - set(found) == {"target_chunk_size", "overwrite_output_dir"}
    assert {"learning_rate", "seed", "optim", "bf16"} <= set(found)
    assert not {"max_steps", "num_train_epochs", "save_steps", "logging_steps", "output_dir", "hub_token"} & set(found)


def test_what_one_of_two_descriptions_lacks_is_not_compared():
    now = {
        "method": "MerlinTrainer", "labels": ["a", "b"], "model": {"type": "bert", "name": None, "weights": 5},
        "arguments": {"rho": 0.1, "new": 1}, "data": {"train_dataset": {"rows": 3, "columns": ["a"], "digest": "x"}},
    }  # fmt: skip
    for saved in ({}, {"labels": None, "model": 3, "data": [], "arguments": None}, {"arguments": {"old": 2}}):
        assert not differences(saved, now)
    assert not differences(now, now)
    found = differences({**now, "arguments": {"rho": 0.2}, "labels": ["a"]}, now)
    assert found.essential == ["the number of classes (1 in the checkpoint, 2 now)"]
    assert str(found).endswith("`rho` (0.2 in the checkpoint, 0.1 now)")


def test_long_values_are_cut():
    found = differences({"labels": [f"class {i}" for i in range(50)]}, {"labels": [f"kind {i}" for i in range(50)]})
    assert len(str(found)) < 200
    args = MerlinTrainingArguments("out", use_cpu=True, lr_scheduler_kwargs={"num_cycles": 3})
    assert compared_arguments(args)["lr_scheduler_kwargs"] == {"num_cycles": 3}
