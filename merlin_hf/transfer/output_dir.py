"""The folder of a run: whether it can be written to, and which process it belongs to."""

import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

from transformers.utils import logging


try:
    import fcntl
except ImportError:  # Windows, where the process id alone tells whether a run is still there
    fcntl = None  # type: ignore[assignment]

logger = logging.get_logger(__name__)

# Names with an underscore in front are left out of uploads to the Hub, and are no `checkpoint-*`.
LOCK_NAME = "_run.lock"
STAGING_PREFIX = "_saving"
ATTEMPTS = 5  # a lock that goes away while it is looked at is looked at again


class RunRefusedError(ValueError):
    """A run that cannot start with this `output_dir` or this checkpoint; nothing was trained and nothing was changed."""


def check_output_dir(output_dir: str | os.PathLike) -> None:
    """
    Check that checkpoints can be written below a folder, which is made if it is not there.

    Raises:
        RunRefusedError: they cannot; the message names `output_dir` and says why.
    """
    probe = os.path.join(output_dir, staging_name())
    try:
        os.makedirs(os.path.join(probe, "checkpoint-1000000000"), exist_ok=True)
        path = os.path.join(probe, "checkpoint-1000000000", "model-00000-of-00000.safetensors.index.json.tmp")
        with open(path, "w") as file:
            file.write("0")
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise RunRefusedError(unwritable(output_dir, error)) from error
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def make_output_dir(output_dir: str | os.PathLike) -> None:
    """
    Make a folder, with an error that says what to change where that fails.

    Raises:
        RunRefusedError: there is a file of that name or on the way, the name is too long, or the place is read-only.
    """
    try:
        os.makedirs(output_dir, exist_ok=True)
    except (OSError, ValueError) as error:
        raise RunRefusedError(unwritable(output_dir, error)) from error


def unwritable(output_dir: str | os.PathLike, error: Exception) -> str:
    """Return the message for a folder that cannot be written to."""
    shown = str(output_dir)
    shown = shown if len(shown) <= 200 else f"{shown[:197]}..."
    reason = getattr(error, "strerror", None) or str(error)
    return f"`output_dir={shown!r}` cannot be written to: {reason}. Name a folder that can be made and written to."


def host_name() -> str:
    """Return this machine's name, as it may stand in a file name."""
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:60] or "unknown"


def staging_name() -> str:
    """Return the name of the folder in which this process alone writes what is not finished."""
    return f"{STAGING_PREFIX}-{host_name()}-{os.getpid()}"


def remove_stale_staging(run_dir: str) -> None:
    """Delete the staging folders of this process and of processes that are gone; call it while holding the lock."""
    for folder in Path(run_dir).glob(f"{STAGING_PREFIX}*"):
        parts = folder.name.rsplit("-", 2)
        is_local = len(parts) == 3 and parts[1] == host_name() and parts[2].isdigit()
        if is_local and int(parts[2]) != os.getpid() and is_running(int(parts[2])):
            continue
        shutil.rmtree(folder, ignore_errors=True)


def is_running(pid: int, started: str | None = None) -> bool:
    """
    Return whether a process of this machine is there.

    Args:
        pid (`int`): its number.
        started (`str`, *optional*): what [`start_time`] said of it; another process may have its number by now.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it belongs to somebody else, or there is no such number
        return pid < 1 << 31
    return started is None or start_time(pid) in (None, started)


def start_time(pid: int) -> str | None:
    """Return when a process started, in ticks since the machine did; `None` where the system does not say (not Linux)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


class RunLock:
    """
    A lock on the folder of a run, so that no second run writes checkpoints into it.

    It is an advisory lock of the operating system on `_run.lock`, which ends with the process however that ends, and the file
    says whose it is. Nothing waits. Where a file system has no locks, what the file says decides. All ranks of a run are one run:
    only the main process takes the lock.

    Args:
        output_dir (`str`): the folder, which is there.
    """

    def __init__(self, output_dir: str):
        self.output_dir = output_dir
        self.path = os.path.join(output_dir, LOCK_NAME)
        self._file: int | None = None

    def acquire(self) -> None:
        """
        Take the lock.

        Raises:
            RunRefusedError: another run has it; the message names the folder and the process.
        """
        try:
            for _ in range(ATTEMPTS):
                if self._attempt():
                    return
        except OSError as error:
            raise RunRefusedError(unwritable(self.output_dir, error)) from error
        raise RunRefusedError(f"`output_dir={self.output_dir!r}`: other runs begin there at this moment. {ADVICE}")

    def _attempt(self) -> bool:
        """Return whether the lock was taken; `False` where it changed meanwhile and it is worth another look."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        is_taken = False
        try:
            is_free = _lock(file)
            holder = _read_holder(file)
            if not _is_at(file, self.path):
                return False
            if is_free is not True and holder is not None:
                is_local = holder["host"] == host_name()
                is_alive = is_local and is_running(holder["pid"], holder["started"])
                if is_alive or (is_free is False and not is_local):
                    raise RunRefusedError(self._refusal(holder))
                if is_free is False:  # a process that it left behind still has the file open
                    os.unlink(self.path)
                    return False
                if not is_local:
                    logger.warning(
                        f"`output_dir={self.output_dir!r}` has the lock of a run on {holder['host']}, and its file system cannot say "
                        "whether that run goes on. It is taken for ended."
                    )
            elif is_free is False:  # its holder is about to write who it is
                raise RunRefusedError(self._refusal(None))
            os.ftruncate(file, 0)
            content = {"host": host_name(), "pid": os.getpid(), "started": start_time(os.getpid())}
            os.pwrite(file, json.dumps(content).encode(), 0)
            self._file, is_taken = file, True
            return True
        finally:
            if not is_taken:
                os.close(file)

    def _refusal(self, holder: dict[str, Any] | None) -> str:
        who = "another run" if holder is None else f"the run of process {holder['pid']} on {holder['host']}"
        return f"`output_dir={self.output_dir!r}` is in use by {who}. {ADVICE}"

    def release(self) -> None:
        """Give the lock back, if this has it."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            if _is_at(file, self.path):
                os.unlink(self.path)
        except OSError:
            pass
        finally:
            os.close(file)


ADVICE = "Wait for its end, stop it, or give this run another `output_dir`."


def _lock(file: int) -> bool | None:
    """Return `True` if the file is locked by this process now, `False` if another has it, `None` where there are no locks."""
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
        holder = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return None
    if not isinstance(holder, dict) or not isinstance(holder.get("pid"), int) or isinstance(holder["pid"], bool):
        return None
    host, started = holder.get("host"), holder.get("started")
    return {"host": str(host)[:60], "pid": holder["pid"], "started": started if isinstance(started, str) else None}


def _is_at(file: int, path: str) -> bool:
    """Return whether the path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False
