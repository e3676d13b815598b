"""What can be wrong with the data, told before training starts."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from datasets import ClassLabel
from transformers import TrainingArguments

from .labels import LABEL_COLUMNS, infer_num_labels, label_column, label_values
from .seeding import isolated_rng


if TYPE_CHECKING:
    from .trainer import TransferTrainer


def check_parallelism(args: TrainingArguments, trainer: str) -> None:
    """
    Check that the objective is defined for how the work is divided: over rows of a batch, one process per device.

    Args:
        trainer (`str`): the trainer's name, for the message.

    Raises:
        ValueError: one process has several devices (`torch.nn.DataParallel`), or one row is divided over several.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"{trainer} needs one process per device, and this one has {args.n_gpu}: start the script with `accelerate "
            "launch` or `torchrun --nproc_per_node`, or show it one device with CUDA_VISIBLE_DEVICES."
        )
    sizes = {name: getattr(args.parallelism_config, name, 1) for name in ("tp_size", "cp_size", "sp_size")}
    if any(size > 1 for size in sizes.values()):
        raise ValueError(
            f"{trainer} does not work with tensor, context or sequence parallelism; `parallelism_config` has {sizes}. "
            "Use data parallelism, sharded (FSDP, DeepSpeed) or not."
        )


def check_sharding(accelerator: Accelerator, trainer: str) -> None:
    """
    Check that the way the model is sharded is supported.

    Args:
        trainer (`str`): the trainer's name, for the message.

    Raises:
        ValueError: it is the first version of FSDP, whose flat parameters cannot be written one by one.
    """
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError(
            f"{trainer} needs the second version of FSDP: set `fsdp_version: 2` in the `fsdp_config` of accelerate."
        )


def check_head_can_be_written(trainer: Any) -> None:
    """
    Check that a head may be fit in the middle of a run, and trained from there.

    Raises:
        ValueError: DeepSpeed trains copies of the parameters, which would put the old head back at its next step.
    """
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            f"{type(trainer).__name__} fits the model's last layer and trains it from there, and DeepSpeed, which trains copies of "
            "its own, would put the old one back. Use `ddp` or `fsdp2` as the configuration of accelerate."
        )


def check_source_is_wanted(trainer: "type[TransferTrainer]", source_dataset: Any | None) -> None:
    """
    Check that there is a source where the method needs one, and none where it would not be used.

    Raises:
        ValueError: it is missing, or would be ignored.
    """
    if source_dataset is None and trainer.needs_source:
        raise ValueError(f"{trainer.__name__} trains on a source: give it a `source_dataset`, with labels of its own.")
    if source_dataset is not None and not trainer.takes_source:
        raise ValueError(
            f"{trainer.__name__} trains on the target alone, and a `source_dataset` was given. Leave it out, or use "
            "SequentialTrainer (the source first, then the target) or MerlinTrainer."
        )


def check_has_labels(dataset: Any, argument: str, needs_column: bool = True) -> None:
    """
    Check that a `datasets.Dataset` has a label column; what other data sets hold is seen when they are collated.

    Args:
        argument (`str`): how the user calls the data set, for the message.
        needs_column (`bool`): `False` where a transform or collator may make labels of any column.

    Raises:
        ValueError: there is none, or it holds text, or lists of different lengths.
    """
    names = getattr(dataset, "column_names", None)
    if needs_column and names is not None and not any(name in names for name in LABEL_COLUMNS):
        features = getattr(dataset, "features", None) or {}
        likely = next((name for name in names if isinstance(features.get(name), ClassLabel)), names[-1])
        remedy = (
            f"Pass `source_column_mapping={{{likely!r}: 'label'}}`"
            if argument == "source_dataset"
            else f"Rename it, `dataset.rename_column({likely!r}, 'label')`"
        )
        raise ValueError(
            f"`{argument}` has no labels: its columns are {', '.join(map(repr, names))}, and none is called `label` or "
            f"`labels`. {remedy}, if that is where they are."
        )
    values = label_values(dataset)
    if values is not None and len(values) and isinstance(values[0], str):
        raise ValueError(
            f"The labels of `{argument}` are text, such as {str(values[0])!r}. Make class ids of them: "
            f"`dataset.class_encode_column({label_column(dataset)!r})`."
        )
    if values is not None and values.dtype.kind == "O" and len(values) and np.ndim(values[0]):
        raise ValueError(
            f"The labels of `{argument}` are lists of different lengths, such as {list(values[0])}. Turn each into a list of zeros and ones, one "
            "for each label."
        )


def check_label_lists(labels: Any, dataset: Any) -> None:
    """
    Check that lists of labels of a target batch are what transformers' own losses take.

    Args:
        labels (`torch.Tensor` of shape `(n,)` or `(n, num_labels)`): of the batch.
        dataset: the rows that it was made of, for the name of the column.

    Raises:
        ValueError: they are integers.
    """
    labels = torch.as_tensor(labels)
    if labels.ndim == 2 and labels.shape[1] > 1 and not labels.is_floating_point():
        raise ValueError(
            f"The labels of `train_dataset` are lists of {str(labels.dtype).removeprefix('torch.')}, and the losses of transformers' models "
            f"take real ones: `dataset.cast_column({label_column(dataset) or 'labels'!r}, datasets.Sequence(datasets.Value('float32')))`."
        )


