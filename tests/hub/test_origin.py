"""What a data set says about where it comes from."""

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Value

from merlin_hf.hub.origin import origin_of, origins_of


def of_the_hub(**kwargs):
    """Rows with the information that `load_dataset("nyu-mll/glue", "rte", split="train")` leaves with them."""
    info = DatasetInfo(
        builder_name="parquet",
        dataset_name="glue",
        config_name="rte",
        download_checksums={"hf://datasets/nyu-mll/glue@bcdcba79/rte/train-00000-of-00001.parquet": {"num_bytes": 1}},
        features=Features({"text": Value("string"), "label": ClassLabel(names=["yes", "no"])}),
    )
    return Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, info=info, split=datasets.Split.TRAIN, **kwargs)


def test_a_data_set_of_the_hub_says_its_name_configuration_split_and_revision():
    dataset = of_the_hub().map(lambda row: {"length": len(row["text"])})
    origin = origin_of(dataset)
    assert origin[:6] == ("nyu-mll/glue", None, "rte", "train", "bcdcba79", 2)
    assert origin.label_names == ("yes", "no")
    assert origin.markdown == "[nyu-mll/glue](https://huggingface.co/datasets/nyu-mll/glue)"


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_file_has_no_name_and_its_path_is_not_told(tmp_path, suffix):
    dataset = of_the_hub()
    path = str(tmp_path / f"secret-project.{suffix}")
    getattr(dataset, f"to_{suffix}")(path)
    loaded = datasets.load_dataset(suffix, data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    origin = origin_of(loaded)
    assert origin[:3] == (None, None, None) and origin.rows == 2
    assert "secret" not in str(origin)


def test_what_the_user_says_goes_first():
    origin = origin_of(of_the_hub(), tag="ada/films", name="Films", config="short")
    assert origin[:3] == ("ada/films", "Films", "short") and origin.revision is None
    assert origin_of(of_the_hub(), name="RTE")[:3] == ("nyu-mll/glue", "RTE", "rte")
    assert origin_of(of_the_hub(), tag="nyu-mll/glue").revision == "bcdcba79"


def test_several_names_for_rows_of_several_data_sets():
    origins = origins_of([1, 2, 3], ["ada/films", "ada/books"], None, ["short"])
    assert [(origin.hub_id, origin.config, origin.rows) for origin in origins] == [
        ("ada/films", "short", None),
        ("ada/books", None, None),
    ]


def test_anything_may_be_a_data_set():
    assert origin_of(None).markdown == "not named"
    assert origin_of([1, 2, 3]).rows == 3
    stream = Dataset.from_dict({"a": [1]}).to_iterable_dataset()
    assert origin_of(stream).rows is None
