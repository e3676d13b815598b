"""What a command tells the shell that ran it."""

import sys

from ..utils.markdown import visible


FAILURE = 1
USAGE_ERROR = 2
INTERRUPTED = 130  # as shells have it for SIGINT


def fail(command: str, message: object, status: int = USAGE_ERROR) -> int:
    """Say on stderr what went wrong; returns the exit status."""
    print(f"merlin-hf {command}: {visible(message, keep_lines=True)}", file=sys.stderr)
    return status
