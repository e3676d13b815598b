"""What a comparison is: the configuration, with the checks that need no data."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .method_config import MethodConfig, check_training, default_reference, read_methods
from .metrics import METRICS
from .values import ConfigError, check_at_least, check_fields, did_you_mean


BUDGETS = ("rows", "steps")


@dataclass
class TargetConfig:
    """
    The target task.

    Args:
        path (`str`): a name on the Hub, a folder or a file, as for [`~merlin_hf.data.load_dataset`].
        name (`str`, *optional*): the configuration, as on the Hub.
        train_split, test_split (`str`): splits, or slices such as `train[:80%]` and `train[80%:]`.
        text_columns (`str` or `list[str]`, *optional*): one or two; those of a GLUE task or the first two texts if not given.
        image_column (`str`, *optional*): the column of images; found if there is one.
        label_column (`str`, *optional*): `label`, `labels` or the only column of classes if not given.
        rows (`int`, *optional*): labelled rows to train on, drawn anew for each seed; all if not given.
        test_rows (`int`, *optional*): rows to test on, the same for all seeds; all if not given.
    """

    path: str
    name: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    text_columns: list[str] | str | None = None
    image_column: str | None = None
    label_column: str | None = None
    rows: int | None = None
    test_rows: int | None = None

    def __post_init__(self):
        self.text_columns = _as_list(self.text_columns)
        check_at_least(self.rows, 4, "target.rows")
        check_at_least(self.test_rows, 2, "target.test_rows")
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
        path, name, text_columns, image_column, label_column: as for the target.
        split (`str`): the split to train on.
        rows (`int`, *optional*): rows to use, drawn once; all if not given.
    """

    path: str
    name: str | None = None
    split: str = "train"
    text_columns: list[str] | str | None = None
    image_column: str | None = None
    label_column: str | None = None
    rows: int | None = None

    def __post_init__(self):
        self.text_columns = _as_list(self.text_columns)
        check_at_least(self.rows, 2, "source.rows")


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

    trials: int = 6
    validation_fraction: float = 0.25
    seeds: list[int] | int | None = None
    learning_rates: list[float] = field(default_factory=lambda: [2e-5, 5e-5, 1e-4])

    def __post_init__(self):
        check_at_least(self.trials, 0, "search.trials")
        if self.seeds is not None:
            self.seeds = check_seeds(self.seeds, "search.seeds")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                f"`search.validation_fraction` must lie between 0 and 1, got {self.validation_fraction}; 0.25 is usual."
            )
        if not self.learning_rates or not all(rate > 0 for rate in self.learning_rates):
            raise ConfigError(f"`search.learning_rates` must be positive numbers, got {self.learning_rates}.")


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
        cache_frozen_layers (`bool`): what they make of a text or an image is computed once and kept, in memory, for all steps, methods
            and seeds. Their dropout is then off. For models that are a plain stack of layers on `embeddings`, as BERT, ViT and
            EfficientNet are. Where a classifier of texts reads the first token alone, as those of BERT and RoBERTa do, the last layer
            computes no other after its attention, but for methods that read layers and your own.
        attn_implementation (`str`, *optional*): as in `from_pretrained`, such as `"eager"`.
        max_seq_length (`int`): longer texts are cut to so many tokens.
        image_size (`int`, *optional*): height and width in pixels, for models without an image processor.
        save_models (`bool`): keep the model of each final run, plain, in `output_dir/models/<method>/seed-<seed>`.
        output_dir (`str`): where runs and tables go; what is finished there is not run again.

    Raises:
        ConfigError: a value cannot be used; the message names its key and says what would work.
    """

    model: str
    target: TargetConfig
    methods: Any
    source: SourceConfig | None = None
    seeds: list[int] | int = 3
    reference: str | None = None
    metric: str | None = None
    budget: str = "rows"
    training: dict[str, Any] = field(default_factory=dict)
    search: SearchConfig = field(default_factory=SearchConfig)
    from_scratch: bool = False
    freeze_layers: int = 0
    cache_frozen_layers: bool = False
    attn_implementation: str | None = None
    max_seq_length: int = 128
    image_size: int | None = None
    save_models: bool = False
    output_dir: str = "comparison"

    def __post_init__(self):
        self.target = _section(self.target, TargetConfig, "target")
        self.source = _section(self.source, SourceConfig, "source")
        self.search = _section(self.search, SearchConfig, "search") or SearchConfig()
        self.seeds = check_seeds(self.seeds, "seeds")
        self.training = check_training(self.training)
        self.methods: list[MethodConfig] = read_methods(self.methods, has_source=self.source is not None)
        labels = [method.label for method in self.methods]
        if self.reference is None:
            self.reference = default_reference(labels)
        elif self.reference not in labels:
            hint = did_you_mean(self.reference, labels)
            raise ConfigError(f"`reference` must be one of {', '.join(labels)}, got {self.reference!r}.{hint}")
        if self.metric is not None and self.metric not in METRICS:
            hint = did_you_mean(self.metric, METRICS)
            raise ConfigError(f"`metric` must be one of {', '.join(METRICS)}, got {self.metric!r}.{hint}")
        if self.budget not in BUDGETS:
            raise ConfigError(f"`budget` must be one of {', '.join(BUDGETS)}, got {self.budget!r}.")
        check_at_least(self.freeze_layers, 0, "freeze_layers")
        check_at_least(self.max_seq_length, 1, "max_seq_length")
        check_at_least(self.image_size, 1, "image_size")
        if self.from_scratch and self.freeze_layers:
            raise ConfigError("`freeze_layers` would keep random weights: leave it out with `from_scratch: true`.")
        if self.cache_frozen_layers:
            if not self.freeze_layers:
                raise ConfigError("`cache_frozen_layers` has no layers to keep: give `freeze_layers`, at least 1.")
            if self.save_models:
                raise ConfigError("`save_models` would save the upper layers alone: leave out `cache_frozen_layers`.")

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
        return {**dataclasses.asdict(self), "methods": {method.label: method.to_mapping() for method in self.methods}}


def check_seeds(seeds: Any, key: str) -> list[int]:
    """
    Seeds as a list; `3` stands for 0, 1 and 2.

    Raises:
        ConfigError: there is none, one is negative or there twice.
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        check_at_least(seeds, 1, key)
        return list(range(seeds))
    is_list = isinstance(seeds, list | tuple) and len(seeds) > 0
    if not is_list or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        raise ConfigError(f"`{key}` must be a number of seeds or a list of seeds such as [0, 1, 2], got {seeds!r}.")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"`{key}` must be different seeds, got {list(seeds)}.")
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
        raise ConfigError(f"A configuration must be a mapping, got {config!r}.")
    config = dict(config)
    if "methods" in overrides:
        overrides["methods"] = _choose_methods(config.get("methods"), overrides["methods"])
        if config.get("reference") not in overrides["methods"]:
            config.pop("reference", None)
    return CompareConfig(**check_fields({**config, **overrides}, CompareConfig, ""))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no configuration {str(path)!r}.")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not YAML: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{str(path)!r} must be a mapping with `model`, `target`, `methods`, ..., got {config!r}.")
    for section, name in ((config, "model"), (config.get("target"), "path"), (config.get("source"), "path")):
        given = section.get(name) if isinstance(section, dict) else None
        if isinstance(given, str) and not os.path.exists(given) and (path.parent / given).exists():
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
