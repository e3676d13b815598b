"""
Damage the files that `merlin-hf compare` and `merlin-hf report` read, and run these: `python -m tests.fuzz.run_files`.

A comparison must give the table that it gave before, or refuse the file by name. A report must have the rest as it
was, and name what it left out; no score outside the metric's range may be in it.
"""

import argparse
import collections
import contextlib
import copy
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from merlin_hf.cli import main as cli


LIMIT = 10  # seconds of this process
WAIT = 30  # seconds by the clock, on a machine that has others to serve
RIGHT, TRACEBACK, WRONG, UNNAMED, HANGS = ("right", "traceback", "wrong table", "refused without name", "hangs")
FAULTS = (TRACEBACK, WRONG, UNNAMED, HANGS)
VALUES: list[Any] = [
    None, True, False, -1, 0, 3, 5.0, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**400, 10**25,
    "", "x", "1e-4", "\x1b[31m", "a\n# b", "<b>|`", [], {}, [[1]], {"x": 1}, "y" * 5000, list(range(3000)),
    {str(place): 0.5 for place in range(3000)},
]  # fmt: skip
SECTION = re.compile(
    r"^## good[^\n]*\n\n((?:\|[^\n]*\n)*)", re.MULTILINE
)  # what follows in the heading tells it from the other
SCORE = re.compile(r"\| +\**(-?[\d.e+]+|nan|-?inf)(?: ±[^|]*)?(?= *\|)")


class TookTooLong(BaseException):
    """A command was not finished in time."""


# Damage


def paths_in(value: Any, here: tuple = ()) -> list[tuple]:
    """Return all places in a value of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, item in items for path in paths_in(item, (*here, key)))]


def mutate(content: Any, draw: random.Random) -> Any:
    """Return a value of JSON with one place of it changed, removed or put in another's place."""
    found = copy.deepcopy(content)
    *above, last = draw.choice(paths_in(found)[1:])
    holder = found
    for key in above:
        holder = holder[key]
    kind = draw.randrange(5)
    if kind == 0:
        del holder[last]
    elif kind == 1 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[last]))
    elif kind == 1:
        holder[f"{last}x"] = holder.pop(last)
    else:
        holder[last] = copy.deepcopy(draw.choice(VALUES))
    return found


def change_json(path: Path, draw: random.Random) -> str:
    path.write_text(json.dumps(mutate(json.loads(path.read_text()), draw)))
    return "a value"


def change_bytes(path: Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes())
    kind = draw.randrange(6)
    if kind == 0:
        content = content[: draw.randrange(len(content))]
    elif kind == 1:
        content[draw.randrange(len(content))] = draw.randrange(256)
    elif kind == 2:
        content = bytearray(draw.randbytes(100))
    elif kind == 3:
        content = bytearray(
            draw.choice([b"", b"null", b"3", b'"x"', b"[]", b"{}", b"NaN", b"[" * 10**5, b"[" * 500 + b"]" * 500])
        )
    elif kind == 4:
        content = content + content
    else:
        content = bytearray(b'{"x": ' + b"1" * 10**5 + b"}")
    path.write_bytes(content)
    return "bytes"


def change_kind(path: Path, draw: random.Random) -> str:
    kind = draw.choice(["pipe", "folder", "loop", "nothing", "device", "socket"])
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = os.getcwd()
        with socket.socket(socket.AF_UNIX) as listening:
            os.chdir(path.parent)  # the name of a socket must be short
            listening.bind(path.name)
            os.chdir(here)
    else:
        path.symlink_to({"loop": path.name, "nothing": "nothing", "device": "/dev/zero"}[kind])
    return kind


def change_for_another(path: Path, draw: random.Random) -> str:
    """Put another file of the folder in its place."""
    others = [other for other in sorted(path.parents[1].rglob("*.json")) if other != path and other.is_file()]
    if not others:
        return change_bytes(path, draw)
    shutil.copyfile(draw.choice(others), path)
    return "another file"


