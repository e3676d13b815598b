"""Build the trainer of a method on its data, run it, and say in one line what goes wrong: for all programs."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers
from transformers import AutoModelForSequenceClassification, EvalPrediction, PretrainedConfig, Trainer, set_seed

from ..data.columns import GLUE
from ..data.labels import Labels
from ..data.media import UnreadableMediaError
from ..data.models import configure_labels, outputs_of
from ..data.tasks import TEST, TRAIN, VALIDATION, Task, check_several_classes, load_task
from ..hub.content import given_arguments
from ..methods import get_method
from ..training_args import TransferTrainingArguments
from ..transfer.checkpoint import NotFiniteError
from ..transfer.distributed import end_training
from ..transfer.shared_labels import shared_labels_line
from ..transfer.source import shares
from ..utils import loading
from ..utils.exit_status import EXPECTED, FAILURE, fail, fail_with, guarded
from ..utils.files import FileError, check_output_dir
from ..utils.manifest import has_weights
from ..utils.secret import without_any_token
from ..utils.validation import ConfigError, did_you_mean
from .arguments import BaseModelArguments, parse_args
from .data_arguments import DataArguments
from .metrics import make_compute_metrics, predicted_labels


# Kinds of splits, and the argument that asks for each.
KINDS = {TRAIN: "do_train", VALIDATION: "do_eval", TEST: "do_predict"}
Encode = Callable[[Task, str, int | None], datasets.Dataset]

logger = logging.getLogger("merlin_hf.scripts")


@dataclass
class Program:
    """
    A trainer and its data, ready to run.

    Args:
        source_labels (`dict[str | None, Labels]`): of each source; a single one has no name.
        validation, test (`dict[str, datasets.Dataset]`): what to evaluate on and to predict, by the suffix of its
            metrics.
        publish (`Callable`): called in the end; pushes the model, or writes its card.
        task_name (`str`, *optional*): the GLUE task of the target.
    """

    trainer: Trainer
    labels: Labels
    source_labels: dict[str | None, Labels]
    validation: dict[str, datasets.Dataset]
    test: dict[str, datasets.Dataset]
    publish: Callable[[], None]
    task_name: str | None = None

    @property
    def shared_labels_line(self) -> str | None:
        """Return a line that says which sources have the labels of the target; `None` where none does."""
        uses = type(self.trainer).uses_shared_labels and len(self.source_labels) == 1
        users = [type(self.trainer).__name__] if uses else []
        names = {name: labels.names for name, labels in self.source_labels.items()}
        return shared_labels_line(names, self.labels.names, users)


# Building


def build_program(
    model_args: BaseModelArguments,
    data_args: Any,
    args: TransferTrainingArguments,
    tag: str,
    auto_class: Any,
    prepare: Callable[[PretrainedConfig, Task, Sequence[Task]], tuple[Any, Encode, Callable]],
    adapt: Callable[[Any], None] = lambda model: None,
    model_options: Mapping[str, Any] | None = None,
) -> Program:
    """
    Load the data and the model that the arguments name, and make the trainer of the method; nothing is trained.

    Args:
        tag (`str`): the Hub's name of the task, for the card.
        auto_class: of transformers, which loads the model.
        prepare (`Callable`): from the model's configuration, the target and the sources to the tokenizer or processor,
            a function that encodes so many rows of a task's split, and the data collator.
        adapt (`Callable`): takes the model before the trainer does.
        model_options (mapping, *optional*): of `auto_class.from_pretrained`; `prepare` may fill it in.
    """
    trainer_class = choose_method(model_args, data_args, args.do_train)
    with args.main_process_first(desc="loading the data"):
        target, sources = load_tasks(model_args, data_args, args, trainer_class)
        config = load_config(model_args, target.labels, args.do_train, data_args.labels_by_number)
        processor, encode, collator = prepare(config, target, list(sources.values()))
        train_rows = encode(target, TRAIN, data_args.max_train_samples) if args.do_train else None
        limits = {name: limit for name, (_, limit) in data_args.source_specs().items()} if sources else {}
        source_rows = {name: encode(source, TRAIN, limits[name]) for name, source in sources.items()}
        validation = _encode_all(target, VALIDATION, encode, data_args.max_eval_samples) if args.do_eval else {}
        test = _encode_all(target, TEST, encode, data_args.max_predict_samples) if args.do_predict else {}
    model = load_model(model_args, config, auto_class, **(model_options or {}))
    adapt(model)
    task_name = getattr(data_args, "task_name", None)
    trainer = trainer_class(
        model=model,
        args=args,
        train_dataset=train_rows,
        eval_dataset=validation.get(""),
        data_collator=collator,
        processing_class=processor,
        compute_metrics=make_compute_metrics(task_name, target.labels),
        **({"source_dataset": source_rows.get(None, source_rows)} if sources else {}),
    )
    check_best_metric(trainer, target.labels)
    if len(sources) > 1:
        shares(args.source_mix, trainer.source_dataset)  # the weights have the names of the sources
    return Program(
        trainer,
        target.labels,
        {name: source.labels for name, source in sources.items()},
        validation,
        test,
        publish=lambda: publish(trainer, model_args, data_args, tag),
        task_name=task_name,
    )


def _encode_all(target: Task, kind: str, encode: Encode, limit: int | None) -> dict[str, datasets.Dataset]:
    """Return the split of a kind, by the suffix of its metrics; MNLI has two of each."""
    names = {"": kind if kind in target.splits else f"{kind}_matched", "-mm": f"{kind}_mismatched"}
    return {suffix: encode(target, name, limit) for suffix, name in names.items() if name in target.splits}


def choose_method(model_args: BaseModelArguments, data_args: DataArguments, do_train: bool) -> type[Trainer]:
    """Return the trainer class, checked against whether there is a source."""
    method = model_args.method or ("merlin" if data_args.has_source else "finetune")
    trainer_class = get_method(method)
    if trainer_class.depends_on_source() and not do_train:
        return get_method("finetune")  # to evaluate and predict, all are the same
    if trainer_class.depends_on_source() and not data_args.has_source:
        given = ", ".join(f"`{name}`" for name in (*data_args.origins("source_"), "sources"))
        raise ValueError(
            f"`method={method!r}` trains on a source as well: give one of {given}, or `--method finetune`."
        )
    if data_args.has_source and not trainer_class.takes_source:
        logger.warning(
            f"`method={method!r}` trains on the target alone: the source is not used. Leave it out, or take a method "
            "such as merlin or sequential."
        )
    logger.info(f"Method: {method}")
    return trainer_class


def load_tasks(
    model_args: BaseModelArguments, data_args: Any, args: TransferTrainingArguments, trainer_class: type[Trainer]
) -> tuple[Task, dict[str | None, Task]]:
    """Load the target with the splits that are asked for, and the sources where the method trains on them."""
    hub: dict[str, Any] = {"cache_dir": model_args.cache_dir, "token": model_args.token}
    target = load_task(data_args.spec(), [kind for kind, asked in KINDS.items() if getattr(args, asked)], **hub)
    sources: dict[str | None, Task] = {}
    if args.do_train:
        check_several_classes(target)
    if args.do_train and data_args.has_source and trainer_class.takes_source:
        for name, (spec, _) in data_args.source_specs().items():
            sources[name] = load_task(spec, [TRAIN], **hub)
            check_several_classes(sources[name])
        if None in sources:  # the number of each of several is read from its rows
            args.num_source_labels = args.num_source_labels or sources[None].labels.num_labels
    return target, sources


def load_config(model_args: BaseModelArguments, labels: Labels, is_trained: bool = True, by_number: bool = False):
    """
    Load the configuration of a model for the target's labels, whose numbers it settles.

    One that is not trained on the target keeps its own labels, which are matched by number if `by_number`.
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
    model_args: BaseModelArguments,
    config: PretrainedConfig,
    auto_class: Any = AutoModelForSequenceClassification,
    **options: Any,
) -> Any:
    """Load the model, on all processes at once: under ZeRO-3 each has its shard of every weight from the start."""
    path = model_args.model_name_or_path
    try:
        return loading.load_model(
            auto_class,
            path,
            f"`model_name_or_path={path!r}`",
            config=config,
            ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
            **model_args.hub_options,
            **options,
        )
    except ValueError as error:
        if "ignore_mismatched_sizes" not in f"{error} {error.__cause__}":
            raise
        raise ConfigError(
            f"`model_name_or_path={path!r}` has a last layer for another number of labels than the "
            f"{config.num_labels} of the data: `--ignore_mismatched_sizes` starts with a new one."
        ) from error


