"""
Checks of labels: their columns, their kind, their classes, and the number of outputs that they need.

In all of them, `argument` is the name by which the user passes a data set, for the message.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from datasets import ClassLabel
from transformers.utils import logging

from .labels import (
    LABEL_COLUMNS,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    arrow_column,
    class_names,
    column_names,
    count_missing,
    infer_num_labels,
    kind_of_labels,
    label_column,
    label_values,
    output_names,
)
from .tokens import check_token_labels


logger = logging.get_logger(__name__)


def check_has_labels(dataset: Any, argument: str, needs_column: bool = True, is_for_tokens: bool = False) -> None:
    """
    Raise a `ValueError` if a `datasets.Dataset` has no good label column; others are checked when they are collated.

    It holds text, missing values or lists of different lengths, there are two that differ, or tokens have labels and
    the model classifies rows (`is_for_tokens`), or the reverse. With `needs_column=False` a transform or collator may
    make labels of any column.
    """
    names = getattr(dataset, "column_names", None)
    if needs_column and names is not None and not any(name in names for name in LABEL_COLUMNS):
        features = getattr(dataset, "features", None) or {}
        likely = next((name for name in names if isinstance(features.get(name), ClassLabel)), names[-1])
        remedy = (
            f"Pass `source_column_mapping={{{likely!r}: 'label'}}`"
            if argument.startswith("source_dataset")
            else f"Rename it, `dataset.rename_column({likely!r}, 'label')`"
        )
        raise ValueError(
            f"`{argument}` has no labels: its columns are {', '.join(map(repr, names))}, and none is called `label` "
            f"or `labels`. {remedy}, if that is where they are."
        )
    if has_transform(dataset):  # what is stored is not what is trained on
        return
    check_one_label_column(dataset, argument)
    column = label_column(dataset)
    values = None if column is None else arrow_column(dataset, column)
    if values is None:
        return
    missing = count_missing(values)
    if missing:
        raise ValueError(
            f"`{argument}` has {missing} of {len(values)} rows without a label (None or NaN in the column "
            f"{column!r}). Drop them with `dataset.filter`, or give them the class id -100 to have them ignored."
        )
    first = values[0].as_py()
    if isinstance(first, str):
        raise ValueError(
            f"The labels of `{argument}` are text, such as {first!r}. Make class ids of them: "
            f"`dataset.class_encode_column({column!r})`."
        )
    check_token_labels(dataset, argument, first, is_for_tokens)
    lengths = pc.list_value_length(values).unique() if isinstance(first, list) and not is_for_tokens else ()
    if len(lengths) > 1:
        raise ValueError(
            f"The labels of `{argument}` are lists of different lengths, such as {first}. Turn each into a list of "
            "zeros and ones, one for each label."
        )


def has_transform(dataset: Any) -> bool:
    """Return whether a `datasets.Dataset` has a transform, which makes its rows when they are read."""
    if isinstance(dataset, torch.utils.data.Subset):
        return has_transform(dataset.dataset)
    return isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom"


def check_one_label_column(dataset: Any, argument: str) -> None:
    """Raise a `ValueError` if two columns differ which collators may both take for the labels."""
    names = [name for name in LABEL_COLUMNS if name in column_names(dataset)]
    columns = {name: values for name in names if (values := arrow_column(dataset, name)) is not None}
    for kept, other in itertools.pairwise(columns):
        if not _same_values(columns[kept], columns[other]):
            raise ValueError(
                f"`{argument}` has the columns {kept!r} and {other!r}, and they differ: some collators take one and "
                "some the other for the labels. Drop the one that is not meant, such as "
                f"`dataset.remove_columns({other!r})`."
            )


def _same_values(one: Any, other: Any) -> bool:
    if one.type == other.type:
        return one.equals(other)
    return np.array_equal(one.to_numpy(), other.to_numpy())


def check_label_lists(labels: Any, dataset: Any) -> None:
    """Raise a `ValueError` if lists of labels are integers, which transformers' own losses do not take."""
    labels = torch.as_tensor(labels)
    if labels.ndim == 2 and labels.shape[1] > 1 and not labels.is_floating_point():
        raise ValueError(
            f"The labels of `train_dataset` are lists of {str(labels.dtype).removeprefix('torch.')}, and the losses "
            f"of transformers' models take real ones: `dataset.cast_column({label_column(dataset) or 'labels'!r}, "
            "datasets.Sequence(datasets.Value('float32')))`."
        )


