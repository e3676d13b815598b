"""Arguments that name a target and a source, of texts, images or recordings."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from ..data.columns import GLUE, GLUE_COLUMNS, ColumnOptions
from ..data.labels import PROBLEM_TYPES
from ..data.tasks import AUDIO, IMAGE, TEST, TRAIN, VALIDATION, DataSpec
from ..utils.validation import Count, check_options, interval


@dataclass
class TextDataArguments:
    """Arguments that name a target of texts, and a source by the same with `source_` in front."""

    task_name: str | None = field(
        default=None, metadata={"help": f"GLUE task of the target: {', '.join(GLUE_COLUMNS)}."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Target: name on the Hub, or a folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_file: str | None = field(default=None, metadata={"help": "Target: a csv, json or parquet file to train on."})
    validation_file: str | None = field(default=None, metadata={"help": "Target: a file to evaluate on."})
    test_file: str | None = field(default=None, metadata={"help": "Target: a file to predict."})
    text_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Target: one or two text columns. Default: as in GLUE, text, or the only ones."},
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Target: column of the labels. Default: label, labels, or the only classes."}
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "Target: single_label_classification or regression, where labels are numbers that could be either."
        },
    )
    labels_by_number: bool = field(
        default=False, metadata={"help": "Match classes of files by number where their names differ."}
    )
    source_task_name: str | None = field(default=None, metadata={"help": "GLUE task of the source."})
    source_dataset_name: str | None = field(default=None, metadata={"help": "Source: name on the Hub, or a folder."})
    source_dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    source_train_file: str | None = field(default=None, metadata={"help": "Source: a csv, json or parquet file."})
    source_text_columns: list[str] | None = field(default=None, metadata={"help": "As text_columns, for the source."})
    source_label_column: str | None = field(default=None, metadata={"help": "As label_column, for the source."})
    source_problem_type: str | None = field(default=None, metadata={"help": "As problem_type, for the source."})
    max_train_samples: Count | None = field(default=None, metadata={"help": "Train on the first rows of the target."})
    max_source_samples: Count | None = field(default=None, metadata={"help": "Train on the first rows of the source."})
    max_eval_samples: Count | None = field(default=None, metadata={"help": "Evaluate on the first rows."})
    max_predict_samples: Count | None = field(default=None, metadata={"help": "Predict the first rows."})
    max_seq_length: Annotated[int, interval("[1, 1_000_000]")] = field(
        default=128, metadata={"help": "Longer texts are cut to so many tokens."}
    )
    pad_to_max_length: bool = field(
        default=True, metadata={"help": "Pad to max_seq_length; False pads each batch to its longest text (faster)."}
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenize again what has been tokenized before."})

    def __post_init__(self):
        check_options(self)
        for name in ("task_name", "source_task_name"):
            task = getattr(self, name)
            if task is not None and task.lower() not in GLUE_COLUMNS:
                raise ValueError(f"`{name}` must be a GLUE task ({', '.join(GLUE_COLUMNS)}), got {task!r}.")
            setattr(self, name, task and task.lower())
        for name in ("problem_type", "source_problem_type"):
            if getattr(self, name) not in (None, *PROBLEM_TYPES):
                raise ValueError(f"`{name}` must be {' or '.join(PROBLEM_TYPES)}, got {getattr(self, name)!r}.")
        for prefix in ("", "source_"):
            given = [name for name in self.origins(prefix) if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"Give only one of {', '.join(f'`{name}`' for name in given)}.")
            if not given and not prefix and self.validation_file is None and self.test_file is None:
                raise ValueError("The target is missing: give `task_name`, `dataset_name` or `train_file`.")

    @staticmethod
    def origins(prefix: str) -> tuple[str, str, str]:
        """Return the arguments that say where a task comes from."""
        return (f"{prefix}task_name", f"{prefix}dataset_name", f"{prefix}train_file")

    @property
    def has_source(self) -> bool:
        """Return whether a source is named."""
        return any(getattr(self, name) is not None for name in self.origins("source_"))

    def spec(self, prefix: str = "") -> DataSpec:
        """Return the target, or with `prefix="source_"` the source, as it is named."""
        given = next((name for name in self.origins(prefix) if getattr(self, name) is not None), None)
        task_name = getattr(self, f"{prefix}task_name")
        named = getattr(self, f"{prefix}dataset_name")
        files = {split: getattr(self, f"{prefix}{split}_file", None) for split in (TRAIN, VALIDATION, TEST)}
        return DataSpec(
            argument=given or ("validation_file" if self.validation_file is not None else "test_file"),
            path=GLUE if task_name is not None else named,
            name=task_name if task_name is not None else getattr(self, f"{prefix}dataset_config_name"),
            shown=task_name,
            files={split: path for split, path in files.items() if path is not None},
            options=ColumnOptions(
                text_columns=getattr(self, f"{prefix}text_columns") or GLUE_COLUMNS.get(task_name),
                label_column=getattr(self, f"{prefix}label_column"),
                problem_type=getattr(self, f"{prefix}problem_type"),
                labels_by_number=self.labels_by_number,
                names={name: f"{prefix}{name}" for name in ("text_columns", "label_column", "problem_type")},
            ),
            prefix=prefix,
        )


@dataclass
class MediaDataArguments:
    """Arguments that name the target (`dataset_name` or folders) and the source (the same with `source_` in front)."""

    kind: ClassVar[str]  # of rows

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
        """Return the arguments that say where a task comes from."""
        return (f"{prefix}dataset_name", f"{prefix}train_dir")

    @property
    def has_source(self) -> bool:
        """Return whether a source is named."""
        return any(getattr(self, name) is not None for name in self.origins("source_"))

    def spec(self, prefix: str = "") -> DataSpec:
        """Return the target, or with `prefix="source_"` the source, as it is named."""
        given = next((name for name in self.origins(prefix) if getattr(self, name) is not None), None)
        splits = (TRAIN,) if prefix else (TRAIN, VALIDATION, TEST)
        folders = {split: getattr(self, f"{prefix}{split}_dir") for split in splits}
        column = f"{prefix}{self.kind}_column_name"
        return DataSpec(
            argument=given or ("validation_dir" if self.validation_dir is not None else "test_dir"),
            path=getattr(self, f"{prefix}dataset_name"),
            name=getattr(self, f"{prefix}dataset_config_name"),
            folders={split: path for split, path in folders.items() if path is not None},
            split_names={split: getattr(self, f"{prefix}{split}_split_name") for split in splits},
            split_options={split: f"{prefix}{split}_split_name" for split in splits},
            lacking=splits,
            kind=self.kind,
            options=ColumnOptions(
                media_column=getattr(self, column),
                label_column=getattr(self, f"{prefix}label_column_name"),
                problem_type=getattr(self, f"{prefix}problem_type"),
                labels_by_number=self.labels_by_number,
                names={
                    "media_column": column,
                    "label_column": f"{prefix}label_column_name",
                    "problem_type": f"{prefix}problem_type",
                },
            ),
            prefix=prefix,
            held_out=0.0 if prefix else self.train_val_split,
        )


@dataclass
class ImageDataArguments(MediaDataArguments):
    """[`MediaDataArguments`] for images."""

    kind: ClassVar[str] = IMAGE

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
class AudioDataArguments(MediaDataArguments):
    """[`MediaDataArguments`] for audio."""

    kind: ClassVar[str] = AUDIO

    audio_column_name: str | None = field(
        default=None, metadata={"help": "Target: column of the audio. Default: found by its type."}
    )
    source_audio_column_name: str | None = field(default=None, metadata={"help": "The same for the source."})
    array_sampling_rate: Annotated[int, interval("[1, 10_000_000]")] | None = field(
        default=None, metadata={"help": "Sampling rate of raw arrays. Default: that of the feature extractor."}
    )
    max_length_seconds: Annotated[float, interval("(0, 100_000]")] = field(
        default=20.0,
        metadata={"help": "Longer recordings are cut: to train, at random; to evaluate, after so many seconds."},
    )
