"""Let one process at a time into a folder."""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .files import FileError
from .markdown import visible


try:
    import fcntl
except ImportError:  # Windows, where the process number alone tells whether a process is still there
    fcntl = None  # type: ignore[assignment]

logger = logging.get_logger(__name__)

ATTEMPTS = 5  # a lock that goes away while it is looked at is looked at again


@contextlib.contextmanager
def locked(lock: Path, folder: str | os.PathLike, command: str) -> Iterator[None]:
    """
    Hold a folder by the file `lock` in it, so that a second process which asks for it is refused.

    It is an advisory lock of the operating system, which ends with the process however that ends, on a file that says
    whose it is. Nothing waits. Where a file system has no locks, what the file says decides. The FileError names the
    process that holds it and what that does (`command`).
    """
    named = f"`output_dir={visible(folder)!r}`"
    file = None
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            if file is None:
                file = _attempt(lock, named, command)
    except OSError as error:
        reason = visible(error.strerror or error)
        raise FileError(f"{named} cannot be locked: {reason}. Give another folder.") from None
    if file is None:
        raise FileError(f"{named} is in use by others that begin at this moment. {ADVICE}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_at(file, lock):
                lock.unlink()
        os.close(file)


ADVICE = "Wait until it has ended, or give another folder."


def _attempt(lock: Path, named: str, command: str) -> int | None:
    """Return the open file that holds the lock; `None` where it changed meanwhile and is worth another look."""
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        is_free = _lock(file)
        holder = _read_holder(file)
        if not _is_at(file, lock):
            return None
        if is_free is False and holder is None:  # it is about to write who it is
            raise FileError(f"{named} is in use by another process. {ADVICE}")
        if is_free is not True and holder is not None:
            is_local = holder["host"] == host_name()
            is_there = is_local and is_running(holder["process"], holder["started"])
            if is_there or (is_free is False and not is_local):
                raise FileError(f"{named} is in use by {_described(holder)}. {ADVICE}")
            if is_free is False:  # a process that it started, and that outlived it, still has the file open
                lock.unlink()
                return None
            if not is_local:
                logger.warning(
                    f"{named} has the lock of {_described(holder)}, and its file system cannot say whether that goes "
                    "on. It is taken for ended."
                )
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        told = {"command": command, "process": os.getpid(), "host": host_name(), "since": since}
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, json.dumps({**told, "started": start_time(os.getpid())}).encode())
        kept, file = file, -1
        return kept
    finally:
        if file >= 0:
            os.close(file)


def _lock(file: int) -> bool | None:
    """Lock a file; return `True` if this process has it, `False` if another has, `None` where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _read_holder(file: int) -> dict[str, Any] | None:
    try:
        os.lseek(file, 0, os.SEEK_SET)
        holder = json.loads(os.read(file, 1 << 16))
        is_sound = type(holder["process"]) is int and isinstance(holder["host"], str)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return {"started": None, "command": "run", "since": "?", **holder} if is_sound else None


def _described(holder: dict[str, Any]) -> str:
    told = f"another `{holder['command']}`, process {holder['process']} on {holder['host']} since {holder['since']}"
    return visible(told)


def _is_at(file: int, path: Path) -> bool:
    """Return whether the path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


# Processes


def host_name() -> str:
    """Return this machine's name."""
    return socket.gethostname()


def is_running(process: int, started: str | None = None) -> bool:
    """Return whether a process is there, begun at `started`: another one may have its number by now."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to somebody else
        pass
    return started is None or start_time(process) in (None, started)


def start_time(process: int) -> str | None:
    """Return when a process started, in ticks since the machine did; `None` where there is no `/proc` (not Linux)."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
