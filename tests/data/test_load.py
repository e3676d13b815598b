import datasets
import pytest

from merlin_hf.data import DATA_ROOT, load_dataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv(DATA_ROOT, raising=False)


def write(folder, text, split="train"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.csv").write_text(f"sentence,label\n{text},0\n")
    return folder


def sentences(data):
    return data["train"]["sentence"][:]


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_reads_a_file(tmp_path, ending):
    rows = datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]})
    path = tmp_path / f"mine.{ending}"
    if ending == "csv":
        rows.to_csv(path)
    elif ending == "parquet":
        rows.to_parquet(path)
    else:
        rows.to_json(path)
    loaded = load_dataset(path)
    assert list(loaded) == ["train"]
    assert loaded["train"].to_dict() == rows.to_dict()
    assert load_dataset(path, split="train").to_dict() == rows.to_dict()


def test_refuses_other_files(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a")
    with pytest.raises(
        ValueError, match="`train_file` must be a .csv, .tsv, .json, .jsonl, .parquet file, got .*mine.txt"
    ):
        load_dataset(path, argument="train_file")


def test_reads_a_folder_with_its_splits(tmp_path):
    folder = write(write(tmp_path / "mine", "a"), "b", split="validation")
    loaded = load_dataset(folder)
    assert sentences(loaded) == ["a"]
    assert loaded["validation"]["sentence"][:] == ["b"]


def test_data_root_is_searched_by_configuration_and_then_by_repository(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    write(tmp_path / "glue", "from glue")
    assert sentences(load_dataset("nyu-mll/glue")) == ["from glue"]
    assert sentences(load_dataset("glue")) == ["from glue"]
    write(tmp_path / "rte", "from rte")
    assert sentences(load_dataset("nyu-mll/glue", "rte")) == ["from rte"]


def test_a_path_comes_before_the_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT, str(write(tmp_path / "root" / "mine", "root").parent))
    monkeypatch.chdir(write(tmp_path / "here" / "mine", "here").parent)
    assert sentences(load_dataset("mine")) == ["here"]


def test_goes_to_the_hub_with_name_and_options_unchanged(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: calls.append((args, kwargs)))
    load_dataset("nyu-mll/glue", "rte", revision="abc", split="train")
    assert calls == [(("nyu-mll/glue", "rte"), {"revision": "abc", "split": "train"})]


def test_error_names_the_argument_what_was_given_and_what_would_work(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"`path='nobody/nothing'` is not .*{DATA_ROOT} is not set"):
        load_dataset("nobody/nothing")
    write(tmp_path / "rte", "a")
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        load_dataset("nobody/nothing", "small", argument="source_dataset_name")
    message = str(error.value)
    assert "`source_dataset_name='nobody/nothing'` (configuration 'small')" in message
    assert f"{DATA_ROOT} has rte" in message
    assert "Give a name as on the Hub" in message


def test_data_root_must_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT, str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match=f"{DATA_ROOT} must name a folder of data sets, got .*missing"):
        load_dataset("rte")
