"""The help of `merlin-hf train`: what is common on a screen, or every flag."""

import dataclasses
import shutil
import textwrap
from typing import Any

from transformers import TrainingArguments

from ..methods import METHODS, get_method
from .programs import ALIASES, TEXT, argument_classes


MAX_WIDTH = 110
USAGE = """merlin-hf train [FILE.yaml] --model_name_or_path MODEL [--method METHOD]
                       TARGET [SOURCE] ..."""
COMMAND = {
    "config": "yaml or json file of arguments; flags win over it",
    "task": "text or image; found from the data if not given",
    "dry_run": "check everything, say what would run and how much memory it takes; train nothing",
    "json": "print the metrics as JSON",
    "accelerate_config": "start processes: ddp, fsdp2, single, zero2, zero3, or a file of `accelerate config`",
    "num_processes, main_process_port": "how many, and where they meet (0: a free port)",
    "help_all": "every flag, of `--method` and `--task` if given",
}
COMMON = {
    "Model": {
        "model_name_or_path": "folder, or name on the Hub",
        "method": "",
    },
    "Target (the small one)": {
        "task_name": "a GLUE task, such as rte",
        "dataset_name, dataset_config_name": "name on the Hub, or a folder",
        "train_file, validation_file, test_file": "csv, json or parquet files (texts)",
        "train_dir, validation_dir, test_dir": "a folder of images per class",
        "text_columns, label_column": "where not found; images: image_column",
        "max_train_samples": "train on so many rows",
    },
    "Source (the large one): the same with source_ in front": {
        "source_task_name, source_dataset_name, source_train_file, source_train_dir, ...": "",
    },
    "Training (of transformers.TrainingArguments)": {
        "output_dir": "where the model and the logs go",
        "do_train, do_eval, do_predict": "what to do; --do_train if none is given",
        "max_steps, num_train_epochs": "how long",
        "per_device_train_batch_size, per_device_source_batch_size": "rows of a step",
        "learning_rate, warmup_steps, weight_decay, bf16, seed": "",
    },
}


def short_help(method: str) -> str:
    """
    The common flags and those of a method, on a screen.

    Args:
        method (`str`): a name in `merlin_hf.METHODS`.
    """
    groups = {**COMMON, "Model": {**COMMON["Model"], "method": f"{', '.join(METHODS)}"}}
    own = [field.name for field in own_options(method)]
    groups[f"Options of {method}"] = {", ".join(own): ""} if own else {"(none of its own)": ""}
    groups["Command"] = COMMAND
    lines = [f"usage: {USAGE}", "", "Train a classifier on a small target, with the help of a large source."]
    for title, entries in groups.items():
        lines += [f"\n{title}:", *(line for names, text in entries.items() for line in _entry(names, text))]
    return "\n".join(lines) + "\n"


def full_help(method: str, task: str) -> str:
    """
    Every flag with its type, default and meaning.

    Args:
        method (`str`): a name in `merlin_hf.METHODS`.
        task (`str`): `"text"` or `"image"`.
    """
    model_class, data_class = argument_classes(task)
    options = get_method(method).training_args_class
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    shared = [field for field in dataclasses.fields(options) if field.name not in inherited]
    groups = {
        "Model": dataclasses.fields(model_class),
        f"Data ({task}s)": dataclasses.fields(data_class),
        f"Options of {method}": shared,
        "Training (of transformers.TrainingArguments)": dataclasses.fields(TrainingArguments),
    }
    lines = [f"usage: {USAGE}"]
    for title, fields in groups.items():
        lines += [f"\n{title}:", *(line for field in fields if field.init for line in _described(field))]
    for name, alias in ALIASES[task].items():
        lines.append(f"  --{name}  is --{alias}")
    lines += ["\nCommand:", *(line for names, text in COMMAND.items() for line in _entry(names, text))]
    return "\n".join(lines) + "\n"


def own_options(method: str) -> list[dataclasses.Field]:
    """The options of a method that `TrainingArguments` does not have."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    return [field for field in dataclasses.fields(get_method(method).training_args_class) if field.name not in known]


def help_of(method: str | None, task: str | None, every: bool) -> str:
    """What `--help` (or with `every`, `--help_all`) prints."""
    method = method or "merlin"
    return full_help(method, task or TEXT) if every else short_help(method)


def _entry(names: str, text: str) -> list[str]:
    """Flags with their meaning beside them, or below where there is no room."""
    flags = " ".join(name if name[:1] in "(." else f"--{name}" for name in names.split(", "))
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    if not text:
        return textwrap.wrap(flags, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    column = 30 if len(flags) < 28 else len(flags) + 4
    wrapped = textwrap.wrap(text, max(width - column, 30), break_on_hyphens=False)
    return [(f"  {flags}".ljust(column) if not number else " " * column) + line for number, line in enumerate(wrapped)]


def _described(field: dataclasses.Field) -> list[str]:
    text = " ".join(str(field.metadata.get("help", "")).split())
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    given = "required" if default is dataclasses.MISSING else f"default {_shown(default)}"
    choices = field.metadata.get("choices")
    listed = f"; one of {', '.join(map(str, choices))}" if choices else ""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    return [
        f"  --{field.name}  ({given}{listed})",
        *textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      "),
    ]


def _shown(value: Any) -> str:
    return str(getattr(value, "value", value))
