"""
Measure time, memory and accuracy of the heads beside their peers; write results/*.json and the plot.

    pip install -r benchmarks/heads/requirements.txt
    python benchmarks/heads/run.py

Options: `--device cuda`, `--only batch` or `--only whole-set`, `--repeats 7`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from peers import LOGISTIC, RIDGE, ours  # noqa: E402


SIZES = [
    *[(n, 768, 3) for n in (16, 64, 256, 1024, 4096)],
    *[(64, d, 3) for d in (128, 4096)],
    *[(64, 768, c) for c in (2, 10, 100, 1000)],
    (1024, 4096, 100),
]
L2 = 1.0
SLOWEST = 20.0  # seconds; a method slower than this is not repeated
ENOUGH, MOST_REPEATS = 0.5, 50  # a fast method is repeated for this many seconds, up to this many times
OTHER_OBJECTIVES = ("R2-D2",)  # its gradient is not to be compared
TWO_FAMILIES = (("ridge", RIDGE), ("logistic", LOGISTIC))


def problem(n: int, d: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with a decaying spectrum around class means, and one-hot targets."""
    generator = torch.Generator("cpu").manual_seed(0)
    scales = torch.logspace(0, -1.5, d, device="cpu")
    labels = torch.arange(n, device="cpu") % classes
    means = torch.randn(classes, d, generator=generator, device="cpu") * scales
    features = torch.randn(n, d, generator=generator, device="cpu") * scales + 0.5 * means[labels] + 0.1
    return features, torch.eye(classes, device="cpu")[labels]


def step(method, features, targets, loss_targets):
    """The head's fit, a loss of its logits, and the gradient in the features."""
    features = features.detach().requires_grad_()
    logits = method(features, targets, L2)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, loss_targets), features)
    return gradient.detach()


def timed(function, *args) -> tuple[float, torch.Tensor]:
    if args[1].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function(*args)
    if args[1].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def memory(*args) -> float:
    """Peak of a step over what was held before, in MiB."""
    if args[1].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(*args)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(*args)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def compare(methods: dict, reference, size: tuple[int, int, int], device: str, repeats: int) -> dict:
    """One row for each method; the repeats of all methods take turns, so that a disturbance falls on all."""
    features, targets = (t.to(device) for t in problem(*size))
    loss_targets = targets.roll(1, 0).argmax(1)
    exact = step(reference, features.double(), targets.double(), loss_targets)
    rows, times = {}, {name: [] for name in methods}
    for turn in range(MOST_REPEATS + 1):
        for name, method in methods.items():
            if turn > repeats and sum(times[name]) > ENOUGH or any(seconds > SLOWEST for seconds in times[name]):
                continue
            seconds, gradient = timed(step, method, features, targets, loss_targets)
            if turn > 0 or seconds > SLOWEST:  # the first turn warms up
                times[name].append(seconds)
            if turn == 0:
                error = None if name in OTHER_OBJECTIVES else float((gradient - exact).norm() / exact.norm())
                peak = None if seconds > SLOWEST / 4 else memory(method, features, targets, loss_targets)
                rows[name] = {"gradient_error": error, "peak_mebibytes": peak}
    for name, row in rows.items():
        row.update(seconds=statistics.median(times[name]), fastest=min(times[name]), repeats=len(times[name]))
    return rows


def slopes(results: list[dict]) -> dict:
    """Growth of the fastest time with n, d and C: the exponent between the two largest sizes of each sweep."""
    sweeps = {
        "n": [r for r in results if r["d"] == 768 and r["C"] == 3],
        "d": [r for r in results if r["n"] == 64 and r["C"] == 3],
        "C": [r for r in results if r["n"] == 64 and r["d"] == 768],
    }
    found = {}
    for axis, rows in sweeps.items():
        rows = sorted(rows, key=lambda row: row[axis])[-2:]
        ratio = torch.tensor(rows[1][axis] / rows[0][axis]).log()
        for name in rows[1]["methods"]:
            times = [row["methods"][name]["fastest"] for row in rows]
            found.setdefault(name, {})[axis] = round(float(torch.tensor(times[1] / times[0]).log() / ratio), 2)
    return found


def environment(device: str) -> dict:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": device,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def run_batch(device: str, repeats: int) -> None:
    references = {
        "ridge": ours("ridge", dtype=torch.float64),
        "logistic": ours("logistic", tolerance=1e-11, max_cg=2000),
    }
    results = []
    for size in SIZES:
        row = dict(zip("ndC", size, strict=True), methods={})
        for family, methods in TWO_FAMILIES:
            few = 1 if size[0] * size[2] > 50_000 and family == "logistic" else repeats
            rows = compare(methods, references[family], size, device, few)
            row["methods"].update(rows)
        row["load_average"] = os.getloadavg()[0]
        results.append(row)
        print(json.dumps({**row, "methods": {k: round(v["seconds"] * 1e3, 2) for k, v in row["methods"].items()}}))
        text = {"l2": L2, **environment(device), "slopes": {}, "results": results}
        if size == SIZES[-1]:
            text["slopes"] = slopes(results)
        (HERE / "results" / f"batch-{device}.json").write_text(json.dumps(text, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=["batch", "whole-set"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torchopt")
    if options.device == "cpu":
        torch.set_num_threads(1)
    (HERE / "results").mkdir(exist_ok=True)
    if options.only != "whole-set":
        torch.set_default_device(options.device)
        run_batch(options.device, options.repeats)
    if options.only != "batch":
        from whole_set import run_whole_set

        run_whole_set(options.device, environment(options.device))
    from plot import plot

    plot(HERE / "results", options.device)


if __name__ == "__main__":
    main()
