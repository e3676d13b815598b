"""What comparisons make of rows."""

import pickle

import numpy as np
import pytest
from datasets.fingerprint import Hasher
from PIL import Image

from merlin_hf.comparison.config import TargetConfig
from merlin_hf.data.encoding import ImageEncoder, resize_and_scale
from merlin_hf.data.images import read_image
from merlin_hf.data.rows import load_rows
from tests.comparison.conftest import cache, images  # noqa: F401


@pytest.mark.parametrize("images_kept", [0, 5, 100])
def test_pixels_are_the_same_kept_or_not(images, images_kept):  # noqa: F811
    rows = load_rows(TargetConfig(path=str(images / "target")), "target", "train_split")
    preprocess, seen = resize_and_scale(8, 1), []

    def counted(batch: list[Image.Image]) -> np.ndarray:
        seen.append(len(batch))
        return preprocess(batch)

    encoder = ImageEncoder(counted, memory=images_kept * 8 * 8 * 4)
    expected = preprocess([read_image(value) for value in rows.dataset[:]["image"]])
    for _ in range(2):
        read = encoder(rows)[[3, 7, 3, *range(20)]]
        np.testing.assert_array_equal(np.stack(read["pixel_values"]), expected[[3, 7, 3, *range(20)]])
    different = len({rows.digests[place] for place in range(20)})
    assert sum(seen) == 2 * different - min(images_kept, different)


def test_a_dataset_that_is_computed_is_named_by_its_rows_and_stays_in_its_process(images):  # noqa: F811
    rows = load_rows(TargetConfig(path=str(images / "target")), "target", "train_split")
    encoder = ImageEncoder(resize_and_scale(8, 1))
    transform = encoder(rows).format["format_kwargs"]["transform"]
    assert Hasher.hash(transform) == Hasher.hash(encoder(rows).format["format_kwargs"]["transform"])
    assert Hasher.hash(transform) != Hasher.hash(encoder(rows.select([1, 0])).format["format_kwargs"]["transform"])
    with pytest.raises(TypeError, match="leave out `training.dataloader_num_workers`"):
        pickle.loads(pickle.dumps(transform))
