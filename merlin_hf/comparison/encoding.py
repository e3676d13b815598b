"""From stored rows to what a model takes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import numpy as np
from transformers import DataCollatorWithPadding, PretrainedConfig, default_data_collator

from ..data.encoding import tokenize
from ..data.images import IMAGES, EncodeImages, mode_of, to_mode
from ..data.media import read_media
from .tasks import Rows


@dataclass
class TextEncoder:
    """Token ids of one or two text columns, of which each batch is padded to its longest."""

    tokenizer: Any
    max_seq_length: int
    reads_lazily: ClassVar[bool] = False  # whether rows are computed when they are read, from columns of its own

    def __call__(self, rows: Rows) -> datasets.Dataset:
        """The model's inputs and `labels`."""
        return tokenize(
            rows.dataset,
            rows.task.text_columns,
            rows.task.labels,
            self.tokenizer,
            self.max_seq_length,
            desc="Tokenizing",
        )

    @property
    def collator(self) -> Callable:
        """Makes a batch of rows."""
        return DataCollatorWithPadding(self.tokenizer)


@dataclass
class ImageEncoder:
    """
    Pixels, computed when a row is read, and kept for the next time.

    Args:
        preprocess (`Callable`): from a list of `PIL.Image` to `np.ndarray` of shape `(n, num_channels, height, width)`.
        memory (`int`): bytes of pixels that are kept, at most.
    """

    preprocess: Callable
    memory: int = 2**29
    reads_lazily: ClassVar[bool] = True
    _kept: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, rows: Rows) -> datasets.Dataset:
        """A data set of `pixel_values` and `labels`."""
        column = rows.task.text_columns[0]

        def read(places: list[int]) -> list[np.ndarray]:
            keys = [int(rows.digests[place]) for place in places]
            new = {key: place for key, place in zip(keys, places, strict=True) if key not in self._kept}
            stored = rows.dataset[list(new.values())][column] if new else ()
            pixels = (
                self.preprocess([read_media(IMAGES, value, f"`{rows.task.argument}`") for value in stored])
                if new
                else ()
            )
            read = dict(zip(new, pixels, strict=True))
            found = [read[key] if key in read else self._kept[key] for key in keys]
            for key, image in read.items():
                if (len(self._kept) + 1) * image.nbytes <= self.memory:
                    self._kept[key] = image
            return found

        return computed_when_read(rows, "pixel_values", read)

    @property
    def collator(self) -> Callable:
        """Makes a batch of rows."""
        return default_data_collator


def computed_when_read(rows: Rows, column: str, read: Callable) -> datasets.Dataset:
    """
    A data set of `labels` and a column that is computed for the rows that are read.

    Args:
        rows ([`Rows`]).
        column (`str`): its name.
        read (`Callable`): from a list of numbers of rows to a list of values.

    Workers of a DataLoader can read it where they are forked; one that is sent to another process raises a `TypeError` there.
    """
    labels = rows.labels.astype(np.float32) if rows.is_regression else rows.ids
    dataset = datasets.Dataset.from_dict({"place": np.arange(len(rows)), "labels": labels})
    return dataset.with_transform(_Transform(column, read, f"{column} of {rows.identity}"))


@dataclass
class _Transform:
    column: str
    read: Callable
    identity: str

    def __call__(self, batch: dict) -> dict:
        encoded = {"labels": batch["labels"]} if "labels" in batch else {}
        if "place" in batch:
            encoded[self.column] = self.read(batch["place"])
        return encoded

    def __reduce__(self):
        # `datasets` names a data set by pickling its transform, which would be all rows, each time.
        return _refuse_another_process, (self.identity,)

    def __deepcopy__(self, memo):
        return self


def _refuse_another_process(identity: str) -> None:
    raise TypeError(
        f"{identity} are read in the process that made them: leave out `training.dataloader_num_workers`, which starts "
        "workers that share no memory here."
    )


def resize_and_scale(image_size: int | tuple[int, int] | list[int], num_channels: int) -> Callable:
    """What [`ImageEncoder`] does for models without an image processor: bilinear resizing, values in [-1, 1]."""
    from PIL import Image

    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    mode = "L" if num_channels == 1 else "RGB"

    def preprocess(images: list) -> np.ndarray:
        resized = [to_mode(image, mode).resize((width, height), Image.Resampling.BILINEAR) for image in images]
        pixels = np.stack([np.asarray(image, dtype=np.float32).reshape(height, width, -1) for image in resized])
        return pixels.transpose(0, 3, 1, 2) / 127.5 - 1

    return preprocess


def by_processor(processor: Any, config: PretrainedConfig) -> Callable:
    """What [`ImageEncoder`] does for models with an image processor."""
    encode = EncodeImages(processor, mode_of(config))

    def preprocess(images: list) -> np.ndarray:
        return encode(images)["pixel_values"].numpy()

    return preprocess
