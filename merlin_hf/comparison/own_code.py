"""The code of methods that are not of this package, which no version tells apart."""

import hashlib
import inspect
import sys
from pathlib import Path

from transformers import Trainer


KNOWN_BY_VERSION = {"merlin_hf", "transformers", "torch", *sys.stdlib_module_names}


def own_classes(trainer_class: type[Trainer]) -> list[type]:
    """The classes of a method and of its options that are the user's; none for the package's methods."""
    options = getattr(trainer_class, "training_args_class", object)
    classes = dict.fromkeys([*trainer_class.__mro__, *options.__mro__])
    return [cls for cls in classes if cls.__module__.partition(".")[0] not in KNOWN_BY_VERSION]


def own_code(trainer_class: type[Trainer]) -> dict[str, str]:
    """
    A text that changes when the files change in which a method of the user's, or its options, are written.

    Returns:
        `dict[str, str]`: under `"code"`; empty for the package's methods, and where there is no file, as in a shell.
    """
    files = [_file_of(cls) for cls in own_classes(trainer_class)]
    contents = {file.read_bytes() for file in files if file is not None}
    if not contents:
        return {}
    digest = hashlib.blake2b(digest_size=8)
    for content in sorted(contents):
        digest.update(len(content).to_bytes(8, "big") + content)
    return {"code": digest.hexdigest()}


def _file_of(cls: type) -> Path | None:
    try:
        path = Path(inspect.getsourcefile(cls) or "")
    except (TypeError, OSError):
        return None
    return path if path.is_file() else None
