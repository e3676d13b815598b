"""The configuration of a comparison, with the checks that need no data."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from transformers import TrainingArguments

from ..methods import METHODS, get_method
from ..training_args import TransferTrainingArguments, parse_mix
from ..transfer.named_sources import check_source_name, names_of_sources
from ..transfer.trainer import TransferTrainer
from ..utils.config_file import read_mapping
from ..utils.validation import (
    ConfigError,
    Positive,
    Share,
    Text,
    check_fields,
    check_mapping,
    check_options,
    check_value,
    cut,
    did_you_mean,
    interval,
    rules,
    shown,
)
from .metrics import METRICS


BUDGETS = ("rows", "steps")
MAX_SEEDS, MAX_SEED = 1000, 2**32 - 1  # of NumPy
MAX_WORKERS = 1000
MAX_SETTINGS = 10_000  # of a search space


@dataclass
class TaskConfig:
    """
    A task: the part of a configuration that names its data.

    Args:
        path (`str`): a name on the Hub, a folder or a file, as for [`~merlin_hf.data.load_dataset`].
        name (`str`, *optional*): the configuration, as on the Hub.
        text_columns (`str` or `list[str]`, *optional*): one or two; those of a GLUE task, `text`, or the only one or
            two if not given.
        image_column (`str`, *optional*): the column of images; found if there is one.
        label_column (`str`, *optional*): `label`, `labels` or the only column of classes if not given. A column
            of lists of tags, one for each of the words in `text_columns` (`tokens` or `words`), makes it a task of
            tags.
        problem_type (`str`, *optional*): `single_label_classification` or `regression`, where labels are numbers that
            could be either.
    """

    path: Text
    name: str | None = None
    text_columns: list[str] | str | None = None
    image_column: str | None = None
    label_column: str | None = None
    problem_type: Literal["single_label_classification", "regression"] | None = None

    key: ClassVar[str]

    def __post_init__(self):
        check_options(self, prefix=f"{self.key}.")
        self.text_columns = [self.text_columns] if isinstance(self.text_columns, str) else self.text_columns


@dataclass
class TargetConfig(TaskConfig):
    """
    The target task.

    Args:
        path, name, text_columns, image_column, label_column, problem_type: see [`TaskConfig`].
        train_split, test_split (`str`): splits, or slices such as `train[:80%]` and `train[80%:]`.
        rows (`int`, *optional*): labelled rows to train on, drawn anew for each seed; all if not given.
        test_rows (`int`, *optional*): rows to test on, the same for all seeds; all if not given.
    """

    train_split: str = "train"
    test_split: str = "test"
    rows: Annotated[int, interval("[4, inf)")] | None = None
    test_rows: Annotated[int, interval("[2, inf)")] | None = None

    key: ClassVar[str] = "target"

    def __post_init__(self):
        super().__post_init__()
        if self.train_split == self.test_split:
            raise ConfigError(
                f"`target.test_split` is the split that is trained on, {self.test_split!r}. Give another, or divide "
                "it: `train_split: train[:80%]` and `test_split: train[80%:]`."
            )


@dataclass
class SourceConfig(TaskConfig):
    """
    The source task.

    Args:
        path, name, text_columns, image_column, label_column, problem_type: see [`TaskConfig`].
        split (`str`): the split to train on.
        rows (`int`, *optional*): rows to use, drawn once; all if not given.
    """

    split: str = "train"
    rows: Annotated[int, interval("[2, inf)")] | None = None

    key: ClassVar[str] = "source"


@dataclass
class SearchConfig:
    """
    The search of hyper-parameters, alike for each method.

    Args:
        trials (`int`): settings tried per method, its defaults among them; 0 and 1 mean that the defaults are used.
        validation_fraction (`float`): share of the drawn target rows that settings are judged by, in (0, 1).
        seeds (`int` or `list[int]`, *optional*): seeds that each setting is tried with; the first of the comparison if
            not given.
        learning_rates (`list[float]`): tried for every method that trains by gradient descent.
    """

    trials: Annotated[int, interval("[0, 1_000]")] = 6
    validation_fraction: Share = 0.25
    seeds: list[int] | None = None
    learning_rates: list[Positive] = field(default_factory=lambda: [2e-5, 5e-5, 1e-4])

    checked_types = {"seeds": list[int] | int | None}  # as it is given

    def __post_init__(self):
        check_options(self, prefix="search.")
        if self.seeds is not None:
            self.seeds = check_seeds(self.seeds, "search.seeds")
        if not self.learning_rates:
            raise ConfigError("`search.learning_rates` must be positive numbers, got [].")


@dataclass
class MethodConfig:
    """
    A method with its options, which is one line of the table.

    Args:
        name (`str`): its label in the table.
        method (`str`): a name in `merlin_hf.METHODS`.
        options (`dict`): those that are the same in all its runs.
        search (`dict[str, list]`, *optional*): values to try instead of those of the method's `search_space`.
        use_source (`bool` or `list[str]`): give it the source; of several sources all, or those of these names.
    """

    name: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    search: dict[str, list] | None = None
    use_source: bool | list[str] = True

    @property
    def trainer_class(self) -> type[TransferTrainer]:
        """Return the trainer class of the method."""
        return METHODS[self.method]

    def to_mapping(self) -> dict[str, Any]:
        """Return the method as a configuration has it."""
        mapping = {"method": self.method, **self.options}
        if self.search is not None:
            mapping["search"] = self.search
        is_a_choice = self.trainer_class.takes_source and not self.trainer_class.depends_on_source()
        if is_a_choice or isinstance(self.use_source, list):
            mapping["use_source"] = self.use_source
        return mapping


@dataclass
class CompareConfig:
    """
    A comparison: methods x seeds on one target, with or without a source.

    Args:
        model (`str`): a name on the Hub or a folder.
        target ([`TargetConfig`] or mapping): the target task.
        methods (`list[str]` or mapping): names of methods; or names to their options, with `search:` for another
            search space, `use_source: false`, `use_source: [mnli]` for some of several sources, and `method:` where
            the name is a label of your own.
        source ([`SourceConfig`] or mapping, *optional*): the source task; or a mapping of names to several, or a list
            of them, whose names are those of their configurations and files.
        seeds (`int` or `list[int]`): how many, or which. A seed decides which rows are drawn, the first weights of new
            layers (of all with `from_scratch`) and the order of rows.
        reference (`str`, *optional*): the method that the others are tested against; `merlin`, else the first.
        metric (`str`, *optional*): settings are chosen, and methods compared, by it; `accuracy`, for real labels
            `pearson`.
        budget (`str`): `"rows"`: `max_steps` holds for a method with a batch of each task, and every other method
            makes as many steps as send the same number of rows through the backbone. `"steps"`: all make `max_steps`
            steps.
        training (mapping): options of [`~merlin_hf.TransferTrainingArguments`] for all methods.
        search ([`SearchConfig`] or mapping): how hyper-parameters are chosen.
        from_scratch (`bool`): start from random weights, drawn by seed, and use the model's `config.json` alone.
        freeze_layers (`int`): lower layers that are left as they are, with the embeddings. BatchNorm in them
            normalises by its running statistics.
        attn_implementation (`str`, *optional*): as in `from_pretrained`, such as `"eager"`.
        max_seq_length (`int`): longer texts are cut to so many tokens.
        sentence_encoder (`bool`, *optional*): whether the model is one of sentence-transformers, whose own pooling is
            used, and two texts are read apart; if it has a `modules.json` if not given.
        image_size (`int`, *optional*): height and width in pixels, for models without an image processor.
        save_models (`bool`): keep the model of each final run, plain, in `output_dir/models/<method>/seed-<seed>`.
        workers (`int` or `str`): how many runs are done at a time on this machine, each on a GPU of its own or with
            its share of the threads; `"ray"` for the machines of the Ray cluster at hand, `"ray://host:port"` for
            those of another. It changes no result.
        output_dir (`str`): where runs and tables go; what is finished there is not run again.

    Raises:
        ConfigError: a value cannot be used; the message names its key and says what would work.
    """

    model: Text
    target: TargetConfig
    methods: Any
    source: SourceConfig | dict[str, SourceConfig] | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    reference: str | None = None
    metric: str | None = field(default=None, metadata={"choices": tuple(METRICS)})
    budget: str = field(default="rows", metadata={"choices": BUDGETS})
    training: dict[str, Any] = field(default_factory=dict)
    search: SearchConfig = field(default_factory=SearchConfig)
    from_scratch: bool = False
    freeze_layers: Annotated[int, interval("[0, 10_000]")] = 0
    attn_implementation: str | None = None
    max_seq_length: Annotated[int, interval("[1, 1_000_000]")] = 128
    sentence_encoder: bool | None = None
    image_size: Annotated[int, interval("[1, 100_000]")] | None = None
    save_models: bool = False
    workers: int | str = 1
    output_dir: Text = "comparison"

    checked_types = {"target": Any, "source": Any, "search": Any, "seeds": list[int] | int}  # as they are given

    def __post_init__(self):
        check_options(self)
        if self.target is None:
            raise ConfigError("`target` is missing.")
        self.target = _section(self.target, TargetConfig, "target")
        self.source = _read_source(self.source)
        self.search = _section(self.search, SearchConfig, "search") or SearchConfig()
        self.seeds = check_seeds(self.seeds, "seeds")
        self.workers = check_workers(self.workers)
        self.training = check_training(self.training)
        self.methods: list[MethodConfig] = read_methods(self.methods, list(self.sources))
        labels = [method.name for method in self.methods]
        if self.reference is None:
            self.reference = "merlin" if "merlin" in labels else labels[0]
        elif self.reference not in labels:
            hint = did_you_mean(self.reference, labels)
            raise ConfigError(f"`reference` must be one of {', '.join(labels)}, got {shown(self.reference)}.{hint}")
        for method in self.methods:
            self._check_space(method)
            self._check_mix(method)
        if self.from_scratch and self.freeze_layers:
            raise ConfigError("`freeze_layers` would keep random weights: leave it out with `from_scratch: true`.")

    def _check_space(self, method: MethodConfig) -> None:
        space = method.trainer_class.search_space if method.search is None else method.search
        settings = len(self.search.learning_rates) * math.prod(map(len, space.values()))
        if self.search.trials > 1 and settings > MAX_SETTINGS:
            raise ConfigError(
                f"`methods.{method.name}.search` and `search.learning_rates` make {settings} settings, more than "
                f"{MAX_SETTINGS}: leave values out."
            )

    def _check_mix(self, method: MethodConfig) -> None:
        """Raise a ConfigError unless weights are given for each source that a method has, and for no others."""
        names = {name for name in self.sources if name is not None}
        needed = set(method.use_source) if isinstance(method.use_source, list) else names
        if not method.use_source or len(needed) < 2:
            return
        where, key = {**self.training, **method.options, **(method.search or {})}, "source_mix"
        given = where.get(key, ())
        for mix in [given] if isinstance(given, str) else given:
            try:
                weights = parse_mix(mix)
            except ValueError as error:
                raise ConfigError(f"`methods.{method.name}`: {error}") from None
            if isinstance(weights, dict) and not needed <= set(weights) <= names:
                raise ConfigError(
                    f"`methods.{method.name}`: `source_mix` has weights for {', '.join(weights)}, and the sources are "
                    f"{', '.join(sorted(needed))}. Give a weight for each."
                )

    @property
    def sources(self) -> dict[str | None, SourceConfig]:
        """Return the sources by name; one that was given alone has none."""
        if self.source is None:
            return {}
        return dict(self.source.items()) if isinstance(self.source, dict) else {None: self.source}

    @property
    def default_learning_rate(self) -> float:
        """Return the learning rate of `training`, else the middle one of `search.learning_rates`."""
        rates = sorted(self.search.learning_rates)
        return self.training.get("learning_rate", rates[(len(rates) - 1) // 2])

    @property
    def search_seeds(self) -> list[int]:
        """Return the seeds that each setting is tried with."""
        return self.search.seeds or self.seeds[:1]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole configuration as plain values, which [`load_config`] reads again."""
        return {**dataclasses.asdict(self), "methods": {method.name: method.to_mapping() for method in self.methods}}


