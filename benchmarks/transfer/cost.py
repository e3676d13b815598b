"""
Measure what a run of a method costs beside one of joint training.

    python benchmarks/transfer/cost.py      # an hour or two of two cores that do nothing else

The runs of `run.py` may share a machine, so that their times are not to be compared. Here methods take turns on the
same rows, each turn with other rows and all methods; a first turn is a warm-up. MeRLin's time has all of training in
it: the choice of the mix, and the pass over the labelled rows for the final head. Writes `results/cost.json` and
`results/cost.md`, where sections that are not measured anew stay.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from merlin_hf.comparison.config import load_config
from merlin_hf.comparison.experiment import Experiment
from merlin_hf.comparison.progress import quiet
from merlin_hf.comparison.runner import plan_methods
from merlin_hf.utils.files import write_text


HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from run import PAIRS, load_pair, make_model, sizes  # noqa: E402
from stored import files, markdown, repacked  # noqa: E402


REFERENCE = "joint"
METHODS = ["finetune", "source_probe", "sequential", "l2_sp", "joint", "merlin", "merlin_paper"]
READ_ROWS = 256  # at a time


def measure(name: str, rows: int, turns: int, methods: list[str], max_steps: int | None = None) -> dict:
    """Return seconds of each method's training on a pair, by the clock and of the processor, turn by turn."""
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, quiet():
        config = load_pair(name, rows)
        if max_steps is not None:
            config["training"] = {**config["training"], "max_steps": max_steps}
        make_model(config)
        config |= {"output_dir": folder, "seeds": turns, "search": {"trials": 1}}
        experiment = Experiment(load_config(config, methods=methods))
        plans = plan_methods(experiment)
        read_once(experiment)
        for turn in [0, *range(turns)]:
            for plan in plans:
                run = plan.final_runs(experiment, {})[turn]
                trainer, _ = experiment.build_trainer(plan.method, run)
                experiment.clean_up()
                clock, processor = time.perf_counter(), time.process_time()
                trainer.train()
                seconds = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
                for kind, taken in seconds.items():
                    times.setdefault(plan.name, {}).setdefault(kind, []).append(taken)
                del trainer
        steps = {plan.name: plan.final_runs(experiment, {})[0].steps for plan in plans}
        environment = {**experiment.environment, "threads": torch.get_num_threads()}
    without_warm_up = {label: {kind: of[1:] for kind, of in kinds.items()} for label, kinds in times.items()}
    return {
        "rows": rows,
        "steps": steps,
        "seconds": without_warm_up,
        "environment": environment,
        "load": os.getloadavg()[1],
    }


def read_once(experiment: Experiment) -> None:
    """Read all rows, so that what is computed once for all runs is not counted against the method that comes first."""
    for rows in (*experiment.pair.sources.values(), experiment.pair.pool):
        encoded = experiment.encode(rows)
        for start in range(0, len(encoded), READ_ROWS):
            encoded[start : start + READ_ROWS]


def table(name: str, measured: dict) -> str:
    """A line for each method: its seconds, and their ratio to those of joint training in the same turn."""
    seconds, lines = measured["seconds"], []
    for label, taken in seconds.items():
        ratios = []
        for kind in ("clock", "processor"):
            pairs = zip(taken[kind], seconds[REFERENCE][kind], strict=True)
            low, middle, high = statistics.quantiles([own / joint for own, joint in pairs], n=4, method="inclusive")
            ratios.append(f"{middle:.2f} ({low:.2f} to {high:.2f})" if label != REFERENCE else "1")
        lines.append(
            (f"`{label}`", str(measured["steps"][label]), f"{statistics.median(taken['clock']):.1f}", *ratios)
        )
    head = ("method", "steps", "seconds", "ratio to joint training", "ratio of processor time")
    about, turns = measured["environment"], len(taken["clock"])
    command = f"cost.py --pairs {name} --rows {measured['rows']} --turns {turns} --methods {' '.join(seconds)}"
    return (
        f"## {name}, {measured['rows']} rows\n\n{markdown(head, lines)}\n\n`{command}`: {turns} turns, "
        f"device {about['device']}, {about['threads']} threads, torch {about['torch']}, "
        f"transformers {about['transformers']}; load average {measured['load']:.1f} (5 minutes)."
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=["sst2-vader_nyt", "mnist-usps"], choices=PAIRS, metavar="PAIR")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--max_steps", type=int, help="of both tasks, in place of those of the pair")
    parser.add_argument("--results_dir", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    if REFERENCE not in args.methods:
        parser.error(
            f"--methods must have {REFERENCE}, which the others are compared with, got {' '.join(args.methods)}."
        )
    for name in args.pairs:
        if args.rows not in sizes(name):
            parser.error(f"--rows must be one of {', '.join(map(str, sizes(name)))} for {name}, got {args.rows}.")
    if args.turns < 2:
        parser.error(f"--turns must be at least 2, so that they can be compared, got {args.turns}.")
    with repacked(args.results_dir):
        found: dict[str, dict] = files(args.results_dir).get("cost.json", {})
        for name in args.pairs:
            found[name] = measure(name, args.rows, args.turns, args.methods, args.max_steps)
            write(found, args.results_dir)


def write(found: dict[str, dict], folder: Path) -> None:
    """Write what has been measured so far."""
    write_text(folder / "cost.json", json.dumps(found, indent=1) + "\n")
    head = (
        "# What a run costs\n\nWhole runs of the methods on the same rows in turn: "
        "`python benchmarks/transfer/cost.py`, or a section by the command below it. All send as many rows through "
        "the backbone in training steps; a ratio is the median over turns, with quartiles."
    )
    text = "\n\n".join([head, *(table(name, measured) for name, measured in found.items())]) + "\n"
    write_text(folder / "cost.md", text)
    print(text)


if __name__ == "__main__":
    main()
