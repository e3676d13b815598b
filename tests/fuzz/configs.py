"""
Give configurations of `merlin-hf train`, `compare` and `sources` what they cannot have.

    python -m tests.fuzz.configs

Every key gets values of other types and out of range, which must be kept as the key declares or refused by name. Files
that are bombs go through the commands, which must end with status 2, one line that names the file or the key, and no
traceback.
"""

import argparse
import contextlib
import dataclasses
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from merlin_hf.cli.arguments import IMAGE, TEXT, argument_classes, read_request
from merlin_hf.cli.main import main as merlin_hf
from merlin_hf.comparison.config import CompareConfig, SearchConfig, SourceConfig, TargetConfig, load_config
from merlin_hf.methods import METHODS
from merlin_hf.sources.settings import RankingSettings
from tests.fuzz import options as fuzz
from tests.fuzz.options import HANGS, NAMED, NONSENSE, UNNAMED, Finding


VALUES = {name: value for name, value in fuzz.VALUES.items() if name != "object"}
TRAIN = {
    "model_name_or_path": "m",
    "task_name": "rte",
    "source_task_name": "mnli",
    "output_dir": "out",
    "use_cpu": True,
}
IMAGES = {"model_name_or_path": "m", "train_dir": "a", "source_train_dir": "b", "output_dir": "out", "use_cpu": True}
COMPARE: dict[str, Any] = {
    "model": "m",
    "target": {"path": "t", "rows": 100},
    "source": {"path": "s"},
    "methods": {"finetune": {}, "merlin": {}, "delta": {}},
    "training": {"max_steps": 10},
}


# Values


def keys() -> Iterator[tuple[str, str, type]]:
    """Yield a command, a key of its configuration (with dots) and the dataclass that declares its last part."""
    for command, task in (("train", TEXT), ("images", IMAGE)):
        for cls in argument_classes(task):
            yield from ((command, field.name, cls) for field in dataclasses.fields(cls))
    merlin = METHODS["merlin"].training_args_class
    own = [option for cls, option in fuzz.own_options() if cls is merlin]
    yield from (
        ("train", option, merlin) for option in [*own, "learning_rate", "gradient_accumulation_steps", "seed", "optim"]
    )
    sections = (("", CompareConfig), ("target.", TargetConfig), ("source.", SourceConfig), ("search.", SearchConfig))
    for prefix, cls in sections:
        yield from (("compare", f"{prefix}{field.name}", cls) for field in dataclasses.fields(cls))
    yield from (("compare", f"methods.merlin.{option}", merlin) for option in own)
    yield from (("compare", f"methods.merlin.search.{option}", merlin) for option in ("rho", "num_splits", "split"))
    yield ("compare", "methods.delta.num_layers", METHODS["delta"].training_args_class)
    sizes = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps")
    for option in ("learning_rate", *sizes):
        yield ("compare", f"training.{option}", METHODS["finetune"].training_args_class)
    yield from (("sources", field.name, RankingSettings) for field in dataclasses.fields(RankingSettings))


def _written(folder: str, given: Any) -> str:
    path = Path(folder) / "run.yaml"
    path.write_text(given if isinstance(given, str) else yaml.safe_dump(given), encoding="utf-8")
    return str(path)


def give(command: str, key: str, cls: type, name: str) -> Finding:
    """Put one value into a configuration, and judge what is kept or said."""
    value = VALUES[name]
    last = key.rsplit(".", 1)[-1]

    def sensible(kept: Any) -> bool:
        several = kept if isinstance(kept, list) and ".search." in key else [kept]
        return all(is_sensible(cls, last, one) for one in several)

    return Finding(command, key, name, *fuzz.judge(lambda: READ[command](key, value), last, sensible))


def is_sensible(cls: type, option: str, kept: Any) -> bool:
    """Return whether a kept value is one; sections and seeds are kept in a form of their own."""
    if dataclasses.is_dataclass(kept):
        return True
    if option in ("seeds", "methods", "device"):
        return kept is None or bool(kept)
    return fuzz.is_sensible(cls, option, kept)


def _train(key: str, value: Any, base: dict[str, Any] = TRAIN) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        request = read_request([], _written(folder, {**base, key: value}))
        # `null` in a file leaves the default.
        return next(getattr(one, key) for one in request.arguments() if hasattr(one, key))


def _compare(key: str, value: Any) -> Any:
    config = yaml.safe_load(yaml.safe_dump(COMPARE))
    section = config
    *parents, last = key.split(".")
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = [value] if ".search." in key else value
    with tempfile.TemporaryDirectory() as folder:
        found: Any = load_config(_written(folder, config))
    if parents[:1] == ["methods"]:
        method = next(one for one in found.methods if one.name == parents[1])
        return (method.search if parents[2:] else method.options)[last]
    for name in parents:
        found = getattr(found, name)
    return found.get(last) if isinstance(found, dict) else getattr(found, last)


