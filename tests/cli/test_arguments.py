"""How `merlin-hf train` reads flags and a file; nothing is loaded but small files."""

import json

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from merlin_hf.cli.arguments import read_request
from merlin_hf.methods import METHODS
from merlin_hf.utils.validation import ConfigError
from tests.fuzz import configs as fuzz
from tests.fuzz.options import FAULTS, NAMED


BASE = {"model_name_or_path": "m", "task_name": "rte", "source_task_name": "mnli", "output_dir": "out"}


def write(tmp_path, ending="yaml", **values):
    path = tmp_path / f"run.{ending}"
    path.write_text(json.dumps(values) if ending == "json" else yaml.safe_dump(values))
    return str(path)


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_flags_win_over_the_file(ending, tmp_path):
    values = {**BASE, "rho": 2, "learning_rate": "1e-4", "text_columns": ["a"], "bf16": False, "seed": None}
    path = write(tmp_path, ending, **values)
    for argv, config in (([], path), ([path], None)):
        request = read_request([*argv, "--rho", "0.5", "--max-steps=7", "--text_columns", "b", "c"], config)
        model_args, data_args, args = request.arguments()
        assert (request.method, request.task, model_args.model_name_or_path) == ("merlin", "text", "m")
        assert (args.rho, args.max_steps, args.learning_rate, args.seed) == (0.5, 7, 1e-4, 42)
        assert data_args.text_columns == ["b", "c"] and data_args.source_task_name == "mnli"


def test_what_to_do_is_to_train_unless_something_is_said(tmp_path):
    path = write(tmp_path, **BASE)
    assert read_request([], path).arguments()[2].do_train
    assert not read_request(["--do_eval"], path).arguments()[2].do_train
    assert not read_request(["--do_train", "false", "--do_predict"], path).arguments()[2].do_train


def test_flags_that_are_off(tmp_path):
    path = write(tmp_path, **BASE, do_eval=True, pad_to_max_length=True)
    request = read_request(["--do_eval", "false", "--no_mix_weights", "--no_pad_to_max_length"], path)
    _, data_args, args = request.arguments()
    assert not args.do_eval and not args.mix_weights and not data_args.pad_to_max_length


def test_each_method_has_its_own_options(tmp_path):
    path = write(tmp_path, **BASE, method="l2_sp", regularization_weight=0.5)
    _, _, args = read_request([], path).arguments()
    assert type(args) is METHODS["l2_sp"].training_args_class and args.regularization_weight == 0.5
    with pytest.raises(ConfigError, match="`regularization_weight` is an option of .*l2_sp.*; the method is joint"):
        read_request(["--method", "joint"], path)
    with pytest.raises(ConfigError, match="`--rho` is an option of merlin, merlin_ft; the method is finetune"):
        read_request(["--model_name_or_path", "m", "--task_name", "rte", "--rho", "1"])


def test_paths_in_a_file_are_found_beside_it(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,1\n")
    path = write(tmp_path, model_name_or_path="m", train_file="train.csv", validation_file="missing.csv")
    data_args = read_request([], path).arguments()[1]
    assert data_args.train_file == str(tmp_path / "train.csv") and data_args.validation_file == "missing.csv"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1}, "`learning_rat` is unknown. Did you mean 'learning_rate'"),
        ({"max_steps": "many"}, "`max_steps` must be a whole number of at least -1, got 'many'"),
        ({"bf16": "yes please"}, "`bf16` must be true or false"),
        ({"text_columns": "text"}, "`text_columns` must be a list"),
        ({"split": "thirds"}, "`split` must be one of half, kfold, loo, got 'thirds'"),
        ({"lr_scheduler_type": "linaer"}, "`lr_scheduler_type` must be one of .*Did you mean 'linear'"),
        ({"method": "merlim"}, "`method='merlim'` is unknown. Did you mean 'merlin'"),
        ({"task": "txt"}, "`task` must be one of text, image, got 'txt'. Did you mean 'text'"),
        ({"accelerate_config": "ddp"}, "`accelerate_config` is unknown"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(values, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_request([], write(tmp_path, **{**BASE, **values}))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max_step", "3"], "`--max_step` is unknown. Did you mean 'max_steps'"),
        (["--max_steps", "three"], "max_steps.*invalid int value: 'three'"),
        (["--split", "thirds"], "split.*invalid choice: 'thirds'"),
        (["stray"], "'stray' is not a flag"),
        (["--image_column", "x"], "`--image_column` is about images, and the data are texts"),
        (["--learning_rate"], "learning_rate.*expected one argument"),
    ],
)
def test_what_is_wrong_in_flags_is_named(argv, message, tmp_path):
    flags = [word for name, value in BASE.items() for word in (f"--{name}", value)]
    with pytest.raises(ConfigError, match=message):
        read_request([*argv, *flags] if argv == ["stray"] else [*flags, *argv])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no configuration 'nowhere.yaml'"):
        read_request([], "nowhere.yaml")
    path = tmp_path / "run.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="must be a mapping"):
        read_request([], str(path))
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_request([], str(path))
    path.write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_request([], str(path))
    with pytest.raises(ConfigError, match="Give one file"):
        read_request([str(path)], str(path))


def test_the_task_is_that_of_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    images = [Image.fromarray(np.zeros((4, 4), np.uint8))] * 2
    datasets.Dataset.from_dict(
        {"image": images, "label": [0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    ).to_parquet(tmp_path / "images.parquet")
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).to_parquet(tmp_path / "texts.parquet")
    model = ["--model_name_or_path", "m"]
    for task in ("image", "text"):
        request = read_request([*model, "--dataset_name", str(tmp_path / f"{task}s.parquet"), "--label_column", "y"])
        assert request.task == task
        data_args = request.arguments()[1]
        assert getattr(data_args, "label_column_name" if task == "image" else "label_column") == "y"
    assert read_request([*model, "--train_dir", "x"]).task == "image"
    assert read_request([*model, "--train_file", "x.csv"]).task == "text"
    assert read_request([*model, "--dataset_name", "nowhere"], task="image").task == "image"
    with pytest.raises(FileNotFoundError, match="`dataset_name='nowhere'` is not a file or folder"):
        read_request([*model, "--dataset_name", "nowhere"])


@pytest.mark.parametrize("command", ["train", "images", "compare", "sources"])
@pytest.mark.parametrize("name", ["nan", "None", "empty", "x", "2.5", "-1", "1e30", "[]"])
def test_a_slice_of_the_fuzz_of_values(command, name):
    """One key in four; `make fuzz` has all."""
    some = [key for key in fuzz.keys() if key[0] == command][:: 4 if command != "sources" else 1]
    found = [fuzz.give(*key, name) for key in some]
    assert found and not [one for one in found if one.verdict in FAULTS]


@pytest.mark.parametrize("attack", list(fuzz.attacks())[::4], ids=lambda attack: f"{attack[0]} {attack[1]}"[:40])
def test_a_slice_of_the_bombs(attack):
    assert fuzz.attack(*attack).verdict == NAMED
