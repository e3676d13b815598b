"""Make a model's inputs of stored rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import numpy as np
from transformers import DataCollatorForTokenClassification, PretrainedConfig, default_data_collator

from .columns import warn_of_empty_texts
from .images import IMAGES, EncodeImages, mode_of, to_mode
from .labels import Labels
from .media import check_media, read_media
from .rows import Rows
from .sentence_encoders import text_collator
from .tags import encode_tags
from .tasks import MEDIA, ROW, Task, select


# Texts


def tokenize(
    split: datasets.Dataset,
    columns: Sequence[str],
    labels: Labels,
    tokenizer: Any,
    max_length: int,
    pad: bool = False,
    keep_texts: bool = False,
    load_from_cache_file: bool = True,
    desc: str | None = None,
) -> datasets.Dataset:
    """
    Make the model's inputs and `labels`, and no other column.

    Args:
        columns (`Sequence[str]`): one or two columns of texts.
        max_length (`int`): longer texts are cut to so many tokens.
        pad (`bool`): pad all to it.
        keep_texts (`bool`): keep the texts as well, as `text` and `text_pair`; a model card shows some of them.
    """
    options = {"padding": "max_length" if pad else False, "max_length": max_length, "truncation": True}
    ids, is_multi_label, is_regression = labels.ids, labels.is_multi_label, labels.is_regression

    def encode(rows: dict[str, list]) -> dict[str, Any]:
        texts = [[text or "" for text in rows[name]] for name in columns]  # an empty cell of a csv file is None
        batch = tokenizer(*texts, **options)
        if keep_texts:
            batch.update(zip(("text", "text_pair"), texts, strict=False))
        if "label" in rows and is_multi_label:
            batch["labels"] = rows["label"]
        elif "label" in rows:
            batch["labels"] = [float(label) if is_regression else ids[label] for label in rows["label"]]
        return batch

    encoded = split.map(
        encode,
        batched=True,
        remove_columns=split.column_names,
        load_from_cache_file=load_from_cache_file,
        desc=desc,
    )
    return _with_names(encoded, labels)


def _with_names(dataset: datasets.Dataset, labels: Labels) -> datasets.Dataset:
    """Return a data set whose `labels` name the classes, where they are outputs of a model."""
    feature = outputs_feature(labels)
    if feature is None or "labels" not in dataset.column_names:
        return dataset
    return dataset.cast_column("labels", feature)


def encode_texts(
    task: Task, split: str, tokenizer: Any, max_length: int, limit: int | None = None, **options: Any
) -> datasets.Dataset:
    """Tokenize the rows of a split, the first `limit` ones if given; `options` are those of [`tokenize`]."""
    rows = select(task, split, limit)
    warn_of_empty_texts(rows, task.columns, task.origin(split))
    return tokenize(
        rows, task.columns, task.labels, tokenizer, max_length, desc=f"Tokenizing {task.argument}", **options
    )


def count_cut(
    texts: Sequence[Sequence[str | None]], encoded: Sequence[list[int]], tokenizer: Any, max_length: int
) -> int:
    """Count the rows, encoded cut and not padded, of one or two columns of texts that have more tokens than that."""
    # Only a row that fills the length may have been cut; the others are not tokenized again.
    full = [row for row, tokens in enumerate(encoded) if len(tokens) >= max_length]
    if not full:
        return 0
    whole = tokenizer(*([column[row] or "" for row in full] for column in texts))["input_ids"]
    return sum(len(tokens) > max_length for tokens in whole)


# Media


def encode_media(
    task: Task, split: str, encode: Callable[[list], dict[str, Any]], limit: int | None = None, seed: int = 0
) -> datasets.Dataset:
    """
    Encode images or recordings when their rows are read.

    At most `limit` rows are kept, drawn at random by `seed`; of a test split the first ones. `encode` makes the
    model's inputs of a list of media. A damaged file is named by an UnreadableMediaError.
    """
    rows = select(task, split, limit, None if split.startswith("test") else seed)
    column, kind, where = task.columns[0], MEDIA[task.kind], task.origin(split).rstrip(",")
    rows = with_outputs(rows, task.labels)
    check_media(rows, column, kind, where)

    def transform(batch: dict[str, list]) -> dict[str, Any]:
        numbers = batch.get(ROW) or [None] * len(batch[column])
        media = [read_media(kind, value, where, row) for value, row in zip(batch[column], numbers, strict=True)]
        encoded = dict(encode(media))
        if "label" in batch:
            encoded["labels"] = batch["label"]
        return encoded

    return rows.with_transform(transform)


def with_outputs(split: datasets.Dataset, labels: Labels) -> datasets.Dataset:
    """Return a split with the outputs of the model in place of the places of classes among the names."""
    if "label" not in split.column_names or not isinstance(split.features["label"], datasets.ClassLabel):
        return split
    if list(labels.ids) == list(range(len(labels.ids))):
        return split
    column = [labels.ids[place] for place in split["label"]]
    return split.remove_columns("label").add_column("label", column, feature=outputs_feature(labels))


def outputs_feature(labels: Labels) -> datasets.ClassLabel | None:
    """Return the type of a column of the model's outputs, which names the classes; `None` for other labels."""
    if labels.is_regression or labels.is_multi_label:
        return None
    names = dict(zip(labels.ids, labels.names, strict=True))
    return datasets.ClassLabel(names=[names.get(id, f"LABEL_{id}") for id in range(max(labels.ids) + 1)])