def _sources(key: str, value: Any) -> Any:
    return getattr(RankingSettings(**{key: value}), key)


READ: dict[str, Callable] = {
    "train": _train,
    "images": lambda key, value: _train(key, value, IMAGES),
    "compare": _compare,
    "sources": _sources,
}


# Bombs


def _laughs() -> str:
    return "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))])


BOMBS = {
    "laughs": _laughs(),
    "itself": "a: &a [*a]",
    "itself in a mapping": "a: &a {b: *a}",
    "merged": "a: &a {x: 1}\nb: {" + "<<: *a, " * 5000 + "}",
    "deep lists": "a: " + "[" * 50_000 + "]" * 50_000,
    "deep mappings": "a: " + "{a: " * 20_000 + "}" * 20_000,
    "deep lines": "\n".join(" " * n + "a:" for n in range(500)),
    "many keys": "\n".join(f"a{n}: 1" for n in range(15_000)),
    "many values": "a: [" + "1," * 90_000 + "]",
    "digits": "max_steps: " + "9" * 100_000,
    "hexadecimal": "max_steps: 0x" + "f" * 100_000,
    "sexagesimal": "max_steps: " + "1:" * 60_000 + "1",
    "float": "learning_rate: " + "1" * 100_000 + ".5",
    "10 MB": "model: " + "x" * 10_000_000,
    "100 kB": "model: " + "x" * 100_000,
    "a long key": "x" * 100_000 + ": 1",
    "twice": "model: a\nmodel: b",
    "object": "model: !!python/object/apply:os.system ['true']",
    "module": "model: !!python/module:os",
    "name": "model: !!python/name:os.system",
    "tag": "model: !mine x",
    "binary": "model: !!binary xx",
    "date": "model: 2001-99-99",
    "set": "model: !!set {a, b}",
    "list": "[1, 2]",
    "text": "hello",
    "nothing": "",
    "number as key": "1: 2",
    "list as key": "? [1]\n: 2",
    "two documents": "a: 1\n---\na: 2",
    "control": "model: \0",
    "unclosed": "a: [",
}
# Configurations whose values are bombs, by command.
LARGE: dict[str, list[dict[str, Any]]] = {
    "train": [
        {**TRAIN, **more}
        for more in (
            {"per_device_train_batch_size": 10**12}, {"gradient_accumulation_steps": 0},
            {"gradient_accumulation_steps": -1}, {"num_source_labels": 10**9}, {"num_splits": 10**9},
            {"max_steps": 10**30}, {"max_train_samples": 10**12}, {"max_seq_length": 10**12}, {"method": ["merlin"]},
            {"method": {"a": 1}}, {"task": ["text"]}, {"seed": 10**12}, {"text_columns": [["a"]]},
            {"label_column": {"a": "b"}}, {"method": "delta", "num_layers": 10**7}, {"model_name_or_path": 1},
            {"method": "x" * 100_000}, {"learning_rate": 10**400}, {"sources": {"a": {}}},
        )
    ] + [
        {**{name: value for name, value in TRAIN.items() if not name.startswith("source")}, "sources": sources}
        for sources in (
            3, [], {}, [3], [[]], "mnli", {"a": 3}, {"a": []}, {1: {"task_name": "mnli"}}, {"a": {"task_name": [1]}},
            {"a": {"task_name": "mnli", "max_samples": 10**12}}, {"x" * 100_000: {"task_name": "mnli"}},
            {"a": {"train_file": 3}}, {"a": {"task_name": "mnli", "text_columns": [["a"]]}}, [{"task_name": {"a": 1}}],
        )
    ],
    "compare": [
        {**COMPARE, **more}
        for more in (
            {"seeds": 10**9}, {"seeds": [10**30]}, {"seeds": []}, {"seeds": list(range(5000))}, {"seeds": [[0]]},
            {"freeze_layers": 10**7}, {"image_size": 10**9}, {"max_seq_length": 10**12}, {"search": {"trials": 10**9}},
            {"search": {"learning_rates": [1.0] * 5000}},
            {"methods": {"merlin": {"search": {name: [*range(1, 200)] for name in ("num_splits", "rho")}}}},
            {"methods": {"delta": {"num_layers": 10**7}}}, {"methods": [["merlin"]]}, {"methods": [{"a": 1}]},
            {"methods": [None]}, {"methods": {"merlin": {"method": ["merlin"]}}},
            {"methods": {"merlin": {"search": {"rho": [[1]]}}}}, {"methods": {"merlin": 3}},
            {"training": {"max_steps": 10**30}}, {"training": {"max_steps": 5, "gradient_accumulation_steps": 0}},
            {"training": [1]}, {"training": {"max_steps": 5, "per_device_train_batch_size": 10**12}},
            {"target": {"path": "t", "rows": 10**12}}, {"target": []}, {"target": {"path": ["t"]}}, {"metric": ["f1"]},
            {"metric": {"a": 1}}, {"budget": []}, {"reference": ["merlin"]}, {"reference": "x" * 100_000},
            {"search": 3}, {"source": {"a": 3}}, {"source": {"a": {"path": "s"}, "b": [1]}}, {"source": [1]},
            {"source": [[]]}, {"source": [{}]}, {"source": {"a": {"path": ["s"]}}}, {"source": {1: {"path": "s"}}},
            {"source": {"x" * 100_000: {"path": "s"}}}, {"source": {"a": {"path": "s", "rows": 10**12}}},
            {"methods": {"joint": {"use_source": [["a"]]}}}, {"methods": {"joint": {"use_source": {"a": 1}}}},
        )
    ],
}  # fmt: skip
FLAGS = {
    "sources": [
        ["--target", "t", "--candidates", "s", *more]
        for more in (
            ["--seeds", str(10**9)], ["--seeds", "-1"], ["--seeds", "nan"], ["--target_rows", "0"],
            ["--source_rows", str(10**12)], ["--batch_size", "0"], ["--num_splits", str(10**9)],
            ["--layers", str(10**7)], ["--max_seq_length", str(10**12)], ["--image_size", "-1"],
            ["--batch_size", "2.5"], ["--seeds", *map(str, range(5000))],
        )
    ],
    "evaluate": [
        ["m", "--task_name", "rte", *more]
        for more in (
            ["--batch_size", "0"], ["--max_eval_samples", "-1"], ["--max_seq_length", str(10**12)],
            ["--batch_size", "nan"],
        )
    ],
    "compare": [["{config}", "--seeds", str(10**9)], ["{config}", "--seeds", "-1"], ["{config}", "--seeds", "x"]],
    "train": [
        ["--config", "{config}", *more]
        for more in (
            ["--rho", "nan"], ["--rho", "inf"], ["--num_splits", "2.5"], ["--learning_rate", "nan"],
            ["--max_steps", str(10**30)], ["--gradient_accumulation_steps", "0"],
            ["--per_device_train_batch_size", str(10**12)], ["--max_train_samples", "-1"],
            ["--num_processes", str(10**9)], ["--num_processes", "-1"], ["--num_processes", "x"],
            ["--main_process_port", "1e9"], ["--weight_decay", "-inf"], ["--lr_scheduler_type", "x"], ["--seed", "-1"],
            ["--warmup_steps", "nan"],
        )
    ],
}  # fmt: skip


