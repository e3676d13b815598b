"""
Measure time and memory of a training step beside joint training, Trainer, a plain loop and unrolled inner steps.

One command writes results.json, table.md and speed.png:

    pip install -r benchmarks/speed/requirements.txt
    python benchmarks/speed/run.py            # --quick, --device cuda, --threads 2, --only steps, --output DIRECTORY
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path


# Before torch is imported: its profiler counts memory here and has nothing to say about it.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # several would be used by DataParallel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402
import transformers  # noqa: E402
from cases import Case  # noqa: E402
from measure import in_process, take_turns_in_processes  # noqa: E402
from parts import compare_forwards, head_parts  # noqa: E402
from plot import plot  # noqa: E402
from report import write_table  # noqa: E402
from scaling import launch  # noqa: E402
from steps import COMPETITORS  # noqa: E402
from unrolled import compare_heads, compare_steps, installed  # noqa: E402


# The case that the budgets are about.
BUDGET = Case("BERT-base", 32, 128, bf16=True)
STEPS = [
    *[Case("BERT-tiny", batch, 32) for batch in (8, 32, 128, 256)],
    *[Case("BERT-tiny", 64, 32, classes) for classes in (2, 10, 100, 1000)],
    Case("BERT-mini", 32, 64),
    Case("BERT-medium", 32, 64),
    Case("ViT", 32, 64),
    BUDGET,
]
QUICK_STEPS = [Case("BERT-tiny", 32, 32), Case("ViT", 8, 16)]
REPEATS = {"BERT-base": 6, "BERT-medium": 9, "ViT": 11}  # of 21 otherwise

# Rows, features, classes and splits; the first are those of the budget.
HEADS = [
    (64, 768, 3, 8),
    (64, 768, 3, 1),
    *[(rows, 768, 3, 8) for rows in (8, 256)],
    *[(64, 768, classes, 8) for classes in (2, 10, 100, 1000)],
]
UNROLLED_STEPS = [Case("BERT-tiny", 64, 32), Case("BERT-mini", 32, 64)]

# Length of the source's rows beside a case with that of the target's.
FORWARDS = [
    *[(32, Case(model, 32, 128)) for model in ("BERT-tiny", "BERT-mini")],
    *[(128, Case(model, 32, 128)) for model in ("BERT-tiny", "BERT-mini")],
    (32, Case("BERT-tiny", 8, 32)),
    *[(length, Case("BERT-base", 16, 128, bf16=True)) for length in (32, 128)],
]
SCALING, QUICK_SCALING = Case("BERT-mini", 32, 64), Case("BERT-tiny", 8, 16)


def environment(options: argparse.Namespace) -> dict:
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": options.device,
        "device_name": name,
        "threads": options.threads,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "quick": options.quick,
    }


def run_steps(options: argparse.Namespace) -> Iterator[dict]:
    for case in QUICK_STEPS if options.quick else STEPS:
        repeats = 3 if options.quick else REPEATS.get(case.model, 21)
        jobs = {name: (function, (case, options.device)) for name, function in COMPETITORS.items()}
        warmup = 1 if case.model == "BERT-base" else 2
        methods = take_turns_in_processes(jobs, options.device, options.threads, repeats, warmup)
        yield {"label": case.label, "case": case.__dict__, "methods": methods}


def run_heads(options: argparse.Namespace) -> Iterator[dict]:
    for rows, size, classes, splits in HEADS[:2] if options.quick else HEADS:
        methods = alone(options, compare_heads, rows, size, classes, splits, repeats=5 if options.quick else 31)
        label = f"n={rows}, d={size}, C={classes}, splits: {splits}"
        yield {"label": label, "n": rows, "d": size, "C": classes, "splits": splits, "methods": methods}


def run_unrolled_steps(options: argparse.Namespace) -> Iterator[dict]:
    for case in UNROLLED_STEPS[:1] if options.quick else UNROLLED_STEPS:
        methods = alone(options, compare_steps, case, repeats=3 if options.quick else 15)
        yield {"label": case.label, "case": case.__dict__, "methods": methods}


def run_parts(options: argparse.Namespace) -> Iterator[dict]:
    for rows in (64,) if options.quick else (64, 32):
        methods = alone(options, head_parts, rows, 768, 3, repeats=51)
        yield {"label": f"n={rows}, d=768, C=3", "methods": methods}


def run_forwards(options: argparse.Namespace) -> Iterator[dict]:
    for source_length, case in FORWARDS[:1] if options.quick else FORWARDS:
        repeats = 3 if options.quick else 5 if case.model == "BERT-base" else 15
        methods = alone(options, compare_forwards, case, source_length, repeats=repeats)
        label = f"{case.label}, source length {source_length}"
        yield {"label": label, "case": case.__dict__, "source_length": source_length, "methods": methods}


def run_scaling(options: argparse.Namespace) -> Iterator[dict]:
    case, rounds, steps = (QUICK_SCALING, 1, 3) if options.quick else (SCALING, 2, 12)
    launches = [launch(processes, case, steps) for _ in range(rounds) for processes in (1, 2)]
    yield {"label": case.label, "case": case.__dict__, "launches": launches}


def alone(options: argparse.Namespace, function: Callable, *args, repeats: int) -> dict:
    """A comparison within one process of its own."""
    return in_process(function, *args, options.device, repeats, device=options.device, threads=options.threads)


SECTIONS = {
    "steps": run_steps,
    "heads": run_heads,
    "unrolled_steps": run_unrolled_steps,
    "parts": run_parts,
    "forwards": run_forwards,
    "scaling": run_scaling,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small cases, few repetitions; for trying the code")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2, help="threads of each process, but for the scaling")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="some of the sections")
    parser.add_argument("--output", type=Path, help="results/DEVICE beside this file, with --quick runs/speed")
    options = parser.parse_args()
    folder = options.output or (Path("runs") / "speed" if options.quick else HERE / "results" / options.device)
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "environment": environment(options),
        "minutes": 0.0,
        "budget_case": (QUICK_STEPS[0] if options.quick else BUDGET).label,
        "missing": installed()[1],
    }
    start = time.time()
    with tempfile.TemporaryDirectory() as temporary:
        # The processes are ended in the middle of their training, and clean up nothing.
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        for section in options.only or SECTIONS:
            for row in SECTIONS[section](options):
                # The load tells how far the times can be trusted. A run that is broken off leaves what it has.
                row["load_average"] = round(os.getloadavg()[0], 2)
                results.setdefault(section, []).append(row)
                results["minutes"] = round((time.time() - start) / 60, 1)
                write(results, folder)
                print(
                    f"{time.strftime('%H:%M:%S')} {section}: {row['label']} (load {row['load_average']})", flush=True
                )
    print(f"Wrote {folder}/results.json, table.md and speed.png")


def write(results: dict, folder: Path) -> None:
    (folder / "results.json").write_text(json.dumps(rounded(results), indent=1) + "\n")
    write_table(results, folder / "table.md")
    plot(results, folder / "speed.png")


def rounded(value):
    """Floats with five digits; lists of numbers stay readable."""
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
