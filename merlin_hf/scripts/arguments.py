"""
Read arguments from flags and a YAML or JSON file: the file gives the parser's defaults, and flags override them.

The pattern is that of trl's `TrlParser`. Values of a file are checked against the dataclasses as flags are.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from ..methods import METHODS, get_method
from ..utils.config_file import read_mapping
from ..utils.validation import ConfigError, Text, check_options, check_value, cut, did_you_mean, rules


FILE_ENDINGS = (".yaml", ".yml", ".json")
# Values that may be paths, which in a file may stand relative to the file.
PATHS = {"model_name_or_path", "dataset_name", "source_dataset_name", "config_name", "tokenizer_name"}
PATH_ENDINGS = ("_file", "_dir")
OUTPUTS = {"output_dir", "logging_dir", "cache_dir"}  # of the folder that the command is run in
ORIGINS = ("task_name", "dataset_name", "train_file", "train_dir")


@dataclass
class BaseModelArguments:
    """Arguments of the model and the method that all programs share."""

    model_name_or_path: Text = field(metadata={"help": "Path of a pretrained model, or its name on the Hub."})
    method: str | None = field(
        default=None,
        metadata={"help": f"{', '.join(METHODS)}. Default: merlin with a source, else finetune."},
    )
    config_name: str | None = field(default=None, metadata={"help": "Configuration, if not the model's."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where to keep what is downloaded from the Hub."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    token: str | None = field(default=None, metadata={"help": "Token for files of the Hub that are not public."})
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run code from the model's repository. Only for those whose code you have read."},
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Accept a pretrained model whose last layer has another number of labels."}
    )

    def __post_init__(self):
        check_options(self)

    @property
    def hub_options(self) -> dict[str, Any]:
        """Return the options that every `from_pretrained` takes."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


class ArgumentParser(HfArgumentParser):
    """
    A parser of the flags of dataclasses, with defaults from a file, whose errors can be caught.

    `method` is the one whose options are the last class. `elsewhere` has what to say of names that these classes do
    not have. A ConfigError if `defaults` has an unknown name, or a value that cannot be used.
    """

    def __init__(
        self,
        classes: Sequence[type],
        defaults: Mapping[str, Any],
        method: str,
        elsewhere: Mapping[str, str] | None = None,
    ):
        super().__init__(classes, add_help=False, allow_abbrev=False)
        self.method, self.elsewhere, self.names = method, dict(elsewhere or {}), field_names(classes)
        known = {name: rule for cls in classes for name, rule in rules(cls).items()}
        for key in defaults:
            if key not in self.names:
                raise ConfigError(self._unknown(f"`{cut(key)}`", key))
        given = {self.names[key]: check_value(value, known[self.names[key]], key) for key, value in defaults.items()}
        self.set_defaults(**given)
        for action in self._actions:  # argparse has no public way to change this, and trl has none either
            action.required = action.required and action.dest not in given

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError in place of printing two hundred flags."""
        raise ConfigError(cut(message[:1].upper() + message[1:]))

    def check(self, argv: Sequence[str]) -> None:
        """Raise a ConfigError if a flag is unknown, missing or of another type; make nothing of them yet."""
        required = [action for action in self._actions if action.required]
        for action in required:
            action.required = False
        found, rest = self.parse_known_args(argv)
        if rest and not rest[0].startswith("-"):
            raise ConfigError(f"{cut(rest[0])!r} is not a flag, and the flag before it takes no such value.")
        if rest:
            name = rest[0].split("=")[0]
            raise ConfigError(self._unknown(f"`{cut(name)}`", name.strip("-").replace("-", "_")))
        for action in required:
            if getattr(found, action.dest) is None:
                raise ConfigError(f"`{action.dest}` is missing: give `--{action.dest}`.")

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Return an instance of each class; a ConfigError also where values do not fit together."""
        self.check(argv)
        return tuple(self.parse_args_into_dataclasses(list(argv), look_for_args_file=False))

    def _unknown(self, shown: str, name: str) -> str:
        owners = [method for method, cls in METHODS.items() if name in field_names([cls.training_args_class])]
        if owners:
            return f"{shown} is an option of {', '.join(owners)}; the method is {self.method}."
        if name in self.elsewhere:
            return f"{shown} {self.elsewhere[name]}"
        return f"{shown} is unknown.{did_you_mean(name, self.names)} `merlin-hf train --help_all` lists what there is."


def field_names(classes: Sequence[type]) -> dict[str, str]:
    """Return the names of the fields of dataclasses, and their aliases, with the field that each stands for."""
    fields = [field for cls in classes for field in dataclasses.fields(cls) if field.init]
    aliases = {alias.strip("-"): field.name for field in fields for alias in field.metadata.get("aliases", ())}
    return {**{field.name: field.name for field in fields}, **aliases}


def read_file(path: str) -> dict[str, Any]:
    """Return the values in a YAML or JSON file; paths that are not found are looked for beside the file as well."""
    given = {name: value for name, value in read_mapping(path, "--config").items() if value is not None}
    _find_paths(given, Path(path).parent)
    sections = given.get("sources")
    for section in sections.values() if isinstance(sections, dict) else sections if isinstance(sections, list) else ():
        if isinstance(section, dict):
            _find_paths(section, Path(path).parent)
    return given


def _find_paths(given: dict[str, Any], folder: Path) -> None:
    """Replace paths that are not found, but are in the folder."""
    for name, value in given.items():
        is_path = isinstance(value, str) and (name in PATHS or name.endswith(PATH_ENDINGS)) and name not in OUTPUTS
        beside = folder / value if is_path else None
        if beside is not None and not os.path.exists(value) and os.path.exists(beside):
            given[name] = str(beside)


def split_file(argv: Sequence[str], config: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the file that the first argument or `config` names, and the other arguments."""
    if argv and not argv[0].startswith("-") and argv[0].endswith(FILE_ENDINGS):
        if config is not None:
            raise ConfigError(f"Give one file, got `--config {config}` and {argv[0]!r}.")
        config, argv = argv[0], argv[1:]
    return {} if config is None else read_file(config), list(argv)


def flags_by_name(argv: Sequence[str]) -> dict[str, Any]:
    """Return the flags by name, each with the first word after it: enough to tell the method and the task by."""
    found = {}
    for place, word in enumerate(argv):
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            following = argv[place + 1] if place + 1 < len(argv) else None
            found[name.replace("-", "_")] = value if sign else following
    return found


def named_method(given: Mapping[str, Any]) -> str:
    """Return the method that arguments name: MeRLin where they name a source and no method, else fine-tuning."""
    has_source = any(name == "sources" or (name.startswith("source_") and name.endswith(ORIGINS)) for name in given)
    method = given.get("method") or ("merlin" if has_source else "finetune")
    get_method(method)
    return method


def parse_args(argv: Sequence[str] | None, model_class: type, data_class: type) -> tuple[Any, Any, Any]:
    """
    Return the arguments of the model, the data and the training; those of the training are of the method's class.

    `argv` are flags, after a YAML or JSON file of defaults if any; those of the process if not given. A ConfigError if
    a name is unknown or a value cannot be used.
    """
    in_file, argv = split_file(sys.argv[1:] if argv is None else argv)
    method = named_method({**in_file, **flags_by_name(argv)})
    classes = (model_class, data_class, get_method(method).training_args_class)
    model_args, data_args, args = ArgumentParser(classes, in_file, method).parse(argv)
    return model_args, data_args, args
