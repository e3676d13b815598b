"""
Give every option of every method values that it cannot have: `python -m tests.fuzz.options`.

Each value must be kept as the type that the option declares, finite and in range, or refused by an error that names
the option. What is in range is judged here by the option's name, not by the package's own rules.
"""

import argparse
import collections
import contextlib
import dataclasses
import enum
import json
import math
import os
import signal
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator
from typing import Any

from transformers import TrainingArguments

from merlin_hf.methods import METHODS


LIMIT = 10  # seconds
VALUES: dict[str, Any] = {
    "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "None": None, "empty": "", "x": "x", "0.5": "0.5", "2.5": 2.5,
    "-1": -1, "0": 0, "1e30": 10**30, "[]": [], "{}": {}, "True": True, "object": object(), "nan in text": "nan",
}  # fmt: skip
SENSIBLE, NONSENSE = ("kept sensibly", "kept nonsense")
NAMED, UNNAMED, HANGS = ("refused by name", "refused without name", "hangs")
FAULTS = (NONSENSE, UNNAMED, HANGS)
# Numbers for which -1 has a meaning, and options for which transformers documents values beside their annotations.
MINUS_ONE = {"max_steps", "local_rank"}
ALSO: dict[str, tuple[type, ...]] = {
    "max_grad_norm": (type(None),),
    "resume_from_checkpoint": (bool,),
    "fsdp": (bool, list),
    "debug": (list,),
}
SHARES = ("fraction", "probability", "momentum", "beta1", "beta2", "smoothing_factor")
SIZES = (
    "batch_size", "chunk_size", "queue_size", "projection_size", "num_splits", "num_layers", "num_singular_values",
    "num_source_labels", "gradient_accumulation_steps", "eval_accumulation_steps", "prefetch_factor",
    "empty_cache_steps", "bucket_cap_mb", "ddp_timeout",
)  # fmt: skip


@dataclasses.dataclass
class Finding:
    """A value's class of options, option and name, the verdict on it, and what was kept or said."""

    options: str
    option: str
    value: str
    verdict: str
    said: str


def own_options() -> Iterator[tuple[type, str]]:
    """Yield the classes of options of all methods, with each option that transformers does not have."""
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    classes = dict.fromkeys(trainer.training_args_class for trainer in METHODS.values())
    for cls in classes:
        yield from (
            (cls, field.name) for field in dataclasses.fields(cls) if field.init and field.name not in inherited
        )


def inherited_options() -> Iterator[tuple[type, str]]:
    """Yield the options of transformers, in MeRLin's class of options."""
    cls = METHODS["merlin"].training_args_class
    yield from ((cls, field.name) for field in dataclasses.fields(TrainingArguments) if field.init)


def give(cls: type, option: str, name: str, folder: str) -> Finding:
    """Construct the arguments with one value, and judge what happens."""
    given = {"output_dir": folder, "use_cpu": True, "report_to": "none", option: VALUES[name]}
    judged = judge(lambda: getattr(cls(**given), option), option, lambda kept: is_sensible(cls, option, kept))
    return Finding(cls.__name__, option, name, *judged)


def judge(read: Callable[[], Any], named: str, sensible: Callable[[Any], bool]) -> tuple[str, str]:
    """Return the verdict on what `read` keeps or refuses, and what was kept or said; a refusal must have the name."""
    try:
        with time_limit():
            kept = read()
    except TimeoutError:
        return HANGS, f"more than {LIMIT} s"
    except Exception as error:
        return NAMED if named in str(error) else UNNAMED, f"{type(error).__name__}: {error}"[:200]
    return SENSIBLE if sensible(kept) else NONSENSE, repr(kept)[:200]


def report(title: str, found: list[Finding], show: int) -> int:
    """Print how often there was each verdict, and the first faults; return how many there are."""
    counts = collections.Counter(one.verdict for one in found)
    listed = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (SENSIBLE, NAMED, *FAULTS))
    print(f"{title}: {len(found)}, {listed}", flush=True)
    wrong = [one for one in found if one.verdict in FAULTS]
    for one in wrong[:show]:
        print(f"  {one.verdict}: {one.options} {one.option} = {one.value}: {one.said}")
    return len(wrong)


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise a TimeoutError in the block after the limit."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# What is sensible


def is_sensible(cls: type, option: str, kept: Any) -> bool:
    """Return whether a kept value has the declared type, is finite and in the range that the option's name says."""
    hint = typing.get_type_hints(cls)[option]
    if option.endswith("_l2") and isinstance(kept, float):
        return math.isfinite(kept) and 0 < kept < 1e20
    if not _is_declared(kept, hint) and not isinstance(kept, ALSO.get(option, ())):
        return False
    if not isinstance(kept, int | float) or isinstance(kept, bool):
        return kept != "" or option not in ("output_dir", "head", "probe_head")
    if not math.isfinite(kept) or abs(kept) > 1e20 or kept < (-1 if option in MINUS_ONE else 0):
        return False
    if option.endswith(SHARES) and kept > 1:
        return False
    return kept >= 1 or not option.endswith(SIZES)


def _is_declared(kept: Any, hint: Any) -> bool:
    kinds = typing.get_args(hint) if typing.get_origin(hint) is not None and _is_union(hint) else (hint,)
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    if enums and isinstance(kept, str):
        return any(kept in [member.value for member in kind] for kind in enums)
    return any(_has_type(kept, kind) for kind in kinds)


def _is_union(hint: Any) -> bool:
    return not isinstance(typing.get_origin(hint), type) or typing.get_origin(hint).__name__ == "UnionType"


def _has_type(kept: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return any(kept is one for one in typing.get_args(kind))
    kind = origin or kind
    if kind is float:
        return isinstance(kept, int | float) and not isinstance(kept, bool)
    if kind is int:
        return isinstance(kept, int) and not isinstance(kept, bool)
    if kind is dict and type(kept).__name__ == "AcceleratorConfig":
        return True
    return isinstance(kept, kind)


def main(argv: list[str] | None = None) -> int:
    """Try every value for every option, print the counts and the faults, and return 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=40, help="faults to print (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print all findings as JSON")
    arguments = parser.parse_args(argv)
    faults = 0
    for title, options in (("options of methods", own_options()), ("options of transformers", inherited_options())):
        with (
            tempfile.TemporaryDirectory() as folder,
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stderr(nowhere),
        ):
            found = [give(cls, option, name, folder) for cls, option in options for name in VALUES]
        if arguments.json:
            print(json.dumps([dataclasses.asdict(one) for one in found], indent=1))
        faults += report(f"values of {title}", found, arguments.show)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