def check_labels(dataset: Any, argument: str, num_labels: int, problem_type: str | None = None) -> None:
    """
    Raise a `ValueError` if labels of a `datasets.Dataset` do not fit the outputs of its head; other data sets pass.

    There is a class id outside `0 ... num_labels - 1` (other than -100), there are none but -100, real labels are
    infinite, or one of several labels a row is not between 0 and 1.
    """
    values = label_values(dataset)
    if values is None or values.dtype.kind not in "iuf" or len(values) == 0:
        return
    if values.dtype.kind == "f":
        infinite = int((~np.isfinite(values)).reshape(len(values), -1).any(-1).sum())
        if infinite:
            raise ValueError(
                f"`{argument}` has {infinite} of {len(values)} rows with an infinite label. Drop or correct them."
            )
    if values.ndim == 2 and num_labels > 1 and problem_type != REGRESSION:
        outside = int(((values < 0) | (values > 1)).any(-1).sum())
        if outside:
            raise ValueError(
                f"`{argument}` has {outside} of {len(values)} rows with a label outside 0 ... 1 in their lists, such "
                f"as {values[(values < 0) | (values > 1)][0]}. Several labels a row are zeros and ones; drop rows "
                "that are not labelled."
            )
    if values.dtype.kind == "f":
        return
    if values.ndim != 1 or num_labels == 1:
        return
    labelled = _labelled(values, argument)
    is_outside = (labelled < 0) | (labelled >= num_labels)
    if is_outside.any():
        remedy = "Encode its labels as those of `train_dataset`"
        if argument == "train_dataset":
            remedy = "Load the model with the target's `num_labels`"
        elif argument.startswith("source_dataset"):
            remedy = "Set `num_source_labels` to the number of source classes"
        raise ValueError(
            f"`{argument}` has label ids {np.unique(labelled[is_outside])[:5].tolist()} outside 0 ... "
            f"{num_labels - 1}, in {int(is_outside.sum())} of {len(values)} rows. {remedy}, drop unlabelled rows "
            "(often -1), or set them to -100 to have them ignored."
        )


def _labelled(values: np.ndarray, argument: str) -> np.ndarray:
    labelled = values[values != -100]
    if len(labelled) == 0:
        raise ValueError(
            f"`{argument}` has no row with a label: all {len(values)} are -100, which is ignored. Use rows that are "
            f"labelled{', or leave it out' if argument != 'train_dataset' else ''}."
        )
    return labelled


