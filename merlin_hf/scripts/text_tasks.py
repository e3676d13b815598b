"""Text tasks: where their rows, texts and labels are found, and how their answers are scored."""

import difflib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import datasets
import numpy as np
from huggingface_hub import constants

from ..data import load_dataset
from ..utils.validation import Count, check_options, interval
from .labels import HIDDEN_LABEL, LabelledTask, Labels, find_labels, join_label_columns, several_labels


TASK_TO_KEYS = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}

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
    source_task_name: str | None = field(default=None, metadata={"help": "GLUE task of the source."})
    source_dataset_name: str | None = field(default=None, metadata={"help": "Source: name on the Hub, or a folder."})
    source_dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    source_train_file: str | None = field(default=None, metadata={"help": "Source: a csv, json or parquet file."})
    source_text_columns: list[str] | None = field(default=None, metadata={"help": "As text_columns, for the source."})
    source_label_column: str | None = field(default=None, metadata={"help": "As label_column, for the source."})
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


@dataclass
class Task:
    """A data set with what is known about its columns; `argument` is how the user named it, for messages."""

    argument: str
    splits: datasets.DatasetDict
    text_columns: list[str]
    labels: Labels


# Loading


def load_task(
    data_args: DataTrainingArguments, prefix: str = "", several: Sequence[str] | None = None, **kwargs
) -> Task:
    """
    The target, or with `prefix="source_"` the source.

    Args:
        several (`Sequence[str]`, *optional*): names of a model's labels, where a row may have several of them.
        kwargs: for [`datasets.load_dataset`].
    """
    argument = next((name for name in data_args.origins(prefix) if getattr(data_args, name) is not None), "test_file")
    splits = datasets.DatasetDict()
    if argument.endswith("task_name"):
        splits = load_dataset("nyu-mll/glue", getattr(data_args, argument), argument=argument, **kwargs)
    elif argument.endswith("dataset_name"):
        config_name = getattr(data_args, f"{prefix}dataset_config_name")
        splits = load_dataset(getattr(data_args, argument), config_name, argument=argument, **kwargs)
    for split in ("train", "validation", "test"):
        path = getattr(data_args, f"{prefix}{split}_file", None)
        if path is not None:
            splits[split] = load_dataset(path, argument=f"{prefix}{split}_file", split="train", **kwargs)
    label_column = getattr(data_args, f"{prefix}label_column")
    if several is not None and label_column is None:
        splits = join_label_columns(splits, several)
    splits = name_labels(splits, label_column, f"{prefix}label_column", argument)
    found = None if several is None else several_labels(splits, several, argument)
    splits, labels = found or (splits, None)
    sample = splits["train"] if "train" in splits else next(iter(splits.values()))
    columns = getattr(data_args, f"{prefix}text_columns") or TASK_TO_KEYS.get(getattr(data_args, f"{prefix}task_name"))
    text_columns = find_text_columns(sample, columns, f"{prefix}text_columns")
    task = Task(argument, splits, text_columns, labels or find_labels(sample, argument))
    logger.info(f"{argument}: texts {task.text_columns}, labels {task.labels.names or 'real numbers'}")
    return task


def name_labels(splits: datasets.DatasetDict, given: str | None, option: str, argument: str) -> datasets.DatasetDict:
    """
    The splits with their labels in a column `label`; a split that has none stays as it is.

    Args:
        given (`str`, *optional*): the column that the option names; `label`, `labels` or the only column of classes if not
            given.

    Raises:
        ValueError: no split has the column that is given; the message lists the columns.
    """
    named = {}
    for name, split in splits.items():
        classes = [column for column, kind in split.features.items() if isinstance(kind, datasets.ClassLabel)]
        usual = [column for column in ("label", "labels") if column in split.column_names] or classes
        column = given or (usual[0] if len(usual) == 1 or usual[:1] == ["label"] else None)
        if column in split.column_names and column != "label":
            if "label" in split.column_names:
                split = split.remove_columns("label")
            split = split.rename_column(column, "label")
        named[name] = split
    if given is not None and not any(given in split.column_names for split in splits.values()):
        columns = list(next(iter(splits.values())).column_names)
        close = difflib.get_close_matches(given, columns, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"`{option}={given!r}` is no column of `{argument}`.{hint} Columns: {', '.join(columns)}.")
    return datasets.DatasetDict(named)


