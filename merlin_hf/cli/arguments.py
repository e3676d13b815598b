"""Find out which task and method the arguments of `merlin-hf train` are about, and read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data import load_dataset
from ..data.images import is_image
from ..data.tasks import IMAGE, TEXT
from ..methods import get_method
from ..scripts import image_classification, text_classification
from ..scripts.arguments import ArgumentParser, field_names, flags_by_name, named_method, split_file
from ..scripts.program import Program
from ..utils.validation import ConfigError, did_you_mean, shown


PROGRAMS: dict[str, Any] = {TEXT: text_classification, IMAGE: image_classification}
WHAT_TO_DO = ("do_train", "do_eval", "do_predict")


@dataclass
class Request:
    """The task, the method and the flags that a user gave; the parser has the values of the file as defaults."""

    task: str
    method: str
    parser: ArgumentParser
    argv: list[str]

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments of the model, the data and the training; making the last prepares the device."""
        return self.parser.parse(self.argv)

    def build(self, model_args: Any, data_args: Any, args: Any) -> Program:
        """Load the data and the model and make the trainer; nothing is trained."""
        return PROGRAMS[self.task].build(model_args, data_args, args)


def read_request(argv: list[str], config: str | None = None, task: str | None = None) -> Request:
    """
    Read flags, and a file of defaults that they override, which may be the first of `argv` or `config`.

    Raises:
        ConfigError: a name is unknown or a value has a wrong type; the message names it and says what would work.
        FileNotFoundError: there is no such file or data set.
    """
    in_file, argv = split_file(argv, config)
    in_file_task = in_file.pop("task", None)
    given = {**in_file, **flags_by_name(argv)}
    task = task or in_file_task or detect_task(given)
    if task not in list(PROGRAMS):  # in a file it may be anything
        raise ConfigError(
            f"`task` must be one of {', '.join(PROGRAMS)}, got {shown(task)}.{did_you_mean(task, PROGRAMS)}"
        )
    method = named_method(given)
    if not any(name in given for name in WHAT_TO_DO):
        in_file["do_train"] = True
    elsewhere = {
        name: f"is about {other}s, and the data are {task}s; `--task {other}` says otherwise."
        for other in PROGRAMS
        for name in (field_names(argument_classes(other)) if other != task else ())
    }
    classes = (*argument_classes(task), get_method(method).training_args_class)
    parser = ArgumentParser(classes, in_file, method, elsewhere)
    parser.check(argv)
    return Request(task, method, parser, argv)


def argument_classes(task: str) -> tuple[type, type]:
    """Return the dataclasses of the model's and the data's arguments."""
    return PROGRAMS[task].ARGUMENTS


def detect_task(given: Mapping[str, Any]) -> str:
    """
    Return whether the data are texts or images.

    Arguments that only one of them has tell it, else the columns of `dataset_name`, else they are texts.
    """
    names = {task: set(field_names(argument_classes(task))) for task in PROGRAMS}
    only = {task: set(given) & (names[task] - names[other]) for task, other in ((TEXT, IMAGE), (IMAGE, TEXT))}
    if bool(only[TEXT]) != bool(only[IMAGE]):
        return TEXT if only[TEXT] else IMAGE
    path = given.get("dataset_name")
    if not isinstance(path, str):
        return TEXT
    hub = {name: given[name] for name in ("cache_dir", "token") if isinstance(given.get(name), str)}
    try:
        loaded = load_dataset(path, given.get("dataset_config_name"), argument="dataset_name", **hub)
    except ValueError as error:
        raise ConfigError(f"`dataset_name={path!r}` cannot be read: {error}") from error
    split = next(iter(loaded.values()))
    return IMAGE if any(is_image(feature) for feature in split.features.values()) else TEXT
