"""The labels of a task: their kind, the columns that hold them, and the loss for them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from ..heads.base import MULTI_LABEL, REGRESSION, SINGLE_LABEL


LABEL_COLUMNS = ("labels", "label", "label_ids")
IGNORED = -100  # the class id of rows and tokens that no loss counts


def problem_type_of(labels: Tensor, num_labels: int, problem_type: str | None = None) -> str:
    """
    Return the problem type: as the configuration names it, or by the rule of transformers' own classifiers.

    Lists of integers, which those do not take, are several labels as well.
    """
    if problem_type is not None:
        return problem_type
    if num_labels == 1:
        return REGRESSION
    return MULTI_LABEL if labels.is_floating_point() or labels.ndim == 2 else SINGLE_LABEL


def configured_problem_type(model: nn.Module | None) -> str | None:
    """Return the problem type that the configuration of a model names, if it does."""
    return getattr(getattr(model, "config", None), "problem_type", None)


def task_loss(logits: Tensor, labels: Tensor, problem_type: str, label_smoothing: float = 0.0) -> Tensor:
    """
    Return the mean loss over a batch, as transformers' own classifiers compute it, of shape `()`.

    Args:
        logits (`torch.FloatTensor` of shape `(n, num_labels)`).
        labels: `(n,)` class ids (-100 is ignored; 0 when all are), `(n, num_labels)` zeros and ones, or reals.
        problem_type (`str`): as in the model's configuration.
        label_smoothing (`float`): for class ids, as in [`~transformers.trainer_pt_utils.LabelSmoother`].
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if problem_type == SINGLE_LABEL:
        labels = labels.long()  # which may be booleans
        total = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        return total / (labels != -100).sum().clamp(min=1)
    labels = labels.to(logits.dtype).reshape(logits.shape)
    if problem_type == MULTI_LABEL:
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)
    return nn.functional.mse_loss(logits, labels)


def row_losses(logits: Tensor, targets: Tensor, problem_type: str, label_smoothing: float = 0.0) -> Tensor:
    """
    Return the loss `(num_heads, n)` of each row by each head: cross-entropy, binary cross-entropy or squared error.

    Args:
        logits (`torch.FloatTensor` of shape `(num_heads, n, num_labels)`): scaled.
        targets (`torch.FloatTensor` of shape `(n, num_labels)`): see [`~merlin_hf.heads.encode_targets`].
        problem_type (`str`): as in the model's configuration.
        label_smoothing (`float`): for classes.
    """
    targets = targets.to(logits).expand_as(logits)
    if problem_type == SINGLE_LABEL:
        targets = (1 - label_smoothing) * targets + label_smoothing / targets.shape[-1]
        return -(targets * logits.log_softmax(-1)).sum(-1)
    if problem_type == MULTI_LABEL:
        return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
    return (logits - targets).square().mean(-1)


def column_names(dataset: Any) -> list[str]:
    """Return the names of a data set's columns: `datasets.Dataset`, list of rows or `Subset` of these; else none."""
    if isinstance(dataset, Subset):
        return column_names(dataset.dataset)
    if isinstance(dataset, list | tuple):
        return list(dataset[0]) if dataset and isinstance(dataset[0], Mapping) else []
    return list(getattr(dataset, "column_names", None) or ())


def label_column(dataset: Any) -> str | None:
    """Return the name of a data set's label column, if it has one."""
    names = column_names(dataset)
    return next((name for name in LABEL_COLUMNS if name in names), None)


def label_values(dataset: Any) -> np.ndarray | None:
    """
    Return the labels of a data set in memory, as stored; `None` where they cannot be read without its rows.

    Labels of tokens are those of all rows in one array `(number of tokens,)`.
    """
    column = label_column(dataset)
    if column is None:
        return None
    if has_token_labels(dataset):
        lists = arrow_column(dataset, column)
        return None if lists is None else pc.list_flatten(lists.combine_chunks()).to_numpy(zero_copy_only=False)
    if hasattr(dataset, "select_columns") and hasattr(dataset, "__len__"):
        return dataset.select_columns([column]).with_format("numpy")[:][column]
    values = arrow_column(dataset, column)
    if values is None:
        return None
    return np.array(values.to_pylist()) if hasattr(values.type, "value_type") else values.to_numpy()


