"""`merlin-hf train`."""

import argparse
import contextlib
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from ..utils.exit_status import EXPECTED, FAILURE, USAGE_ERROR, fail, fail_with
from ..utils.files import to_json
from ..utils.tables import show_table
from ..utils.validation import check_value, did_you_mean, interval


MODULE = "merlin_hf.cli.main"
ACCELERATE_FOLDER = Path(__file__).parents[1] / "accelerate_configs"
ACCELERATE_CONFIGS = tuple(sorted(path.stem for path in ACCELERATE_FOLDER.glob("*.yaml")))
STDOUT, STDERR = 1, 2  # file descriptors
USAGE = "merlin-hf train [FILE.yaml] --model_name_or_path MODEL TARGET [SOURCE]"
COMMON = """\
model:
  --model_name_or_path          folder, or name on the Hub
  --method                      see below; merlin with a source, else finetune
target (the small one):
  --task_name                   a GLUE task, such as rte
  --dataset_name, --dataset_config_name
                                name on the Hub, or a folder
  --train_file, --validation_file, --test_file
                                csv, json or parquet files (texts)
  --train_dir, --validation_dir, --test_dir
                                a folder of images for each class
  --text_columns, --label_column, --image_column
                                where they are not found
  --max_train_samples           train on so many rows
source (the large one), the same with source_ in front:
  --source_task_name, --source_dataset_name, --source_train_file, ...
  sources: (in FILE)            several by name, with these flags less source_
training (of transformers.TrainingArguments):
  --output_dir                  where the model and the logs go
  --do_train, --do_eval, --do_predict
                                what to do; --do_train if none is given
  --max_steps, --num_train_epochs
                                how long
  --per_device_train_batch_size, --per_device_source_batch_size
                                rows of a step
  --auto_find_batch_size        halve batches that do not fit into memory
  --learning_rate, --warmup_steps, --weight_decay, --bf16, --seed"""
# About how fast it went, not about how well: the last rows of the table.
SPEED = ("runtime", "per_second", "samples", "total_flos")


def add_train_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its own arguments; the others are those of the program that it runs."""
    parser = commands.add_parser(
        "train",
        add_help=False,
        allow_abbrev=False,
        usage=USAGE,
        description="Train a classifier on a small target, with the help of a large source.",
        epilog=COMMON,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(parser=parser)
    parser.add_argument("-h", "--help", action="store_true", help="this help, for `--method` if given")
    parser.add_argument(
        "--help_all", "--help-all", action="store_true", help="every flag, for `--method` and `--task`"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file of arguments; flags override it")
    parser.add_argument("--task", help="text or image; found from the data if not given")
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="check everything and say what would run; train nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    parser.add_argument(
        "--accelerate_config",
        "--accelerate-config",
        metavar="NAME",
        help=f"start processes: {', '.join(ACCELERATE_CONFIGS)}, or a file of `accelerate config`",
    )
    parser.add_argument("--num_processes", "--num-processes", metavar="N", help="how many")
    parser.add_argument(
        "--main_process_port", "--main-process-port", metavar="PORT", help="where they meet (0: a free port)"
    )
    return parser


def train(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Train in this process, or in those that accelerate starts; return the exit status."""
    rest = list(rest)
    try:
        if arguments.help or arguments.help_all:
            return _help(arguments, rest)
        from .arguments import read_request

        with _only_results_on_stdout():
            request = read_request(rest, arguments.config, arguments.task)
        launcher = _launcher(arguments)
    except EXPECTED as error:
        return fail_with("train", error)
    return _launch(launcher, request.task, arguments, rest) if launcher else _train_here(request, arguments)