def check_batch(trainer: Any, batch: Any, argument: str, num_labels: int) -> None:
    """
    Raise a `ValueError` if a batch of a stream has class ids without an output, NaN or infinity.

    Such labels cannot be read before. On an accelerator, which would wait, only those of the first update are.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, torch.Tensor) or (labels.device.type != "cpu" and trainer.state.global_step):
        return
    labels = labels.flatten() if trainer.classifies_tokens else labels
    if labels.is_floating_point():
        is_bad = ~labels.isfinite()
    elif labels.ndim == 1 and num_labels > 1:
        is_bad = ((labels < 0) & (labels != -100)) | (labels >= num_labels)
    else:
        return
    if is_bad.any():
        raise ValueError(
            f"A batch of `{argument}` has labels such as {labels[is_bad][0].item()}, and its head is for finite "
            f"numbers and class ids in 0 ... {num_labels - 1}. Drop unlabelled rows, or set them to -100 to have them "
            "ignored."
        )


def check_kind_of_labels(labels: Any, argument: str, num_labels: int, problem_type: str | None = None) -> None:
    """
    Raise a `ValueError` if labels of a batch, after collation, are not of the kind that the head takes.

    `problem_type` is as in the model's configuration, which may be that of another task.
    """
    takes = {
        SINGLE_LABEL: ["class ids"],
        MULTI_LABEL: [f"lists of {num_labels}"],
        REGRESSION: [f"lists of {num_labels}"],
    }
    if num_labels == 1:
        takes[MULTI_LABEL] = takes[REGRESSION] = ["real numbers", "class ids"]
    if problem_type is not None and problem_type not in takes:
        raise ValueError(
            f"`model.config.problem_type={problem_type!r}` is none of {', '.join(takes)}. Set it to None to have it "
            "follow from the labels."
        )
    if problem_type is None:
        wanted = takes[REGRESSION] if num_labels == 1 else [*takes[SINGLE_LABEL], *takes[MULTI_LABEL]]
    else:
        wanted = takes[problem_type]
    found = kind_of_labels(torch.as_tensor(labels))
    if found in wanted:
        return
    head = "The source head" if argument.startswith("source_dataset") else "The model"
    outputs = f"{head} has {num_labels} output{'s' if num_labels > 1 else ''}"
    if problem_type is not None:
        outputs += f" and `config.problem_type={problem_type!r}`"
    remedies = []
    if problem_type is not None:
        remedies.append("set `model.config.problem_type` to None where it is that of an earlier task")
    if found == "real numbers":
        remedies.append("make integers of class ids (`dataset.cast_column('label', datasets.Value('int64'))`)")
    remedies.append(
        "set `num_source_labels` to what the labels need (1 for real numbers)"
        if argument.startswith("source_dataset")
        else "load the model with the `num_labels` that they need (1 for real numbers)"
    )
    raise ValueError(
        f"The labels of `{argument}` are {found}. {outputs}, which takes {' or '.join(wanted)}: "
        f"{', or '.join(remedies)}."
    )


def check_class_names(dataset: Any, argument: str, train_dataset: Any, config: Any = None) -> None:
    """
    Raise a `ValueError` if classes have other numbers than in `train_dataset`, where both name them.

    The model's configuration may name those of `train_dataset`.
    """
    names, trained = class_names(dataset), class_names(train_dataset)
    if trained is None and names is not None:
        check_names_of_outputs(dataset, config, len(names), argument)
    if names is None or trained is None or names == trained:
        return
    feature = f"train_dataset.features[{label_column(train_dataset)!r}]"
    remedy = f"`dataset.cast_column({label_column(dataset)!r}, {feature})` encodes them alike"
    if set(names) != set(trained):
        remedy = "Drop the rows of other classes, or give both the same `ClassLabel`"
    raise ValueError(
        f"The classes of `{argument}` are {_listed(names)}, and those of `train_dataset` are {_listed(trained)}: "
        f"their numbers do not stand for the same. {remedy}."
    )


def check_names_of_outputs(train_dataset: Any, config: Any, num_labels: int, argument: str = "train_dataset") -> None:
    """Raise a `ValueError` if a model would name the data's classes wrongly, or has one output for several."""
    trained = class_names(train_dataset)
    outputs = output_names(config) or []
    is_one_of_several = getattr(config, "problem_type", None) == MULTI_LABEL  # a label that may be there or not
    if trained is not None and len(trained) > 1 and num_labels == 1 and not is_one_of_several:
        raise ValueError(
            f"`train_dataset` has {len(trained)} classes, {_listed(trained)}, and the model has one output, which "
            f"would be fit to their numbers. Load the model with `num_labels={len(trained)}`; to fit numbers, "
            f"`dataset.cast_column({label_column(train_dataset)!r}, datasets.Value('float32'))`."
        )
    if trained is None or len(outputs) != len(trained) or outputs == trained:
        return
    if sorted(outputs) == sorted(trained):
        raise ValueError(
            f"The classes of `{argument}` are {_listed(trained)}, and `model.config.id2label` has them in another "
            f"order, {_listed(outputs)}. Set `model.config.id2label = dict(enumerate(names))` and `label2id` to those "
            "of the data, or cast the column."
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:10]))
    return f"[{shown}, and {len(names) - 10} more]" if len(names) > 10 else f"[{shown}]"


def check_target_classes(dataset: Any, num_labels: int) -> None:
    """Raise a `ValueError` if all labels of a classification target are the same."""
    values = label_values(dataset)
    if values is None or values.ndim != 1 or values.dtype.kind not in "iu" or num_labels == 1:
        return
    ids = np.unique(values[values != -100])
    if len(ids) < 2:
        raise ValueError(
            f"`train_dataset` has {len(ids)} class ({ids.tolist()}) in {len(values)} rows; a head needs at least two. "
            "A sorted data set must be shuffled before rows are selected from it."
        )


def count_source_labels(dataset: Any, given: int | None, argument: str = "source_dataset") -> int:
    """
    Return the number of outputs of the source head: `given`, or that of the labels in the data set.

    Raises:
        ValueError: it is not given, and the labels do not tell; or they are all the same class.
    """
    if given is not None:
        return given
    inferred = infer_num_labels(dataset)
    if inferred is None:
        raise ValueError(
            f"Cannot tell how many labels `{argument}` ({type(dataset).__name__}) has, as it has no column "
            "`label` that tells. Set `num_source_labels` in the training arguments (1 for regression), or name the "
            "column by `source_column_mapping`."
        )
    values = label_values(dataset)
    if inferred < 2 and values is not None and values.dtype.kind == "f" and (values == values.round()).all():
        logger.warning(
            f"The labels of `{argument}` are whole numbers stored as real ones, such as {values.flat[0]}, and are "
            "taken for a regression. Set `num_source_labels=1` if they are, or make class ids of them with "
            "`dataset.cast_column('label', datasets.Value('int64'))`."
        )
    if inferred < 2 and values is not None and values.dtype.kind != "f":
        classes = np.unique(_labelled(values, argument)).tolist()
        raise ValueError(
            f"`{argument}` has one class ({classes}) in {len(values)} rows; at least two are needed. Use "
            "a source with more, or set `num_source_labels`."
        )
    return inferred
