"""The programs of `merlin_hf.scripts` by what they classify: their arguments, and how each is built."""

from collections.abc import Mapping
from typing import Any

from ..data import load_dataset
from ..data.images import is_image
from ..data.tasks import IMAGE, TEXT
from ..scripts import image_classification, text_classification
from ..scripts.arguments import names_of
from ..scripts.data_arguments import ImageDataArguments, TextDataArguments
from ..scripts.program import Program
from ..utils.validation import ConfigError


TASKS = (TEXT, IMAGE)
ARGUMENTS = {
    TEXT: (text_classification.ModelArguments, TextDataArguments),
    IMAGE: (image_classification.ModelArguments, ImageDataArguments),
}


def argument_classes(task: str) -> tuple[type, type]:
    """Return the dataclasses of the model's and the data's arguments."""
    return ARGUMENTS[task]


def detect_task(given: Mapping[str, Any]) -> str:
    """
    Return whether the data are texts or images: by arguments that only one of them has, else by the columns of `dataset_name`.

    Args:
        given (`Mapping[str, Any]`): arguments by name.

    Raises:
        FileNotFoundError: there is no such data set.
        ConfigError: the data set cannot be read.
    """
    names = {task: set(names_of(classes)) for task, classes in ARGUMENTS.items()}
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


def build(task: str, model_args: Any, data_args: Any, args: Any) -> Program:
    """
    Load the data and the model and make the trainer; nothing is trained.

    Raises:
        ValueError, FileNotFoundError: the arguments, the data and the model do not fit together.
    """
    if task == TEXT:
        return text_classification.build(model_args, data_args, args)
    return image_classification.build(model_args, data_args, args)
