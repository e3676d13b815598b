"""
Checks of the data, the model and the options, before training and before evaluation. Their errors say what to change.

In all of them, `argument` is the name by which the user passes a data set, for the message.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from ..data.models import positions_in
from ..data.sentence_encoders import SECOND
from .adapters import check_head_is_saved
from .label_checks import (
    check_class_names,
    check_has_labels,
    check_kind_of_labels,
    check_label_lists,
    check_labels,
    check_names_of_outputs,
    check_target_classes,
    has_transform,
)
from .labels import arrow_column, column_names, configured_problem_type, label_column, label_values
from .seeding import isolated_rng
from .sentences import check_pairs
from .source import is_iterable
from .tokens import check_token_batch


INPUT_IDS = "input_ids"
ROWS_AT_ONCE = 20_000


def check_data(trainer: Trainer) -> None:
    """Raise a `ValueError` if the data sets, labels, model and options of a trainer do not fit together."""
    check_parallelism(trainer.args, type(trainer).__name__)
    check_sharding(trainer.accelerator, type(trainer).__name__)
    names = trainer.args.label_names
    if names is not None and "labels" not in names:
        raise ValueError(
            f"`label_names={names!r}` lacks 'labels', under which the collator hands on the labels: evaluation would "
            "have no loss. Leave it out, and name the column `label` or `labels`."
        )
    evaluated = eval_data_sets(trainer.eval_dataset)
    check_best_metric(trainer)
    sources = {source.argument: source for source in trainer.sources}
    data = {argument: source.dataset for argument, source in sources.items()}
    known = {**data, "train_dataset": trainer.train_dataset, **evaluated}
    for argument, dataset in known.items():
        check_is_one_data_set(dataset, argument)
        needs_column = trainer.args.remove_unused_columns and argument not in evaluated
        check_has_labels(dataset, argument, needs_column, trainer.classifies_tokens)
    transfer_model = trainer.build_transfer_model()
    check_head_is_saved(transfer_model.model, transfer_model.head_name)
    config = getattr(trainer.model, "config", None)
    for argument, source in sources.items():
        num_labels = transfer_model.num_source_labels(source.name)
        check_task(trainer, source.dataset, argument, num_labels, collator=source.collator)
    for argument, dataset in known.items():
        if argument not in sources and dataset is not None:
            check_task(trainer, dataset, argument, transfer_model.num_labels, configured_problem_type(trainer.model))
    if trainer.train_dataset is not None:
        check_names_of_outputs(trainer.train_dataset, config, transfer_model.num_labels)
        check_target_classes(trainer.train_dataset, transfer_model.num_labels)
        for argument, dataset in evaluated.items():
            check_class_names(dataset, argument, trainer.train_dataset, config)


def check_best_metric(trainer: Trainer) -> None:
    """
    Raise a `ValueError` if there is no `metric_for_best_model`, where all metrics are known before an evaluation.

    They are known without `compute_metrics` and without code of the user's own in evaluation.
    """
    args = trainer.args
    own = [trainer.evaluate, trainer.evaluation_loop, *(c.on_evaluate for c in trainer.callback_handler.callbacks)]
    is_known = trainer.compute_metrics is None and getattr(args, "skip_memory_metrics", True)
    is_known &= all(method.__module__.startswith(("merlin_hf.", "transformers.")) for method in own)
    if args.metric_for_best_model is None or args.eval_strategy == "no" or not is_known:
        return
    known = ["loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time"]
    if not trainer.trains_target_head:
        known += ["head_l2", "head_train_accuracy"]
    if isinstance(trainer.eval_dataset, Mapping):
        known = [f"{name}_{metric}" for name in trainer.eval_dataset for metric in known]
    if args.metric_for_best_model.removeprefix("eval_") not in known:
        raise ValueError(
            f"`metric_for_best_model={args.metric_for_best_model!r}` is not a metric of an evaluation without "
            f"`compute_metrics`. Pass a `compute_metrics` that returns it, or name one of {', '.join(known)}."
        )


def check_task(
    trainer: Trainer,
    dataset: Any,
    argument: str,
    num_labels: int,
    problem_type: str | None = None,
    collator: Callable | None = None,
) -> None:
    """Check the labels of a data set, and the batch that its collator, or the trainer's, makes of its first rows."""
    check_labels(dataset, argument, num_labels, problem_type)
    check_tokens(dataset, argument, trainer.model)
    is_source, is_evaluated = argument.startswith("source_dataset"), argument.startswith("eval_dataset")
    if is_iterable(dataset) or (is_evaluated and type(trainer).get_eval_dataloader is not Trainer.get_eval_dataloader):
        return
    description = "source" if is_source else "evaluation" if is_evaluated else "training"
    known, collate = trainer._with_collator(dataset, collator, description)
    collator_argument = "source_collator" if is_source else "data_collator"
    batch = probe_batch(known, collate, dataset, argument, collator_argument, needs_labels=not is_evaluated)
    if not is_source:
        check_pairs(trainer.model, batch, argument)
    if batch.get("labels") is None:
        return
    if trainer.classifies_tokens:
        check_token_batch(batch, argument)
        batch["labels"] = torch.as_tensor(batch["labels"]).flatten()
    if argument == "train_dataset" and trainer.target_compute_loss_func is None:
        check_label_lists(batch["labels"], dataset)
    check_kind_of_labels(batch["labels"], argument, num_labels, problem_type)
    if not is_evaluated and has_one_row_batches(trainer, dataset, is_source):
        one = probe_batch(known, collate, dataset, argument, collator_argument, rows=1)
        name = "per_device_source_batch_size" if is_source else "per_device_train_batch_size"
        remedy = f"Set another `{name}`" + (
            "." if is_source else ", or `dataloader_drop_last=True` to leave a last batch out."
        )
        check_one_row_batches(trainer.model, one, argument, remedy)