def check_seeds(seeds: Any, key: str) -> list[int]:
    """Return seeds as a list, where `3` stands for 0, 1 and 2; raise a ConfigError if they cannot be used."""
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        check_value(seeds, Annotated[int, interval(f"[1, {MAX_SEEDS}]")], key)
        return list(range(seeds))
    is_list = isinstance(seeds, list | tuple) and 0 < len(seeds) <= MAX_SEEDS
    if not is_list or not all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED for seed in seeds
    ):
        raise ConfigError(
            f"`{key}` must be a number of seeds or a list of seeds such as [0, 1, 2], up to {MAX_SEEDS} of them, got "
            f"{shown(seeds)}."
        )
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"`{key}` must be different seeds, got {shown(list(seeds))}.")
    return list(seeds)


def check_workers(workers: int | str) -> int | str:
    """Return `workers`, as a number where it is one; raise a ConfigError if it is not an address of Ray either."""
    if isinstance(workers, str) and workers.isdecimal():
        workers = int(workers)
    is_address = isinstance(workers, str) and (workers == "ray" or re.fullmatch(r"ray://[^/\s]+:\d+/?", workers))
    if not is_address and not (isinstance(workers, int) and 1 <= workers <= MAX_WORKERS):
        raise ConfigError(
            f"`workers` must be a number from 1 to {MAX_WORKERS}, 'ray' or 'ray://host:port', got {shown(workers)}."
        )
    return workers


