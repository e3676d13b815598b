"""The methods of a comparison and their options."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..methods import METHODS, get_method
from ..training_args import TransferTrainingArguments
from ..utils.validation import ConfigError, check_mapping, check_value, cut, did_you_mean, rules, shown


LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

# Training options that a comparison sets by itself, and why they cannot be given.
ONE_SEED = "the seeds of a comparison are its `seeds`"
STEPS = "all methods get the same budget, `training.max_steps`"
TEST_ROWS = "a model is evaluated once, on the test rows, after its training"
SAVING = "a comparison keeps scores, not models"
OF_THE_DATA = "it follows from the data"
FIXED = {
    "output_dir": "it is the `output_dir` of the comparison",
    "seed": ONE_SEED,
    "data_seed": ONE_SEED,
    "num_train_epochs": STEPS,
    "auto_find_batch_size": STEPS,
    "eval_strategy": TEST_ROWS,
    "eval_steps": TEST_ROWS,
    "eval_on_start": TEST_ROWS,
    "prediction_loss_only": TEST_ROWS,
    "batch_eval_metrics": TEST_ROWS,
    "load_best_model_at_end": TEST_ROWS,
    "metric_for_best_model": TEST_ROWS,
    "save_strategy": SAVING,
    "push_to_hub": SAVING,
    "resume_from_checkpoint": SAVING,
    "hub_token": SAVING,
    "hub_model_id": SAVING,
    "hub_strategy": SAVING,
    "hub_private_repo": SAVING,
    "hub_always_push": SAVING,
    "hub_revision": SAVING,
    "do_train": "a comparison trains",
    "do_eval": "a comparison evaluates",
    "do_predict": "a comparison evaluates",
    "disable_tqdm": "a comparison shows its own progress",
    "remove_unused_columns": OF_THE_DATA,
    "label_names": OF_THE_DATA,
    "num_source_labels": OF_THE_DATA,
}


@dataclass
class MethodConfig:
    """
    One line of the table.

    Args:
        name (`str`): what it is called there, its label.
        method (`str`): a name in `merlin_hf.METHODS`.
        options (`dict`): options that are the same in all its runs, and are not searched.
        search (`dict[str, list]`, *optional*): values to try instead of those of the method's `search_space`.
        use_source (`bool`): whether it is given the source.
    """

    name: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    search: dict[str, list] | None = None
    use_source: bool = True

    @property
    def trainer_class(self) -> type:
        """The trainer class of the method."""
        return METHODS[self.method]

    def to_mapping(self) -> dict[str, Any]:
        """As in a configuration."""
        mapping = {"method": self.method, **self.options}
        if self.search is not None:
            mapping["search"] = self.search
        if self.trainer_class.takes_source and not self.trainer_class.depends_on_source():
            mapping["use_source"] = self.use_source
        return mapping


def default_reference(labels: list[str]) -> str:
    """What the other methods are tested against: `merlin` if it is there, else the first."""
    return "merlin" if "merlin" in labels else labels[0]


def check_training(given: Any) -> dict[str, Any]:
    """
    The options of `training`.

    Raises:
        ConfigError: one is unknown, belongs to a method or to the comparison, or has a value of another type; or there is no
            number of steps.
    """
    given = check_mapping(given, "training")
    _check_not_fixed(given, "training")
    fields = _field_names(TransferTrainingArguments)
    for name in given:
        owners = [method for method, cls in METHODS.items() if name in _field_names(cls.training_args_class)]
        if name not in fields and owners:
            raise ConfigError(
                f"`training.{name}` is an option of {', '.join(owners)}: give it there, `methods: {{{owners[0]}: "
                f"{{{name}: {cut(given[name])}}}}}`."
            )
    _check_options(given, TransferTrainingArguments, "training", "finetune")
    options = _check_types(given, TransferTrainingArguments, "training")
    if options.get("max_steps", 0) < 1:
        raise ConfigError(
            f"`training.max_steps` must be at least 1, got {shown(given.get('max_steps'))}: the steps of a method with one batch of "
            "each task, which are the budget of all."
        )
    return options


def read_methods(given: Any, has_source: bool) -> list[MethodConfig]:
    """
    The methods, from a list of names or a mapping of names, or labels, to options.

    Raises:
        ConfigError: one is unknown, has an option that it does not have, or needs a source and there is none.
    """
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
                f"`methods` has a name twice: {list(given)}. Give the second a label: `{given[0]}_2: {{method: {given[0]}}}`."
            )
        given = dict.fromkeys(given)
    return [_read_method(label, options, has_source) for label, options in given.items()]


def _read_method(label: Any, given: Any, has_source: bool) -> MethodConfig:
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
    _check_not_fixed(options, key, "max_steps")
    _check_options(options, args_class, key, name, ("method", "search", "use_source"))
    options = _check_types(options, args_class, key)
    return MethodConfig(
        label,
        name,
        options,
        None if search is None else _check_search(search, options, args_class, f"{key}.search", name),
        _check_use_source(use_source, trainer_class, has_source, key),
    )


def _check_search(given: Any, options: dict, args_class: type, key: str, method: str) -> dict[str, list]:
    space = check_mapping(given, key)
    _check_not_fixed(space, key, "max_steps")
    _check_options(space, args_class, key, method)
    for name, values in space.items():
        if not isinstance(values, list | tuple) or not values:
            raise ConfigError(f"`{key}.{name}` must be a list of values to try, got {shown(values)}.")
        if name in options:
            raise ConfigError(f"`{key}.{name}` is fixed to {shown(options[name])} as well: leave one of the two out.")
        space[name] = [_check_types({name: value}, args_class, key)[name] for value in values]
    return space


def _check_use_source(given: Any, trainer_class: type, has_source: bool, key: str) -> bool:
    takes, needs = trainer_class.takes_source, trainer_class.depends_on_source()
    if given is not None and not isinstance(given, bool):
        raise ConfigError(f"`{key}.use_source` must be true or false, got {shown(given)}.")
    if needs and (given is False or not has_source):
        remedy = "leave `use_source` out" if has_source else "give `source`"
        raise ConfigError(f"`{key}` trains on a source: {remedy}, or leave the method out.")
    if given and not (takes and has_source):
        reason = "there is no `source`" if takes else "the method trains on the target alone"
        raise ConfigError(f"`{key}.use_source` cannot be true: {reason}.")
    return takes and has_source and given is not False


def _check_not_fixed(given: Mapping, key: str, *more: str) -> None:
    for name in given:
        if name in FIXED or name in more:
            raise ConfigError(f"`{key}.{name}` cannot be given: {FIXED.get(name, STEPS)}.")


def _check_options(given: Mapping, args_class: type, key: str, method: str, more: tuple[str, ...] = ()) -> None:
    """
    Check that every name is one of `args_class` or of `more`.

    Raises:
        ConfigError: one is not; the message suggests the nearest, and lists the options that transformers does not have.
    """
    known = _field_names(args_class) - set(FIXED)
    for name in given:
        if name not in known and name not in more:
            own = sorted(known - _field_names(TrainingArguments))
            close = did_you_mean(name, sorted({*more, *known}), most=3)
            raise ConfigError(
                f"`{key}.{cut(name)}` is unknown.{close} Known here: {', '.join([*more, *own])}, and the training arguments of "
                f"transformers; `merlin-hf train --method {method} --help_all` lists all."
            )


def _check_types(given: Mapping, args_class: type, key: str) -> dict[str, Any]:
    return {name: check_value(value, rules(args_class)[name], f"{key}.{name}") for name, value in given.items()}


def _field_names(args_class: type) -> set[str]:
    return {option.name for option in dataclasses.fields(args_class) if option.init}
