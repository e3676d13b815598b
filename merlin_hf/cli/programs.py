"""The programs of `merlin_hf.scripts` by what they classify: their arguments, and how each is built."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import datasets

from ..comparison.values import ConfigError
from ..data import load_dataset
from ..scripts import image_classification, image_tasks, text_classification, text_tasks
from ..scripts.text_classification import Program


TEXT, IMAGE = "text", "image"
TASKS = (TEXT, IMAGE)
# Names of the command for what a program calls otherwise, so that one name does for all tasks.
ALIASES: dict[str, dict[str, str]] = {
    TEXT: {},
    IMAGE: {
        "label_column": "label_column_name",
        "source_label_column": "source_label_column_name",
        "image_column": "image_column_name",
        "source_image_column": "source_image_column_name",
    },
}
ARGUMENTS = {
    TEXT: (text_classification.ModelArguments, text_tasks.DataTrainingArguments),
    IMAGE: (image_classification.ModelArguments, image_tasks.DataTrainingArguments),
}


def argument_classes(task: str) -> tuple[type, type]:
    """The dataclasses of the model's and the data's arguments."""
    return ARGUMENTS[task]


def detect_task(given: Mapping[str, Any]) -> str:
    """
    Whether the data are texts or images: by arguments that only one of them has, else by the columns of `dataset_name`.

    Args:
        given (`Mapping[str, Any]`): arguments by name.

    Raises:
        FileNotFoundError: there is no such data set.
        ConfigError: the data set cannot be read.
    """
    names = {
        task: {field.name for cls in classes for field in dataclasses.fields(cls)} | set(ALIASES[task])
        for task, classes in ARGUMENTS.items()
    }
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
    return IMAGE if any(isinstance(feature, datasets.Image) for feature in split.features.values()) else TEXT


def build(task: str, model_args: Any, data_args: Any, args: Any) -> Program:
    """
    Load the data and the model and make the trainer; nothing is trained.

    Raises:
        ValueError, FileNotFoundError: the arguments, the data and the model do not fit together.
    """
    build_task = {TEXT: text_classification.build, IMAGE: _build_for_images}[task]
    return build_task(model_args, data_args, args)


def _build_for_images(model_args: Any, data_args: Any, args: Any) -> Program:
    """As `main` of the program for images does."""
    from transformers import AutoImageProcessor, default_data_collator

    args.remove_unused_columns = False  # rows are encoded when read, from columns that the model does not take
    trainer_class = text_classification.choose_method(model_args, data_args, args.do_train)
    with args.main_process_first(desc="loading data"):
        hub = {"cache_dir": model_args.cache_dir, "token": model_args.token}
        target = image_tasks.load_task(data_args, **hub)
        wants_source = args.do_train and data_args.has_source and trainer_class.takes_source
        source = image_tasks.load_task(data_args, "source_", **hub) if wants_source else None
        model = image_classification.load_model(model_args, target.labels)
        processor = AutoImageProcessor.from_pretrained(
            model_args.image_processor_name or model_args.model_name_or_path, backend="pil", **model_args.hub_options
        )
        plain = image_tasks.EncodeImages(processor)
        augmented = image_tasks.EncodeImages(processor, data_args.random_resized_crop, data_args.horizontal_flip)
        data = image_classification.load_data(target, source, data_args, args, plain, augmented)
    trainer = trainer_class(
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=default_data_collator,
        processing_class=processor,
        compute_metrics=text_tasks.make_compute_metrics(None, target.labels),
        **({} if source is None else {"source_dataset": data["source"]}),
    )
    return Program(
        trainer,
        target.labels,
        source and source.labels,
        {} if data["validation"] is None else {"": data["validation"]},
        {} if data["test"] is None else {"": data["test"]},
        publish=lambda: image_classification.publish(trainer, model_args, data_args),
    )
