"""Text tasks: where their rows, texts and labels are found, and how their answers are scored."""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import datasets
import numpy as np
from huggingface_hub import constants

from ..data import load_dataset
from ..data.columns import GLUE_COLUMNS as TASK_TO_KEYS
from ..data.columns import ColumnOptions, find_text_columns, warn_of_empty_texts
from ..data.encoding import tokenize as tokenize_split
from ..data.labels import HIDDEN_LABEL, PROBLEM_TYPES, LabelledTask, Labels, find_labels
from ..data.tasks import Task, make_task
from ..utils.validation import Count, check_options, interval


__all__ = ["TASK_TO_KEYS", "Labels", "Task", "find_labels", "find_text_columns"]

logger = logging.getLogger("merlin_hf.scripts")


@dataclass
class DataTrainingArguments:
    """The target (`task_name`, `dataset_name` or files) and the source (the same with `source_` in front)."""

    task_name: str | None = field(
        default=None, metadata={"help": f"GLUE task of the target: {', '.join(TASK_TO_KEYS)}."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Target: name on the Hub, or a folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_file: str | None = field(default=None, metadata={"help": "Target: a csv, json or parquet file to train on."})
    validation_file: str | None = field(default=None, metadata={"help": "Target: a file to evaluate on."})
    test_file: str | None = field(default=None, metadata={"help": "Target: a file to predict."})
    text_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Target: one or two text columns. Default: as in GLUE, else the first two texts."},
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Target: column of the labels. Default: label, labels, or the only classes."}
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "Target: single_label_classification or regression, where labels are numbers that could be either."
        },
    )
    labels_by_number: bool = field(
        default=False, metadata={"help": "Match classes of files by number where their names differ."}
    )
    source_task_name: str | None = field(default=None, metadata={"help": "GLUE task of the source."})
    source_dataset_name: str | None = field(default=None, metadata={"help": "Source: name on the Hub, or a folder."})
    source_dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    source_train_file: str | None = field(default=None, metadata={"help": "Source: a csv, json or parquet file."})
    source_text_columns: list[str] | None = field(default=None, metadata={"help": "As text_columns, for the source."})
    source_label_column: str | None = field(default=None, metadata={"help": "As label_column, for the source."})
    source_problem_type: str | None = field(default=None, metadata={"help": "As problem_type, for the source."})
    max_train_samples: Count | None = field(default=None, metadata={"help": "Train on the first rows of the target."})
    max_source_samples: Count | None = field(default=None, metadata={"help": "Train on the first rows of the source."})
    max_eval_samples: Count | None = field(default=None, metadata={"help": "Evaluate on the first rows."})
    max_predict_samples: Count | None = field(default=None, metadata={"help": "Predict the first rows."})
    max_seq_length: Annotated[int, interval("[1, 1_000_000]")] = field(
        default=128, metadata={"help": "Longer texts are cut to so many tokens."}
    )
    pad_to_max_length: bool = field(
        default=True, metadata={"help": "Pad to max_seq_length; False pads each batch to its longest text (faster)."}
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenize again what has been tokenized before."})

    def __post_init__(self):
        check_options(self)
        for name in ("task_name", "source_task_name"):
            task = getattr(self, name)
            if task is not None and task.lower() not in TASK_TO_KEYS:
                raise ValueError(f"`{name}` must be a GLUE task ({', '.join(TASK_TO_KEYS)}), got {task!r}.")
            setattr(self, name, task and task.lower())
        for name in ("problem_type", "source_problem_type"):
            if getattr(self, name) not in (None, *PROBLEM_TYPES):
                raise ValueError(f"`{name}` must be {' or '.join(PROBLEM_TYPES)}, got {getattr(self, name)!r}.")
        for prefix in ("", "source_"):
            given = [name for name in self.origins(prefix) if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"Give only one of {', '.join(f'`{name}`' for name in given)}.")
            if not given and not prefix and self.validation_file is None and self.test_file is None:
                raise ValueError("The target is missing: give `task_name`, `dataset_name` or `train_file`.")

    @staticmethod
    def origins(prefix: str) -> tuple[str, str, str]:
        """The arguments that say where a task comes from."""
        return (f"{prefix}task_name", f"{prefix}dataset_name", f"{prefix}train_file")

    @property
    def has_source(self) -> bool:
        """Whether a source is named."""
        return any(getattr(self, name) is not None for name in self.origins("source_"))


# Loading


def load_splits(
    data_args: DataTrainingArguments, prefix: str = "", **kwargs
) -> tuple[str, datasets.DatasetDict, dict[str, str]]:
    """
    Load the target, or with `prefix="source_"` the source.

    Args:
        kwargs: for [`datasets.load_dataset`].

    Returns:
        The argument that names it, its splits as they are stored, and how the user named each of them.
    """
    argument = next((name for name in data_args.origins(prefix) if getattr(data_args, name) is not None), None)
    splits = datasets.DatasetDict()
    if argument is not None and argument.endswith("task_name"):
        splits = load_dataset("nyu-mll/glue", getattr(data_args, argument), argument=argument, **kwargs)
    elif argument is not None and argument.endswith("dataset_name"):
        config_name = getattr(data_args, f"{prefix}dataset_config_name")
        splits = load_dataset(getattr(data_args, argument), config_name, argument=argument, **kwargs)
    origins = {name: f"`{argument}={getattr(data_args, argument)!r}`, split {name!r}," for name in splits}
    for split in ("train", "validation", "test"):
        path = getattr(data_args, f"{prefix}{split}_file", None)
        if path is not None:
            splits[split] = load_dataset(path, argument=f"{prefix}{split}_file", split="train", **kwargs)
            origins[split] = f"`{prefix}{split}_file={path!r}`"
            argument = argument or f"{prefix}{split}_file"
    return argument or "train_file", splits, origins


def load_task(
    data_args: DataTrainingArguments,
    prefix: str = "",
    several: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    **kwargs,
) -> Task:
    """
    Load the target, or with `prefix="source_"` the source, and find its columns and labels.

    Args:
        several (`Sequence[str]`, *optional*): names of a model's labels, where a row may have several of them.
        kinds (`Sequence[str]`, *optional*): the splits that are used, such as `["train", "test"]`; all that there are if not given.
        kwargs: for [`datasets.load_dataset`].
    """
    argument, splits, origins = load_splits(data_args, prefix, **kwargs)
    for kind in kinds or ():
        if not {kind, f"{kind}_matched"} & set(splits):
            remedy = f" Give `{kind}_file`." if not prefix else ""
            raise ValueError(f"`{argument}` has no {kind} split, only {', '.join(splits)}.{remedy}")
    used = {name: split for name, split in splits.items() if not kinds or name.split("_")[0] in kinds}
    return make_task(used, origins, argument, column_options(data_args, prefix), several)


def column_options(data_args: DataTrainingArguments, prefix: str = "") -> ColumnOptions:
    """Return what the arguments say of the columns of the target, or with `prefix="source_"` of the source."""
    task_name = getattr(data_args, f"{prefix}task_name")
    return ColumnOptions(
        text_columns=getattr(data_args, f"{prefix}text_columns") or TASK_TO_KEYS.get(task_name),
        label_column=getattr(data_args, f"{prefix}label_column"),
        problem_type=getattr(data_args, f"{prefix}problem_type"),
        labels_by_number=data_args.labels_by_number,
        names={name: f"{prefix}{name}" for name in ("text_columns", "label_column", "problem_type")},
    )


# From rows to what the model takes


def prepare(
    task: Task,
    kind: str,
    limit: int | None,
    tokenizer,
    data_args: DataTrainingArguments,
    max_length: int,
    keep_texts: bool = False,
) -> dict:
    """
    Tokenize one kind of split.

    Args:
        kind (`str`): `"train"`, `"validation"` or `"test"`.
        limit (`int`, *optional*): keep the first rows only.
        max_length (`int`): tokens of a text, at most.
        keep_texts (`bool`): keep the texts as well, for a model card.

    Returns:
        `dict[str, datasets.Dataset]`: the split under `""`; MNLI's second one, from other genres, under `"-mm"`.
    """
    names = {"": kind if kind in task.splits else f"{kind}_matched", "-mm": f"{kind}_mismatched"}
    found = {suffix: task.splits[name] for suffix, name in names.items() if name in task.splits}
    if "" not in found:
        remedy = f" Give `{kind}_file`." if "source" not in task.argument else ""
        raise ValueError(f"`{task.argument}` has no {kind} split, only {', '.join(task.splits)}.{remedy}")
    prepared = {}
    for suffix, split in found.items():
        rows = select(split, task, kind, limit)
        warn_of_empty_texts(rows, task.text_columns, task.origin(names[suffix]))
        prepared[suffix] = tokenize_split(
            rows,
            task.text_columns,
            task.labels,
            tokenizer,
            max_length,
            data_args.pad_to_max_length,
            keep_texts,
            not data_args.overwrite_cache,
            f"Tokenizing {task.argument}",
        )
    return prepared


def select(split: datasets.Dataset, task: LabelledTask, kind: str, limit: int | None) -> datasets.Dataset:
    """The first `limit` rows with a label; for prediction rows without label are kept, and then no label at all."""
    if "label" in split.column_names:
        rows = labelled_rows(split, task)
        if kind == "test" and len(rows) < len(split):
            if rows:
                logger.warning(
                    f"{task.argument}: {len(split) - len(rows)} of {len(split)} test rows have no label, so that no prediction is scored"
                )
            else:
                logger.info(f"{task.argument}: the test labels are not public, predictions are not scored")
            split = split.remove_columns("label")
        elif len(rows) < len(split):
            logger.info(
                f"{task.argument}: {len(split) - len(rows)} of {len(split)} {kind} rows have no label, not used"
            )
            split = split.select(rows)
    elif kind != "test":
        raise ValueError(f"The {kind} split of `{task.argument}` has no column `label`, only {split.column_names}.")
    if len(split) == 0:
        raise ValueError(f"The {kind} split of `{task.argument}` has no row with a label.")
    return split.select(range(min(limit or len(split), len(split))))


def labelled_rows(split: datasets.Dataset, task: LabelledTask) -> list[int]:
    """Numbers of the rows whose label is known."""
    column = split["label"][:]
    if task.labels.is_multi_label:
        return [row for row, value in enumerate(column) if value is not None]
    if task.labels.is_regression:
        # One score may well be -1; a split of nothing else is a GLUE test.
        hidden = all(value == HIDDEN_LABEL for value in column)
        return [] if hidden else [row for row, value in enumerate(column) if value is not None and value == value]
    unknown = set(column) - {*task.labels.values, HIDDEN_LABEL, None}
    if unknown:
        raise ValueError(
            f"`{task.argument}` has labels {sorted(unknown, key=str)[:5]} that its train split lacks ({task.labels.values[:20]})."
        )
    return [row for row, value in enumerate(column) if value in task.labels.values]


# Metrics


def local_metric(task_name: str | None, is_regression: bool, predictions, references) -> dict[str, float]:
    """The metrics of `evaluate.load("glue", task_name)`, computed here; for other data accuracy, or error and correlations."""
    if task_name == "cola":
        from sklearn.metrics import matthews_corrcoef

        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
    if is_regression:
        from scipy.stats import pearsonr, spearmanr

        correlations = {
            "pearson": float(pearsonr(predictions, references)[0]),
            "spearmanr": float(spearmanr(predictions, references)[0]),
        }
        error = {} if task_name else {"mse": float(np.mean((predictions - references) ** 2))}
        return {**error, **correlations}
    accuracy = {"accuracy": float(np.mean(predictions == references))}
    if task_name in ("mrpc", "qqp"):
        from sklearn.metrics import f1_score

        return {**accuracy, "f1": float(f1_score(references, predictions))}
    return accuracy


def check_can_score(task_name: str | None, is_regression: bool) -> None:
    """
    Check, before training, that [`local_metric`] will be able to score.

    Raises:
        ImportError: a package is missing.
    """
    package = "scipy" if is_regression else "sklearn" if task_name in ("cola", "mrpc", "qqp") else None
    if package is not None and importlib.util.find_spec(package) is None:
        name = {"sklearn": "scikit-learn"}.get(package, package)
        raise ImportError(f"The metric of {task_name or 'real labels'} needs {name}: pip install {name}.")


def load_metric(task_name: str | None, is_regression: bool) -> Callable:
    """`evaluate`'s metric of a GLUE task where it can be had, else [`local_metric`], which gives the same numbers."""
    reason = "not a GLUE task" if task_name is None else "HF_HUB_OFFLINE is set"
    if task_name is not None and not constants.HF_HUB_OFFLINE:
        try:
            import evaluate

            metric = evaluate.load("glue", task_name, keep_in_memory=True)
            logger.info(f"Metric: evaluate's glue/{task_name}")
            return lambda predictions, references: metric.compute(predictions=predictions, references=references)
        except Exception as error:  # no network, a proxy, an old version: none is a reason not to train
            reason = f"evaluate's could not be loaded: {error}"
    check_can_score(task_name, is_regression)
    logger.info(f"Metric: computed here ({reason})")
    return lambda predictions, references: local_metric(task_name, is_regression, predictions, references)


def make_compute_metrics(task_name: str | None, labels: Labels) -> Callable:
    """`compute_metrics` of [`~transformers.Trainer`], on labels as the data set numbers them."""
    metric = load_metric(task_name, labels.is_regression)

    def compute_metrics(output):
        predictions, references = predicted(output.predictions, labels), np.asarray(output.label_ids).reshape(-1)
        if not labels.is_regression:
            # The model may have more outputs than the data has classes.
            places = np.full(max(predictions.max(initial=0), references.max(initial=0), *labels.ids) + 1, -1)
            places[labels.ids] = np.arange(len(labels.ids))
            predictions, references = places[predictions], places[references]
        result = metric(predictions, references)
        scores = [value for name, value in result.items() if name != "mse"]
        return {**result, "combined_score": float(np.mean(scores))} if len(scores) > 1 else result

    return compute_metrics


def predicted(logits, labels: Labels) -> np.ndarray:
    """Scores of a regression, else the likeliest output."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits.reshape(-1) if labels.is_regression else logits.argmax(-1)