def check_best_metric(trainer: Trainer, labels: Labels) -> None:
    """Raise a ConfigError unless `metric_for_best_model` is computed; Trainer finds out at its first evaluation."""
    given = trainer.args.metric_for_best_model
    if given is None or trainer.compute_metrics is None:
        return
    # The metrics of two answers that are right have the names of all.
    ids = np.asarray([0.0, 1.0]) if labels.is_regression else np.asarray(labels.ids[:2])
    logits = ids[:, None] if labels.is_regression else np.eye(max(labels.ids) + 1)[ids]
    known = ["loss", *trainer.compute_metrics(EvalPrediction(logits, ids))]
    name = given.removeprefix("eval_")
    if name not in known and not name.startswith("head_"):  # those of heads are known after they are fit
        raise ConfigError(
            f"`metric_for_best_model={given!r}` is not computed here: it must be one of "
            f"{', '.join(known)}.{did_you_mean(name, known)}"
        )


# Running


def train(trainer: Trainer, args: TransferTrainingArguments) -> dict[str, float]:
    """
    Train and return the metrics: from the last checkpoint in `output_dir` where there is one of this run.

    A finished run is left as it is; a checkpoint of another run is a FileError.
    """
    checkpoint = args.resume_from_checkpoint
    if checkpoint is None and not args.overwrite_output_dir:
        checkpoint = trainer.checkpoints.to_continue()
        if checkpoint is not None:
            logger.info(
                f"Resuming from {checkpoint}. To start again, set `overwrite_output_dir` or another `output_dir`."
            )
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if trainer.checkpoints.is_finished and has_weights(args.output_dir):
        return earlier_metrics(args.output_dir)
    metrics["train_samples"] = len(trainer.train_dataset)
    if sources := getattr(trainer, "sources", None):
        metrics["source_samples"] = sum(len(source.dataset) for source in sources)
    trainer.save_model()  # with the tokenizer
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    return metrics


