"""Tasks whose rows are images or other media: where rows and labels are found, and how they become a model's inputs."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import datasets

from ..data import load_dataset
from ..data.images import IMAGES
from ..data.media import MediaKind, check_media, listing, load_media_folders, read_media
from ..utils.validation import Count, check_options, interval
from .labels import HIDDEN_LABEL, Labels, find_labels, join_label_columns, several_labels
from .text_tasks import select


LABEL_NAMES = ("label", "labels", "fine_label", "class")
VALIDATION_SEED = 0  # rows held out for evaluation are the same in every run, also in one that only evaluates

logger = logging.getLogger("merlin_hf.scripts")


@dataclass
class MediaArguments:
    """The target (`dataset_name` or folders) and the source (the same with `source_` in front)."""

    dataset_name: str | None = field(default=None, metadata={"help": "Target: name on the Hub, or a folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_dir: str | None = field(
        default=None, metadata={"help": "Target: a folder to train on, with a folder of files for each class."}
    )
    validation_dir: str | None = field(default=None, metadata={"help": "Target: such a folder to evaluate on."})
    test_dir: str | None = field(default=None, metadata={"help": "Target: such a folder to predict."})
    train_split_name: str = field(default="train", metadata={"help": "Split of dataset_name to train on."})
    validation_split_name: str = field(default="validation", metadata={"help": "Its split to evaluate on."})
    test_split_name: str = field(default="test", metadata={"help": "Its split to predict."})
    train_val_split: Annotated[float, interval("[0, 1)")] = field(
        default=0.15,
        metadata={"help": "Share of the training rows to evaluate on, where no others are given; 0 for none."},
    )
    label_column_name: str | None = field(
        default=None, metadata={"help": "Target: column of the labels. Default: found by its type and name."}
    )
    source_dataset_name: str | None = field(default=None, metadata={"help": "Source: name on the Hub, or a folder."})
    source_dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    source_train_dir: str | None = field(default=None, metadata={"help": "Source: a folder, as train_dir."})
    source_train_split_name: str = field(default="train", metadata={"help": "Split of source_dataset_name."})
    source_label_column_name: str | None = field(
        default=None, metadata={"help": "As label_column_name, for the source."}
    )
    max_train_samples: Count | None = field(default=None, metadata={"help": "Train on so many rows, drawn at random."})
    max_source_samples: Count | None = field(default=None, metadata={"help": "Use so many source rows, at random."})
    max_eval_samples: Count | None = field(default=None, metadata={"help": "Evaluate on so many rows, at random."})
    max_predict_samples: Count | None = field(default=None, metadata={"help": "Predict the first rows."})

    def __post_init__(self):
        check_options(self)
        for prefix in ("", "source_"):
            given = [name for name in self.origins(prefix) if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"Give only one of {', '.join(f'`{name}`' for name in given)}.")
            if not given and not prefix and self.validation_dir is None and self.test_dir is None:
                raise ValueError("The target is missing: give `dataset_name` or `train_dir`.")

    @staticmethod
    def origins(prefix: str) -> tuple[str, str]:
        """The arguments that say where a task comes from."""
        return (f"{prefix}dataset_name", f"{prefix}train_dir")

    @property
    def has_source(self) -> bool:
        """Whether a source is named."""
        return any(getattr(self, name) is not None for name in self.origins("source_"))


@dataclass
class DataTrainingArguments(MediaArguments):
    """[`MediaArguments`] for images."""

    image_column_name: str | None = field(
        default=None, metadata={"help": "Target: column of the images. Default: found by its type."}
    )
    source_image_column_name: str | None = field(default=None, metadata={"help": "The same for the source."})
    random_resized_crop: bool = field(
        default=False, metadata={"help": "Train on random crops, of 0.5 to 1 of the area. Not for evaluation."}
    )
    horizontal_flip: bool = field(
        default=False, metadata={"help": "Flip every other training image; not for digits, letters or signs."}
    )


@dataclass
class MediaTask:
    """A data set with columns of the kind's name and `label`; `argument` is how the user named it, for messages."""

    argument: str
    kind: MediaKind
    splits: datasets.DatasetDict
    labels: Labels


# Loading