def has_token_labels(dataset: Any) -> bool:
    """
    Return whether the label of a row is a list of class ids, one for each of its tokens.

    That is where lists have different lengths, where they are a `Sequence(ClassLabel)`, or where each is as long as
    `input_ids`; other lists of integers are several labels of a row.
    """
    column = label_column(dataset)
    values = None if column is None else arrow_column(dataset, column)
    if values is None or not hasattr(values.type, "value_type") or not pa.types.is_integer(values.type.value_type):
        return False
    lengths = pc.list_value_length(values).to_numpy()
    if len(np.unique(lengths)) > 1 or class_names(dataset) is not None:
        return True
    return are_as_long_as_tokens(dataset)


def are_as_long_as_tokens(dataset: Any) -> bool:
    """Return whether labels are lists, each as long as `input_ids`."""
    columns = [arrow_column(dataset, name) for name in (label_column(dataset), "input_ids") if name is not None]
    lists = [column for column in columns if column is not None and hasattr(column.type, "value_type")]
    return len(lists) == 2 and np.array_equal(*(pc.list_value_length(column).to_numpy() for column in lists))


def class_feature(dataset: Any) -> Any:
    """Return the feature that names the classes of a data set, that of a token where each has a label, or `None`."""
    feature = (getattr(dataset, "features", None) or {}).get(label_column(dataset))
    return getattr(feature, "feature", feature)


def arrow_column(dataset: Any, column: str) -> pa.ChunkedArray | None:
    """Return a column of rows in memory, as stored, with its missing values; `None` where it needs the rows."""
    if isinstance(dataset, Subset):
        values = arrow_column(dataset.dataset, column)
        return None if values is None else values.take(pa.array(list(dataset.indices), pa.int64()))
    if column not in column_names(dataset):
        return None
    if isinstance(dataset, list | tuple):
        try:
            return pa.chunked_array([pa.array([row.get(column) for row in dataset])])
        except (pa.ArrowException, AttributeError):  # of tensors, or rows of several kinds
            return None
    if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
        return None
    return dataset.select_columns([column]).with_format("arrow")[:][column]


def count_missing(values: pa.ChunkedArray) -> int:
    """Return how many rows of a column lack a value: None or NaN, or a list with one of these."""
    if not hasattr(values.type, "value_type"):
        return pc.sum(pc.is_null(values, nan_is_null=True)).as_py() or 0
    rows = values.combine_chunks()
    is_missing = pc.is_null(pc.list_flatten(rows), nan_is_null=True)
    return rows.null_count + len(pc.unique(pc.filter(pc.list_parent_indices(rows), is_missing)))


def class_names(dataset: Any) -> list[str] | None:
    """Return the names of a data set's classes in the order of their ids; `None` where it does not name them."""
    if isinstance(dataset, Subset):
        return class_names(dataset.dataset)
    names = getattr(class_feature(dataset), "names", None)
    return list(names) if names else None


def output_names(config: Any) -> list[str] | None:
    """Return the names of a model's outputs, by its configuration, in the order of their ids."""
    names = getattr(config, "id2label", None)
    return [str(names[key]) for key in sorted(names, key=int)] if isinstance(names, Mapping) and names else None


def kind_of_labels(labels: Tensor) -> str:
    """Describe the labels of a batch `(n,)`, `(n, 1)` or `(n, num_labels)` in words, for messages and comparisons."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return f"lists of {labels.shape[1]}"
    return "real numbers" if labels.is_floating_point() else "class ids"


def infer_num_labels(dataset: Any) -> int | None:
    """
    Return the number of outputs that a head for this data set needs; `None` where the data set does not tell.

    It is the number of classes of a `ClassLabel`, 1 for real labels, the length of list labels, else the largest id
    plus one.
    """
    column = label_column(dataset)
    if column is None or not hasattr(dataset, "column_names"):
        return None
    num_classes = getattr(class_feature(dataset), "num_classes", None)
    if num_classes is not None:
        return num_classes
    values = label_values(dataset)
    if values is None or len(values) == 0:
        return None
    if values.ndim == 2:
        return values.shape[1]
    if values.dtype.kind == "f":
        return 1
    return int(values.max()) + 1


def split_labels(batch: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
    """Divide a batch into inputs without labels, and labels; a `ValueError` if there are none."""
    inputs = dict(batch)
    labels = inputs.pop("labels", None)
    if labels is None:
        raise ValueError(
            f"A training batch has no `labels`, only {', '.join(inputs)}. Every row of `train_dataset` and of "
            "`source_dataset` needs a `label` or `labels` that the collator hands on."
        )
    return inputs, torch.as_tensor(labels)
