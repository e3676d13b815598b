"""What `import merlin_hf` gives, and how little it takes."""

import ast
import json
import subprocess
import sys

import pytest

import merlin_hf
from merlin_hf.cli.main import COMMANDS


HEAVY = ("torch", "transformers", "datasets", "accelerate", "numpy", "matplotlib")


def loaded_by(code):
    """Which of the large packages a new process has imported after some lines of code, and what they printed."""
    report = f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *shown, names = done.stdout.splitlines()
    return json.loads(names), "\n".join(shown)


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_the_command_without_a_command_imports_nothing_large(flag):
    call = f"from merlin_hf.cli.main import main\ntry:\n    main([{flag!r}])\nexcept SystemExit:\n    pass"
    names, shown = loaded_by(call)
    assert names == [] and all(name in shown for name in (COMMANDS if flag == "--help" else [merlin_hf.__version__]))


def test_the_package_imports_nothing_large():
    assert loaded_by("import merlin_hf; dir(merlin_hf); hasattr(merlin_hf, 'no_such_name')")[0] == []
    assert {"torch", "transformers"} <= set(loaded_by("from merlin_hf import MerlinTrainer")[0])


def test_every_public_name_is_there():
    names = {}
    exec("from merlin_hf import *", names)
    assert set(merlin_hf.__all__) <= names.keys() and set(merlin_hf.__all__) <= set(dir(merlin_hf))
    for name in merlin_hf.__all__:
        assert names[name] is getattr(merlin_hf, name)
    assert merlin_hf.JointTrainer is merlin_hf.METHODS["joint"] and merlin_hf.MerlinTrainer.__name__ == "MerlinTrainer"
    with pytest.raises(AttributeError, match="'merlin_hf' has no attribute 'MerlinTrainor'"):
        _ = merlin_hf.MerlinTrainor


def test_modules_need_no_import_of_their_own():
    names, _ = loaded_by("import merlin_hf; assert 'ridge' in merlin_hf.heads.HEADS; merlin_hf.data.load_dataset")
    assert "torch" in names


def test_type_checkers_see_the_same_names():
    """What is imported for them, each from the module that it comes from when it is asked for."""
    tree = ast.parse(open(merlin_hf.__file__, encoding="utf-8").read())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: statement.module for statement in block.body for alias in statement.names}
    assert seen == merlin_hf._ORIGINS and sorted(seen) == sorted(merlin_hf.__all__)