def find_text_columns(
    dataset: datasets.Dataset, given: list[str] | tuple[str, ...] | None, argument: str
) -> list[str]:
    """The columns that are tokenized together: as given, else those of a GLUE task, else the first two with strings."""
    features = dataset.features
    texts = [name for name in features if getattr(features[name], "dtype", None) in ("string", "large_string")]
    texts = [name for name in texts if name != "label"]
    known = [keys for keys in (*TASK_TO_KEYS.values(), ("text",)) if set(keys) <= set(texts)]
    columns = list(given or max(known, key=len, default=texts[:2]))
    if not 1 <= len(columns) <= 2 or not set(columns) <= set(texts):
        raise ValueError(f"`{argument}` must be one or two of the text columns {texts}, got {columns}.")
    return columns


# From rows to what the model takes


def prepare(
    task: Task, kind: str, limit: int | None, tokenizer, data_args: DataTrainingArguments, keep_texts: bool = False
) -> dict:
    """
    Tokenize one kind of split.

    Args:
        kind (`str`): `"train"`, `"validation"` or `"test"`.
        limit (`int`, *optional*): keep the first rows only.
        keep_texts (`bool`): as in [`tokenize`].

    Returns:
        `dict[str, datasets.Dataset]`: the split under `""`; MNLI's second one, from other genres, under `"-mm"`.
    """
    names = {"": kind if kind in task.splits else f"{kind}_matched", "-mm": f"{kind}_mismatched"}
    found = {suffix: task.splits[name] for suffix, name in names.items() if name in task.splits}
    if "" not in found:
        remedy = f" Give `{kind}_file`." if "source" not in task.argument else ""
        raise ValueError(f"`{task.argument}` has no {kind} split, only {', '.join(task.splits)}.{remedy}")
    return {
        suffix: tokenize(select(split, task, kind, limit), task, tokenizer, data_args, keep_texts)
        for suffix, split in found.items()
    }


def select(split: datasets.Dataset, task: LabelledTask, kind: str, limit: int | None) -> datasets.Dataset:
    """The first `limit` rows with a label; for prediction rows without label are kept, and then no label at all."""
    if "label" in split.column_names:
        rows = labelled_rows(split, task)
        if kind == "test" and len(rows) < len(split):
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


def tokenize(
    split: datasets.Dataset, task: Task, tokenizer, data_args: DataTrainingArguments, keep_texts: bool = False
) -> datasets.Dataset:
    """
    The model's inputs and `labels`, and no other column.

    Args:
        keep_texts (`bool`): keep the texts as well, as `text` and `text_pair`; a model card shows some of them.
    """
    ids = dict(zip(task.labels.values, task.labels.ids, strict=True))
    if data_args.max_seq_length > tokenizer.model_max_length:
        logger.warning(
            f"`max_seq_length={data_args.max_seq_length}` is more than the model takes; {tokenizer.model_max_length} is used."
        )
    options = {
        "padding": "max_length" if data_args.pad_to_max_length else False,
        "max_length": min(data_args.max_seq_length, tokenizer.model_max_length),
        "truncation": True,
    }

    def encode(rows):
        # An empty cell of a csv file is None.
        texts = [[text or "" for text in rows[name]] for name in task.text_columns]
        batch = tokenizer(*texts, **options)
        if keep_texts:
            batch.update(zip(("text", "text_pair"), texts, strict=False))
        if "label" in rows and task.labels.is_multi_label:
            batch["labels"] = rows["label"]
        elif "label" in rows:
            batch["labels"] = [float(label) if not ids else ids[label] for label in rows["label"]]
        return batch

    return split.map(
        encode,
        batched=True,
        remove_columns=split.column_names,
        load_from_cache_file=not data_args.overwrite_cache,
        desc=f"Tokenizing {task.argument}",
    )


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
    order = np.argsort(labels.ids)

    def compute_metrics(output):
        predictions, references = predicted(output.predictions, labels), np.asarray(output.label_ids).reshape(-1)
        if not labels.is_regression:
            predictions, references = order[predictions], order[references]
        result = metric(predictions, references)
        scores = [value for name, value in result.items() if name != "mse"]
        return {**result, "combined_score": float(np.mean(scores))} if len(scores) > 1 else result

    return compute_metrics


def predicted(logits, labels: Labels) -> np.ndarray:
    """Scores of a regression, else the likeliest output."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits.reshape(-1) if labels.is_regression else logits.argmax(-1)
