"""`merlin-hf env`."""

import argparse
import importlib.metadata
import os
import platform
import sys
from typing import Any
from urllib.parse import urlsplit

from ..utils.files import to_json


PACKAGES = (
    *("merlin-hf", "torch", "transformers", "accelerate", "datasets", "evaluate", "peft", "huggingface_hub"),
    *("safetensors", "tokenizers", "numpy", "scipy", "scikit-learn", "matplotlib", "pillow", "rich", "deepspeed"),
)
DTYPES = ("float32", "bfloat16", "float16", "float64")
# Set or not is said, not what to: values may be secrets, or folders of this machine.
VARIABLES = ("HF_HUB_OFFLINE", "HF_HOME", "MERLIN_DATA_ROOT", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


def add_env_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "env",
        allow_abbrev=False,
        description="Print versions, devices and settings, to paste into an issue. Tokens and folders of this machine "
        "are not shown.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser


def env(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    found = environment()
    if arguments.json:
        print(to_json(found, indent=2))
        return 0
    for title, values in found.items():
        print(f"{title}:\n")
        for name, value in values.items():
            print(f"- {name}: {value}")
        print()
    return 0


def environment() -> dict[str, dict[str, Any]]:
    """Return versions, devices and settings."""
    return {"Versions": versions(), "Devices": devices(), "Settings": settings()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of packages; `not installed` for those that are missing."""
    found = {"platform": platform.platform(), "python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def devices() -> dict[str, str]:
    """Return what torch can compute on, and with which types of numbers."""
    import torch

    found = {"CPU": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; {supported_dtypes('cpu')}"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        dtypes = supported_dtypes(f"cuda:{index}")
        found[f"cuda:{index}"] = (
            f"{properties.name}, {memory}, capability {properties.major}.{properties.minor}; {dtypes}"
        )
    if not torch.cuda.device_count():
        found["cuda"] = f"none (torch built for {torch.version.cuda or torch.version.hip or 'CPU'})"
    if torch.backends.mps.is_available():
        found["mps"] = supported_dtypes("mps")
    return found


def supported_dtypes(device: str) -> str:
    """Return the types of numbers that a linear layer can be trained with on a device, as tried; slow ones said so."""
    import torch

    from ..utils.dtypes import bfloat16_is_fast

    found = []
    for name in DTYPES:
        try:
            layer = torch.nn.Linear(4, 4, dtype=getattr(torch, name), device=device)
            layer(layer.weight.detach()).sum().backward()
            found.append(name if name != "bfloat16" or bfloat16_is_fast(device) else f"{name} (slow)")
        except (RuntimeError, TypeError):
            continue
    return ", ".join(found)


def settings() -> dict[str, str]:
    """Return the settings of the Hub, without secrets, and which variables are set."""
    from huggingface_hub import constants, get_token

    found = {
        "Hub endpoint": without_credentials(constants.ENDPOINT),
        "Hub token": "set" if get_token() else "not set",
        "Hub": "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "online",
    }
    given = [name for name in VARIABLES if os.environ.get(name)]
    return {**found, "variables that are set": ", ".join(given) or "none"}


def without_credentials(url: str) -> str:
    """Return the address without a user, a password and parameters."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
