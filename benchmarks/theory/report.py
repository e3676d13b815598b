"""table.md from the cells."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment import SOLVED  # noqa: E402
from methods import METHODS  # noqa: E402
from stored import files  # noqa: E402


Setting = tuple[float, float]  # ease and noise of the problem
Cells = dict[tuple[Setting, str, int], dict]
FEW = 20  # target rows of the closer look
PRETRAINING_MARKS = (100, 1000, 3000, 10**9)  # steps; the last is the end


def load(output: Path) -> Cells:
    """The cells by setting, method and rows."""
    found = {}
    for cell in files(output / "cells").values():
        settings = cell["settings"]
        setting = settings["problem"]["ease"], settings["problem"]["noise"]
        found[setting, settings["method"], settings["rows"]] = cell
    return found


def settings_in(cells: Cells) -> list[Setting]:
    """Those without noise first."""
    return sorted({setting for setting, _, _ in cells}, key=lambda setting: setting[::-1])


def row_counts(cells: Cells, setting: Setting) -> list[int]:
    """The numbers of target rows that a setting was run on."""
    return sorted({rows for other, name, rows in cells if other == setting and name != "pretraining"})


def names(cells: Cells) -> list[str]:
    """The methods that there are, in their order."""
    return [name for name in METHODS if any(name == other for _, other, _ in cells)]


def closer_look(cells: Cells, setting: Setting) -> int:
    """The number of rows nearest to `FEW`."""
    return min(row_counts(cells, setting), key=lambda rows: abs(rows - FEW))


def finite(values: list) -> list[float]:
    return [value for value in values if value is not None]


def mean(values: list) -> str:
    """The mean, but "diverged" if one has."""
    return f"{round(statistics.mean(values), 3) + 0.0:.3f}" if len(finite(values)) == len(values) else "diverged"


def spread(values: list) -> str:
    # Adding 0.0 makes a zero of a rounded negative one.
    least, most = (round(pick(finite(values)), 2) + 0.0 for pick in (min, max))
    return f"{mean(values)} ({least:.2f} to {most:.2f})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def describe(setting: Setting) -> str:
    ease, noise = setting
    words = f"x3 x4 is as easy as x1 x2 (s = {ease:g})" if ease == 1 else f"x3 x4 is the easier one (s = {ease:g})"
    return words + (f", noise of {noise:g} in the labels" if noise else "")


def error_tables(cells: Cells) -> list[str]:
    """Test error of all methods against the number of rows."""
    lines = ["## Test error", ""]
    lines += [f"Mean over the seeds of the mean squared error, and how many of them are below {SOLVED:g}.", ""]
    for setting in settings_in(cells):
        lines += [f"### {describe(setting)}", ""]
        body = []
        for name in names(cells):
            line = [METHODS[name].label]
            for rows in row_counts(cells, setting):
                errors = cells.get((setting, name, rows), {}).get("results", {}).get("test_error")
                solved = sum(error < SOLVED for error in finite(errors or []))
                line.append(f"{mean(errors)} ({solved}/{len(errors)})" if errors else "")
            body.append(line)
        lines += table(["target rows", *map(str, row_counts(cells, setting))], body)
    return lines


def best_tables(cells: Cells) -> list[str]:
    """What a choice of the settings that looks at the test error would have given."""
    lines = ["## Settings chosen by the test error", ""]
    lines += [
        "Not a method: the least mean over the seeds that one configuration has, of networks that were fit without the"
    ]
    lines += ["held-out rows. Where a method is better here than above, its settings were hard to choose.", ""]
    for setting in settings_in(cells):
        lines += [f"### {describe(setting)}", ""]
        body = []
        for name in names(cells):
            line = [METHODS[name].label]
            for rows in row_counts(cells, setting):
                by_seed = cells.get((setting, name, rows), {}).get("test_error_of_configurations")
                by_configuration = [one for one in zip(*by_seed, strict=True) if None not in one] if by_seed else []
                line.append(f"{min(map(statistics.mean, by_configuration)):.3f}" if by_configuration else "")
            body.append(line)
        lines += table(["target rows", *map(str, row_counts(cells, setting))], body)
    return lines


def form_tables(cells: Cells) -> list[str]:
    """Errors and forms for few rows."""
    lines = ["## The forms", ""]
    lines += [
        "Coefficients, as mean (least to greatest of the seeds); the target's true model has 1, 0, and 0 for the "
        "rest.",
        "",
    ]
    head = [
        "",
        "train error",
        "test error",
        "wrong sign",
        "target: x1 x2",
        "x3 x4",
        "the rest",
        "source: x1 x2",
        "x3 x4",
    ]
    keys = ["train_error", "test_error", "sign_error", "target_transferable", "target_specific", "target_rest"]
    keys += ["source_transferable", "source_specific"]
    for setting in settings_in(cells):
        rows = closer_look(cells, setting)
        lines += [f"### {rows} target rows, {describe(setting)}", ""]
        body = []
        for name in names(cells):
            results = cells.get((setting, name, rows), {}).get("results", {})
            show = [mean if "error" in key else spread for key in keys]
            body.append([METHODS[name].label])
            body[-1] += [how(results[key]) if key in results else "" for how, key in zip(show, keys, strict=True)]
        lines += table(head, body)
    return lines


def pretraining_table(cells: Cells) -> list[str]:
    """The source's form early and at the end."""
    lines = ["## Pre-training alone", ""]
    lines += [
        "Coefficient of x1 x2 in the source's form, mean (least to greatest); that of x3 x4 is what is missing to 1.",
        "",
    ]
    body = []
    for setting in settings_in(cells):
        cell = cells.get((setting, "pretraining", 0))
        for position, decay in enumerate(cell["decays"] if cell else []):
            line = [f"{setting[0]:g}", f"{decay:g}"]
            for mark in PRETRAINING_MARKS:
                moment = min(range(len(cell["marks"])), key=lambda j, mark=mark: abs(cell["marks"][j] - mark))
                line.append(spread([seed[position] for seed in cell["transferable"][moment]]))
            body.append(line)
    return lines + table(
        ["s", "penalty", *(f"about {mark} steps" for mark in PRETRAINING_MARKS[:-1]), "at the end"], body
    )


