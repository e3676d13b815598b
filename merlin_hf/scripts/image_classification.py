r"""
Train an image classifier on a small target task with the help of a large source task.

Target and source are data sets of the Hub or local folders with a folder of images for each class, each with its own
labels and column names. One json or yaml file may hold all arguments. Where there is no network, `MERLIN_DATA_ROOT`
names a folder of data sets (see `merlin_hf.data`). The output is a plain `AutoModelForImageClassification`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
from transformers import AutoModelForImageClassification, PretrainedConfig, default_data_collator

from ..data.encoding import encode_media
from ..data.images import EncodeImages, mode_of
from ..data.models import load_image_processor
from ..data.tasks import TRAIN, Task
from ..training_args import TransferTrainingArguments
from .arguments import BaseModelArguments
from .data_arguments import ImageDataArguments
from .program import Encode, Program, build_program, run_as_main


@dataclass
class ModelArguments(BaseModelArguments):
    """[`BaseModelArguments`] for images."""

    image_processor_name: str | None = field(default=None, metadata={"help": "Image processor, if not the model's."})


ARGUMENTS = (ModelArguments, ImageDataArguments)


def build(model_args: ModelArguments, data_args: ImageDataArguments, args: TransferTrainingArguments) -> Program:
    """Load what the arguments name, and make the trainer; see [`~merlin_hf.scripts.program.build_program`]."""
    args.remove_unused_columns = False  # rows are encoded when read, from columns that the model does not take

    def prepare(config: PretrainedConfig, target: Task, sources: Sequence[Task]) -> tuple[Any, Encode, Any]:
        path = model_args.image_processor_name or model_args.model_name_or_path
        processor = load_image_processor(path, **model_args.hub_options)
        plain = EncodeImages(processor, mode_of(config))
        augmented = EncodeImages(processor, plain.mode, data_args.random_resized_crop, data_args.horizontal_flip)

        def encode(task: Task, split: str, limit: int | None) -> datasets.Dataset:
            return encode_media(task, split, augmented if split == TRAIN else plain, limit, args.seed)

        return processor, encode, default_data_collator

    return build_program(model_args, data_args, args, "image-classification", AutoModelForImageClassification, prepare)


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict as the arguments say; see [`~merlin_hf.scripts.program.run_as_main`]."""
    run_as_main(argv, *ARGUMENTS, build)


if __name__ == "__main__":
    main()
