"""Say on stderr what went wrong, and tell it to the shell by the exit status."""

import os
import sys
import traceback
from collections.abc import Callable

from .errors import reason
from .markdown import visible
from .secret import without_any_token


FAILURE = 1
USAGE_ERROR = 2
INTERRUPTED = 130  # as shells have it for SIGINT
# Set to anything, it has every error followed by its traceback.
DEBUG = "MERLIN_DEBUG"
# Errors that say what to change: in arguments, files or the installation.
EXPECTED = (ValueError, OSError, ImportError, NotImplementedError)


def fail(command: str, message: object, status: int = USAGE_ERROR) -> int:
    """Say on stderr what went wrong in a command or program, on one line but for a failure; return the exit status."""
    shown = visible(without_any_token(str(message)), keep_lines=status == FAILURE)
    print(f"{called(command)}: {shown}", file=sys.stderr)
    return status


def fail_with(command: str, error: BaseException) -> int:
    """Say an error on stderr; return 2 for one that says what to change, 1 for others, of which the kind is told."""
    if os.environ.get(DEBUG):
        print(without_any_token("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if isinstance(error, EXPECTED):
        return fail(command, str(error) or type(error).__name__)
    hint = "" if os.environ.get(DEBUG) else f" This was not foreseen: {DEBUG}=1 shows where it comes from."
    return fail(command, f"{reason(error)}.{hint}", FAILURE)


def guarded(command: str, call: Callable[[], int]) -> int:
    """Return the exit status that `call` returns, or that of what it raises, which is said on stderr."""
    try:
        return call()
    except KeyboardInterrupt:
        print(f"\n{called(command)}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no `Exception`
        return fail_with(command, error)


def called(command: str) -> str:
    """Return the name of a program in messages."""
    return command if command.endswith(".py") else f"merlin-hf {command}"