CHANGES: list[Callable[[Path, random.Random], str]] = [change_json] * 6 + [
    change_bytes,
    change_kind,
    change_for_another,
]


# Commands


def run(*arguments: object, wait: int = WAIT) -> tuple[int | str, str, str]:
    """Return the exit status of a command, or what it broke with, and what it printed."""
    out, err = io.StringIO(), io.StringIO()

    def stop(*_: Any) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(wait)
    start = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main([str(argument) for argument in arguments])
        status: int | str = 0
    except SystemExit as done:
        status = done.code if isinstance(done.code, int) else int(done.code is not None)
    except TookTooLong:
        status = HANGS
    except BaseException:
        status = TRACEBACK
        err.write(traceback.format_exc())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if time.process_time() - start > LIMIT and wait == WAIT:
        status = HANGS
    elif "Traceback (most recent call last)" in err.getvalue() and status != HANGS:
        status = TRACEBACK
    return status, out.getvalue(), err.getvalue()


def judge_compare(work: Path, whole: Path, table: str, draw: random.Random) -> tuple[str, str]:
    """Damage a file of a finished comparison, and run it again."""
    folder = work / "compared"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    path = draw.choice([*sorted(folder.glob("runs/*/*.json")), folder / "results.json"])
    how = draw.choice(CHANGES)(path, draw)
    status, out, err = run("compare", work / "compare.yaml")
    if status in FAULTS:
        return str(status), f"{how}: {err[-200:]}"
    if status == 0:
        return (RIGHT if out == table else WRONG), f"{how}: {out[:200]}"
    return (RIGHT if path.name in err or "output_dir" in err else UNNAMED), f"{how}: {err[-200:]}"


def judge_report(work: Path, whole: Path, text: str, draw: random.Random) -> tuple[str, str]:
    """Damage one of two files of results, and report on them."""
    folder = work / "reported"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    path = folder / "bad" / "results.json"
    how = draw.choice(CHANGES)(path, draw)
    flags = ["--output_dir", work / "report"] if draw.random() < 0.1 else []
    status, out, err = run("report", folder, *flags)
    if status in FAULTS:
        return str(status), f"{how}: {err[-200:]}"
    if status != 0 and "bad/results.json" not in err:
        return UNNAMED, f"{how}: {err[-200:]}"
    if status in (0, 1):
        scores = [float(score) for score in SCORE.findall(out.split("## Ranks")[0])]
        is_same = SECTION.findall(out) == SECTION.findall(text)
        if not is_same or any(not -1e-9 <= score <= 1 + 1e-9 for score in scores):
            return WRONG, f"{how}: {out[:600]}"
    return RIGHT, how


def judge_run(work: Path, whole: Path, _: str, draw: random.Random) -> tuple[str, str]:
    """Damage a file of a training run, and report on it."""
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    path = folder / draw.choice(["trainer_state.json", "trainer_state.json", "all_results.json"])
    how = draw.choice(CHANGES)(path, draw)
    flags = ["--output_dir", work / "report"] if draw.random() < 0.15 else []
    status, out, err = run("report", folder, *flags)
    if status in FAULTS:
        return str(status), f"{how}: {err[-200:]}"
    if status != 0 and path.name not in err and "has logged nothing" not in err:
        return UNNAMED, f"{how}: {err[-200:]}"
    return RIGHT, how


# Files to damage