def load_config(config: Any, **overrides: Any) -> CompareConfig:
    """
    Return a configuration from a YAML file, a mapping, or as it is.

    Args:
        config (`str`, `os.PathLike`, `Mapping` or `CompareConfig`): in a file, paths that are not found are looked for
            beside the file as well.
        overrides: values that replace those of the configuration; `None` leaves them. `methods` may be a list of
            labels of the configuration, whose other methods are then left out, and of other methods, with their
            defaults.

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
        given = config.get("methods")
        known = given if isinstance(given, Mapping) else {}
        overrides["methods"] = {label: known.get(label) for label in overrides["methods"]}
        if config.get("reference") not in overrides["methods"]:
            config.pop("reference", None)
    return CompareConfig(**check_fields({**config, **overrides}, CompareConfig, ""))


def _read(path: Path) -> dict[str, Any]:
    config = read_mapping(path)
    source = config.get("source")
    several = source.values() if isinstance(source, dict) else source if isinstance(source, list) else ()
    sections = [config.get("target"), source, *several]
    for section, name in ((config, "model"), *((section, "path") for section in sections)):
        if not isinstance(section, dict) or not isinstance(given := section.get(name), str):
            continue
        if not os.path.exists(given) and os.path.exists(path.parent / given):
            section[name] = str(path.parent / given)
    return config


def _section(given: Any, cls: type, key: str) -> Any:
    if given is None or isinstance(given, cls):
        return given
    return cls(**check_fields(given, cls, key))


def _read_source(given: Any) -> SourceConfig | dict[str, SourceConfig] | None:
    """Return the source, or several by name; raise a ConfigError if one has a name that it cannot have."""
    if isinstance(given, list | tuple):
        sections = [_section(one, SourceConfig, "source") for one in given]
        if not sections or None in sections:
            raise ConfigError(f"`source` must be a data set or several of them, got {shown(given)}.")
        given = dict(zip(names_of_sources((one.path, one.name) for one in sections), sections, strict=True))
    if not isinstance(given, Mapping) or not any(isinstance(one, Mapping | SourceConfig) for one in given.values()):
        return _section(given, SourceConfig, "source")
    found = {}
    for name, section in given.items():
        try:
            check_source_name(name, "source")
        except ValueError as error:
            raise ConfigError(str(error)) from None
        found[name] = _section({} if section is None else section, SourceConfig, f"source.{name}")
    return found


# Methods


LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

STEPS = "all methods get the same budget, `training.max_steps`"
# Training options that a comparison sets by itself, and why they cannot be given.
FIXED = {
    "output_dir": "it is the `output_dir` of the comparison",
    "disable_tqdm": "a comparison shows its own progress",
    "do_train": "a comparison trains",
    **dict.fromkeys(("do_eval", "do_predict"), "a comparison evaluates"),
    **dict.fromkeys(("seed", "data_seed"), "the seeds of a comparison are its `seeds`"),
    **dict.fromkeys(("num_train_epochs", "auto_find_batch_size"), STEPS),
    **dict.fromkeys(
        ("eval_strategy", "eval_steps", "eval_on_start", "prediction_loss_only", "batch_eval_metrics")
        + ("load_best_model_at_end", "metric_for_best_model"),
        "a model is evaluated once, on the test rows, after its training",
    ),
    **dict.fromkeys(
        ("save_strategy", "push_to_hub", "resume_from_checkpoint", "hub_token", "hub_model_id", "hub_strategy")
        + ("hub_private_repo", "hub_always_push", "hub_revision"),
        "a comparison keeps scores, not models",
    ),
    **dict.fromkeys(("remove_unused_columns", "label_names", "num_source_labels"), "it follows from the data"),
}


def check_training(given: Any) -> dict[str, Any]:
    """Return the options of `training`; raise a ConfigError if one is not for all methods or cannot be used."""
    given = check_mapping(given, "training")
    fields = _field_names(TransferTrainingArguments)
    for name in given:
        owners = [method for method, cls in METHODS.items() if name in _field_names(cls.training_args_class)]
        if name not in fields and owners:
            raise ConfigError(
                f"`training.{name}` is an option of {', '.join(owners)}: give it there, `methods: {{{owners[0]}: "
                f"{{{name}: {cut(given[name])}}}}}`."
            )
    _check_names(given, TransferTrainingArguments, "training", "finetune")
    options = _check_types(given, TransferTrainingArguments, "training")
    if options.get("max_steps", 0) < 1:
        raise ConfigError(
            f"`training.max_steps` must be at least 1, got {shown(given.get('max_steps'))}: the steps of a method "
            "with one batch of each task, which are the budget of all."
        )
    return options


def read_methods(given: Any, sources: Sequence[str | None]) -> list[MethodConfig]:
    """Return the methods, of a list of names or a mapping of labels to options; `None` is a source alone."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list | tuple | Mapping) or not given:
        raise ConfigError(f"`methods` must be a list of names or a mapping of names to options, got {shown(given)}.")
    if isinstance(given, list | tuple) and all(isinstance(one, MethodConfig) for one in given):
        given = {one.name: one.to_mapping() for one in given}
    if not isinstance(given, Mapping):
        given = check_value(given, list[str], "methods")
        if len(set(given)) < len(given):
            raise ConfigError(
                f"`methods` has a name twice: {list(given)}. Give the second a label: "
                f"`{given[0]}_2: {{method: {given[0]}}}`."
            )
        given = dict.fromkeys(given)
    return [_read_method(label, options, sources) for label, options in given.items()]


