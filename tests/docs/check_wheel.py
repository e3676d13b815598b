"""
`make build` runs this in an environment with the wheel: it has the code, the files beside it and the command.

It is not a test for pytest, which would find the checkout instead.
"""

import importlib.metadata
import importlib.resources
import os
import subprocess
import sys
import sysconfig

import merlin_hf
from merlin_hf.heads import get_head
from merlin_hf.methods import METHODS


ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILES = ["py.typed", "hub/model_card_template.md"]


def main() -> None:
    site = sysconfig.get_path("purelib")
    assert os.path.realpath(merlin_hf.__file__).startswith(os.path.realpath(site)), merlin_hf.__file__
    assert importlib.metadata.version("merlin-hf") == merlin_hf.__version__

    # Every module and every other file of the package is in the wheel, and nothing else is installed.
    package = importlib.resources.files(merlin_hf)
    missing = []
    for folder, _, names in os.walk(os.path.join(ROOT, "merlin_hf")):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), os.path.join(ROOT, "merlin_hf"))
            if "__pycache__" not in path and not package.joinpath(path).is_file():
                missing.append(path)
    assert not missing, missing
    assert all(package.joinpath(name).is_file() for name in FILES)
    tops = {str(path).split("/")[0] for path in importlib.metadata.files("merlin-hf")} - {".."}
    assert all(top == "merlin_hf" or top.endswith(".dist-info") for top in tops), tops

    assert METHODS and get_head("ridge")
    command = os.path.join(sysconfig.get_path("scripts"), "merlin-hf")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == merlin_hf.__version__
    print(f"merlin-hf {merlin_hf.__version__} works from its wheel, on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
