r"""
Train a text classifier on a small target task with the help of a large source task; what `merlin-hf train` runs.

Target and source are GLUE tasks, data sets of the Hub or local csv, json and parquet files, each with its own labels
and text columns. One json or yaml file may hold all arguments. Where there is no network, `MERLIN_DATA_ROOT` names a
folder of data sets (see `merlin_hf.data`). The output is a plain `AutoModelForSequenceClassification`; of a sentence
encoder, what `SentenceTransformer` loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import datasets
from transformers import PretrainedConfig, default_data_collator

from ..data.encoding import encode_texts
from ..data.models import load_text_tokenizer, longest_text
from ..data.sentence_encoders import SentenceEncoderForSequenceClassification, classifier_class, text_collator
from ..data.tasks import TEST, TRAIN, Task, warn_of_shared_texts
from ..training_args import TransferTrainingArguments
from ..utils.validation import ConfigError, interval
from .arguments import BaseModelArguments
from .data_arguments import TextDataArguments
from .program import Encode, Program, build_program, run_as_main


@dataclass
class ModelArguments(BaseModelArguments):
    """[`BaseModelArguments`] for texts."""

    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, if not the model's."})
    sentence_encoder: bool | None = field(
        default=None,
        metadata={
            "help": "Whether the model is one of sentence-transformers, whose own pooling is used, and two texts are "
            "read apart. Default: if it has a modules.json."
        },
    )
    examples_per_label: Annotated[int, interval("[0, 1_000]")] = field(
        default=0,
        metadata={"help": "Texts of the target in the model card for each label; they are public where it is."},
    )


ARGUMENTS = (ModelArguments, TextDataArguments)


def build(model_args: ModelArguments, data_args: TextDataArguments, args: TransferTrainingArguments) -> Program:
    """Load what the arguments name, and make the trainer; see [`~merlin_hf.scripts.program.build_program`]."""
    model_path, hub = model_args.model_name_or_path, model_args.hub_options
    model_class = classifier_class(model_path, model_args.sentence_encoder, **hub)
    options: dict[str, Any] = {}
    if model_class is SentenceEncoderForSequenceClassification and model_args.tokenizer_name is not None:
        raise ConfigError("`tokenizer_name` is not for a sentence encoder, which has its own: leave it out.")

    def prepare(config: PretrainedConfig, target: Task, sources: Sequence[Task]) -> tuple[Any, Encode, Any]:
        name = "model_name_or_path" if model_args.tokenizer_name is None else "tokenizer_name"
        path = getattr(model_args, name)
        tokenizer = load_text_tokenizer(model_class, path, config, f"`{name}={path!r}`", **hub)
        max_length = longest_text(tokenizer, config, data_args.max_seq_length)
        warn_of_shared_texts(target, sources)

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

        if model_class is SentenceEncoderForSequenceClassification:
            options.update(pairs=len(target.columns) == 2, max_seq_length=max_length)
        if data_args.pad_to_max_length:
            return tokenizer, encode, default_data_collator
        return tokenizer, encode, text_collator(tokenizer, pad_to_multiple_of=8 if args.fp16 else None)

    tag = "text-classification"
    program = build_program(model_args, data_args, args, tag, model_class, prepare, model_options=options)
    # Also for the cards that are pushed during training.
    program.trainer.model_card_arguments = {"examples_per_label": model_args.examples_per_label}
    return program


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict as the arguments say; see [`~merlin_hf.scripts.program.run_as_main`]."""
    run_as_main(argv, *ARGUMENTS, build)


if __name__ == "__main__":
    main()
