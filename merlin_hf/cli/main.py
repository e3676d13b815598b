"""`merlin-hf COMMAND ...`."""

import argparse
import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator

from ..utils.exit_status import USAGE_ERROR, fail, guarded


# Each command is a module with a function of the same name; no command is imported before it is asked for.
COMMANDS = {
    "train": "train a classifier on a small target with a large source",
    "evaluate": "metrics of a saved model on a data set, by class",
    "predict": "labels and probabilities of a saved model for rows without labels",
    "compare": "compare methods on your target and source, with the same budget for each",
    "sources": "rank candidate source data sets for your target, before training",
    "report": "tables and figures of a training run, or of many comparisons",
    "publish": "put a model on the Hub, with a card",
    "env": "versions, devices and settings, to paste into an issue",
}


def main(argv: list[str] | None = None) -> None:
    """
    Run a command.

    Args:
        argv (`list[str]`, *optional*): its name and its arguments; those of the process if not given.

    Raises:
        SystemExit: with the exit status: 0; 1 where the command failed, 2 for arguments that cannot be used, 130 where
            it was interrupted.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="merlin-hf",
        allow_abbrev=False,
        description="Transfer learning with MeRLin: a small labelled target, a large related source. "
        "`merlin-hf COMMAND --help` says more of each.",
        epilog="With the environment variable MERLIN_DEBUG=1, every error is followed by its traceback.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    command = argv[0] if argv and argv[0] in COMMANDS else None
    for name, text in COMMANDS.items():
        if name != command:
            commands.add_parser(name, help=text, add_help=False)
    if command is None:
        return _without_command(parser, argv)
    module = importlib.import_module(f".{command}", __package__)
    getattr(module, f"add_{command}_parser")(commands)
    arguments, rest = parser.parse_known_args(argv)
    with _warnings_on_stderr(command, logs_itself=command == "train" and not arguments.dry_run):
        run = getattr(module, command)
        if command == "train":  # the rest is for the program that it runs
            status = guarded(command, lambda: run(arguments, rest))
        elif rest:
            status = fail(command, f"unrecognized arguments: {' '.join(rest)}")
        else:
            status = guarded(command, lambda: run(arguments))
    sys.exit(status)


@contextlib.contextmanager
def _warnings_on_stderr(command: str, logs_itself: bool) -> Iterator[None]:
    """Print what the package warns of as `merlin-hf COMMAND: warning: ...`; `train` logs as Trainer's programs do."""
    if logs_itself:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter(f"merlin-hf {command}: warning: %(message)s"))
    logger = logging.getLogger("merlin_hf")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _without_command(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    arguments = parser.parse_args(argv)
    if arguments.version:
        from .. import __version__

        print(__version__)
        return
    parser.print_help()
    sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
