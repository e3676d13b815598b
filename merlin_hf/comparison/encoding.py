"""From stored rows to what a model takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from transformers import DataCollatorWithPadding, PretrainedConfig, default_data_collator

from ..scripts.text_tasks import DataTrainingArguments, tokenize
from .tasks import Rows


@dataclass
class TextEncoder:
    """Token ids of one or two text columns, of which each batch is padded to its longest."""

    tokenizer: Any
    max_seq_length: int

    def __call__(self, rows: Rows) -> datasets.Dataset:
        """The model's inputs and `labels`."""
        data_args = DataTrainingArguments(
            dataset_name=rows.task.argument, max_seq_length=self.max_seq_length, pad_to_max_length=False
        )
        return tokenize(rows.dataset, rows.task, self.tokenizer, data_args)

    @property
    def collator(self) -> Callable:
        """Makes a batch of rows."""
        return DataCollatorWithPadding(self.tokenizer)


@dataclass
class ImageEncoder:
    """
    Pixels, computed when a row is read.

    Args:
        preprocess (`Callable`): from a list of `PIL.Image` to `np.ndarray` of shape `(n, num_channels, height, width)`.
    """

    preprocess: Callable

    def __call__(self, rows: Rows) -> datasets.Dataset:
        """A data set of `pixel_values` and `labels`."""
        stored, column = rows.dataset, rows.task.text_columns[0]
        places = datasets.Dataset.from_dict({"place": np.arange(len(rows)), "labels": rows.labels})

        def transform(batch: dict) -> dict:
            encoded = {"labels": batch["labels"]} if "labels" in batch else {}
            if "place" in batch:
                encoded["pixel_values"] = list(self.preprocess(stored[batch["place"]][column]))
            return encoded

        return places.with_transform(transform)

    @property
    def collator(self) -> Callable:
        """Makes a batch of rows."""
        return default_data_collator


def resize_and_scale(image_size: int | tuple[int, int] | list[int], num_channels: int) -> Callable:
    """What [`ImageEncoder`] does for models without an image processor: bilinear resizing, values in [-1, 1]."""
    from PIL import Image

    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    mode = "L" if num_channels == 1 else "RGB"

    def preprocess(images: list) -> np.ndarray:
        resized = [image.convert(mode).resize((width, height), Image.Resampling.BILINEAR) for image in images]
        pixels = np.stack([np.asarray(image, dtype=np.float32).reshape(height, width, -1) for image in resized])
        return pixels.transpose(0, 3, 1, 2) / 127.5 - 1

    return preprocess


def by_processor(processor: Any, config: PretrainedConfig) -> Callable:
    """What [`ImageEncoder`] does for models with an image processor."""
    mode = "L" if getattr(config, "num_channels", 3) == 1 else "RGB"

    def preprocess(images: list) -> np.ndarray:
        return processor([image.convert(mode) for image in images], return_tensors="np")["pixel_values"]

    return preprocess
