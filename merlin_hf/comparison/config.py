"""What a comparison is: the configuration, with the checks that need no data."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ..utils.config_file import read_mapping
from ..utils.validation import (
    ConfigError,
    Positive,
    Share,
    Text,
    check_fields,
    check_options,
    check_value,
    did_you_mean,
    interval,
    shown,
)
from .method_config import MethodConfig, check_training, default_reference, read_methods
from .metrics import METRICS


BUDGETS = ("rows", "steps")
MAX_SEEDS, MAX_SEED = 1000, 2**32 - 1  # of NumPy
MAX_SETTINGS = 10_000  # of a search space


@dataclass
class TargetConfig:
    """
    The target task.

    Args:
        path (`str`): a name on the Hub, a folder or a file, as for [`~merlin_hf.data.load_dataset`].
        name (`str`, *optional*): the configuration, as on the Hub.
        train_split, test_split (`str`): splits, or slices such as `train[:80%]` and `train[80%:]`.
        text_columns (`str` or `list[str]`, *optional*): one or two; those of a GLUE task, `text`, or the only one or two if not given.
        image_column (`str`, *optional*): the column of images; found if there is one.
        label_column (`str`, *optional*): `label`, `labels` or the only column of classes if not given.
        problem_type (`str`, *optional*): `single_label_classification` or `regression`, where labels are numbers that could be either.
        rows (`int`, *optional*): labelled rows to train on, drawn anew for each seed; all if not given.
        test_rows (`int`, *optional*): rows to test on, the same for all seeds; all if not given.
    """

    path: Text
    name: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    text_columns: list[str] | str | None = None
    image_column: str | None = None
    label_column: str | None = None
    problem_type: Literal["single_label_classification", "regression"] | None = None
    rows: Annotated[int, interval("[4, inf)")] | None = None
    test_rows: Annotated[int, interval("[2, inf)")] | None = None

    def __post_init__(self):
        check_options(self, prefix="target.")
        self.text_columns = _as_list(self.text_columns)
        if self.train_split == self.test_split:
            raise ConfigError(
                f"`target.test_split` is the split that is trained on, {self.test_split!r}. Give another, or divide it: "
                "`train_split: train[:80%]` and `test_split: train[80%:]`."
            )


@dataclass
class SourceConfig:
    """
    The source task.

    Args:
        path, name, text_columns, image_column, label_column, problem_type: as for the target.
        split (`str`): the split to train on.
        rows (`int`, *optional*): rows to use, drawn once; all if not given.
    """

    path: Text
    name: str | None = None
    split: str = "train"
    text_columns: list[str] | str | None = None
    image_column: str | None = None
    label_column: str | None = None
    problem_type: Literal["single_label_classification", "regression"] | None = None
    rows: Annotated[int, interval("[2, inf)")] | None = None

    def __post_init__(self):
        check_options(self, prefix="source.")
        self.text_columns = _as_list(self.text_columns)


@dataclass
class SearchConfig:
    """
    How hyper-parameters are chosen, for each method alike.

    Args:
        trials (`int`): settings tried per method, its defaults among them; 0 and 1 mean that the defaults are used.
        validation_fraction (`float`): share of the drawn target rows that settings are judged by, in (0, 1).
        seeds (`list[int]`, *optional*): seeds that each setting is tried with; the first of the comparison if not given.
        learning_rates (`list[float]`): tried for every method that trains by gradient descent.
    """

    trials: Annotated[int, interval("[0, 1_000]")] = 6
    validation_fraction: Share = 0.25
    seeds: list[int] | int | None = None
    learning_rates: list[Positive] = field(default_factory=lambda: [2e-5, 5e-5, 1e-4])

    def __post_init__(self):
        check_options(self, prefix="search.")
        if self.seeds is not None:
            self.seeds = check_seeds(self.seeds, "search.seeds")
        if not self.learning_rates:
            raise ConfigError("`search.learning_rates` must be positive numbers, got [].")


@dataclass
class CompareConfig:
    """
    A comparison: methods x seeds on one target, with or without a source.

    Args:
        model (`str`): a name on the Hub or a folder.
        target ([`TargetConfig`] or mapping).
        methods (`list[str]` or mapping): names of methods; or names to their options, with `search:` for another search
            space, `use_source: false`, and `method:` where the name is a label of your own.
        source ([`SourceConfig`] or mapping, *optional*).
        seeds (`int` or `list[int]`): how many, or which. A seed decides which rows are drawn, the first weights of new
            layers (of all with `from_scratch`) and the order of rows.
        reference (`str`, *optional*): the method that the others are tested against; `merlin`, else the first.
        metric (`str`, *optional*): chosen and compared by; `accuracy`, for real labels `pearson`.
        budget (`str`): `"rows"`: `max_steps` holds for a method with a batch of each task, and every other method makes as
            many steps as send the same number of rows through the backbone. `"steps"`: all make `max_steps` steps.
        training (mapping): options of [`~merlin_hf.TransferTrainingArguments`] for all methods.
        search ([`SearchConfig`] or mapping).
        from_scratch (`bool`): random weights by seed, of the model's `config.json`.
        freeze_layers (`int`): lower layers that are left as they are, with the embeddings. BatchNorm in them normalises by its running
            statistics.
        attn_implementation (`str`, *optional*): as in `from_pretrained`, such as `"eager"`.
        max_seq_length (`int`): longer texts are cut to so many tokens.
        image_size (`int`, *optional*): height and width in pixels, for models without an image processor.
        save_models (`bool`): keep the model of each final run, plain, in `output_dir/models/<method>/seed-<seed>`.
        output_dir (`str`): where runs and tables go; what is finished there is not run again.

    Raises:
        ConfigError: a value cannot be used; the message names its key and says what would work.
    """

    model: Text
    target: TargetConfig
    methods: Any
    source: SourceConfig | None = None
    seeds: list[int] | int = 3
    reference: str | None = None
    metric: str | None = field(default=None, metadata={"choices": tuple(METRICS)})
    budget: str = field(default="rows", metadata={"choices": BUDGETS})
    training: dict[str, Any] = field(default_factory=dict)
    search: SearchConfig = field(default_factory=SearchConfig)
    from_scratch: bool = False
    freeze_layers: Annotated[int, interval("[0, 10_000]")] = 0
    attn_implementation: str | None = None
    max_seq_length: Annotated[int, interval("[1, 1_000_000]")] = 128
    image_size: Annotated[int, interval("[1, 100_000]")] | None = None
    save_models: bool = False
    output_dir: Text = "comparison"

    checked_types = dict.fromkeys(("target", "source", "search"), Any)  # checked as sections

    def __post_init__(self):
        check_options(self)
        if self.target is None:
            raise ConfigError("`target` is missing.")
        self.target = _section(self.target, TargetConfig, "target")
        self.source = _section(self.source, SourceConfig, "source")
        self.search = _section(self.search, SearchConfig, "search") or SearchConfig()
        self.seeds = check_seeds(self.seeds, "seeds")
        self.training = check_training(self.training)
        self.methods: list[MethodConfig] = read_methods(self.methods, has_source=self.source is not None)
        labels = [method.name for method in self.methods]
        if self.reference is None:
            self.reference = default_reference(labels)
        elif self.reference not in labels:
            hint = did_you_mean(self.reference, labels)
            raise ConfigError(f"`reference` must be one of {', '.join(labels)}, got {shown(self.reference)}.{hint}")
        for method in self.methods:
            self._check_space(method)
        if self.from_scratch and self.freeze_layers:
            raise ConfigError("`freeze_layers` would keep random weights: leave it out with `from_scratch: true`.")

    def _check_space(self, method: MethodConfig) -> None:
        space = method.trainer_class.search_space if method.search is None else method.search
        settings = len(self.search.learning_rates) * math.prod(map(len, space.values()))
        if self.search.trials > 1 and settings > MAX_SETTINGS:
            raise ConfigError(
                f"`methods.{method.name}.search` and `search.learning_rates` make {settings} settings, more than {MAX_SETTINGS}: "
                "leave values out."
            )

    @property
    def default_learning_rate(self) -> float:
        """That of `training`, else the middle one of `search.learning_rates`."""
        rates = sorted(self.search.learning_rates)
        return self.training.get("learning_rate", rates[(len(rates) - 1) // 2])

    @property
    def search_seeds(self) -> list[int]:
        """The seeds that each setting is tried with."""
        return self.search.seeds or self.seeds[:1]

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as plain values, which [`load_config`] reads again."""
        return {**dataclasses.asdict(self), "methods": {method.name: method.to_mapping() for method in self.methods}}


