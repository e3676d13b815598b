"""The checks of a trainer's data sets before training, and before evaluation, together."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer

from .adapters import check_head_is_saved
from .checks import (
    check_class_names,
    check_has_labels,
    check_is_one_data_set,
    check_kind_of_labels,
    check_label_lists,
    check_labels,
    check_names_of_outputs,
    check_one_row_batches,
    check_parallelism,
    check_sharding,
    check_target_classes,
    eval_data_sets,
    probe_batch,
)
from .labels import label_column
from .sentences import check_pairs
from .source import is_iterable
from .token_checks import check_tokens


def check_data(trainer: Trainer) -> None:
    """
    Check that the data sets, the labels, the model and the options of a trainer fit together.

    Raises:
        ValueError: they do not; the message says what to change.
    """
    check_parallelism(trainer.args, type(trainer).__name__)
    check_sharding(trainer.accelerator, type(trainer).__name__)
    names = trainer.args.label_names
    if names is not None and "labels" not in names:
        raise ValueError(
            f"`label_names={names!r}` lacks 'labels', under which the collator hands on the labels: evaluation would "
            "have no loss. Leave it out, and name the column `label` or `labels`."
        )
    evaluated = eval_data_sets(trainer.eval_dataset)
    sources = {source.argument: source for source in trainer.sources}
    data = {argument: source.dataset for argument, source in sources.items()}
    known = {**data, "train_dataset": trainer.train_dataset, **evaluated}
    for argument, dataset in known.items():
        check_is_one_data_set(dataset, argument)
        needs_column = trainer.args.remove_unused_columns and argument not in evaluated
        check_has_labels(dataset, argument, needs_column)
    transfer_model = trainer.build_transfer_model()
    check_head_is_saved(transfer_model.model, transfer_model.head_name)
    config = getattr(trainer.model, "config", None)
    for argument, source in sources.items():
        num_labels = transfer_model.num_source_labels(source.name)
        check_task(trainer, source.dataset, argument, num_labels, collator=source.collator)
    for argument, dataset in known.items():
        if argument not in sources and dataset is not None:
            problem_type = getattr(config, "problem_type", None)
            check_task(trainer, dataset, argument, transfer_model.num_labels, problem_type)
    if trainer.train_dataset is not None:
        check_names_of_outputs(trainer.train_dataset, config, transfer_model.num_labels)
        check_target_classes(trainer.train_dataset, transfer_model.num_labels)
        for argument, dataset in evaluated.items():
            check_class_names(dataset, argument, trainer.train_dataset, config)


def check_task(
    trainer: Trainer,
    dataset: Any,
    argument: str,
    num_labels: int,
    problem_type: str | None = None,
    collator: Callable | None = None,
) -> None:
    """Check the labels of a data set, and its first rows as the collator, by default the trainer's, makes them."""
    check_labels(dataset, argument, num_labels, problem_type)
    check_tokens(dataset, argument, trainer.model)
    is_source, is_evaluated = argument.startswith("source_dataset"), argument.startswith("eval_dataset")
    if is_iterable(dataset) or (is_evaluated and type(trainer).get_eval_dataloader is not Trainer.get_eval_dataloader):
        return
    prepared = trainer._with_collator(
        dataset, collator, "source" if is_source else "evaluation" if is_evaluated else "training"
    )
    batch = probe_batch(
        *prepared,
        dataset,
        argument,
        "source_collator" if is_source else "data_collator",
        needs_labels=not is_evaluated,
    )
    if not is_source:
        check_pairs(trainer.model, batch, argument)
    if batch.get("labels") is None:
        return
    if argument == "train_dataset" and trainer.target_compute_loss_func is None:
        check_label_lists(batch["labels"], dataset)
    check_kind_of_labels(batch["labels"], argument, num_labels, problem_type)
    if not is_evaluated and has_one_row_batches(trainer, dataset, is_source):
        one = probe_batch(*prepared, dataset, argument, "", rows=1)
        name = "per_device_source_batch_size" if is_source else "per_device_train_batch_size"
        remedy = f"Set another `{name}`" + (
            "." if is_source else ", or `dataloader_drop_last=True` to leave a last batch out."
        )
        check_one_row_batches(trainer.model, one, argument, remedy)


def has_one_row_batches(trainer: Trainer, dataset: Any, is_source: bool) -> bool:
    """
    Whether a step may see a single row; the last batches of several processes are filled up, and those of the source
    are full.
    """
    if trainer.args.world_size > 1 or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return False
    if is_source:
        return trainer.source_batch_size == 1
    size = trainer._train_batch_size
    return size == 1 or (len(dataset) % size == 1 and not trainer.args.dataloader_drop_last)


def check_evaluated(trainer: Trainer, dataset: Any, argument: str) -> None:
    """
    Check a data set that is given to `evaluate` or `predict`, where it is none of those that were checked before.
    """
    if not trainer.is_active or dataset is None or isinstance(dataset, str | Mapping) or trainer.is_fsdp_enabled:
        return
    if any(dataset is one for one in (*eval_data_sets(trainer.eval_dataset).values(), trainer.train_dataset)):
        return
    check_is_one_data_set(dataset, argument)
    check_has_labels(dataset, argument, needs_column=False)
    if label_column(dataset) is not None:
        config, num_labels = getattr(trainer.model, "config", None), trainer.build_transfer_model().num_labels
        check_labels(dataset, argument, num_labels, getattr(config, "problem_type", None))
        check_class_names(dataset, argument, trainer.train_dataset, config)
    check_tokens(dataset, argument, trainer.model)