def load_task(
    data_args: MediaArguments,
    prefix: str = "",
    kind: MediaKind = IMAGES,
    several: Sequence[str] | None = None,
    **kwargs,
) -> MediaTask:
    """
    The target, or with `prefix="source_"` the source; its splits are called train, validation and test.

    Args:
        several (`Sequence[str]`, *optional*): names of a model's labels, where a row may have several of them.
        kwargs: for [`datasets.load_dataset`].

    Raises:
        ValueError: a split or a column is missing; the message says what there is and what to give.
    """
    argument, splits = load_splits(data_args, prefix, kind, **kwargs)
    if several is not None and getattr(data_args, f"{prefix}label_column_name") is None:
        splits = join_label_columns(splits, several)
    splits = datasets.DatasetDict(
        {name: with_usual_names(split, data_args, prefix, kind, argument, name) for name, split in splits.items()}
    )
    splits = numbered_alike(splits, argument)
    splits = datasets.DatasetDict({name: undecoded(split, kind) for name, split in splits.items()})
    found = None if several is None else several_labels(splits, several, argument)
    splits, labels = found or (splits, None)
    labels = labels or find_labels(splits["train"] if "train" in splits else next(iter(splits.values())), argument)
    if not prefix and "train" in splits and "validation" not in splits and data_args.train_val_split:
        parts = splits["train"].train_test_split(data_args.train_val_split, seed=VALIDATION_SEED)
        splits["train"], splits["validation"] = parts["train"], parts["test"]
        logger.info(f"{argument}: {len(parts['test'])} rows of the train split are for evaluation")
    logger.info(f"{argument}: labels {labels.names or 'real numbers'}")
    return MediaTask(argument, kind, splits, labels)


def load_splits(data_args: MediaArguments, prefix: str, kind: MediaKind, **kwargs) -> tuple[str, datasets.DatasetDict]:
    """How the user named a task, and its splits with the columns that they have."""
    origins = (*data_args.origins(prefix), "validation_dir", "test_dir")
    argument = next(name for name in origins if getattr(data_args, name, None) is not None)
    splits = datasets.DatasetDict()
    if argument.endswith("dataset_name"):
        config_name = getattr(data_args, f"{prefix}dataset_config_name")
        loaded = load_dataset(getattr(data_args, argument), config_name, argument=argument, **kwargs)
        for split in ("train", "validation", "test"):
            name = getattr(data_args, f"{prefix}{split}_split_name", split)
            if name in loaded:
                splits[split] = loaded[name]
            elif name != split:
                raise ValueError(
                    f"`{prefix}{split}_split_name={name!r}` is no split of `{argument}`, only {', '.join(loaded)}."
                )
    folders = {
        split: folder
        for split in ("train", "validation", "test")
        if (folder := getattr(data_args, f"{prefix}{split}_dir", None)) is not None
    }
    if folders:
        options = {split: f"{prefix}{split}_dir" for split in folders}
        splits.update(load_media_folders(folders, kind, options, **kwargs))
    if not splits:
        raise ValueError(
            f"`{argument}` has only the splits {', '.join(loaded)}: name one by `{prefix}..._split_name`."
        )
    return argument, splits


def with_usual_names(
    dataset: datasets.Dataset, data_args: MediaArguments, prefix: str, kind: MediaKind, argument: str, split: str
) -> datasets.Dataset:
    """The column of the media and that of the labels, under the names that all else knows; a test split may have no labels."""
    media = [column for column, feature in dataset.features.items() if kind.is_media(feature)]
    media = [kind.name] if kind.name in media else media
    columns = {find_column(dataset, data_args, f"{prefix}{kind.name}_column_name", media, argument): kind.name}
    labels = [column for column in LABEL_NAMES if column in dataset.column_names][:1] or [
        column for column, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)
    ]
    if labels or split != "test":
        columns[find_column(dataset, data_args, f"{prefix}label_column_name", labels, argument)] = "label"
    return dataset.select_columns(list(columns)).rename_columns(columns)