def has_one_row_batches(trainer: Trainer, dataset: Any, is_source: bool) -> bool:
    """Return whether a step may see a single row: never on several processes, which fill up their last batches."""
    if trainer.args.world_size > 1 or trainer.is_sharded:
        return False
    if is_source:
        return trainer.source_batch_size == 1
    size = trainer._train_batch_size
    return size == 1 or (len(dataset) % size == 1 and not trainer.args.dataloader_drop_last)


def check_evaluated(trainer: Trainer, dataset: Any, argument: str) -> None:
    """Check a data set that is passed to `evaluate` or `predict`, unless it was checked before training."""
    if not trainer.is_active or dataset is None or isinstance(dataset, str | Mapping) or trainer.is_fsdp_enabled:
        return
    if any(dataset is one for one in (*eval_data_sets(trainer.eval_dataset).values(), trainer.train_dataset)):
        return
    check_is_one_data_set(dataset, argument)
    check_has_labels(dataset, argument, needs_column=False, is_for_tokens=trainer.classifies_tokens)
    if label_column(dataset) is not None:
        config, num_labels = getattr(trainer.model, "config", None), trainer.build_transfer_model().num_labels
        check_labels(dataset, argument, num_labels, configured_problem_type(trainer.model))
        check_class_names(dataset, argument, trainer.train_dataset, config)
    check_tokens(dataset, argument, trainer.model)


def check_is_one_data_set(dataset: Any, argument: str) -> None:
    """Raise a `ValueError` if an argument is something else than one data set with rows."""
    if dataset is None:
        return
    kind = type(dataset).__name__
    if isinstance(dataset, Mapping):
        keys = ", ".join(map(repr, list(dataset)[:5])) or "nothing"
        if any(is_data_set(value) for value in dataset.values()) or isinstance(
            dataset, datasets.DatasetDict | datasets.IterableDatasetDict
        ):
            raise ValueError(
                f"`{argument}` is a {kind}, a dictionary of splits ({keys}), and one data set is needed: take one of "
                f"them, such as `{argument}[{next(iter(dataset), 'train')!r}]`, or put several together with "
                "`datasets.concatenate_datasets`."
            )
        raise ValueError(
            f"`{argument}` is a {kind} with {keys}, and one data set of rows is needed: make one of columns with "
            "`datasets.Dataset.from_dict`."
        )
    if isinstance(dataset, list | tuple) and any(is_data_set(part) for part in dataset):
        raise ValueError(
            f"`{argument}` is a {kind} of {len(dataset)} data sets, and one data set is needed: put them together "
            "with `datasets.concatenate_datasets`."
        )
    remedies = {
        "str": "load what it names, with `datasets.load_dataset`",
        "DataLoader": "pass its data set; the batches are made by the trainer",
        "DataFrame": "make one with `datasets.Dataset.from_pandas`",
        "Series": "make one with `datasets.Dataset.from_pandas`",
        "Table": "make one with `datasets.Dataset(table)`",
        "Tensor": "make one of named columns with `datasets.Dataset.from_dict`",
        "ndarray": "make one of named columns with `datasets.Dataset.from_dict`",
    }
    if isinstance(dataset, os.PathLike):
        kind = "str"
    if isinstance(dataset, Iterator):  # which is empty after one pass
        remedies[kind] = "make one with `datasets.IterableDataset.from_generator`, which can be read more than once"
    if kind in remedies:
        shown = f"{dataset!r}" if kind == "str" else f"a {kind}"
        raise ValueError(f"`{argument}` is {shown}, and one data set of rows is needed: {remedies[kind]}.")
    if hasattr(dataset, "__len__") and len(dataset) == 0:
        raise ValueError(f"`{argument}` has no rows.")


