"""Code, versions and devices that determine the result of a run."""

import hashlib
import inspect
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from .. import __version__


PACKAGES = ("torch", "transformers", "datasets", "accelerate", "numpy")
KNOWN_BY_VERSION = {"merlin_hf", "transformers", "torch", *sys.stdlib_module_names}


def describe_environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Return the versions, the device and the number of processes that runs are done with."""
    return {
        "merlin_hf": __version__,
        **{name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
    }


def own_classes(trainer_class: type[Trainer]) -> list[type]:
    """Return the classes of a method and of its options that are the user's; none for the package's methods."""
    options = getattr(trainer_class, "training_args_class", object)
    return [cls for cls in dict.fromkeys([*trainer_class.__mro__, *options.__mro__]) if is_own(cls)]


def is_own(cls: type) -> bool:
    """Return whether a class is the user's, and not of the package or of what it builds on."""
    return cls.__module__.partition(".")[0] not in KNOWN_BY_VERSION


def own_code(trainer_class: type[Trainer]) -> dict[str, str]:
    """Return `code`, a digest of the files of a user's method and options; nothing for the package's."""
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
