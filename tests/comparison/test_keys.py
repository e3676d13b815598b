"""What makes a finished run count as the one that is asked for."""

import importlib.util
import shutil
import sys

import datasets
import numpy as np
from PIL import Image

from merlin_hf import MerlinTrainer
from merlin_hf.comparison import compare
from merlin_hf.comparison.config import TargetConfig
from merlin_hf.comparison.identity import own_code
from merlin_hf.data.rows import load_rows, overlap
from tests.comparison.conftest import cache, config, same_generators, texts  # noqa: F401
from tests.examples.conftest import model_path  # noqa: F401


def image_folder(root, shades):
    for split in ("train", "test"):
        for number, shade in enumerate(shades[split]):
            folder = root / split / ("dark" if number % 2 else "light")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), shade, dtype=np.uint8)).save(folder / f"{number}.png")
    return TargetConfig(path=str(root))


def test_images_in_files_count_by_what_they_show(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    target = image_folder(tmp_path / "a", {"train": [0, 50, 100, 150], "test": [50, 100, 200, 250]})
    train, test = (load_rows(target, "target", split) for split in ("train_split", "test_split"))
    assert overlap(test, train) == 2
    image_folder(tmp_path / "a", {"train": [0, 50, 100, 151], "test": [50, 100, 200, 250]})
    assert load_rows(target, "target", "train_split").identity != train.identity
    assert load_rows(target, "target", "test_split").identity == test.identity


METHOD = """
from merlin_hf import MerlinTrainer

class Mine(MerlinTrainer):
    factor = {factor}
"""


def load_method(path, factor, monkeypatch):
    path.write_text(METHOD.format(factor=factor))
    spec = importlib.util.spec_from_file_location("my_methods", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_methods", module)
    spec.loader.exec_module(module)
    return module.Mine


def test_the_code_of_a_method_of_ones_own_counts(tmp_path, monkeypatch):
    codes = []
    for factor in (1, 22, 1):
        codes.append(own_code(load_method(tmp_path / "my_methods.py", factor, monkeypatch)))
    assert codes[0] == codes[2] != codes[1] and set(codes[0]) == {"code"}
    assert own_code(MerlinTrainer) == {}, "the version tells"


def test_a_model_that_another_run_left_is_not_taken_for_this_one(config, tmp_path):  # noqa: F811
    config = {**config, "methods": ["finetune"], "seeds": 1, "search": {"trials": 0}, "save_models": True}
    model = tmp_path / "out" / "models" / "finetune" / "seed-0" / "model.safetensors"
    longer = {**config, "training": {**config["training"], "max_steps": 5}}
    found = []
    for settings in (config, longer, config):
        compare(settings, show_progress=False)
        found.append(model.read_bytes())
    assert found[0] == found[2] != found[1]
    shutil.rmtree(model.parent)
    compare(config, show_progress=False)
    assert model.read_bytes() == found[0]
