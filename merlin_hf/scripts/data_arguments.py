"""Arguments that name a target and a source, of texts, images or recordings."""

import dataclasses
import json
from collections.abc import Mapping
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
        for name in ("problem_type", "source_problem_type"):
            if getattr(self, name) not in (None, *PROBLEM_TYPES):
                raise ValueError(f"`{name}` must be {' or '.join(PROBLEM_TYPES)}, got {getattr(self, name)!r}.")
        for prefix in ("", PREFIX):
            given = [name for name in self.origins(prefix) if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"Give only one of {', '.join(f'`{name}`' for name in given)}.")
            if not given and not prefix and all(getattr(self, name) is None for name in self.validation_or_test):
                *others, last = (f"`{name}`" for name in self.origins())
                raise ValueError(f"The target is missing: give {', '.join(others)} or {last}.")
        if self.sources is not None:
            self.sources = self._read_sources(self.sources)

    @classmethod
    def origins(cls, prefix: str = "") -> tuple[str, ...]:
        """Return the arguments that say where the target comes from, or with `prefix="source_"` the source."""
        return tuple(f"{prefix}{name}" for name in cls.origins_of_target)

    @property
    def has_source(self) -> bool:
        """Return whether a source is named."""
        return bool(self.sources) or any(getattr(self, name) is not None for name in self.origins(PREFIX))

    def spec(self, prefix: str = "") -> DataSpec:
        """Return the target, or with `prefix="source_"` the source, as it is named."""
        raise NotImplementedError

    def source_specs(self) -> dict[str | None, tuple[DataSpec, int | None]]:
        """Return each source as the user calls it, and how many of its rows are used; a single one has no name."""
        if self.sources is None:
            return {None: (self.spec(PREFIX), self.max_source_samples)}
        assert isinstance(self.sources, dict)
        specs = {name: self._source_spec(name, section) for name, section in self.sources.items()}
        return {None: next(iter(specs.values()))} if len(specs) == 1 else {**specs}

    def _read_sources(self, given: Any) -> dict[str, dict[str, Any]]:
        """
        Return the argument `sources` as sections by name, checked.

        Raises:
            ValueError: there are arguments of a single source as well, a source has a name that it cannot have, or an
                argument of it is unknown or cannot be used.
        """
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
            self._source_spec(name, found[name])
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
            *others, last = (f"`{name}`" for name in self.origins_of_target)
            raise ConfigError(f"`{key}` names no data set: give {', '.join(others)} or {last}.")
        of_files = [name for name in ("train_file", "train_dir") if kept.get(name) is not None]
        if of_files and kept.get("split") is not None:
            raise ConfigError(f"`{key}.split` is for a data set with splits, and `{key}.{of_files[0]}` has none.")
        return kept

    def _source_spec(self, name: str, section: Mapping[str, Any]) -> tuple[DataSpec, int | None]:
        """Return one of the sources as if its arguments had been given with `source_`, called as they were given."""
        options = {f"{PREFIX}{key}": value for key, value in section.items() if key not in ("split", "max_samples")}
        prefix = f"sources.{name}."
        try:
            spec = dataclasses.replace(self, sources=None, **options).spec(PREFIX)
        except ValueError as error:
            raise ConfigError(str(error).replace(f"`{PREFIX}", f"`{prefix}")) from None
        names = {key: value and value.replace(PREFIX, prefix, 1) for key, value in spec.options.names.items()}
        spec = dataclasses.replace(
            spec,
            argument=spec.argument.replace(PREFIX, prefix, 1),
            split_names={TRAIN: section.get("split", TRAIN)},
            split_options={TRAIN: f"{prefix}split"},
            lacking=(),
            options=dataclasses.replace(spec.options, names=names),
            prefix=prefix,
        )
        limit = section.get("max_samples")
        return spec, self.max_source_samples if limit is None else limit

    def origin(self, prefix: str) -> str:
        """Return the argument that is given of [`DataArguments.origins`], else one of `validation_or_test`."""
        return next(
            name for name in (*self.origins(prefix), *self.validation_or_test) if getattr(self, name) is not None
        )


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
        for name in ("task_name", "source_task_name"):
            task = getattr(self, name)
            if task is not None and task.lower() not in GLUE_COLUMNS:
                raise ValueError(f"`{name}` must be a GLUE task ({', '.join(GLUE_COLUMNS)}), got {task!r}.")
            setattr(self, name, task and task.lower())

    def spec(self, prefix: str = "") -> DataSpec:
        """Return the target, or with `prefix="source_"` the source, as it is named."""
        task_name = getattr(self, f"{prefix}task_name")
        files = {split: getattr(self, f"{prefix}{split}_file", None) for split in (TRAIN, VALIDATION, TEST)}
        return DataSpec(
            argument=self.origin(prefix),
            path=getattr(self, f"{prefix}dataset_name") if task_name is None else GLUE,
            name=getattr(self, f"{prefix}dataset_config_name") if task_name is None else task_name,
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

    def spec(self, prefix: str = "") -> DataSpec:
        """Return the target, or with `prefix="source_"` the source, as it is named."""
        splits = (TRAIN,) if prefix else (TRAIN, VALIDATION, TEST)
        folders = {split: getattr(self, f"{prefix}{split}_dir") for split in splits}
        names = {
            "media_column": f"{prefix}{self.kind}_column_name",
            "label_column": f"{prefix}label_column_name",
            "problem_type": f"{prefix}problem_type",
        }
        return DataSpec(
            argument=self.origin(prefix),
            path=getattr(self, f"{prefix}dataset_name"),
            name=getattr(self, f"{prefix}dataset_config_name"),
            folders={split: path for split, path in folders.items() if path is not None},
            split_names={split: getattr(self, f"{prefix}{split}_split_name") for split in splits},
            split_options={split: f"{prefix}{split}_split_name" for split in splits},
            lacking=splits,
            kind=self.kind,
            options=ColumnOptions(
                media_column=getattr(self, names["media_column"]),
                label_column=getattr(self, names["label_column"]),
                problem_type=getattr(self, names["problem_type"]),
                labels_by_number=self.labels_by_number,
                names=names,
            ),
            prefix=prefix,
            held_out=0.0 if prefix else self.train_val_split,
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
