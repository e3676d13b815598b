r"""
Train a tagger, such as one of named entities, on a small target with the help of a source that is tagged otherwise.

    accelerate launch examples/run_ner.py --model_name_or_path google-bert/bert-base-cased --dataset_name FOLDER \
        --source_dataset_name lhoestq/conll2003 --source_tags_column ner_tags --max_steps 1000 \
        --per_device_train_batch_size 16 --do_train --do_eval --output_dir tagger

Each row has a list of words and one of tags, which are text or class ids with names (`Sequence(ClassLabel)`). Data
sets are those of the Hub, json and parquet files, and folders of these, such as `train.jsonl` and `validation.jsonl`
with lines `{"tokens": ["Ada", "sings"], "tags": ["B-PER", "O"]}`. Spans (`B-PER`, `I-PER`, `O`) are scored by
seqeval: `pip install "merlin-hf[seqeval]"`. The output is a plain `AutoModelForTokenClassification`.
"""

from dataclasses import dataclass, field
from typing import Any

import datasets
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

from merlin_hf.data import load_dataset
from merlin_hf.data.labels import Labels
from merlin_hf.data.models import configure_labels, longest_text
from merlin_hf.data.tags import encode_tags, load_word_tokenizer, tag_names
from merlin_hf.scripts.arguments import BaseModelArguments
from merlin_hf.scripts.program import Program, choose_method, load_model, publish, run_as_main
from merlin_hf.utils.loading import load_config
from merlin_hf.utils.tag_metrics import make_tag_metrics
from merlin_hf.utils.validation import ConfigError, Count, check_options


@dataclass
class TagDataArguments:
    """A target and a source of tagged sentences."""

    dataset_name: str = field(metadata={"help": "Target: name on the Hub, file or folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    words_column: str = field(default="tokens", metadata={"help": "Target: column of the words."})
    tags_column: str = field(default="tags", metadata={"help": "Target: column of the tags."})
    train_split_name: str = field(default="train", metadata={"help": "Split of the target to train on."})
    validation_split_name: str = field(default="validation", metadata={"help": "Its split to evaluate on."})
    source_dataset_name: str | None = field(default=None, metadata={"help": "Source: as dataset_name."})
    source_dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    source_words_column: str = field(default="tokens", metadata={"help": "Source: column of the words."})
    source_tags_column: str = field(default="tags", metadata={"help": "Source: column of the tags."})
    source_train_split_name: str = field(default="train", metadata={"help": "Split of the source."})
    max_seq_length: Count = field(default=128, metadata={"help": "Longer sentences are cut to so many tokens."})
    max_train_samples: Count | None = field(default=None, metadata={"help": "Train on the first so many sentences."})
    max_source_samples: Count | None = field(default=None, metadata={"help": "The same for the source."})
    max_eval_samples: Count | None = field(default=None, metadata={"help": "The same for evaluation."})

    def __post_init__(self):
        check_options(self)

    @property
    def has_source(self) -> bool:
        return self.source_dataset_name is not None

    @classmethod
    def origins(cls, prefix: str = "") -> tuple[str, ...]:
        return (f"{prefix}dataset_name",)

    def load(self, split: str, limit: int | None, prefix: str = "", **hub: Any) -> datasets.Dataset:
        """Load a split of the target, or with `prefix="source_"` of the source."""
        argument = f"{prefix}dataset_name"
        path, config = getattr(self, argument), getattr(self, f"{prefix}dataset_config_name")
        splits = load_dataset(path, config, argument=argument, **hub)
        if split not in splits:
            raise ConfigError(f"`{argument}={path!r}` has no split {split!r}, only {', '.join(splits)}.")
        return splits[split] if limit is None else splits[split].select(range(min(limit, len(splits[split]))))


def build(model_args: BaseModelArguments, data_args: TagDataArguments, args) -> Program:
    """Load what the arguments name, and make the trainer; nothing is trained."""
    if args.do_predict:
        raise ConfigError("`do_predict` is not for tags: use `trainer.predict`, or a pipeline with the saved model.")
    trainer_class = choose_method(model_args, data_args, args.do_train)
    hub = {"cache_dir": model_args.cache_dir, "token": model_args.token}
    path, options = model_args.model_name_or_path, model_args.hub_options
    config = load_config(path, f"`model_name_or_path={path!r}`", **options)
    tokenizer = load_word_tokenizer(path, config, f"`model_name_or_path={path!r}`", **options)
    max_length = longest_text(tokenizer, config, data_args.max_seq_length)

    def encode(rows: datasets.Dataset, names: list[str], prefix: str = ""):
        columns = getattr(data_args, f"{prefix}words_column"), getattr(data_args, f"{prefix}tags_column")
        return encode_tags(rows, tokenizer, names, *columns, max_length, argument=f"{prefix}dataset_name")

    with args.main_process_first(desc="loading the data"):
        train_rows = data_args.load(data_args.train_split_name, data_args.max_train_samples, **hub)
        labels = Labels(tag_names(train_rows, data_args.tags_column, "dataset_name"))
        configure_labels(config, labels, model_args.ignore_mismatched_sizes)
        names = [config.id2label[place] for place in range(config.num_labels)]
        train_rows = encode(train_rows, names)
        sources, source_labels, validation = {}, {}, {}
        if args.do_train and data_args.has_source and trainer_class.takes_source:
            rows = data_args.load(data_args.source_train_split_name, data_args.max_source_samples, "source_", **hub)
            source_labels = {None: Labels(tag_names(rows, data_args.source_tags_column, "source_dataset_name"))}
            sources = {"source_dataset": encode(rows, source_labels[None].names, "source_")}
        if args.do_eval:
            rows = data_args.load(data_args.validation_split_name, data_args.max_eval_samples, **hub)
            validation = {"": encode(rows, names)}
    trainer = trainer_class(
        model=load_model(model_args, config, AutoModelForTokenClassification),
        args=args,
        train_dataset=train_rows if args.do_train else None,
        eval_dataset=validation.get(""),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        compute_metrics=make_tag_metrics(names),
        **sources,
    )
    tag = "token-classification"
    return Program(
        trainer, labels, source_labels, validation, {}, lambda: publish(trainer, model_args, data_args, tag)
    )


def main(argv: list[str] | None = None) -> None:
    """Train and evaluate as the arguments say."""
    run_as_main(argv, BaseModelArguments, TagDataArguments, build)


if __name__ == "__main__":
    main()
