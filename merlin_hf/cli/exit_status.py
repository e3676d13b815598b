"""Say on stderr what went wrong, and tell it to the shell by the exit status."""

import os
import sys
import traceback

from ..utils.errors import reason
from ..utils.markdown import visible
from ..utils.secret import without_any_token


FAILURE = 1
USAGE_ERROR = 2
INTERRUPTED = 130  # as shells have it for SIGINT
# Set to anything, it has every error followed by its traceback.
DEBUG = "MERLIN_DEBUG"
# Errors that say what to change: in arguments, files or the installation.
EXPECTED = (ValueError, OSError, ImportError, NotImplementedError)


def fail(command: str, message: object, status: int = USAGE_ERROR) -> int:
    """Say on stderr what went wrong; return the exit status."""
    shown = visible(without_any_token(str(message)), keep_lines=status == FAILURE)
    print(f"merlin-hf {command}: {shown}", file=sys.stderr)
    return status


def fail_with(command: str, error: BaseException) -> int:
    """
    Say on stderr what an error says; return the exit status.

    It is 2 for an error that says what to change, and 1 for any other, of which the kind is told.
    """
    if os.environ.get(DEBUG):
        print(without_any_token("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if isinstance(error, EXPECTED):
        return fail(command, str(error) or type(error).__name__)
    hint = "" if os.environ.get(DEBUG) else f" This was not foreseen: {DEBUG}=1 shows where it comes from."
    return fail(command, f"{reason(error)}.{hint}", FAILURE)