def _read_method(label: Any, given: Any, sources: Sequence[str | None]) -> MethodConfig:
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise ConfigError(f"`methods` has the name {shown(label)}; letters, digits and _ . + - make a name.")
    key = f"methods.{label}"
    options = check_mapping(given, key)
    name = check_value(options.pop("method", label), str, f"{key}.method")
    try:
        trainer_class = get_method(name)
    except ValueError as error:
        raise ConfigError(f"`{key}`: {error}") from None
    search, use_source = options.pop("search", None), options.pop("use_source", None)
    args_class = trainer_class.training_args_class
    _check_names(options, args_class, key, name, ("method", "search", "use_source"))
    options = _check_types(options, args_class, key)
    return MethodConfig(
        label,
        name,
        options,
        None if search is None else _check_search(search, options, args_class, f"{key}.search", name),
        _check_use_source(use_source, trainer_class, sources, key),
    )


def _check_search(given: Any, options: dict, args_class: type, key: str, method: str) -> dict[str, list]:
    space = check_mapping(given, key)
    _check_names(space, args_class, key, method)
    for name, values in space.items():
        if not isinstance(values, list | tuple) or not values:
            raise ConfigError(f"`{key}.{name}` must be a list of values to try, got {shown(values)}.")
        if name in options:
            raise ConfigError(f"`{key}.{name}` is fixed to {shown(options[name])} as well: leave one of the two out.")
        space[name] = [_check_types({name: value}, args_class, key)[name] for value in values]
    return space


