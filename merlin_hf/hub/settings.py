"""The options of a run that somebody chose."""

import dataclasses
import enum
import os
from typing import Any

from transformers import TrainingArguments


# Where and how a run was started, logged and saved, which is nobody's business or says nothing about the model.
HOUSEKEEPING = {
    "accelerator_config", "batch_eval_metrics", "debug", "deepspeed", "disable_tqdm", "enable_jit_checkpoint",
    "greater_is_better", "ignore_data_skip", "label_names",
    "length_column_name", "local_rank", "metric_for_best_model", "output_dir", "parallelism_config",
    "per_device_eval_batch_size", "prediction_loss_only", "project", "remove_unused_columns", "report_to",
    "restore_callback_states_from_checkpoint", "resume_from_checkpoint", "run_name", "skip_memory_metrics",
    "torch_empty_cache_steps", "use_cache", "use_cpu",
}  # fmt: skip
HOUSEKEEPING_PREFIXES = (
    "dataloader_", "ddp_", "do_", "eval_", "fsdp", "hub_", "include_", "log_", "logging_", "push_", "save_", "trackio_",
)  # fmt: skip
# What `TrainingArguments` makes of arguments that are not given.
FILLED_IN = {"accelerator_config"}
# Options of methods that say how much is computed at once.
HOUSEKEEPING_OPTIONS = {"target_chunk_size"}


def changed_options(args: TrainingArguments, options: type | None) -> dict[str, str]:
    """
    Options of the method that differ from their defaults.

    Args:
        args ([`~transformers.TrainingArguments`]): of the run.
        options (`type`, *optional*): the dataclass of the method's options, a subclass of `TrainingArguments`.
    """
    if options is None:
        return {}
    known = {option.name for option in dataclasses.fields(TrainingArguments)}
    own = [option for option in dataclasses.fields(options) if option.name not in known | HOUSEKEEPING_OPTIONS]
    return _changed(args, own)


def changed_training_arguments(args: TrainingArguments) -> dict[str, str]:
    """Training arguments that differ from their defaults, but for those about logging, saving, the Hub and the machine."""
    shown = [
        option
        for option in dataclasses.fields(TrainingArguments)
        if option.name not in HOUSEKEEPING
        and not option.name.startswith(HOUSEKEEPING_PREFIXES)
        and not option.name.endswith("_token")
    ]
    changed = _changed(args, shown)
    for name in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):  # the old names of these two
        if name.replace("gradient", "activation") in changed:
            changed.pop(name, None)
    if args.world_size > 1:
        changed["processes"] = str(args.world_size)
    return changed


def given_arguments(args: TrainingArguments) -> dict[str, str]:
    """All arguments and options that differ from their defaults, for the user's own eyes: with folders, without tokens."""
    options = [option for option in dataclasses.fields(args) if option.name not in FILLED_IN]
    names = {*_changed(args, options), "output_dir"}
    if not args.report_to:  # "none", which is the default, comes to an empty list
        names.discard("report_to")
    values = args.to_dict()  # with a placeholder for each token
    return {name: str(values[name]) for name in sorted(names)}


def _changed(args: TrainingArguments, options: list[dataclasses.Field]) -> dict[str, str]:
    # The defaults are read from the fields: making another instance would reset accelerate's state in mid-training.
    changed = {}
    for option in options:
        default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
        value = _plain(getattr(args, option.name, default))
        if value != _plain(default) and not (_is_blank(value) and _is_blank(default)):
            changed[option.name] = str(value)
    return changed


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str) and os.path.isabs(value):  # nothing of a machine's folders
        return os.path.basename(value)
    return value


def _is_blank(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, str | list | tuple | dict) and not value)
