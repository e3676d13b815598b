r"""
Train a text classifier on a small target task with the help of a large source task; what `merlin-hf train` runs.

Target and source are GLUE tasks, data sets of the Hub or local csv, json and parquet files, each with its own labels
and text columns. One json or yaml file may hold all arguments. Where there is no network, `MERLIN_DATA_ROOT` names a
folder of data sets (see `merlin_hf.data`). The output is a plain `AutoModelForSequenceClassification`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import datasets
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PretrainedConfig,
    default_data_collator,
)

from ..data.encoding import encode_texts
from ..data.models import load_tokenizer, longest_text
from ..data.tasks import TEST, TRAIN, Task, warn_of_shared_texts
from ..training_args import TransferTrainingArguments
from ..utils.validation import interval
from .arguments import BaseModelArguments
from .data_arguments import TextDataArguments
from .program import Encode, Program, build_program, run_as_main


@dataclass
class ModelArguments(BaseModelArguments):
    """[`BaseModelArguments`] for texts."""

    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, if not the model's."})
    examples_per_label: Annotated[int, interval("[0, 1_000]")] = field(
        default=0,
        metadata={"help": "Texts of the target in the model card for each label; they are public where it is."},
    )


def build(model_args: ModelArguments, data_args: TextDataArguments, args: TransferTrainingArguments) -> Program:
    """Load what the arguments name, and make the trainer; see [`~merlin_hf.scripts.program.build_program`]."""

    def prepare(config: PretrainedConfig, target: Task, source: Task | None) -> tuple[Any, Encode, Any]:
        name = "model_name_or_path" if model_args.tokenizer_name is None else "tokenizer_name"
        path = getattr(model_args, name)
        tokenizer = load_tokenizer(path, config, f"`{name}={path!r}`", **model_args.hub_options)
        max_length = longest_text(tokenizer, config, data_args.max_seq_length)
        warn_of_shared_texts(target, source)

        def encode(task: Task, split: str, limit: int | None) -> datasets.Dataset:
            # For the card; where Trainer leaves unused columns in, collators would fail on texts.
            is_shown = task is target and not split.startswith(TEST) and not (split == TRAIN and args.do_eval)
            return encode_texts(
                task,
                split,
                tokenizer,
                max_length,
                limit,
                pad=data_args.pad_to_max_length,
                keep_texts=is_shown and args.remove_unused_columns,
                load_from_cache_file=not data_args.overwrite_cache,
            )

        if data_args.pad_to_max_length:
            return tokenizer, encode, default_data_collator
        return tokenizer, encode, DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if args.fp16 else None)

    tag, auto_class = "text-classification", AutoModelForSequenceClassification
    program = build_program(model_args, data_args, args, tag, auto_class, prepare)
    # Also for the cards that are pushed during training.
    program.trainer.model_card_arguments = {"examples_per_label": model_args.examples_per_label}
    return program


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict as the arguments say; see [`~merlin_hf.scripts.program.run_as_main`]."""
    run_as_main(argv, ModelArguments, TextDataArguments, build)


if __name__ == "__main__":
    main()