def is_data_set(value: Any) -> bool:
    """Return whether an object is a data set of `datasets` or of torch."""
    return isinstance(value, datasets.Dataset | datasets.IterableDataset | torch.utils.data.Dataset)


def eval_data_sets(eval_dataset: Any) -> dict[str, Any]:
    """Return the data sets of the argument `eval_dataset`, one or several, by their names for messages."""
    if eval_dataset is None:
        return {}
    if isinstance(eval_dataset, Mapping):
        return {f"eval_dataset[{name!r}]": dataset for name, dataset in eval_dataset.items()}
    return {"eval_dataset": eval_dataset}


def check_parallelism(args: TrainingArguments, trainer: str) -> None:
    """Raise a `ValueError` unless work is divided over rows of a batch, with one process per device."""
    if args.n_gpu > 1:
        raise ValueError(
            f"{trainer} needs one process per device, and this one has {args.n_gpu}: start the script with "
            "`accelerate launch` or `torchrun --nproc_per_node`, or show it one device with CUDA_VISIBLE_DEVICES."
        )
    sizes = {name: getattr(args.parallelism_config, name, 1) for name in ("tp_size", "cp_size", "sp_size")}
    if any(size > 1 for size in sizes.values()):
        raise ValueError(
            f"{trainer} does not work with tensor, context or sequence parallelism; `parallelism_config` has {sizes}. "
            "Use data parallelism, sharded (FSDP, DeepSpeed) or not."
        )


def check_sharding(accelerator: Accelerator, trainer: str) -> None:
    """Raise a `ValueError` for the first version of FSDP, whose flat parameters cannot be written one by one."""
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError(
            f"{trainer} needs the second version of FSDP: set `fsdp_version: 2` in the `fsdp_config` of accelerate."
        )


def check_head_can_be_written(trainer: Any) -> None:
    """
    Raise a `ValueError` if a head cannot be fit in the middle of a run and trained from there, as with DeepSpeed.

    It trains copies of the parameters, which would put the old head back at its next step.
    """
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            f"{type(trainer).__name__} fits the model's last layer and trains it from there, and DeepSpeed, which "
            "trains copies of its own, would put the old one back. Use `ddp` or `fsdp2` as the configuration of "
            "accelerate."
        )


def check_steps(args: TrainingArguments) -> None:
    """Raise a `ValueError` if there are no steps to train."""
    if args.max_steps == 0 or (args.max_steps < 0 and args.num_train_epochs <= 0):
        given = "max_steps=0" if args.max_steps == 0 else f"num_train_epochs={args.num_train_epochs}"
        raise ValueError(
            f"`{given}` trains nothing. Set `max_steps` or `num_train_epochs` to more; for a head on the features as "
            "they are, use LinearProbeTrainer."
        )


def check_target_batch(dataset: Any, num_labels: int, batch_size: int) -> None:
    """
    Raise a `ValueError` if a target batch cannot always be split by class, as no class may have two rows.

    `batch_size` are the target rows of one micro-batch over all ranks.
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
            f"A target batch of {min(batch_size, rows)} rows is too small to split by class: with {num_classes} "
            f"classes it takes {smallest} rows to have two of one class, one to fit the head on and one to score it "
            "on. Raise `per_device_train_batch_size` (gradient accumulation does not help: each micro-batch is split "
            "by itself)."
        )


def probe_batch(
    dataset: Any,
    collate: Callable[[list], Any],
    given: Any,
    argument: str,
    collator_argument: str,
    rows: int = 2,
    needs_labels: bool = True,
) -> dict[str, Any]:
    """
    Return the first rows of a map-style data set collated as training will, with the columns that the model takes.

    Raises a `ValueError` where that cannot be, or where the batch has no labels or nothing else. `given`, `argument`
    and `collator_argument`, the data set as it was passed and the names of both, are for the message.
    """
    with isolated_rng("probe", argument):
        first = [dataset[index] for index in range(min(rows, len(dataset)))]
        names = getattr(given, "column_names", None) or (list(first[0]) if isinstance(first[0], Mapping) else None)
        layout = f"columns {', '.join(names)}" if names else f"rows of type {type(first[0]).__name__}"
        try:
            batch = collate(first)
        except Exception as error:
            tokenizer = getattr(getattr(collate, "data_collator", collate), "tokenizer", None)
            remedy = padding_remedy(tokenizer) or "Tokenize or preprocess it like the other data set"
            raise ValueError(
                f"The collator cannot make a batch of `{argument}` ({layout}): {error} {remedy}, or pass a collator "
                f"of its own as `{collator_argument}=`."
            ) from error
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"The collator made a {type(batch).__name__} of `{argument}` ({layout}); a mapping of the model's "
            f"argument names to tensors is needed. Pass such a collator as `{collator_argument}=`."
        )
    if needs_labels and batch.get("labels") is None:
        raise ValueError(
            f"`{argument}` has no labels: its {layout} were collated to {', '.join(batch)}. The batch needs `labels`."
        )
    if list(batch) == ["labels"]:
        raise ValueError(
            f"`{argument}` has no model inputs: of its {layout} only labels are left after collation, as the model's "
            "forward takes none of the others. Tokenize or preprocess it like the other data set, or pass a collator "
            f"of its own as `{collator_argument}=` with `remove_unused_columns=False`."
        )
    return dict(batch)


def padding_remedy(tokenizer: Any) -> str | None:
    """Return how to set the token that a tokenizer pads with; `None` where it has one, or is no tokenizer."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.pad_token is not None:
        return None
    token, new = "tokenizer.eos_token", ""
    if tokenizer.eos_token is None:
        token, new = "'[PAD]'", ", with `model.resize_token_embeddings(len(tokenizer))` where that is a new token"
    return f"Set `tokenizer.pad_token = {token}` and `model.config.pad_token_id = tokenizer.pad_token_id`{new}"