def check_seeds(seeds: Any, key: str) -> list[int]:
    """
    Seeds as a list; `3` stands for 0, 1 and 2.

    Raises:
        ConfigError: there is none, one is negative or there twice.
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        check_value(seeds, Annotated[int, interval(f"[1, {MAX_SEEDS}]")], key)
        return list(range(seeds))
    is_list = isinstance(seeds, list | tuple) and 0 < len(seeds) <= MAX_SEEDS
    if not is_list or not all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED for seed in seeds
    ):
        raise ConfigError(
            f"`{key}` must be a number of seeds or a list of seeds such as [0, 1, 2], up to {MAX_SEEDS} of them, got {shown(seeds)}."
        )
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"`{key}` must be different seeds, got {shown(list(seeds))}.")
    return list(seeds)


def load_config(config: Any, **overrides: Any) -> CompareConfig:
    """
    A configuration from a YAML file, a mapping, or as it is.

    Args:
        config (`str`, `os.PathLike`, `Mapping` or `CompareConfig`): in a file, paths that are not found are looked for beside
            the file as well.
        overrides: values that replace those of the configuration; `None` leaves them. `methods` may be a list of labels of
            the configuration, of which the others are then left out, and of other methods, with their defaults.

    Raises:
        ConfigError: a value cannot be used.
        FileNotFoundError: there is no such file.
    """
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if isinstance(config, CompareConfig):
        if not overrides:
            return config
        config = config.to_dict()
    elif isinstance(config, str | os.PathLike):
        config = _read(Path(config))
    if not isinstance(config, Mapping):
        raise ConfigError(f"A configuration must be a mapping, got {shown(config)}.")
    config = dict(config)
    if "methods" in overrides:
        overrides["methods"] = _choose_methods(config.get("methods"), overrides["methods"])
        if config.get("reference") not in overrides["methods"]:
            config.pop("reference", None)
    return CompareConfig(**check_fields({**config, **overrides}, CompareConfig, ""))


def _read(path: Path) -> dict[str, Any]:
    config = read_mapping(path)
    for section, name in ((config, "model"), (config.get("target"), "path"), (config.get("source"), "path")):
        given = section.get(name) if isinstance(section, dict) else None
        if isinstance(given, str) and not os.path.exists(given) and os.path.exists(path.parent / given):
            section[name] = str(path.parent / given)
    return config


def _as_list(given: list[str] | str | None) -> list[str] | None:
    return [given] if isinstance(given, str) else given


def _section(given: Any, cls: type, key: str) -> Any:
    if given is None or isinstance(given, cls):
        return given
    return cls(**check_fields(given, cls, key))


def _choose_methods(given: Any, labels: list[str]) -> dict[str, Any]:
    known = given if isinstance(given, Mapping) else dict.fromkeys(given or ())
    return {label: known.get(label) for label in labels}