def choice_table(cells: Cells) -> list[str]:
    """How often each rho was chosen."""
    if "merlin" not in names(cells):
        return []
    lines = ["## MeRLin's ρ", "", "How many seeds chose each.", ""]
    values = METHODS["merlin"].grid["rho"]
    body = []
    for setting in settings_in(cells):
        for rows in row_counts(cells, setting):
            if (cell := cells.get((setting, "merlin", rows))) is not None:
                counts = Counter(one["rho"] for one in cell["chosen"])
                body.append(
                    [*(f"{value:g}" for value in setting), str(rows), *(str(counts[value]) for value in values)]
                )
    return lines + table(["s", "noise", "target rows", *(f"ρ = {value:g}" for value in values)], body)


def write_table(cells: Cells, path: Path) -> None:
    """All tables, and what they were made with."""
    seeds = sorted({len(cell["settings"]["seeds"]) for cell in cells.values()})
    minutes = sum(cell["cpu_seconds"] for cell in cells.values()) / 60
    efforts = sorted({tuple(cell["settings"]["effort"].values()) for cell in cells.values()})
    lines = ["<!-- Written by benchmarks/theory/run.py. -->", "", "# Results", ""]
    steps = "; ".join(f"{a}, pre-training to the end {b}" for a, b in efforts)
    versions = ", ".join(sorted({cell["torch"] for cell in cells.values()}))
    lines += [f"Seeds: {', '.join(map(str, seeds))}. Steps: {steps}."]
    lines += [f"torch {versions}, one thread, {minutes:.1f} minutes of the processor."]
    lines += [
        "",
        *error_tables(cells),
        *form_tables(cells),
        *pretraining_table(cells),
        *choice_table(cells),
        *best_tables(cells),
    ]
    path.write_text("\n".join(lines).rstrip() + "\n")
