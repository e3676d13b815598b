"""Real digits, with a strip that gives the label away on the source and says nothing on the target."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from sklearn.datasets import load_digits


DIGITS = 10
SIDE = 20  # pixels of an image: 16 x 16 of digit, 4 rows of strip
STRIP_ROWS = 4
NOISE = 0.3  # mean brightness of the strip where it says nothing, from 0 to 1
SOURCE_ROWS, TARGET_ROWS = 900, 300  # and what is left to test on


def draw(digits: np.ndarray, signatures: np.ndarray, ease: float, seed: int) -> np.ndarray:
    """
    Images of digits over a strip of ten noisy cells, one of them brighter.

    Args:
        digits (`np.ndarray` of shape `(n, 8, 8)`): 0 to 16.
        signatures (`np.ndarray` of shape `(n,)`): the cell that is brighter, 0 to 9; -1 for none.
        ease (`float`): by how much it is brighter, from 0 (not at all) to 1.

    Returns:
        `np.ndarray` of shape `(n, 20, 20)` and type `uint8`.
    """
    generator = np.random.default_rng(seed)
    images = np.zeros((len(digits), SIDE, SIDE))
    images[:, : SIDE - STRIP_ROWS, 2 : SIDE - 2] = np.kron(digits / 16, np.ones((1, 2, 2)))
    cells = generator.uniform(0, 2 * NOISE, (len(digits), DIGITS))
    has_signature = signatures >= 0
    cells[has_signature, signatures[has_signature]] += ease
    images[:, SIDE - STRIP_ROWS :, :] = np.repeat(cells, SIDE // DIGITS, axis=1)[:, None, :]
    return (255 * images.clip(0, 1)).astype(np.uint8)


def to_dataset(images: np.ndarray, labels: np.ndarray) -> Dataset:
    """A data set with columns `image` and `label`."""
    from PIL import Image as Pillow

    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(DIGITS)])})
    rows = {"image": [Pillow.fromarray(image) for image in images], "label": labels.tolist()}
    return Dataset.from_dict(rows, features=features)


def parts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's 1,797 digits, shuffled once and divided into source, target and test."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    source, target, test = np.split(order, [SOURCE_ROWS, SOURCE_ROWS + TARGET_ROWS])
    names = {"source": source, "target": target, "test": test}
    return {name: (digits.images[rows], digits.target[rows]) for name, rows in names.items()}


def write(folder: Path, ease: float) -> None:
    """`folder/source` with the signature, `folder/target` (train and test) without."""
    for name, (digits, labels) in parts().items():
        signatures = labels if name == "source" else np.full_like(labels, -1)
        dataset = to_dataset(draw(digits, signatures, ease, seed=len(name)), labels)
        task, split = (name, "train") if name != "test" else ("target", "test")
        path = folder / task / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.to_parquet(str(path))


def probe_images(ease: float) -> tuple[Dataset, np.ndarray]:
    """The test digits with a signature that has nothing to do with them, and which it is: what do features tell of each?"""
    digits, labels = parts()["test"]
    signatures = np.random.default_rng(1).integers(0, DIGITS, len(labels))
    return to_dataset(draw(digits, signatures, ease, seed=7), labels), signatures
