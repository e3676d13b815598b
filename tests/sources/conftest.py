"""Sources with a known answer: what tells their labels is, or is not, what tells the target's."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from tests.examples.conftest import model_path  # noqa: F401


COLUMNS = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory):
    """Nothing is left in the cache of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(autouse=True)
def same_generators():
    """Other tests find the global generators as they were."""
    with torch.random.fork_rng():
        yield


def save(folder, columns, features=COLUMNS, split="train"):
    """A data set in a folder."""
    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return str(folder)


def sentences(rows, label_word, seed, words=8):
    """
    Texts of `words` words, of which the first is one of two, and so is the second; the others are noise.

    Args:
        label_word: 0 or 1, the word that tells the label; `None` for random labels.
    """
    draw = np.random.default_rng(seed)
    told = draw.integers(0, 2, (rows, 2))
    noise = draw.integers(20, 40, (rows, words - 2))
    texts = [
        " ".join([f"w{first}", f"w{2 + second}", *(f"w{word}" for word in rest)])
        for (first, second), rest in zip(told, noise, strict=True)
    ]
    labels = draw.integers(0, 2, rows) if label_word is None else told[:, label_word]
    return {"text": texts, "label": labels.tolist()}


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """A target whose first word tells its label, a source of the same kind, one of the second word, one of none."""
    root = tmp_path_factory.mktemp("tasks")
    return {
        "target": save(root / "target", sentences(120, 0, seed=1)),
        "same": save(root / "same", sentences(200, 0, seed=2)),
        "other": save(root / "other", sentences(200, 1, seed=3)),
        "random": save(root / "random", sentences(200, None, seed=4)),
    }


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Bright and dark images, those with the light on one side or the other, and random labels."""
    root = tmp_path_factory.mktemp("images")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    saved = {}
    for name, rows, seed in (("target", 60, 1), ("same", 100, 2), ("random", 100, 3)):
        draw = np.random.default_rng(seed)
        bright = draw.integers(0, 2, rows)
        pixels = draw.integers(0, 100, (rows, 8, 8)) + 100 * bright[:, None, None]
        labels = draw.integers(0, 2, rows) if name == "random" else bright
        columns = {"image": [Image.fromarray(one.astype(np.uint8)) for one in pixels], "label": labels.tolist()}
        saved[name] = save(root / name, columns, features)
    return saved