def earlier_metrics(output_dir: str) -> dict[str, float]:
    """Return the metrics of a training that is finished, as far as they are still there."""
    try:
        with open(os.path.join(output_dir, "train_results.json"), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def evaluate_on(trainer: Trainer, eval_datasets: dict[str, datasets.Dataset]) -> dict[str, float]:
    """Return the metrics of each set; those of the second carry `_mm`."""
    results = {}
    for suffix, dataset in eval_datasets.items():
        metrics = _with_suffix({**trainer.evaluate(eval_dataset=dataset), "eval_samples": len(dataset)}, suffix)
        trainer.log_metrics("eval", metrics)
        results.update(metrics)
    trainer.save_metrics("eval", results)
    return results


def _with_suffix(metrics: dict[str, float], suffix: str) -> dict[str, float]:
    return {f"{name}_mm": value for name, value in metrics.items()} if suffix else metrics


def predict(
    trainer: Trainer, test_datasets: dict[str, datasets.Dataset], task_name: str | None, labels: Labels
) -> dict[str, float]:
    """Write predictions to `predict_results*.txt`; return the metrics, where labels are public."""
    results = {}
    for suffix, dataset in test_datasets.items():
        output = trainer.predict(dataset, metric_key_prefix="predict")
        metrics = _with_suffix({**output.metrics, "predict_samples": len(dataset)}, suffix)
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
            for index, value in enumerate(predicted_labels(output.predictions, labels)):
                file.write(f"{index}\t{value:3.3f}\n" if labels.is_regression else f"{index}\t{names[int(value)]}\n")
        logger.info(f"Predictions in {path}")
    trainer.save_metrics("predict", results)
    return results


def publish(trainer: Trainer, model_args: BaseModelArguments, data_args: Any, tag: str) -> None:
    """Push the model with its card, or write the card."""
    kwargs = {"tasks": tag}
    if not os.path.isdir(model_args.model_name_or_path):
        kwargs["finetuned_from"] = model_args.model_name_or_path
    task_name = getattr(data_args, "task_name", None)
    if task_name is not None:
        kwargs["language"] = "en"
        kwargs["dataset_tags"] = GLUE
        kwargs["dataset_args"] = task_name
        kwargs["dataset"] = f"GLUE {task_name.upper()}"
    elif data_args.dataset_name is not None and not os.path.isdir(data_args.dataset_name):
        kwargs["dataset"] = kwargs["dataset_tags"] = data_args.dataset_name
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**kwargs)
    else:
        trainer.create_model_card(**kwargs)


