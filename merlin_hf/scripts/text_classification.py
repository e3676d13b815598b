r"""
Train a text classifier on a small target task with the help of a large source task; what `merlin-hf train` runs.

Target and source are GLUE tasks, data sets of the Hub or local csv, json and parquet files, each with its own labels and
text columns. One json or yaml file may hold all arguments. Where there is no network, `MERLIN_DATA_ROOT` names a folder
of data sets (see `merlin_hf.data`). The output is a plain `AutoModelForSequenceClassification`.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import datasets
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PretrainedConfig,
    Trainer,
    default_data_collator,
    set_seed,
)

from ..data.models import configure_labels, load_tokenizer, longest_text, outputs_of, pretrained_outputs
from ..data.tasks import check_several_classes, warn_of_shared_rows
from ..hub.content import given_arguments
from ..methods import get_method
from ..training_args import TransferTrainingArguments
from ..transfer.distributed import end_training
from ..transfer.manifest import has_weights
from ..utils import loading
from ..utils.validation import ConfigError, interval
from .arguments import parse_args
from .labels import Labels
from .model_arguments import BaseModelArguments, TaskArguments
from .text_tasks import DataTrainingArguments, Task, load_task, make_compute_metrics, predicted, prepare


# Kinds of splits, and the argument that asks for each.
KINDS = {"train": "do_train", "validation": "do_eval", "test": "do_predict"}

logger = logging.getLogger("merlin_hf.scripts")


@dataclass
class ModelArguments(BaseModelArguments):
    """[`BaseModelArguments`] for texts."""

    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, if not the model's."})
    examples_per_label: Annotated[int, interval("[0, 1_000]")] = field(
        default=0,
        metadata={"help": "Texts of the target in the model card for each label; they are public where it is."},
    )


@dataclass
class Program:
    """
    What the arguments come to, before anything is trained.

    Args:
        trainer ([`~transformers.Trainer`]): of the method, with the data to train on.
        labels ([`Labels`]): of the target.
        source_labels ([`Labels`], *optional*): of the source.
        validation, test (`dict[str, datasets.Dataset]`): what to evaluate on and to predict, by the suffix of its metrics.
        publish (`Callable`): called in the end; pushes the model, or writes its card.
        task_name (`str`, *optional*): the GLUE task of the target.
    """

    trainer: Trainer
    labels: Labels
    source_labels: Labels | None
    validation: dict[str, datasets.Dataset]
    test: dict[str, datasets.Dataset]
    publish: Callable[[], None]
    task_name: str | None = None


# Loading


def load_config(model_args: BaseModelArguments, labels: Labels, is_trained: bool = True, by_number: bool = False):
    """
    Load the configuration of a model for the target's labels, whose numbers it settles.

    Args:
        is_trained (`bool`): whether the model is trained on the target; else its own labels are kept.
        by_number (`bool`): match these with the target's by number.

    Raises:
        FileError: there is no such model.
        ConfigError: its labels do not fit.
    """
    options = model_args.hub_options
    name = "model_name_or_path" if model_args.config_name is None else "config_name"
    path = getattr(model_args, name)
    config = loading.load_config(path, f"`{name}={path!r}`", **options)
    if is_trained or labels.is_regression:
        configure_labels(config, labels, model_args.ignore_mismatched_sizes)
    else:
        labels.ids = outputs_of(labels, config, by_number)
    return config


def load_model(
    model_args: BaseModelArguments, config: PretrainedConfig, auto_class: Any = AutoModelForSequenceClassification
) -> Any:
    """
    Load the model, on all processes at once: under ZeRO-3 each has its shard of every weight from the start.

    Raises:
        FileError: it cannot be loaded.
        ConfigError: its last layer has another number of labels.
    """
    path = model_args.model_name_or_path
    try:
        return loading.load_model(
            auto_class,
            path,
            f"`model_name_or_path={path!r}`",
            config=config,
            ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
            **model_args.hub_options,
        )
    except ValueError as error:
        if "ignore_mismatched_sizes" not in f"{error} {error.__cause__}":
            raise
        raise ConfigError(
            f"`model_name_or_path={path!r}` has a last layer for another number of labels than the {config.num_labels} of the "
            "data: `--ignore_mismatched_sizes` starts with a new one."
        ) from error


def match_model_labels(names: list[str], config: PretrainedConfig) -> list[int]:
    """Return the outputs of a pretrained model for labels of these names, or 0, 1, ... where it was trained for others."""
    return pretrained_outputs(config, names)


# Running


def setup_logging(training_args: TransferTrainingArguments) -> None:
    """Log from the first process, or as `log_level` says."""
    logging.basicConfig(
        format="%(asctime)s - %(levelname)s - %(name)s - %(message)s",
        datefmt="%m/%d/%Y %H:%M:%S",
        handlers=[logging.StreamHandler(sys.stdout)],
    )
    if training_args.should_log:
        transformers.utils.logging.set_verbosity_info()
    level = training_args.get_process_log_level()
    logging.getLogger("merlin_hf").setLevel(level)
    if not training_args.should_log:
        logging.getLogger("merlin_hf.data").setLevel(logging.ERROR)  # the first process has said it
    datasets.utils.logging.set_verbosity(level)
    transformers.utils.logging.set_verbosity(level)
    given = [f"\n  {name} = {value}" for name, value in given_arguments(training_args).items()]
    logger.info(f"Training arguments that differ from their defaults:{''.join(given)}")


def choose_method(model_args: BaseModelArguments, data_args: TaskArguments, do_train: bool) -> type[Trainer]:
    """Return the trainer class, checked against whether there is a source."""
    method = model_args.method or ("merlin" if data_args.has_source else "finetune")
    trainer_class = get_method(method)
    if trainer_class.depends_on_source() and not do_train:
        return get_method("finetune")  # to evaluate and predict, all are the same
    if trainer_class.depends_on_source() and not data_args.has_source:
        given = ", ".join(f"`{name}`" for name in data_args.origins("source_"))
        raise ValueError(
            f"`method={method!r}` trains on a source as well: give one of {given}, or `--method finetune`."
        )
    if data_args.has_source and not trainer_class.takes_source:
        logger.info(f"Method {method}: the source is not used")
    logger.info(f"Method: {method}")
    return trainer_class


def build_trainer(
    trainer_class: type[Trainer], model, tokenizer, args, data_args, target: Task, data: dict
) -> Trainer:
    """The trainer of the method that was chosen."""
    kwargs = {} if data["source"] is None else {"source_dataset": data["source"]}
    if data_args.pad_to_max_length:
        kwargs["data_collator"] = default_data_collator
    elif args.fp16:
        kwargs["data_collator"] = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
    return trainer_class(
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data["validation"].get(""),
        processing_class=tokenizer,
        compute_metrics=make_compute_metrics(data_args.task_name, target.labels),
        **kwargs,
    )


def train(trainer: Trainer, args: TransferTrainingArguments) -> dict[str, float]:
    """
    Train, from the last checkpoint in `output_dir` where there is one of this run; a finished run is left as it is.

    Returns:
        The metrics of the training.

    Raises:
        FileError: the checkpoint is of another run.
    """
    checkpoint = args.resume_from_checkpoint
    if checkpoint is None and not args.overwrite_output_dir:
        checkpoint = trainer.checkpoint_to_continue()
        if checkpoint is not None:
            logger.info(
                f"Resuming from {checkpoint}. To start anew, set `overwrite_output_dir`, or give another `output_dir`."
            )
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if trainer.is_finished and has_weights(args.output_dir):
        return earlier_metrics(args.output_dir)
    metrics["train_samples"] = len(trainer.train_dataset)
    if getattr(trainer, "source_dataset", None) is not None:
        metrics["source_samples"] = len(trainer.source_dataset)
    trainer.save_model()  # with the tokenizer
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    return metrics


def earlier_metrics(output_dir: str) -> dict[str, float]:
    """The metrics of a training that is finished, as far as they are still there."""
    try:
        with open(os.path.join(output_dir, "train_results.json"), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def evaluate_on(trainer: Trainer, eval_datasets: dict[str, datasets.Dataset]) -> dict[str, float]:
    """The metrics of each set; those of the second carry `_mm`."""
    results = {}
    for suffix, dataset in eval_datasets.items():
        metrics = trainer.evaluate(eval_dataset=dataset)
        metrics["eval_samples"] = len(dataset)
        if suffix:
            metrics = {f"{name}_mm": value for name, value in metrics.items()}
        trainer.log_metrics("eval", metrics)
        results.update(metrics)
    trainer.save_metrics("eval", results)
    return results


def predict(
    trainer: Trainer, test_datasets: dict[str, datasets.Dataset], task_name: str | None, labels: Labels
) -> dict[str, float]:
    """Write what the model says to `predict_results*.txt`; the metrics, where labels are public."""
    results = {}
    for suffix, dataset in test_datasets.items():
        output = trainer.predict(dataset, metric_key_prefix="predict")
        metrics = {**output.metrics, "predict_samples": len(dataset)}
        if suffix:
            metrics = {f"{name}_mm": value for name, value in metrics.items()}
        trainer.log_metrics("predict", metrics)
        results.update(metrics)
        if not trainer.is_world_process_zero():
            continue
        path = os.path.join(
            trainer.args.output_dir, f"predict_results{'_' + task_name if task_name else ''}{suffix}.txt"
        )
        names = trainer.model.config.id2label
        with open(path, "w", encoding="utf-8") as file:
            file.write("index\tprediction\n")
            for index, value in enumerate(predicted(output.predictions, labels)):
                file.write(f"{index}\t{value:3.3f}\n" if labels.is_regression else f"{index}\t{names[int(value)]}\n")
        logger.info(f"Predictions in {path}")
    trainer.save_metrics("predict", results)
    return results


def publish(trainer: Trainer, model_args: ModelArguments, data_args: DataTrainingArguments) -> None:
    """Push the model with its card, or write the card."""
    kwargs = {"tasks": "text-classification"}
    if not os.path.isdir(model_args.model_name_or_path):
        kwargs["finetuned_from"] = model_args.model_name_or_path
    if data_args.task_name is not None:
        kwargs["language"] = "en"
        kwargs["dataset_tags"] = "nyu-mll/glue"
        kwargs["dataset_args"] = data_args.task_name
        kwargs["dataset"] = f"GLUE {data_args.task_name.upper()}"
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**kwargs)
    else:
        trainer.create_model_card(**kwargs)


def build(model_args: ModelArguments, data_args: DataTrainingArguments, args: TransferTrainingArguments) -> Program:
    """
    Load and tokenize what the arguments name, and make the trainer; nothing is trained.

    Raises:
        ValueError, FileNotFoundError: the arguments, the data and the model do not fit together.
    """
    trainer_class = choose_method(model_args, data_args, args.do_train)
    source = None
    with args.main_process_first(desc="loading and tokenizing"):
        hub: dict[str, Any] = {"cache_dir": model_args.cache_dir, "token": model_args.token}
        kinds = [kind for kind, asked in KINDS.items() if getattr(args, asked)]
        target = load_task(data_args, kinds=kinds, **hub)
        config = load_config(model_args, target.labels, args.do_train, data_args.labels_by_number)
        name = "model_name_or_path" if model_args.tokenizer_name is None else "tokenizer_name"
        path = getattr(model_args, name)
        tokenizer = load_tokenizer(path, config, f"`{name}={path!r}`", **model_args.hub_options)
        max_length = longest_text(tokenizer, config, data_args.max_seq_length)
        data: dict[str, Any] = {"train": None, "source": None, "validation": {}, "test": {}}
        # For the card; where Trainer leaves unused columns in, collators would fail on texts.
        keep = args.remove_unused_columns
        if args.do_train:
            check_several_classes(target)
            limit = data_args.max_train_samples
            keep_train = keep and not args.do_eval
            data["train"] = prepare(target, "train", limit, tokenizer, data_args, max_length, keep_train)[""]
        if args.do_train and data_args.has_source and trainer_class.takes_source:
            source = load_task(data_args, "source_", kinds=["train"], **hub)
            limit = data_args.max_source_samples
            data["source"] = prepare(source, "train", limit, tokenizer, data_args, max_length)[""]
            check_several_classes(source)
            args.num_source_labels = args.num_source_labels or source.labels.num_labels
        if args.do_eval:
            limit = data_args.max_eval_samples
            data["validation"] = prepare(target, "validation", limit, tokenizer, data_args, max_length, keep)
        if args.do_predict:
            data["test"] = prepare(target, "test", data_args.max_predict_samples, tokenizer, data_args, max_length)
        warn_of_shared_rows(target, source)

    model = load_model(model_args, config)
    trainer = build_trainer(trainer_class, model, tokenizer, args, data_args, target, data)
    # Also for the cards that are pushed during training.
    trainer.model_card_arguments = {"examples_per_label": model_args.examples_per_label}
    return Program(
        trainer,
        target.labels,
        None if source is None else source.labels,
        data["validation"],
        data["test"],
        publish=lambda: publish(trainer, model_args, data_args),
        task_name=data_args.task_name,
    )


def run(program: Program) -> dict[str, float]:
    """Train, evaluate, predict and publish as the arguments say; returns all metrics."""
    trainer, metrics = program.trainer, {}
    if trainer.args.do_train:
        metrics.update(train(trainer, trainer.args))
    if trainer.args.do_eval:
        metrics.update(evaluate_on(trainer, program.validation))
    if trainer.args.do_predict:
        metrics.update(predict(trainer, program.test, program.task_name, program.labels))
    program.publish()
    end_training(trainer.accelerator)
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict as the arguments say."""
    model_args, data_args, args = parse_args(argv, ModelArguments, DataTrainingArguments)
    setup_logging(args)
    set_seed(args.seed)
    run(build(model_args, data_args, args))


if __name__ == "__main__":
    main()
