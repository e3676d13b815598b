"""
Run the experiment: every method on every number of target rows, in all settings.

A cell is a file in results/cells and is left alone where it is there and of the same settings, so that a run which is
broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch


HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from experiment import HELD_OUT, run_cell, run_pretraining  # noqa: E402
from methods import DECAYS, METHODS, Effort  # noqa: E402
from network import RATE, WIDTH  # noqa: E402
from problem import Problem  # noqa: E402
from stored import repacked  # noqa: E402


EASES = (1.0, 1.2)
NOISE = 0.5  # of one more setting, with the largest ease
ROWS = (10, 14, 20, 28, 40, 80, 160)
ROWS_WITH_NOISE = (20, 40)
QUICK = Effort(steps=300, long=1000)


def write(path: Path, cell: dict) -> None:
    """All of the file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(cell) + "\n")
    os.replace(part, path)


def settled(path: Path, settings: dict) -> bool:
    """Whether the cell has been computed, with these settings."""
    return path.exists() and json.loads(path.read_text())["settings"] == json.loads(json.dumps(settings))


def cells(eases: list[float], noise: float, rows: list[int], methods: list[str]) -> list[tuple[Problem, str, int]]:
    """What there is to compute: pre-training, then the methods, from few rows to many."""
    found = []
    for ease in eases:
        found.append((Problem(ease=ease), "pretraining", 0))
        found += [(Problem(ease=ease), name, count) for count in rows for name in methods]
    if noise:
        problem = Problem(ease=max(eases), noise=noise)
        found += [(problem, name, count) for count in rows if count in ROWS_WITH_NOISE for name in methods]
    return found


def run(options: argparse.Namespace) -> None:
    """Compute the cells that are not there."""
    effort = QUICK if options.quick else Effort()
    for problem, name, count in cells(options.ease, options.noise, options.rows, options.methods):
        settings = {
            "method": name,
            "rows": count,
            "problem": asdict(problem),
            "effort": asdict(effort),
            "seeds": options.seeds,
            "grid": {"decay": DECAYS} if name == "pretraining" else METHODS[name].grid,
            "width": WIDTH,
            "rate": RATE,
            "held_out": HELD_OUT,
        }
        noisy = f"-noise-{problem.noise:g}" if problem.noise else ""
        path = options.output / "cells" / f"ease-{problem.ease:g}{noisy}-{name}-{count}.json"
        if settled(path, settings):
            continue
        if name == "pretraining":
            cell = run_pretraining(problem, options.seeds, effort, DECAYS)
        else:
            cell = run_cell(name, problem, count, options.seeds, effort)
        write(path, {"settings": settings, "torch": torch.__version__, **cell})
        print(path.stem, f"{cell['cpu_seconds']} s", cell.get("results", {}).get("test_error", ""), flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--ease", type=float, nargs="+", default=list(EASES), help="size of the source-specific inputs"
    )
    parser.add_argument("--noise", type=float, default=NOISE, help="of the labels in one more setting; 0 for none")
    parser.add_argument("--quick", action="store_true", help="two seeds, few steps, to runs/theory: tries the code")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.rows = options.seeds[:2], [rows for rows in options.rows if rows in (20, 40)] or [20]
    if options.output is None:
        options.output = HERE.parents[1] / "runs" / "theory" if options.quick else HERE / "results"
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    # Weights that the penalty has driven to nothing would otherwise become subnormal numbers, with which all is
    # slower.
    torch.set_flush_denormal(True)
    with repacked(options.output):
        run(options)
    from figures import draw
    from report import load, write_table

    found = load(options.output)
    write_table(found, options.output / "table.md")
    draw(found, options.output)


if __name__ == "__main__":
    main()
