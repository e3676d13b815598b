"""`merlin-hf compare`."""

import argparse
import contextlib
import sys

from ..utils.exit_status import FAILURE, INTERRUPTED, fail
from ..utils.files import to_json


def add_compare_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "compare",
        allow_abbrev=False,
        description="Compare methods on a target task with the same rows, compute and search for each. Runs that are "
        "finished are not run again. Exit status: 0; 1 where a method failed; 2 for a configuration that cannot be "
        "used.",
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file")
    parser.add_argument("--output_dir", help="instead of that of the file")
    parser.add_argument("--model", help="instead of that of the file: a name on the Hub or a folder")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        help="instead of those of the file: one number is how many (5: 0 to 4), as there, more are the seeds",
    )
    parser.add_argument(
        "--rows",
        type=_numbers,
        metavar="N,N,...",
        help="compare with each of these numbers of labelled target rows (25,50,100), and draw a learning curve",
    )
    parser.add_argument("--methods", nargs="+", help="only these labels of the file, or other methods by name")
    parser.add_argument(
        "--workers",
        help="runs at a time: a number for this machine, a GPU or a share of the threads for each; `ray` for the "
        "machines of the Ray cluster at hand, `ray://host:port` for those of another (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print the JSON of the results instead of the table")
    parser.add_argument(
        "--dry_run", action="store_true", help="check everything and say what would run; train nothing"
    )
    return parser


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers such as 25,50,100, got {text!r}") from None


def compare(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    names = ("output_dir", "model", "seeds", "rows", "methods", "workers")
    overrides = {name: getattr(arguments, name) for name in names}
    if arguments.seeds is not None and len(arguments.seeds) == 1:
        overrides["seeds"] = arguments.seeds[0]
    try:
        # Whatever libraries print must not get between the table and a program that reads it.
        with contextlib.redirect_stdout(sys.stderr):
            text, status = _run(arguments, overrides)
    except KeyboardInterrupt:
        print("\nInterrupted. Finished runs are kept: the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    print(text, end="")
    _leave()
    return status


def _run(arguments: argparse.Namespace, overrides: dict) -> tuple[str, int]:
    """Return what to print, nothing in other processes than the first, and the exit status."""
    from ..comparison import ComparisonError, compare, dry_run

    if arguments.dry_run:
        plan = dry_run(arguments.config, **overrides)
        text = to_json(plan.summary, indent=2) + "\n" if arguments.json else plan.text
        return text if plan.is_main_process else "", 0
    try:
        result = compare(arguments.config, **overrides)
    except ComparisonError as error:
        return "", fail("compare", error, FAILURE)
    status = FAILURE if result.failed else 0
    if not result.is_main_process:
        return "", status
    if arguments.json:
        return to_json(result.summary, indent=2) + "\n", status
    print(f"Results in {result.output_dir}", file=sys.stderr)
    return result.text, status


def _leave() -> None:
    """End the processes of `accelerate launch` together."""
    from ..transfer.distributed import end_training, is_distributed

    if is_distributed():
        from accelerate import Accelerator

        end_training(Accelerator())