def attacks() -> Iterator[tuple[str, str, list[str], Any, str]]:
    """Yield a command, a name, its arguments, the file that `{config}` stands for, and what its message must name."""
    for command in ("train", "compare"):
        flags = ["--config", "{config}"] if command == "train" else ["{config}"]
        yield from ((command, name, flags, text, "run.yaml") for name, text in BOMBS.items())
        for given in LARGE[command]:
            base = TRAIN if command == "train" else COMPARE
            changed = [key for key, value in given.items() if base.get(key, None) != value]
            yield command, " ".join(changed), flags, given, changed[-1]
    for command, several in FLAGS.items():
        for flags in several:
            name = next(flag for flag in reversed(flags) if flag.startswith("--"))
            yield command, f"{name} {flags[-1][:20]}", flags, TRAIN if command == "train" else COMPARE, name[2:]


def attack(command: str, name: str, flags: list[str], given: Any, named: str) -> Finding:
    """Run the command in this process, and judge its status and what it said."""
    out = io.StringIO()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stderr(out),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        config = _written(folder, given)
        status: Any = None
        try:
            with fuzz.time_limit():
                merlin_hf([command, *(flag.replace("{config}", config) for flag in flags)])
        except SystemExit as stop:
            status = stop.code
        except TimeoutError:
            return Finding(command, name, "", HANGS, f"more than {fuzz.LIMIT} s")
        except Exception as error:
            return Finding(command, name, "", UNNAMED, f"{type(error).__name__}: {error}"[:200])
    said = " ".join(line for line in out.getvalue().splitlines() if line.startswith(("merlin-hf", "Traceback")))
    is_right = (
        status == 2
        and (named in said or (name in BOMBS and "`" in said))
        and "Traceback" not in said
        and len(said) < 1000
    )
    verdict = NAMED if is_right else NONSENSE if not status else UNNAMED
    return Finding(command, name, f"{time.monotonic() - started:.1f} s", verdict, f"exit {status}: {said[:200]}")


def main(argv: list[str] | None = None) -> int:
    """Try all values and bombs, print the counts and the faults, and return 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=40, help="faults to print (%(default)s)")
    arguments = parser.parse_args(argv)
    with contextlib.redirect_stderr(io.StringIO()):
        found = {
            "values": [give(*key, name) for key in keys() for name in VALUES],
            "bombs and flags": [attack(*one) for one in attacks()],
        }
    faults = [fuzz.report(f"{title} of configurations", several, arguments.show) for title, several in found.items()]
    return 1 if any(faults) else 0


if __name__ == "__main__":
    sys.exit(main())
