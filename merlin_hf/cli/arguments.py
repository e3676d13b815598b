"""The arguments of `merlin-hf train`: flags and a file, checked against the dataclasses that they fill."""

import dataclasses
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from ..methods import METHODS, get_method
from ..utils.config_file import read_mapping
from ..utils.validation import ConfigError, check_value, cut, did_you_mean, rules
from .programs import ALIASES, TASKS, argument_classes, detect_task


FILE_ENDINGS = (".yaml", ".yml", ".json")
# Values that may be paths, which in a file may stand relative to the file.
PATHS = {"model_name_or_path", "dataset_name", "source_dataset_name", "config_name", "tokenizer_name"}
PATH_ENDINGS = ("_file", "_dir")
OUTPUTS = {"output_dir", "logging_dir", "cache_dir"}  # of the folder that the command is run in
ORIGINS = ("task_name", "dataset_name", "train_file", "train_dir")
WHAT_TO_DO = ("do_train", "do_eval", "do_predict")


@dataclass
class Request:
    """
    What a user asked for.

    Args:
        task (`str`): `"text"` or `"image"`.
        method (`str`): a name in `merlin_hf.METHODS`.
        values (`dict[str, Any]`): the arguments that are given, by flags or by the file, with their types.
    """

    task: str
    method: str
    values: dict[str, Any]

    @property
    def classes(self) -> tuple[type, type, type]:
        """The dataclasses of the model's, the data's and the training's arguments."""
        return (*argument_classes(self.task), options_class(self.method))

    def arguments(self) -> tuple[Any, Any, Any]:
        """
        Instances of these classes.

        Raises:
            ConfigError: one that must be given is missing.
            ValueError: values do not fit together.
        """
        values = dict(self.values)
        if "model_name_or_path" not in values:
            raise ConfigError("`model_name_or_path` is missing: give `--model_name_or_path`.")
        if not any(name in values for name in WHAT_TO_DO):
            values["do_train"] = True
        return tuple(
            cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})
            for cls in self.classes
        )