def check_one_row_batches(model: nn.Module, batch: Mapping[str, Any], argument: str, remedy: str) -> None:
    """
    Raise a `ValueError` if a model cannot train on a batch of one row, as BatchNorm with one value per channel.

    The batch has labels; `argument` and `remedy`, how the user calls the rows and what would do, are for the message.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    modes = {module: module.training for module in model.modules()}
    statistics = {layer: copy.deepcopy(dict(layer.named_buffers())) for layer in layers}
    device = next(model.parameters()).device
    inputs = {
        name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in batch.items() if name != "labels"
    }
    try:
        with torch.no_grad(), isolated_rng("one row", argument):
            model.train()
            model(**inputs)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` gives a batch of a single row, on which the BatchNorm layers of {type(model).__name__} "
            f"cannot train ({error}). {remedy}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
        for layer, buffers in statistics.items():
            for name, buffer in layer.named_buffers():
                buffer.copy_(buffers[name])


def check_tokens(dataset: Any, argument: str, model: Any) -> None:
    """
    Raise a `ValueError` if a model lacks an embedding for a token of a data set, or has too few positions for a row.

    Data sets without `input_ids`, or that make it when they are read, pass, as do other models than `PreTrainedModel`.
    """
    if not isinstance(model, PreTrainedModel) or has_transform(dataset) or INPUT_IDS not in column_names(dataset):
        return
    embeddings = getattr(_input_embeddings(model), "num_embeddings", None)
    positions = positions_in(model)
    longest = too_long = rows = 0
    names = {INPUT_IDS, f"{INPUT_IDS}{SECOND}"} & set(column_names(dataset))
    for name, column in ((each, column) for each in sorted(names) for column in _columns(dataset, each)):
        if not hasattr(column.type, "value_type") or not pa.types.is_integer(column.type.value_type):
            return
        lengths = pc.list_value_length(column)
        rows += len(column)
        longest = max(longest, pc.max(lengths).as_py() or 0)
        if positions:
            too_long += pc.sum(pc.greater(lengths, positions)).as_py() or 0
        found = pc.min_max(pc.list_flatten(column)).as_py()
        if embeddings and found["max"] is not None and not 0 <= found["min"] <= found["max"] < embeddings:
            wrong = found["min"] if found["min"] < 0 else found["max"]
            raise ValueError(
                f"`{argument}` has the token id {wrong} in its column {name!r}, and the model has embeddings for "
                f"0 ... {embeddings - 1}. Tokenize with the model's own tokenizer, or, where tokens were added, call "
                "`model.resize_token_embeddings(len(tokenizer))`."
            )
    if too_long:
        raise ValueError(
            f"`{argument}` has {too_long} of {rows} rows of more tokens (up to {longest}) than the model has "
            f"positions ({positions}). Tokenize with `truncation=True, max_length={positions}`."
        )


def _input_embeddings(model: PreTrainedModel) -> Any:
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # of a model that takes no tokens
        return None


def _columns(dataset: Any, name: str) -> Iterator[Any]:
    """Yield a column in parts, so that a large data set is not read into memory at once."""
    if isinstance(dataset, datasets.Dataset):
        for batch in dataset.select_columns([name]).with_format("arrow").iter(ROWS_AT_ONCE):
            yield batch[name]
    else:
        column = arrow_column(dataset, name)
        if column is not None:
            yield column