def _help(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Print the common flags and the method's own, or all."""
    from transformers import TrainingArguments

    from ..methods import METHODS, get_method
    from ..scripts.arguments import ArgumentParser, field_names, flags_by_name
    from .arguments import TEXT, argument_classes

    method = flags_by_name(rest).get("method") or "merlin"
    options = get_method(method).training_args_class
    if arguments.help_all:
        classes = (*argument_classes(arguments.task or TEXT), options)
        text = ArgumentParser(classes, {}, method).format_help().partition("\n\n")[2]
        print(f"{arguments.parser.format_help()}\nall flags, with the options of {method}:\n{text}", end="")
        return 0
    own = [f"--{name}" for name in field_names([options]) if name not in field_names([TrainingArguments])]
    print(arguments.parser.format_help())
    for title, words in ((f"options of {method}", own), ("methods", METHODS)):
        print(f"{title}:", *textwrap.wrap(", ".join(words), 76, break_on_hyphens=False), sep="\n  ")
    return 0


# In other processes


def _launcher(arguments: argparse.Namespace) -> list[str]:
    """Return the arguments of `accelerate launch` that are asked for."""
    launcher = []
    for name, limits in (("num_processes", "[1, 10_000]"), ("main_process_port", "[0, 65_535]")):
        value = getattr(arguments, name)
        if value is not None:
            launcher.append(f"--{name}={check_value(value, Annotated[int, interval(limits)], name)}")
    if arguments.accelerate_config is not None:
        launcher.append(f"--config_file={accelerate_config(arguments.accelerate_config)}")
    return launcher


def accelerate_config(name_or_path: str) -> str:
    """Return the path of a configuration for `accelerate launch --config_file`, one of ours by name or a file."""
    if name_or_path in ACCELERATE_CONFIGS:
        return str(ACCELERATE_FOLDER / f"{name_or_path}.yaml")
    if Path(name_or_path).is_file():
        return name_or_path
    raise ValueError(
        f"`--accelerate_config {name_or_path}` is neither a file nor a known name."
        f"{did_you_mean(name_or_path, ACCELERATE_CONFIGS)} The names are {', '.join(ACCELERATE_CONFIGS)}."
    )


def _is_deepspeed(config_file: str) -> bool:
    """Return whether `--config_file=PATH` asks for DeepSpeed."""
    from accelerate.commands.config.config_args import load_config_from_file

    return load_config_from_file(config_file.partition("=")[2]).distributed_type == "DEEPSPEED"


def _launch(launcher: list[str], task: str, arguments: argparse.Namespace, rest: list[str]) -> int:
    """Have accelerate start this command in processes, each of which reads the other arguments."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    command = ["train", *rest, "--task", task]
    if arguments.config is not None:
        command += ["--config", arguments.config]
    command += [f"--{name}" for name in ("dry_run", "json") if getattr(arguments, name)]
    try:
        with _only_results_on_stdout(), contextlib.suppress(ImportError):
            # The launcher of DeepSpeed imports it, and it logs at that; the processes need the descriptor as it is.
            if any(argument.startswith("--config_file=") and _is_deepspeed(argument) for argument in launcher):
                importlib.import_module("deepspeed")
        launch_command(launch_command_parser().parse_args([*launcher, "--module", MODULE, *command]))
    except subprocess.CalledProcessError as error:
        # A single process has said itself what is wrong.
        return error.returncode if error.returncode in (FAILURE, USAGE_ERROR) else FAILURE
    except Exception as error:  # torchrun's, with a report of what each process said
        return fail("train", error, FAILURE)
    return 0


# In this process


def _train_here(request: Any, arguments: argparse.Namespace) -> int:
    from ..scripts.program import run_command
    from .dry_run import plan_training, text_of

    result: dict[str, Any] | None
    with _only_results_on_stdout():
        if arguments.dry_run:
            try:
                status, result = 0, plan_training(request)
            except EXPECTED as error:
                return fail_with("train", error)
        else:
            status, result = run_command("train", request.arguments, request.build)
            result = result and {"method": request.method, "task": request.task, **result}
    if result is None:  # it failed, or another process speaks
        return status
    if arguments.json:
        print(to_json(result, indent=2))
    elif arguments.dry_run:
        print(text_of(result), end="")
    else:
        metrics = sorted(result["metrics"].items(), key=lambda item: item[0].endswith(SPEED))
        show_table(("metric", result["method"]), metrics, sys.stdout)
        print(f"Model in {result['output_dir']}", file=sys.stderr)
    return status


@contextlib.contextmanager
def _only_results_on_stdout() -> Iterator[None]:
    """
    Send what libraries print to stderr, away from a program that reads the table.

    The descriptor is redirected as well: loggers such as DeepSpeed's hold the stream that was there when they were
    imported.
    """
    with contextlib.ExitStack() as stack:
        stdout = sys.stdout
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            is_real = stdout.fileno() == STDOUT and sys.stderr.fileno() == STDERR
        except (AttributeError, OSError, ValueError):  # none, or closed, or replaced by one without a descriptor
            is_real = False
        if is_real:
            stdout.flush()
            kept = os.dup(STDOUT)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, STDOUT)
            stack.callback(stdout.flush)
            os.dup2(STDERR, STDOUT)
        yield