class FlagParser(HfArgumentParser):
    """Flags of dataclasses; only those that are given come back, and what is wrong with one is an error to catch."""

    def __init__(self, classes: tuple[type, ...], aliases: Mapping[str, str]):
        super().__init__(classes, add_help=False, allow_abbrev=False)
        for name, alias in aliases.items():
            self.add_argument(f"--{name}", dest=alias)
        for action in self._actions:
            action.default, action.required = None, False

    def error(self, message: str) -> typing.NoReturn:
        """Raise a ConfigError instead of printing two hundred flags."""
        raise ConfigError(message[:1].upper() + message[1:])

    def given(self, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The flags that are given with their values, and what is none."""
        found, rest = self.parse_known_args(argv)
        # Not argparse.SUPPRESS, which the pair of a flag and its --no_ form does not survive in all versions.
        return {name: value for name, value in vars(found).items() if value is not None}, rest


def options_class(method: str) -> type:
    """
    The training arguments of a method.

    Raises:
        ValueError: there is no method of that name.
    """
    return get_method(method).training_args_class


def default_method(given: Mapping[str, Any]) -> str:
    """MeRLin where arguments name a source, else fine-tuning."""
    has_source = any(name.startswith("source_") and name.endswith(ORIGINS) for name in given)
    return "merlin" if has_source else "finetune"


def read_request(argv: list[str], config: str | None = None, task: str | None = None) -> Request:
    """
    Read flags, and a file whose values they replace.

    Args:
        argv (`list[str]`): flags; the first may be a yaml or json file instead.
        config (`str`, *optional*): such a file.
        task (`str`, *optional*): `"text"` or `"image"`; found from the data if not given.

    Raises:
        ConfigError: a name is unknown or a value has a wrong type; the message names it and says what would work.
        FileNotFoundError: there is no such file or data set.
    """
    if argv and not argv[0].startswith("-") and argv[0].endswith(FILE_ENDINGS):
        if config is not None:
            raise ConfigError(f"Give one file, got `--config {config}` and {argv[0]!r}.")
        config, argv = argv[0], argv[1:]
    in_file = {} if config is None else read_file(config)
    every = {**in_file, **_scan(argv)}
    task = task or in_file.pop("task", None)
    in_file.pop("task", None)
    if task is None:
        task = detect_task(every)
    if task not in TASKS:
        raise ConfigError(f"`task` must be one of {', '.join(TASKS)}, got {task!r}.{did_you_mean(task, TASKS)}")
    method = every.get("method") or default_method(every)
    try:
        classes = (*argument_classes(task), options_class(method))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    aliases = ALIASES[task]
    values = check_values(in_file, classes, aliases, task, method, config)
    flags, rest = FlagParser(classes, aliases).given(argv)
    if rest and not rest[0].startswith("-"):
        raise ConfigError(f"{rest[0]!r} is no flag, and no value of the flag before it.")
    if rest:
        raise ConfigError(_unknown(rest[0], classes, aliases, task, method))
    return Request(task, method, {**values, **flags})


def read_file(path: str) -> dict[str, Any]:
    """
    The mapping in a yaml or json file; paths in it that are not found are looked for beside the file as well.

    Raises:
        ConfigError: it is neither.
        FileNotFoundError: there is no such file.
    """
    file = Path(path)
    given = {name: value for name, value in read_mapping(file, "--config").items() if value is not None}
    for name, value in given.items():
        is_path = isinstance(value, str) and (name in PATHS or name.endswith(PATH_ENDINGS)) and name not in OUTPUTS
        if is_path and not os.path.exists(value) and os.path.exists(file.parent / value):
            given[name] = str(file.parent / value)
    return given


def check_values(
    given: Mapping[str, Any],
    classes: tuple[type, ...],
    aliases: Mapping[str, str],
    task: str,
    method: str,
    path: str | None,
) -> dict[str, Any]:
    """
    The values of a file with their types.

    Raises:
        ConfigError: a name is unknown, or a value has another type than the field of that name.
    """
    known = {name: one for cls in classes for name, one in rules(cls).items()}
    values = {}
    for key, value in given.items():
        name = aliases.get(key, key)
        if name not in known:
            raise ConfigError(f"{_unknown(key, classes, aliases, task, method)} It stands in {path!r}.")
        values[name] = check_value(value, known[name], key)
    return values


def _scan(argv: list[str]) -> dict[str, Any]:
    """The flags by name, each with the first word after it: enough to tell the method and the task by."""
    found = {}
    for place, word in enumerate(argv):
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            following = argv[place + 1] if place + 1 < len(argv) else None
            found[name.replace("-", "_")] = value if sign else following
    return found


def _unknown(given: str, classes: tuple[type, ...], aliases: Mapping[str, str], task: str, method: str | None) -> str:
    """What to say of an argument that there is not: whose it is, or which name is near."""
    shown = f"`{cut(given.split('=')[0])}`"
    name = shown.strip("`-").replace("-", "_")
    known = [field.name for cls in classes for field in dataclasses.fields(cls) if field.init] + list(aliases)
    owners = [label for label, cls in METHODS.items() if name in _names(cls.training_args_class)]
    if owners:
        return f"{shown} is an option of {', '.join(owners)}; the method is {method}."
    others = [
        other for other in TASKS if other != task and name in {*_names(*argument_classes(other)), *ALIASES[other]}
    ]
    if others:
        return f"{shown} is about {others[0]}s, and the data are {task}s; `--task {others[0]}` says otherwise."
    hint = did_you_mean(name, known)
    return f"{shown} is unknown.{hint} `merlin-hf train --help_all` lists what there is."


def _names(*classes: type) -> set[str]:
    return {field.name for cls in classes for field in dataclasses.fields(cls) if field.init}
