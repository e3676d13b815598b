"""Arguments that name a target and a source, of texts, images or recordings."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from ..data.columns import GLUE, GLUE_COLUMNS, ColumnOptions
from ..data.labels import PROBLEM_TYPES
from ..data.tasks import AUDIO, IMAGE, TEST, TRAIN, VALIDATION, DataSpec
from ..transfer.named_sources import check_source_name, names_of_sources
from ..utils.validation import (
    ConfigError,
    Count,
    check_mapping,
    check_names,
    check_options,
    check_value,
    interval,
    rule,
    rules,
    shown,
)


PREFIX = "source_"  # of the arguments of a source


@dataclass
class DataArguments:
    """
    Arguments that name a target, and a source by the same with `source_` in front, whatever their rows are.

    Raises:
        ValueError: a value cannot be used, the target is missing, or one of the two is named twice.
    """

    origins_of_target: ClassVar[tuple[str, ...]]  # of which one is given; those of the source have `source_` in front
    validation_or_test: ClassVar[tuple[str, str]]  # arguments that may stand without any of these

    dataset_name: str | None = field(default=None, metadata={"help": "Target: name on the Hub, or a folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "Target: single_label_classification or regression, where labels are numbers that could be either."
        },
    )
    labels_by_number: bool = field(
        default=False,
        metadata={"help": "Match classes of other names in other splits, or of a trained model, by their numbers."},
    )
    source_dataset_name: str | None = field(default=None, metadata={"help": "Source: name on the Hub, or a folder."})
    source_dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    source_problem_type: str | None = field(default=None, metadata={"help": "As problem_type, for the source."})
    sources: dict | str | list | None = field(
        default=None,
        metadata={
            "help": "Several sources: names with the arguments of each, without source_; in a file, or as JSON. "
            "source_mix mixes them."
        },
    )
    max_train_samples: Count | None = field(
        default=None, metadata={"help": "Train on so many rows: the first ones of texts, others drawn at random."}
    )
    max_source_samples: Count | None = field(default=None, metadata={"help": "The same for the source."})
    max_eval_samples: Count | None = field(default=None, metadata={"help": "The same for evaluation."})
    max_predict_samples: Count | None = field(default=None, metadata={"help": "Predict the first rows."})

    def __post_init__(self):
        check_options(self)
        for prefix in ("", PREFIX):
            self._check(self._given(prefix), prefix)
        if all(getattr(self, name) is None for name in (*self.origins_of_target, *self.validation_or_test)):
            raise ValueError(f"The target is missing: give {_either(self.origins_of_target)}.")
        if self.sources is not None:
            self.sources = self._read_sources(self.sources)

    def origins(self, prefix: str = "") -> tuple[str, ...]:
        """Return the arguments that say where the target comes from, or with `prefix="source_"` the source."""
        return tuple(f"{prefix}{name}" for name in self.origins_of_target)

    def _given(self, prefix: str) -> dict[str, Any]:
        """Return the arguments of the target, or with `prefix="source_"` of the source, named as the target's."""
        names = [one.name for one in dataclasses.fields(self) if one.name.startswith(prefix)]
        return {name.removeprefix(prefix): getattr(self, name) for name in names}

    def _check(self, given: Mapping[str, Any], called: str) -> None:
        """Check the arguments of a data set together, which the user calls by these names behind `called`."""
        origins = [f"`{called}{name}`" for name in self.origins_of_target if given.get(name) is not None]
        if len(origins) > 1:
            raise ConfigError(f"Give only one of {', '.join(origins)}.")
        kind = given.get("problem_type")
        if kind not in (None, *PROBLEM_TYPES):
            raise ConfigError(f"`{called}problem_type` must be {' or '.join(PROBLEM_TYPES)}, got {kind!r}.")

    @property
    def has_source(self) -> bool:
        """Return whether a source is named."""
        return bool(self.sources) or any(getattr(self, name) is not None for name in self.origins(PREFIX))

    def spec(self, prefix: str = "") -> DataSpec:
        """Return the target, or with `prefix="source_"` the source, as it is named."""
        return self._spec(self._given(prefix), prefix)

    def _spec(self, given: Mapping[str, Any], called: str) -> DataSpec:
        """Return a data set by its arguments, which the user calls by these names behind `called`."""
        raise NotImplementedError

    def _origin(self, given: Mapping[str, Any], called: str) -> str:
        """Return the argument that names the data set, or the part of it to evaluate on or to predict."""
        names = (*self.origins_of_target, *self.validation_or_test)
        return f"{called}{next(name for name in names if given.get(name) is not None)}"

    def source_specs(self) -> dict[str | None, tuple[DataSpec, int | None]]:
        """Return each source as the user calls it, and how many of its rows are used; a single one has no name."""
        if self.sources is None:
            return {None: (self.spec(PREFIX), self.max_source_samples)}
        assert isinstance(self.sources, dict)
        specs = {name: self._source_spec(name, section) for name, section in self.sources.items()}
        return {None: next(iter(specs.values()))} if len(specs) == 1 else {**specs}

    def _read_sources(self, given: Any) -> dict[str, dict[str, Any]]:
        """Return the argument `sources` as sections by name, checked; a ConfigError says what cannot be used."""
        fields = [one for one in dataclasses.fields(self) if one.name.startswith(PREFIX)]
        single = next((one.name for one in fields if getattr(self, one.name) != one.default), None)
        if single is not None:
            raise ConfigError(
                f"`{single}` is of a single source: give it in `sources`, as `{single.removeprefix(PREFIX)}` of each."
            )
        sections = json.loads(given) if isinstance(given, str) else given
        if isinstance(sections, list):
            for section in sections:
                check_mapping(section, "sources")
            origins = [self._origin_of_section(section) for section in sections]
            sections = dict(zip(names_of_sources(origins), sections, strict=True))
        if not sections:
            raise ConfigError(f"`sources` must be one or more sources, got {shown(given)}.")
        found = {}
        for name, section in sections.items():
            check_source_name(name, "sources")
            found[name] = self._read_section(f"sources.{name}", section)
        return found

    def _origin_of_section(self, section: Mapping[str, Any]) -> tuple[str, str | None]:
        path = next((section[name] for name in self.origins_of_target if section.get(name) is not None), "source")
        configuration = section.get("dataset_config_name")
        return str(path), None if configuration is None else str(configuration)

    def _read_section(self, key: str, given: Any) -> dict[str, Any]:
        """Return the arguments of one of the sources by their names without `source_`, their types checked."""
        section = check_mapping(given, key)
        fields = {one.name: one for one in dataclasses.fields(self) if one.name.startswith(PREFIX)}
        fields.pop(f"{PREFIX}train_split_name", None)
        aliases = {
            alias.strip("-").removeprefix(PREFIX): name.removeprefix(PREFIX)
            for name, one in fields.items()
            for alias in one.metadata.get("aliases", ())
        }
        section = {aliases.get(name, name): value for name, value in section.items()}
        cls: type = type(self)
        known = {name.removeprefix(PREFIX): rules(cls)[name] for name in fields}
        known |= {"split": rule(str), "max_samples": rules(cls)["max_source_samples"]}
        check_names(section, known, key)
        kept = {name: check_value(value, known[name], f"{key}.{name}") for name, value in section.items()}
        if all(kept.get(name) is None for name in self.origins_of_target):
            raise ConfigError(f"`{key}` names no data set: give {_either(self.origins_of_target)}.")
        self._check(kept, f"{key}.")
        of_files = [name for name in ("train_file", "train_dir") if kept.get(name) is not None]
        if of_files and kept.get("split") is not None:
            raise ConfigError(f"`{key}.split` is for a data set with splits, and `{key}.{of_files[0]}` has none.")
        return kept

    def _source_spec(self, name: str, section: Mapping[str, Any]) -> tuple[DataSpec, int | None]:
        """Return one of the sources, and how many of its rows are used."""
        called = f"sources.{name}."
        spec = dataclasses.replace(
            self._spec(section, called),
            split_names={TRAIN: section.get("split", TRAIN)},
            split_options={TRAIN: f"{called}split"},
            lacking=(),
        )
        limit = section.get("max_samples")
        return spec, self.max_source_samples if limit is None else limit


