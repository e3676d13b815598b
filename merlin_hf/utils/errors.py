"""Turn the errors of libraries about files of others into one kind that names the file."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from .files import FileError
from .markdown import visible


@contextmanager
def reading(what: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """
    Turn whatever a damaged or forged file raises into [`FileError`], whose message begins with `what`.

    Libraries raise anything here: `KeyError`, `RecursionError`, `MemoryError`, and panics of those written in Rust,
    which are not even an `Exception`. Interruptions, `ImportError` of a missing library and kinds of errors in `but`,
    which say enough themselves, are left as they are.
    """
    passing: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit, GeneratorExit, FileError, ImportError)
    passing += but
    try:
        yield
    except passing:
        raise
    except BaseException as error:
        raise FileError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return the first sentence of an error on one line, with its kind where the text alone says little."""
    text = visible(error)
    text = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text, maxsplit=1)[0]
    if len(text) > 500:
        text = f"{text[:499]}…"
    is_told = isinstance(error, ValueError | OSError) and not isinstance(error, UnicodeError)
    return text if text and is_told else f"{type(error).__name__}: {text}" if text else type(error).__name__
