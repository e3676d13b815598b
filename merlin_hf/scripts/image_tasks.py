"""Tasks whose rows are images or other media: where rows and labels are found, and how they become a model's inputs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import datasets

from ..data import load_dataset
from ..data.columns import ColumnOptions
from ..data.images import IMAGES
from ..data.labels import HIDDEN_LABEL, Labels, join_label_columns
from ..data.media import MediaKind, check_media, load_media_folders, read_media
from ..data.tasks import find_labels_of
from ..utils.validation import Count, check_options, interval
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
        default=None,
        metadata={
            "help": "Target: column of the labels. Default: found by its type and name.",
            "aliases": ["--label_column"],
        },
    )
    source_dataset_name: str | None = field(default=None, metadata={"help": "Source: name on the Hub, or a folder."})
    source_dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    source_train_dir: str | None = field(default=None, metadata={"help": "Source: a folder, as train_dir."})
    source_train_split_name: str = field(default="train", metadata={"help": "Split of source_dataset_name."})
    source_label_column_name: str | None = field(
        default=None,
        metadata={"help": "As label_column_name, for the source.", "aliases": ["--source_label_column"]},
    )
    problem_type: str | None = field(
        default=None,
        metadata={"help": "Target: single_label_classification or regression, where labels are numbers."},
    )
    source_problem_type: str | None = field(default=None, metadata={"help": "The same for the source."})
    labels_by_number: bool = field(
        default=False,
        metadata={"help": "Match classes of other names in other splits, or of a trained model, by their numbers."},
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
        default=None,
        metadata={"help": "Target: column of the images. Default: found by its type.", "aliases": ["--image_column"]},
    )
    source_image_column_name: str | None = field(
        default=None, metadata={"help": "The same for the source.", "aliases": ["--source_image_column"]}
    )
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
    origins: Mapping[str, str]

    def origin(self, split: str) -> str:
        """Return how the user named a split, for messages."""
        return self.origins.get(split, f"the {split} split of `{self.argument}`")


# Loading


def load_task(
    data_args: MediaArguments,
    prefix: str = "",
    kind: MediaKind = IMAGES,
    several: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    **kwargs,
) -> MediaTask:
    """
    Load the target, or with `prefix="source_"` the source; its splits are called train, validation and test.

    Args:
        several (`Sequence[str]`, *optional*): names of a model's labels, where a row may have several of them.
        kinds (`Sequence[str]`, *optional*): the splits that are used; all that there are if not given.
        kwargs: for [`datasets.load_dataset`].

    Raises:
        ValueError: a split or a column is missing; the message says what there is and what to give.
    """
    argument, splits, origins = load_splits(data_args, prefix, kind, **kwargs)
    holds_out = not prefix and "train" in splits and "validation" not in splits and data_args.train_val_split > 0
    if kinds:
        used = {*kinds, *(("train",) if holds_out and "validation" in kinds else ())}
        for name in kinds:
            if name not in splits and not (name == "validation" and holds_out):
                remedy = "" if prefix else f" Give `{name}_split_name` or `{name}_dir`."
                raise ValueError(f"`{argument}` has no {name} split, only {', '.join(splits)}.{remedy}")
        splits = datasets.DatasetDict({name: split for name, split in splits.items() if name in used})
    task = make_task(splits, origins, argument, data_args, prefix, kind, several)
    if holds_out and "train" in task.splits:
        parts = task.splits["train"].train_test_split(data_args.train_val_split, seed=VALIDATION_SEED)
        task.splits["train"], task.splits["validation"] = parts["train"], parts["test"]
        logger.info(f"{argument}: {len(parts['test'])} rows of the train split are for evaluation")
    return task


def make_task(
    splits: datasets.DatasetDict,
    origins: Mapping[str, str],
    argument: str,
    data_args: MediaArguments,
    prefix: str = "",
    kind: MediaKind = IMAGES,
    several: Sequence[str] | None = None,
    expected: str | None = None,
) -> MediaTask:
    """
    Find the columns and the labels of a data set of media.

    Args:
        splits, origins, argument: as [`load_splits`] gives them.
        several (`Sequence[str]`, *optional*): names of a model's labels, where a row may have several of them.
        expected (`str`, *optional*): see [`~merlin_hf.data.columns.ColumnOptions`].
    """
    given = getattr(data_args, f"{prefix}label_column_name")
    if several is not None and given is None:
        splits = join_label_columns(splits, several)
    splits = datasets.DatasetDict(
        {name: with_usual_name(split, data_args, prefix, kind, origins[name]) for name, split in splits.items()}
    )
    names = {name: f"{prefix}{name}" for name in ("problem_type", "labels_by_number")}
    options = ColumnOptions(
        label_column=given or _usual_label_column(splits, argument, f"{prefix}label_column_name"),
        problem_type=getattr(data_args, f"{prefix}problem_type"),
        labels_by_number=data_args.labels_by_number,
        expected=expected,
        names={**names, "label_column": f"{prefix}label_column_name", "labels_by_number": "labels_by_number"},
    )
    splits, labels = find_labels_of(splits, origins, argument, options, several)
    splits = datasets.DatasetDict({name: undecoded(split, kind) for name, split in splits.items()})
    logger.info(f"{argument}: labels {labels.names or 'real numbers'}")
    return MediaTask(argument, kind, splits, labels, dict(origins))


def load_splits(
    data_args: MediaArguments, prefix: str, kind: MediaKind, **kwargs
) -> tuple[str, datasets.DatasetDict, dict[str, str]]:
    """
    Load the target, or with `prefix="source_"` the source.

    Returns:
        The argument that names it, its splits as they are stored, and how the user named each of them.
    """
    given = (*data_args.origins(prefix), "validation_dir", "test_dir")
    argument = next(name for name in given if getattr(data_args, name, None) is not None)
    splits = datasets.DatasetDict()
    origins: dict[str, str] = {}
    if argument.endswith("dataset_name"):
        path, config_name = getattr(data_args, argument), getattr(data_args, f"{prefix}dataset_config_name")
        loaded = load_dataset(path, config_name, argument=argument, **kwargs)
        for split in ("train", "validation", "test"):
            name = getattr(data_args, f"{prefix}{split}_split_name", split)
            if name in loaded:
                splits[split] = loaded[name]
                origins[split] = f"`{argument}={path!r}`, split {name!r},"
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
        origins.update({split: f"`{options[split]}={folder!r}`" for split, folder in folders.items()})
    if not splits:
        raise ValueError(
            f"`{argument}` has only the splits {', '.join(loaded)}: name one by `{prefix}..._split_name`."
        )
    return argument, splits, origins


def _usual_label_column(splits: datasets.DatasetDict, argument: str, option: str) -> str | None:
    """Return the column of labels of the first split, if it is called as such columns are; warn where others could be meant."""
    columns = next(iter(splits.values())).features
    if {"label", "labels"} & set(columns):
        return None  # what is found anyway
    found = next((name for name in LABEL_NAMES if name in columns), None)
    others = [name for name, feature in columns.items() if isinstance(feature, datasets.ClassLabel) and name != found]
    if found is not None and others:
        logger.warning(
            f"`{argument}`: the labels are taken from {found}, not from {', '.join(others)}; `{option}` names another."
        )
    return found


def with_usual_name(
    dataset: datasets.Dataset, data_args: MediaArguments, prefix: str, kind: MediaKind, origin: str
) -> datasets.Dataset:
    """Call the column of the media as its kind."""
    media = [column for column, feature in dataset.features.items() if kind.is_media(feature)]
    media = [kind.name] if kind.name in media else media
    column = find_column(dataset, data_args, f"{prefix}{kind.name}_column_name", media, origin)
    if column != kind.name and kind.name in dataset.column_names:
        dataset = dataset.remove_columns(kind.name)
    return dataset.rename_column(column, kind.name) if column != kind.name else dataset


def undecoded(dataset: datasets.Dataset, kind: MediaKind) -> datasets.Dataset:
    """
    Return the column of media as they are stored, that of the labels, and the numbers of the rows as `row`, so that one that
    cannot be read is named.
    """
    dataset = dataset.select_columns([name for name in (kind.name, "label") if name in dataset.column_names])
    if isinstance(dataset.features[kind.name], datasets.Image | datasets.Audio):
        dataset = dataset.cast_column(kind.name, kind.feature(decode=False))
    return dataset.add_column("row", list(range(len(dataset))))


def find_column(
    dataset: datasets.Dataset, data_args: MediaArguments, option: str, candidates: list[str], origin: str
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
    raise ValueError(f"{origin} has the columns {listed}: {said}.")


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
    split = task.splits[kind]
    if limit is not None and kind != "test":
        split = split.shuffle(seed=seed)  # a folder has its rows class by class
    split = with_ids(select(split, task, kind, limit), task.labels)
    where = task.origin(kind).rstrip(",")
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