def _either(names: Sequence[str]) -> str:
    *others, last = (f"`{name}`" for name in names)
    return f"{', '.join(others)} or {last}"


@dataclass
class TextDataArguments(DataArguments):
    """[`DataArguments`] for texts."""

    origins_of_target = ("task_name", "dataset_name", "train_file")
    validation_or_test = ("validation_file", "test_file")

    task_name: str | None = field(
        default=None, metadata={"help": f"GLUE task of the target: {', '.join(GLUE_COLUMNS)}."}
    )
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
    source_task_name: str | None = field(default=None, metadata={"help": "GLUE task of the source."})
    source_train_file: str | None = field(default=None, metadata={"help": "Source: a csv, json or parquet file."})
    source_text_columns: list[str] | None = field(default=None, metadata={"help": "As text_columns, for the source."})
    source_label_column: str | None = field(default=None, metadata={"help": "As label_column, for the source."})
    max_seq_length: Annotated[int, interval("[1, 1_000_000]")] = field(
        default=128, metadata={"help": "Longer texts are cut to so many tokens."}
    )
    pad_to_max_length: bool = field(
        default=True, metadata={"help": "Pad to max_seq_length; False pads each batch to its longest text (faster)."}
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenize again what has been tokenized before."})

    def __post_init__(self):
        super().__post_init__()
        self.task_name = self.task_name and self.task_name.lower()
        self.source_task_name = self.source_task_name and self.source_task_name.lower()

    def _check(self, given: Mapping[str, Any], called: str) -> None:
        super()._check(given, called)
        task = given.get("task_name")
        if task is not None and task.lower() not in GLUE_COLUMNS:
            raise ConfigError(f"`{called}task_name` must be a GLUE task ({', '.join(GLUE_COLUMNS)}), got {task!r}.")

    def _spec(self, given: Mapping[str, Any], called: str) -> DataSpec:
        task = given.get("task_name")
        task = task and task.lower()
        files = {split: given.get(f"{split}_file") for split in (TRAIN, VALIDATION, TEST)}
        return DataSpec(
            argument=self._origin(given, called),
            path=given.get("dataset_name") if task is None else GLUE,
            name=given.get("dataset_config_name") if task is None else task,
            shown=task,
            files={split: path for split, path in files.items() if path is not None},
            options=ColumnOptions(
                text_columns=given.get("text_columns") or GLUE_COLUMNS.get(task or ""),
                label_column=given.get("label_column"),
                problem_type=given.get("problem_type"),
                labels_by_number=self.labels_by_number,
                names={name: f"{called}{name}" for name in ("text_columns", "label_column", "problem_type")},
            ),
            prefix=called,
        )


@dataclass
class MediaDataArguments(DataArguments):
    """[`DataArguments`] for files in a folder for each class, and data sets with a column of such files."""

    origins_of_target = ("dataset_name", "train_dir")
    validation_or_test = ("validation_dir", "test_dir")
    kind: ClassVar[str]  # of rows

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
    source_train_dir: str | None = field(default=None, metadata={"help": "Source: a folder, as train_dir."})
    source_train_split_name: str = field(default="train", metadata={"help": "Split of source_dataset_name."})
    source_label_column_name: str | None = field(
        default=None,
        metadata={"help": "As label_column_name, for the source.", "aliases": ["--source_label_column"]},
    )

    def _spec(self, given: Mapping[str, Any], called: str) -> DataSpec:
        splits = (TRAIN,) if called else (TRAIN, VALIDATION, TEST)
        folders = {split: given.get(f"{split}_dir") for split in splits}
        names = {
            "media_column": f"{self.kind}_column_name",
            "label_column": "label_column_name",
            "problem_type": "problem_type",
        }
        return DataSpec(
            argument=self._origin(given, called),
            path=given.get("dataset_name"),
            name=given.get("dataset_config_name"),
            folders={split: path for split, path in folders.items() if path is not None},
            split_names={split: given.get(f"{split}_split_name", split) for split in splits},
            split_options={split: f"{called}{split}_split_name" for split in splits},
            lacking=splits,
            kind=self.kind,
            options=ColumnOptions(
                **{option: given.get(name) for option, name in names.items()},
                labels_by_number=self.labels_by_number,
                names={option: f"{called}{name}" for option, name in names.items()},
            ),
            prefix=called,
            held_out=0.0 if called else self.train_val_split,
        )


@dataclass
class ImageDataArguments(MediaDataArguments):
    """[`MediaDataArguments`] for images."""

    kind = IMAGE

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

    kind = AUDIO

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