def run(program: Program) -> dict[str, float]:
    """Train, evaluate, predict and publish as the arguments say; return all metrics."""
    trainer, metrics = program.trainer, {}
    if trainer.args.do_train:
        if program.shared_labels_line is not None:
            logger.info(program.shared_labels_line)
        metrics.update(train(trainer, trainer.args))
    if trainer.args.do_eval:
        metrics.update(evaluate_on(trainer, program.validation))
    if trainer.args.do_predict:
        metrics.update(predict(trainer, program.test, program.task_name, program.labels))
    program.publish()
    end_training(trainer.accelerator)
    return metrics


# The whole of it, as a command


def run_as_main(
    argv: Sequence[str] | None,
    model_class: type,
    data_class: type,
    build: Callable[[Any, Any, Any], Program],
) -> None:
    """
    Train, evaluate and predict as the arguments of a program say; `build` makes it of its three kinds of arguments.

    A failure is said on stderr, and exits with 2 for what was given and 1 for anything else.
    """
    command = Path(sys.argv[0]).name if sys.argv[0].endswith(".py") else "program.py"
    status = guarded(
        command, lambda: run_command(command, lambda: parse_args(argv, model_class, data_class), build)[0]
    )
    if status:
        sys.exit(status)


def run_command(
    command: str,
    make_arguments: Callable[[], tuple[Any, Any, TransferTrainingArguments]],
    build: Callable[[Any, Any, Any], Program],
) -> tuple[int, dict[str, Any] | None]:
    """
    Build a program and run it; `make_arguments` returns the arguments of the model, the data and the training.

    Return the exit status, and the metrics with the folder of the model; nothing of them where it failed, which is
    said on stderr, or where another process speaks.
    """
    try:
        model_args, data_args, args = make_arguments()
        if args.do_train:
            check_output_dir(args.output_dir)
        setup_logging(args)
        set_seed(args.seed)
        program = build(model_args, data_args, args)
    except EXPECTED as error:
        return fail_with(command, error), None
    try:
        metrics = run(program)
    except (FileError, UnreadableMediaError) as error:
        return fail_with(command, error), None
    except NotFiniteError as error:
        return fail(command, error, FAILURE), None
    except KeyboardInterrupt:
        print(f"\nThe same command goes on from the last checkpoint in {args.output_dir}.", file=sys.stderr)
        raise
    except Exception as error:
        if program.trainer.state.global_step == 0 and isinstance(error, EXPECTED):
            return fail_with(command, error), None  # nothing is trained yet: the error is about what was given
        print(without_any_token(traceback.format_exc()), end="", file=sys.stderr)
        message = f"the run failed; its last checkpoint, if it has one, is in {args.output_dir}"
        return fail(command, message, FAILURE), None
    is_first = program.trainer.is_world_process_zero()
    return 0, {"output_dir": args.output_dir, "metrics": metrics} if is_first else None


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
