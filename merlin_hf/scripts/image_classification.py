r"""
Train an image classifier on a small target task with the help of a large source task.

Target and source are data sets of the Hub or local folders with a folder of images for each class, each with its own
labels and column names. One json or yaml file may hold all arguments. Where there is no network, `MERLIN_DATA_ROOT` names
a folder of data sets (see `merlin_hf.data`). The output is a plain `AutoModelForImageClassification`.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    default_data_collator,
    set_seed,
)

from ..data.images import EncodeImages, mode_of
from ..utils import loading
from .arguments import parse_args
from .image_tasks import DataTrainingArguments, MediaArguments, MediaTask, load_task, prepare
from .model_arguments import BaseModelArguments
from .text_classification import (
    KINDS,
    Program,
    choose_method,
    load_config,
    load_model,
    run,
    setup_logging,
)
from .text_tasks import make_compute_metrics


logger = logging.getLogger("merlin_hf.scripts")


@dataclass
class ModelArguments(BaseModelArguments):
    """[`BaseModelArguments`] for images."""

    image_processor_name: str | None = field(default=None, metadata={"help": "Image processor, if not the model's."})


# Loading


def load_data(
    target: MediaTask,
    source: MediaTask | None,
    data_args: MediaArguments,
    args,
    encode: Callable[[list], dict[str, Any]],
    encode_train: Callable[[list], dict[str, Any]],
) -> dict[str, Any]:
    """The splits that the arguments ask for, encoded when read; `None` for the others."""
    data = dict.fromkeys(("train", "source", "validation", "test"))
    if args.do_train:
        data["train"] = prepare(target, "train", data_args.max_train_samples, encode_train, args.seed)
    if source is not None:
        data["source"] = prepare(source, "train", data_args.max_source_samples, encode_train, args.seed)
        args.num_source_labels = args.num_source_labels or source.labels.num_labels
    if args.do_eval:
        data["validation"] = prepare(target, "validation", data_args.max_eval_samples, encode, args.seed)
    if args.do_predict:
        data["test"] = prepare(target, "test", data_args.max_predict_samples, encode)
    return data


# Running


def make_program(
    trainer_class: type[Trainer],
    model,
    processor,
    data_collator,
    args,
    data: dict[str, Any],
    target: MediaTask,
    source: MediaTask | None,
    publish: Callable[[Trainer], None],
) -> Program:
    """The trainer of the method that was chosen, and what is evaluated and predicted."""
    trainer = trainer_class(
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=data_collator,
        processing_class=processor,
        compute_metrics=make_compute_metrics(None, target.labels),
        **({} if source is None else {"source_dataset": data["source"]}),
    )
    return Program(
        trainer,
        target.labels,
        None if source is None else source.labels,
        {} if data["validation"] is None else {"": data["validation"]},
        {} if data["test"] is None else {"": data["test"]},
        publish=lambda: publish(trainer),
    )


def publish(
    trainer: Trainer, model_args: BaseModelArguments, data_args: MediaArguments, task: str = "image-classification"
) -> None:
    """Push the model with its card, or write the card."""
    kwargs = {"tasks": task}
    if not os.path.isdir(model_args.model_name_or_path):
        kwargs["finetuned_from"] = model_args.model_name_or_path
    if data_args.dataset_name is not None and not os.path.isdir(data_args.dataset_name):
        kwargs["dataset"] = kwargs["dataset_tags"] = data_args.dataset_name
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**kwargs)
    else:
        trainer.create_model_card(**kwargs)


def build(model_args: ModelArguments, data_args: DataTrainingArguments, args) -> Program:
    """
    Load what the arguments name, and make the trainer; nothing is trained.

    Raises:
        ValueError, FileNotFoundError: the arguments, the data and the model do not fit together.
    """
    args.remove_unused_columns = False  # rows are encoded when read, from columns that the model does not take
    trainer_class = choose_method(model_args, data_args, args.do_train)
    with args.main_process_first(desc="loading data"):
        hub: dict[str, Any] = {"cache_dir": model_args.cache_dir, "token": model_args.token}
        kinds = [kind for kind, asked in KINDS.items() if getattr(args, asked)]
        target = load_task(data_args, kinds=kinds, **hub)
        wants_source = args.do_train and data_args.has_source and trainer_class.takes_source
        source = load_task(data_args, "source_", kinds=["train"], **hub) if wants_source else None
        config = load_config(model_args, target.labels, args.do_train, data_args.labels_by_number)
        # The PIL backend needs no torchvision, and gives the same pixels with and without it.
        path = model_args.image_processor_name or model_args.model_name_or_path
        processor = loading.load_processor(AutoImageProcessor, path, backend="pil", **model_args.hub_options)
        mode = mode_of(config)
        augmented = EncodeImages(processor, mode, data_args.random_resized_crop, data_args.horizontal_flip)
        data = load_data(target, source, data_args, args, EncodeImages(processor, mode), augmented)
    model = load_model(model_args, config, AutoModelForImageClassification)
    return make_program(
        trainer_class,
        model,
        processor,
        default_data_collator,
        args,
        data,
        target,
        source,
        publish=lambda trainer: publish(trainer, model_args, data_args),
    )


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict as the arguments say."""
    model_args, data_args, args = parse_args(argv, ModelArguments, DataTrainingArguments)
    setup_logging(args)
    set_seed(args.seed)
    run(build(model_args, data_args, args))


if __name__ == "__main__":
    main()
