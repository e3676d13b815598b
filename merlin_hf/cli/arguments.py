"""The arguments of `merlin-hf train`: which task and method they are about, and the parser of their flags."""

from dataclasses import dataclass
from typing import Any

from ..methods import get_method
from ..scripts.arguments import ArgumentParser, named_method, names_of, scan, split_file
from ..utils.validation import ConfigError, did_you_mean, shown
from .programs import TASKS, argument_classes, detect_task


WHAT_TO_DO = ("do_train", "do_eval", "do_predict")


@dataclass
class Request:
    """
    The task, the method and the flags that a user gave.

    Args:
        task (`str`): `"text"` or `"image"`.
        method (`str`): a name in `merlin_hf.METHODS`.
        parser ([`ArgumentParser`]): of the flags, with the values of the file as defaults.
        argv (`list[str]`): the flags.
    """

    task: str
    method: str
    parser: ArgumentParser
    argv: list[str]

    def arguments(self) -> tuple[Any, ...]:
        """
        Return the arguments of the model, the data and the training; making the last prepares the device.

        Raises:
            ValueError: values do not fit together.
        """
        return self.parser.parse(self.argv)


def read_request(argv: list[str], config: str | None = None, task: str | None = None) -> Request:
    """
    Read flags, and a file of defaults that they override.

    Args:
        argv (`list[str]`): flags; the first may be a YAML or JSON file instead.
        config (`str`, *optional*): such a file.
        task (`str`, *optional*): `"text"` or `"image"`; found from the data if not given.

    Raises:
        ConfigError: a name is unknown or a value has a wrong type; the message names it and says what would work.
        FileNotFoundError: there is no such file or data set.
    """
    in_file, argv = split_file(argv, config)
    in_file_task = in_file.pop("task", None)
    given = {**in_file, **scan(argv)}
    task = task or in_file_task or detect_task(given)
    if task not in TASKS:
        raise ConfigError(f"`task` must be one of {', '.join(TASKS)}, got {shown(task)}.{did_you_mean(task, TASKS)}")
    method = named_method(given)
    if not any(name in given for name in WHAT_TO_DO):
        in_file["do_train"] = True
    elsewhere = {
        name: f"is about {other}s, and the data are {task}s; `--task {other}` says otherwise."
        for other in TASKS
        for name in (names_of(argument_classes(other)) if other != task else ())
    }
    classes = (*argument_classes(task), get_method(method).training_args_class)
    parser = ArgumentParser(classes, in_file, method, elsewhere)
    parser.check(argv)
    return Request(task, method, parser, argv)