def check_labels(dataset: Any, argument: str, num_labels: int) -> None:
    """
    Check the label column of a `datasets.Dataset` against the outputs of its head; other data sets pass.

    Args:
        argument (`str`): how the user calls the data set, for the message.
        num_labels (`int`): outputs of the head.

    Raises:
        ValueError: there is a class id outside `0 ... num_labels - 1` (other than -100).
    """
    values = label_values(dataset)
    if values is None or values.ndim != 1 or values.dtype.kind not in "iu" or num_labels == 1:
        return
    ids = np.unique(values[values != -100])
    outside = ids[(ids < 0) | (ids >= num_labels)]
    if len(outside):
        remedy = (
            "Load the model with the target's `num_labels`"
            if argument == "train_dataset"
            else "Set `num_source_labels` to the number of source classes"
        )
        raise ValueError(
            f"`{argument}` has label ids {outside[:5].tolist()} outside 0 ... {num_labels - 1}. {remedy}, drop unlabelled "
            "rows (often -1), or set them to -100 to have them ignored."
        )


def check_target_classes(dataset: Any, num_labels: int) -> None:
    """
    Check that a classification target has something to tell apart.

    Raises:
        ValueError: all labels of the target are the same.
    """
    values = label_values(dataset)
    if values is None or values.ndim != 1 or values.dtype.kind not in "iu" or num_labels == 1:
        return
    ids = np.unique(values[values != -100])
    if len(ids) < 2:
        raise ValueError(
            f"`train_dataset` has {len(ids)} class ({ids.tolist()}) in {len(values)} rows; a head needs at least two. "
            "A sorted data set must be shuffled before rows are selected from it."
        )


def check_target_batch(dataset: Any, num_labels: int, batch_size: int) -> None:
    """
    Check that a target batch can always be split by class.

    Args:
        batch_size (`int`): target rows of one micro-batch over all ranks.

    Raises:
        ValueError: there may be batches in which no class has two rows, so that nothing can be validated.
    """
    values = label_values(dataset)
    if values is not None and values.ndim == 1 and values.dtype.kind in "iu" and num_labels > 1:
        num_classes = len(np.unique(values[values != -100]))
    else:
        num_classes = 1
    rows = len(dataset) if hasattr(dataset, "__len__") else batch_size
    smallest = num_classes + 1
    if min(batch_size, rows) < smallest:
        raise ValueError(
            f"A target batch of {min(batch_size, rows)} rows is too small to split by class: with {num_classes} classes "
            f"it takes {smallest} rows to have two of one class, one to fit the head on and one to judge it by. Raise "
            "`per_device_train_batch_size` (gradient accumulation does not help: each micro-batch is split by itself)."
        )


def probe_batch(
    dataset: Any, collate: Callable[[list], Any], given: Any, argument: str, collator_argument: str
) -> dict[str, Any]:
    """
    Collate the first rows of a map-style data set, as training will.

    Args:
        dataset: with the columns that the model does not take removed.
        collate (`Callable`): makes a batch of rows.
        given: the data set as the user passed it, for the message.
        argument, collator_argument (`str`): how the user calls both.

    Returns:
        `dict[str, Any]`: the batch.

    Raises:
        ValueError: the rows cannot be collated, or the batch has no labels.
    """
    with isolated_rng("probe", argument):
        rows = [dataset[index] for index in range(min(2, len(dataset)))]
        names = getattr(given, "column_names", None) or (list(rows[0]) if isinstance(rows[0], Mapping) else None)
        layout = f"columns {', '.join(names)}" if names else f"rows of type {type(rows[0]).__name__}"
        try:
            batch = collate(rows)
        except Exception as error:
            raise ValueError(
                f"The collator cannot make a batch of `{argument}` ({layout}): {error} Tokenize or preprocess it like "
                f"the other data set, or pass a collator of its own as `{collator_argument}=`."
            ) from error
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"The collator made a {type(batch).__name__} of `{argument}` ({layout}); a mapping of the model's argument "
            f"names to tensors is needed. Pass such a collator as `{collator_argument}=`."
        )
    if batch.get("labels") is None:
        raise ValueError(
            f"`{argument}` has no labels: its {layout} were collated to {', '.join(batch)}. The batch needs `labels`."
        )
    if len(batch) == 1:
        raise ValueError(
            f"`{argument}` has no model inputs: of its {layout} only labels are left after collation, as the model's "
            f"forward takes none of the others. Tokenize or preprocess it like the other data set, or pass a collator of "
            f"its own as `{collator_argument}=` with `remove_unused_columns=False`."
        )
    return dict(batch)


def count_source_labels(dataset: Any, given: int | None) -> int:
    """
    Outputs of the source head: as `given`, or as the data set tells.

    Raises:
        ValueError: neither says.
    """
    if given is not None:
        return given
    inferred = infer_num_labels(dataset)
    if inferred is None:
        raise ValueError(
            f"Cannot tell how many labels `source_dataset` ({type(dataset).__name__}) has, as it has no column `label` that tells. Set "
            "`num_source_labels` in the training arguments (1 for regression), or name the column by `source_column_mapping`."
        )
    return inferred