def _check_use_source(
    given: Any, trainer_class: type[TransferTrainer], sources: Sequence[str | None], key: str
) -> bool | list[str]:
    takes, needs, has_source = trainer_class.takes_source, trainer_class.depends_on_source(), bool(sources)
    names = [name for name in sources if name is not None]
    asked = given if isinstance(given, list | tuple) else [given]
    is_names = bool(asked) and all(name in names for name in asked) and len(set(asked)) == len(asked)
    if given is not None and not isinstance(given, bool) and not is_names:
        what = f"true, false or a list of some of {', '.join(names)}" if names else "true or false"
        hint = did_you_mean(asked[0], names) if asked else ""
        raise ConfigError(f"`{key}.use_source` must be {what}, got {shown(given)}.{hint}")
    if needs and (given is False or not has_source):
        remedy = "leave `use_source` out" if has_source else "give `source`"
        raise ConfigError(f"`{key}` trains on a source: {remedy}, or leave the method out.")
    if given and not (takes and has_source):
        reason = "there is no `source`" if takes else "the method trains on the target alone"
        raise ConfigError(f"`{key}.use_source` cannot be {'true' if given is True else shown(given)}: {reason}.")
    chosen = [name for name in names if name in asked]
    if is_names and len(chosen) < len(names):
        return chosen
    return takes and has_source and given is not False


def _check_names(given: Mapping, args_class: type, key: str, method: str, own: Sequence[str] = ()) -> None:
    """Raise a ConfigError unless every name is an option of `args_class` that is not fixed, or one of `own`."""
    known = _field_names(args_class) - set(FIXED)
    for name in given:
        if name in FIXED or (name == "max_steps" and key != "training"):
            raise ConfigError(f"`{key}.{name}` cannot be given: {FIXED.get(name, STEPS)}.")
    for name in given:
        if name not in known and name not in own:
            options = sorted(known - _field_names(TrainingArguments))
            close = did_you_mean(name, sorted({*own, *known}), most=3)
            raise ConfigError(
                f"`{key}.{cut(name)}` is unknown.{close} Known here: {', '.join([*own, *options])}, and the training "
                f"arguments of transformers; `merlin-hf train --method {method} --help_all` lists all."
            )


def _check_types(given: Mapping, args_class: type, key: str) -> dict[str, Any]:
    return {name: check_value(value, rules(args_class)[name], f"{key}.{name}") for name, value in given.items()}


def _field_names(args_class: type) -> set[str]:
    return {option.name for option in dataclasses.fields(args_class) if option.init}
