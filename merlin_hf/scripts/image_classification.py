r"""
Train an image classifier on a small target task with the help of a large source task.

Target and source are data sets of the Hub or local folders with a folder of images for each class, each with its own
labels and column names. One json or yaml file may hold all arguments. Where there is no network, `MERLIN_DATA_ROOT`
names a folder of data sets (see `merlin_hf.data`). The output is a plain `AutoModelForImageClassification`.
"""

from dataclasses import dataclass, field

import datasets
from transformers import AutoModelForImageClassification, default_data_collator, set_seed

from ..data.encoding import encode_media
from ..data.images import EncodeImages, mode_of
from ..data.models import load_image_processor
from ..data.tasks import TRAIN, Task
from ..training_args import TransferTrainingArguments
from .arguments import parse_args
from .data_arguments import ImageDataArguments
from .model_arguments import BaseModelArguments
from .program import (
    Program,
    choose_method,
    encode_tasks,
    load_config,
    load_model,
    load_tasks,
    make_program,
    run,
    setup_logging,
)


@dataclass
class ModelArguments(BaseModelArguments):
    """[`BaseModelArguments`] for images."""

    image_processor_name: str | None = field(default=None, metadata={"help": "Image processor, if not the model's."})


def build(model_args: ModelArguments, data_args: ImageDataArguments, args: TransferTrainingArguments) -> Program:
    """
    Load what the arguments name, and make the trainer; nothing is trained.

    Raises:
        ValueError, FileNotFoundError: the arguments, the data and the model do not fit together.
    """
    args.remove_unused_columns = False  # rows are encoded when read, from columns that the model does not take
    trainer_class = choose_method(model_args, data_args, args.do_train)
    with args.main_process_first(desc="loading data"):
        target, source = load_tasks(model_args, data_args, args, trainer_class)
        config = load_config(model_args, target.labels, args.do_train, data_args.labels_by_number)
        path = model_args.image_processor_name or model_args.model_name_or_path
        processor = load_image_processor(path, **model_args.hub_options)
        plain = EncodeImages(processor, mode_of(config))
        augmented = EncodeImages(processor, plain.mode, data_args.random_resized_crop, data_args.horizontal_flip)

        def encode(task: Task, split: str, limit: int | None) -> datasets.Dataset:
            return encode_media(task, split, augmented if split == TRAIN else plain, limit, args.seed)

        data = encode_tasks(target, source, data_args, args, encode)
    model = load_model(model_args, config, AutoModelForImageClassification)
    rest = (args, data, target, source, model_args, data_args, "image-classification", default_data_collator)
    return make_program(trainer_class, model, processor, *rest)


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict as the arguments say."""
    model_args, data_args, args = parse_args(argv, ModelArguments, ImageDataArguments)
    setup_logging(args)
    set_seed(args.seed)
    run(build(model_args, data_args, args))


if __name__ == "__main__":
    main()