def make_comparison(work: Path) -> tuple[Path, str]:
    """Run a tiny comparison; returns its folder and its table."""
    import datasets
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tests.comparison.conftest import NAMES, SOURCE_WORDS, TEST_WORDS, TRAIN_WORDS, save, sentences
    from tests.tiny import tiny_bert

    words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *(f"w{number}" for number in range(40))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(work / "model")
    tiny_bert().bert.save_pretrained(work / "model")
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    for split, rows, given, seed in (("train", 80, TRAIN_WORDS, 1), ("test", 40, TEST_WORDS, 2)):
        save(work / "target", split, dict(zip(features, sentences(rows, given, seed=seed), strict=True)), features)
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    columns = dict(zip(features, sentences(90, SOURCE_WORDS, classes=3, seed=3), strict=True))
    save(work / "source", "train", columns, features)
    config = {
        "model": str(work / "model"),
        "target": {"path": str(work / "target"), "rows": 24, "test_rows": 20},
        "source": {"path": str(work / "source")},
        "methods": ["linear_probe", "finetune"],
        "seeds": 2,
        "training": {"max_steps": 1, "per_device_train_batch_size": 8, "use_cpu": True},
        "search": {"trials": 0, "learning_rates": [1e-3]},
        "max_seq_length": 16,
        "output_dir": str(work / "compared"),
    }
    (work / "compare.yaml").write_text(json.dumps(config))
    status, table, err = run("compare", work / "compare.yaml", wait=600)
    assert status == 0, err
    (work / "compared").rename(work / "whole")
    return work / "whole", table


def make_results(work: Path, compared: Path) -> Path:
    """Lay out two files of results, of two targets."""
    content = json.loads((compared / "results.json").read_text())
    for name in ("good", "bad"):
        content["config"]["source"], content["data"]["source"] = None, None
        content["config"]["target"]["path"] = content["data"]["target"]["path"] = name
        (work / "results" / name).mkdir(parents=True)
        (work / "results" / name / "results.json").write_text(json.dumps(content, indent=1))
    return work / "results"


def make_run(work: Path) -> Path:
    """Write what a training run leaves for reports."""
    history = [
        {"step": step, "epoch": step / 4, "loss": 1 / step, "source_loss": 0.5, "rho": 0.3, "learning_rate": 1e-4}
        for step in (1, 2, 3, 4)
    ]
    history += [{"step": 4, "epoch": 1.0, "eval_loss": 0.5, "eval_accuracy": 0.75, "eval_runtime": 1.0}]
    (work / "whole_run").mkdir()
    state = {"log_history": history, "global_step": 4, "max_steps": 4, "best_metric": None}
    (work / "whole_run" / "trainer_state.json").write_text(json.dumps(state))
    results = {"epoch": 1.0, "eval_accuracy": 0.75, "eval_f1": 0.5, "eval_samples": 40, "eval_runtime": 1.0}
    (work / "whole_run" / "all_results.json").write_text(json.dumps(results))
    return work / "whole_run"


def main(argv: list[str] | None = None) -> None:
    """Damage files, print counts and what went wrong, and exit with 1 where anything did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=40, metavar="N", help="(%(default)s)")
    parser.add_argument("--reports", type=int, default=200, metavar="N", help="of comparisons (%(default)s)")
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="reports of training runs (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        os.environ["HF_DATASETS_CACHE"] = str(work / "cache")
        compared, table = make_comparison(work)
        results = make_results(work, compared)
        _, text, _ = run("report", results)
        kinds = {
            "compare": (arguments.comparisons, judge_compare, compared, table),
            "report of comparisons": (arguments.reports, judge_report, results, text),
            "report of a run": (arguments.runs, judge_run, make_run(work), ""),
        }
        failed = False
        for name, (count, judge, whole, known) in kinds.items():
            counts: collections.Counter[str] = collections.Counter()
            for number in range(count):
                verdict, said = judge(work, whole, known, random.Random(f"{arguments.seed} {name} {number}"))
                counts[verdict] += 1
                if verdict != RIGHT and counts[verdict] <= 3:
                    print(f"{name} {number}: {verdict}: {' '.join(said.split())}", file=sys.stderr)
            failed |= any(counts[fault] for fault in FAULTS)
            print(
                f"{name}: {count} files; " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in (RIGHT, *FAULTS)),
                flush=True,
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