def numbered_alike(splits: datasets.DatasetDict, argument: str) -> datasets.DatasetDict:
    """
    Return the splits with classes numbered as those of the first one, matched by their names.

    Raises:
        ValueError: a split has another kind of labels, or classes that the first one does not have; the message lists both.
    """
    labels = {name: split.features.get("label") for name, split in splits.items() if "label" in split.column_names}
    first = next(iter(labels), None)
    matched = datasets.DatasetDict(splits)
    for name, label in labels.items():
        if not any(isinstance(one, datasets.ClassLabel) for one in (label, labels[first])):
            continue
        if type(label) is not type(labels[first]):
            raise ValueError(
                f"`{argument}`: the labels of the {first} split are {labels[first]}, those of the {name} split {label}. Give both in "
                "one form."
            )
        names = labels[first].names
        if label.names == names:
            continue
        unknown = [one for one in label.names if one not in names]
        if unknown:
            raise ValueError(
                f"`{argument}`: the {name} split has the classes {listing(label.names)}, of which the {first} split does not have "
                f"{listing(unknown)}: there they are {listing(names)}. Name them alike, or leave these out."
            )
        column = [None if id is None or id < 0 else names.index(label.names[id]) for id in splits[name]["label"]]
        matched[name] = splits[name].remove_columns("label").add_column("label", column, feature=labels[first])
    return matched


def undecoded(dataset: datasets.Dataset, kind: MediaKind) -> datasets.Dataset:
    """
    Return the data set with its media as they are stored, and the numbers of its rows as `row`, so that one that cannot be read
    is named.
    """
    if isinstance(dataset.features[kind.name], datasets.Image | datasets.Audio):
        dataset = dataset.cast_column(kind.name, kind.feature(decode=False))
    return dataset.add_column("row", list(range(len(dataset))))


def find_column(
    dataset: datasets.Dataset, data_args: MediaArguments, option: str, candidates: list[str], argument: str
) -> str:
    """
    The column that an option names, else the only candidate.

    Raises:
        ValueError: there is no such column, or the candidates are not one; the message lists the columns.
    """
    given = getattr(data_args, option)
    if given is None and len(candidates) == 1:
        return candidates[0]
    if given in dataset.column_names:
        return given
    listed = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in dataset.features.items())
    said = f"give one by `{option}`" if given is None else f"`{option}={given!r}` is none of them"
    raise ValueError(f"`{argument}` has the columns {listed}: {said}.")


# From rows to what the model takes


def prepare(
    task: MediaTask, kind: str, limit: int | None, encode: Callable[[list], dict[str, Any]], seed: int = 0
) -> datasets.Dataset:
    """
    One kind of split, encoded when its rows are read.

    Args:
        kind (`str`): `"train"`, `"validation"` or `"test"`.
        limit (`int`, *optional*): keep so many rows, drawn at random; for prediction the first ones.
        encode (`Callable`): from a list of media to the model's inputs.
        seed (`int`): of the draw.

    Returns:
        `datasets.Dataset`: its rows have the model's inputs, and `labels` where there are labels.
    """
    if kind not in task.splits:
        remedy = "" if "source" in task.argument else f" Give `{kind}_split_name` or `{kind}_dir`."
        raise ValueError(f"`{task.argument}` has no {kind} split, only {', '.join(task.splits)}.{remedy}")
    split = task.splits[kind]
    if limit is not None and kind != "test":
        split = split.shuffle(seed=seed)  # a folder has its rows class by class
    split = with_ids(select(split, task, kind, limit), task.labels)
    where = f"`{task.argument}`, {kind} split"
    check_media(split, task.kind.name, task.kind, where)

    def transform(rows: dict[str, list]) -> dict[str, Any]:
        numbers = rows.get("row") or [None] * len(rows[task.kind.name])
        batch = dict(
            encode(
                [
                    read_media(task.kind, value, where, row)
                    for value, row in zip(rows[task.kind.name], numbers, strict=True)
                ]
            )
        )
        if "label" in rows:
            batch["labels"] = rows["label"]
        return batch

    return split.with_transform(transform)


def with_ids(split: datasets.Dataset, labels: Labels) -> datasets.Dataset:
    """The model's numbers of the labels in place of what stands in the data set."""
    if "label" not in split.column_names or labels.is_regression or labels.ids == labels.values:
        return split
    ids = {**dict(zip(labels.values, labels.ids, strict=True)), HIDDEN_LABEL: HIDDEN_LABEL}
    names = [name for _, name in sorted(zip(labels.ids, labels.names, strict=True))]
    column = [ids[value] for value in split["label"]]
    return split.remove_columns("label").add_column("label", column, feature=datasets.ClassLabel(names=names))