# Rows of a comparison, encoded once for all its runs


@dataclass
class TextEncoder:
    """Token ids of one or two text columns, of which each batch is padded to its longest."""

    tokenizer: Any
    max_seq_length: int
    reads_lazily: ClassVar[bool] = False  # whether rows are computed when they are read, from columns of its own

    def __call__(self, rows: Rows) -> datasets.Dataset:
        """Return the model's inputs and `labels`."""
        task = rows.task
        return tokenize(
            rows.dataset, task.columns, task.labels, self.tokenizer, self.max_seq_length, desc="Tokenizing"
        )

    @property
    def collator(self) -> Callable:
        """Return the function that makes a batch of rows."""
        return text_collator(self.tokenizer)


@dataclass
class ImageEncoder:
    """
    Pixels, computed when a row is read, and kept for the next time, up to `memory` bytes of them.

    `preprocess` makes `(n, num_channels, height, width)` of a list of `PIL.Image`.
    """

    preprocess: Callable
    memory: int = 2**29
    reads_lazily: ClassVar[bool] = True
    _kept: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    collator: ClassVar[Callable] = staticmethod(default_data_collator)

    def __call__(self, rows: Rows) -> datasets.Dataset:
        """
        Return a data set of `pixel_values` and `labels`.

        Workers of a DataLoader can read it where they are forked; one that is sent to another process raises a
        `TypeError` there.
        """
        labels = rows.labels.astype(np.float32) if rows.is_regression else rows.ids
        dataset = datasets.Dataset.from_dict({"place": np.arange(len(rows)), "labels": labels})
        return _with_names(dataset, rows.task.labels).with_transform(_PixelsWhenRead(self, rows))

    def read(self, rows: Rows, places: list[int]) -> list[np.ndarray]:
        """Return the pixels of the rows of these numbers."""
        keys = [int(rows.digests[place]) for place in places]
        new = {key: place for key, place in zip(keys, places, strict=True) if key not in self._kept}
        stored = rows.dataset[list(new.values())][rows.task.columns[0]] if new else ()
        images = [read_media(IMAGES, value, f"`{rows.task.argument}`") for value in stored]
        read = dict(zip(new, self.preprocess(images) if new else (), strict=True))
        found = [read[key] if key in read else self._kept[key] for key in keys]
        for key, image in read.items():
            if (len(self._kept) + 1) * image.nbytes <= self.memory:
                self._kept[key] = image
        return found


@dataclass
class _PixelsWhenRead:
    encoder: ImageEncoder
    rows: Rows

    def __call__(self, batch: dict) -> dict:
        encoded = {"labels": batch["labels"]} if "labels" in batch else {}
        if "place" in batch:
            encoded["pixel_values"] = self.encoder.read(self.rows, batch["place"])
        return encoded

    def __reduce__(self):
        # `datasets` names a data set by pickling its transform, which would be all rows, each time.
        return _refuse_another_process, (f"pixel_values of {self.rows.identity}",)

    def __deepcopy__(self, memo):
        return self


def _refuse_another_process(identity: str) -> None:
    raise TypeError(
        f"{identity} are read in the process that made them: leave out `training.dataloader_num_workers`, which "
        "starts workers that share no memory here."
    )


def resize_and_scale(image_size: int | tuple[int, int] | list[int], num_channels: int) -> Callable:
    """Return the `preprocess` of [`ImageEncoder`] without an image processor: bilinear, values in [-1, 1]."""
    from PIL import Image

    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    mode = "L" if num_channels == 1 else "RGB"

    def preprocess(images: list) -> np.ndarray:
        resized = [to_mode(image, mode).resize((width, height), Image.Resampling.BILINEAR) for image in images]
        pixels = np.stack([np.asarray(image, dtype=np.float32).reshape(height, width, -1) for image in resized])
        return pixels.transpose(0, 3, 1, 2) / 127.5 - 1

    return preprocess


def by_processor(processor: Any, config: PretrainedConfig) -> Callable:
    """Return the `preprocess` of [`ImageEncoder`] for models with an image processor."""
    encode = EncodeImages(processor, mode_of(config))
    return lambda images: encode(images)["pixel_values"].numpy()


@dataclass
class TagEncoder:
    """Tokens of tagged sentences with the labels of their words, of which each batch is padded to its longest."""

    tokenizer: Any
    max_seq_length: int
    reads_lazily: ClassVar[bool] = False

    def __call__(self, rows: Rows) -> datasets.Dataset:
        """Return the model's inputs and `labels`, one of each token."""
        names, words = names_by_output(rows.task.labels), rows.task.columns[0]
        return encode_tags(
            rows.dataset, self.tokenizer, names, words, "label", self.max_seq_length, argument=rows.task.argument
        )

    @property
    def collator(self) -> Callable:
        """Return the function that makes a batch of rows."""
        return DataCollatorForTokenClassification(self.tokenizer)


def names_by_output(labels: Labels) -> list[str]:
    """Return the tags in the order of the model's outputs."""
    return [name for _, name in sorted(zip(labels.ids, labels.names, strict=True))]
