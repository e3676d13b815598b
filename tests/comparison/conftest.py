"""Tiny data sets on disk, tiny models, and the configuration of a comparison that takes seconds."""

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from merlin_hf.comparison import CompareConfig, load_config
from tests.examples.conftest import model_path  # noqa: F401
from tests.tiny import CONV


# Words that stand in one split only, so that a row tells where it comes from.
TRAIN_WORDS, TEST_WORDS, SOURCE_WORDS = (range(10, 20), range(20, 30), range(30, 40))
NAMES = ["no", "yes"]


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory):
    """Nothing is left in the cache of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def sentences(rows, words, classes=2, seed=0):
    """Texts whose first word tells the class, mostly."""
    draw = np.random.default_rng(seed)
    labels = [row % classes for row in range(rows)]
    told = [label if draw.random() < 0.9 else int(draw.integers(classes)) for label in labels]
    texts = [
        f"w{label} " + " ".join(f"w{draw.choice(words)}" for _ in range(4)) + f" w{row % 10}"
        for row, label in enumerate(told)
    ]
    return texts, labels


def save(folder, split, columns, features):
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(
        folder / "data" / f"{split}-00000-of-00001.parquet"
    )


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Folders of a target with two classes, a source with three and other column names, and a regression."""
    root = tmp_path_factory.mktemp("texts")
    string, real = datasets.Value("string"), datasets.Value("float32")
    for split, rows, words, seed in (("train", 80, TRAIN_WORDS, 1), ("test", 40, TEST_WORDS, 2)):
        columns = dict(zip(("text", "label"), sentences(rows, words, seed=seed), strict=True))
        save(root / "target", split, columns, {"text": string, "label": datasets.ClassLabel(names=NAMES)})
        scores = [label + 0.1 * (row % 3) for row, label in enumerate(columns["label"])]
        save(root / "scores", split, {**columns, "label": scores}, {"text": string, "label": real})
    columns = dict(zip(("sentence", "topic"), sentences(90, SOURCE_WORDS, classes=3, seed=3), strict=True))
    save(root / "source", "train", columns, {"sentence": string, "topic": datasets.ClassLabel(names=["a", "b", "c"])})
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Folders of a target and a source of small grey images, and a tiny ResNet as a configuration alone."""
    root = tmp_path_factory.mktemp("images")
    for name, split, rows, seed in (("target", "train", 40, 1), ("target", "test", 20, 2), ("source", "train", 40, 3)):
        draw = np.random.default_rng(seed)
        labels = [row % 2 for row in range(rows)]
        pixels = [draw.integers(0, 60, (8, 8)) + 150 * label for label in labels]
        columns = {"image": [Image.fromarray(image.astype(np.uint8)) for image in pixels], "label": labels}
        save(root / name, split, columns, {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    config = transformers.ResNetConfig(**{**CONV, "num_channels": 1, "embedding_size": 8})
    config.save_pretrained(root / "resnet")
    return root


@pytest.fixture
def config(texts, model_path, tmp_path):  # noqa: F811
    """A mapping as in a YAML file."""
    return make_config(texts, model_path, tmp_path / "out")


def make_config(texts, model_path, output_dir):  # noqa: F811
    """Return the mapping of `config`, for fixtures that live longer."""
    return {
        "model": model_path,
        "target": {"path": str(texts / "target"), "rows": 24},
        "source": {"path": str(texts / "source"), "label_column": "topic"},
        "methods": ["finetune", "joint", "merlin"],
        "seeds": 2,
        "training": {"max_steps": 3, "per_device_train_batch_size": 8, "use_cpu": True},
        "search": {"trials": 2, "learning_rates": [1e-3, 3e-3]},
        "max_seq_length": 16,
        "output_dir": str(output_dir),
    }


def read(config, **changes) -> CompareConfig:
    """The configuration with keys replaced."""
    return load_config({**config, **changes})


@pytest.fixture(autouse=True)
def same_generators():
    """A comparison seeds the global generators; other tests find them as they were."""
    with torch.random.fork_rng():
        yield
