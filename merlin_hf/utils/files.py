"""Read files that may be damaged, write files whole or not at all, and find names and folders for them."""

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .markdown import visible
from .validation import ConfigError


MOST_BRACKETS = 100  # one in another; a configuration or a state has less than ten
MOST_BYTES = 256 * 2**20  # of a JSON file; a run's is a few hundred kilobytes
LONGEST_NAME = 100  # letters of a file's name, with room for what is put around it
KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
# Windows keeps these for devices, whatever ending they have.
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
# An absolute path in a message: in quotes, where it may have spaces, of Unix with two parts at least, or of Windows;
# not what follows `//` in an address.
ABSOLUTE = re.compile(
    r"(?<=['\"`])(?:~?/|[A-Za-z]:[\\/]|\\\\)[^'\"`\n]*(?=['\"`])"
    r"|(?:(?<=file://)|(?<![\w.:/\\~'\"`-]))(?:~/[^\s/'\"`:,;()<>|]+(?:/[^\s/'\"`:,;()<>|]+)*|(?:/[^\s/'\"`:,;()<>|]+){2,})/?"
    r"|(?<!\w)(?:[A-Za-z]:[\\/]|\\\\)[^\s'\"`:,;()<>|]+"
)


class FileError(ConfigError):
    """A file or a folder cannot be used; the message says which and why."""


# Reading


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """
    Return the content of a JSON file.

    Nothing but a regular file, or a link to one, is opened: a named pipe would wait for somebody who writes into it. A
    FileError says why and does not name the file; a missing one is a FileNotFoundError.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"it cannot be opened: {_reason(error)}") from None
    if not stat.S_ISREG(mode):
        raise FileError(f"it is {next((name for is_kind, name in KINDS.items() if is_kind(mode)), 'no regular file')}")
    try:
        with open(path, "rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise FileError(f"it cannot be read: {_reason(error)}") from None
    if len(content) > most_bytes:
        raise FileError(f"it has more than {most_bytes:,} bytes")
    try:
        found = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FileError(f"it is not text in UTF-8, at byte {error.start}") from None
    except RecursionError:
        raise FileError("it has too many brackets in brackets") from None
    except ValueError as error:
        raise FileError(f"it is not JSON: {visible(error)}") from None
    if not _is_flat(found):
        raise FileError("it has too many brackets in brackets")
    return found


def _is_flat(value: Any) -> bool:
    """Return whether at most [`MOST_BRACKETS`] are in one another; recursive functions could not follow more."""
    level: list[Any] = [[value]]
    for _ in range(MOST_BRACKETS):
        items = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return True
    return False


def _reason(error: Exception) -> str:
    return visible(getattr(error, "strerror", None) or error)


# Writing


def to_json(value: Any, sort_keys: bool = True, **options: Any) -> str:
    """Return JSON with sorted keys; numbers that JSON does not have (NaN, infinity) become null."""
    return json.dumps(_plain(value), sort_keys=sort_keys, allow_nan=False, **options)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give another name to write a file under. It then replaces `path` in one step, or is removed after an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_output_dir(folder: str | os.PathLike, files: Iterable[str] = (), option: str = "output_dir") -> None:
    """
    Check that `files` can be written into a folder, before anything is computed for them. Nothing is left there.

    The folder is made where it does not exist. A file that exists may be replaced; none may be a folder. A FileError
    has the path and `option`, what the user calls the folder.
    """
    given = os.fspath(folder)
    if not given.strip():
        raise FileError(f"`{option}` is empty: give the name of a folder; '.' is the one you are in.")
    root = path = Path(given)
    made: list[Path] = []
    try:
        made, holder = _make_trial(root)
        with holder as trial:
            for name in files:
                path = root / name
                if path.is_dir():
                    raise IsADirectoryError(None, "a folder has the name of a file that is written there")
                folder = path.parent
                if not folder.is_dir():  # tried elsewhere, as others may be looking here
                    if any(os.path.lexists(one) and not one.is_dir() for one in (folder, *folder.parents)):
                        raise NotADirectoryError(None, "a file has the name of a folder")
                    folder = Path(trial, name).parent
                    folder.mkdir(parents=True, exist_ok=True)
                handle, written = tempfile.mkstemp(dir=folder, prefix=".", suffix=f"{path.name}.part")
                os.close(handle)
                os.unlink(written)
    except (OSError, ValueError) as error:
        raise FileError(
            f"`{option}={visible(given)!r}` cannot be written to: {_reason(error)} ({visible(path)}). Give a folder "
            "that can."
        ) from None
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()


def _make_trial(root: Path, tries: int = 20) -> tuple[list[Path], tempfile.TemporaryDirectory]:
    """Make a folder, and one in it to try things in; return the new folders, and the one to try in."""
    try:
        return _make_folder(root), tempfile.TemporaryDirectory(dir=root, prefix=".", suffix=".part")
    except FileNotFoundError:  # another process that checks the folder has just removed it again
        if not tries:
            raise
        return _make_trial(root, tries - 1)


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder with those above it; return the new ones, the outermost first."""
    missing: list[Path] = []
    while not folder.exists():
        missing.insert(0, folder)
        if folder == folder.parent:
            break
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(None, "a file has the name of a folder")
    for path in missing:
        path.mkdir(exist_ok=True)
    return missing


# Names


def file_name(name: str) -> str:
    """
    Return a name for a file or a folder that every system takes; the same for the same name, another for another.

    A name of letters, digits and `_ . + -` is kept, if it is short and means nothing else; else what is kept of it is
    followed by a number for the whole.
    """
    kept = re.sub(r"[^\w.+-]", "_", unicodedata.normalize("NFKC", name), flags=re.ASCII)[:LONGEST_NAME]
    kept = kept.rstrip(".").lstrip(".-") or "_"
    is_safe = kept == name and not RESERVED.fullmatch(name)
    return name if is_safe else f"{kept[:40]}-{_digest(name)}".replace(".", "_", 1 if RESERVED.fullmatch(kept) else 0)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return [`file_name`] of each name, told apart where only capital letters differ, which many systems ignore."""
    given = list(dict.fromkeys(names))
    found = {name: file_name(name) for name in given}
    folded = [one.casefold() for one in found.values()]
    return {name: f"{one}-{_digest(name)}" if folded.count(one.casefold()) > 1 else one for name, one in found.items()}


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def short_path(path: str | os.PathLike) -> str:
    """Return a relative path as it is; of others the part within the working folder, else the last part."""
    given = os.fspath(path)
    if re.match(r"[A-Za-z]:[\\/]|\\\\", given):
        return re.split(r"[\\/]", given.rstrip("\\/"))[-1]
    if given.startswith("~"):
        return os.path.basename(given.rstrip("/"))
    if not os.path.isabs(given):
        return given
    relative = os.path.relpath(given)
    return os.path.basename(given.rstrip("/")) if relative.startswith(os.pardir) or relative == "." else relative


def short_paths(text: str) -> str:
    """Return a message with [`short_path`] in place of each absolute path."""
    return ABSOLUTE.sub(lambda found: short_path(found.group()), text)
