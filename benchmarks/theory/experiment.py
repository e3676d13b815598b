"""A cell of the experiment: one method on so many target rows, its settings chosen on held-out target rows."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from methods import METHODS, Effort, Fitted, Method, Settings, pretrain, remember
from network import Rows, outputs_of
from problem import Problem
from torch import Tensor


HELD_OUT = 0.25  # share of the target rows that settings are chosen on
SIGN_ROWS, SIGN_SEED = 4000, 1_000_000  # rows on which the sign of the output is judged
SOLVED = 0.1  # test error below which a network has found the true model


def configurations(grid: Mapping[str, tuple[float, ...]]) -> list[dict[str, float]]:
    """Every combination of the grid's values."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def settings_of(chosen: list[dict[str, float]]) -> Settings:
    """The settings `(N,)` of N networks."""
    return {name: torch.tensor([one[name] for one in chosen]) for name in chosen[0]}


def target_rows(problem: Problem, rows: int, seeds: list[int]) -> Rows:
    """The rows of every seed."""
    return Rows(*map(torch.stack, zip(*(problem.target_rows(rows, seed) for seed in seeds), strict=True)))


def error_on(form: Tensor, rows: Rows) -> Tensor:
    """Mean squared error `(N,)` of forms on rows."""
    return (outputs_of(form, rows.inputs) - rows.labels).square().mean(-1)


def try_all(
    method: Method, problem: Problem, rows: Rows, seeds: list[int], effort: Effort
) -> tuple[Tensor, Tensor, list[dict[str, float]]]:
    """
    Fit with every configuration on all but the held-out rows.

    Returns:
        The error on the held-out rows and the test error, both `(seeds, configurations)`, and the configurations.
    """
    held_out = math.ceil(HELD_OUT * rows.labels.shape[1])
    options = configurations(method.grid)
    repeated = Rows(*(tensor.repeat_interleave(len(options), 0) for tensor in rows))
    kept = Rows(*(tensor[:, :-held_out] for tensor in repeated))
    of_networks = [seed for seed in seeds for _ in options]
    form = method.fit(problem, kept, of_networks, settings_of(options * len(seeds)), effort).target_form
    validation = error_on(form, Rows(*(tensor[:, -held_out:] for tensor in repeated)))
    shape = len(seeds), len(options)
    # One that diverged is never chosen.
    return validation.nan_to_num(torch.inf).view(shape), problem.target_error(form).view(shape), options


def numbers(tensor: Tensor, digits: int = 6) -> list:
    """A tensor as lists of rounded numbers; what is not finite as None, which JSON has."""
    if tensor.dim() > 1:
        return [numbers(row, digits) for row in tensor]
    return [round(value, digits) if math.isfinite(value) else None for value in tensor.tolist()]


def describe(problem: Problem, fitted: Fitted, rows: Rows) -> dict[str, list]:
    """What there is to say of networks, one number for each."""
    inputs, labels = replace(problem, noise=0.0).target_rows(SIGN_ROWS, SIGN_SEED)
    wrong = (outputs_of(fitted.target_form, inputs) * labels <= 0).float().mean(-1)
    found = {
        "test_error": problem.target_error(fitted.target_form),
        "sign_error": wrong,
        "train_error": error_on(fitted.target_form, rows),
    }
    forms = {"target": fitted.target_form, "source": fitted.source_form}
    for task, form in forms.items():
        if form is not None:
            found |= {f"{task}_{part}": value for part, value in problem.composition(form).items()}
    if fitted.source_form is not None:
        found["source_error"] = problem.source_error(fitted.source_form)
    return {name: numbers(value) for name, value in found.items()}


def run_cell(name: str, problem: Problem, num_rows: int, seeds: list[int], effort: Effort) -> dict:
    """Choose each seed's settings on its held-out rows, fit again on all of its rows, and describe what came out."""
    start = time.process_time()
    method, rows = METHODS[name], target_rows(problem, num_rows, seeds)
    validation, test, options = try_all(method, problem, rows, seeds, effort)
    chosen = [options[position] for position in validation.argmin(1).tolist()]
    fitted = method.fit(problem, rows, seeds, settings_of(chosen), effort)
    return {
        "results": {"validation_error": numbers(validation.min(1).values), **describe(problem, fitted, rows)},
        "chosen": chosen,
        # Of networks that were fit without the held-out rows: what another choice would have given.
        "configurations": options,
        "test_error_of_configurations": numbers(test, 4),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def run_pretraining(problem: Problem, seeds: list[int], effort: Effort, decays: tuple[float, ...]) -> dict:
    """Where the source's form lies while pre-training goes on to its end."""
    start = time.process_time()
    of_networks = [seed for seed in seeds for _ in decays]
    decay = torch.tensor(decays * len(seeds))
    marks = sorted(
        {round(10 ** (exponent / 8)) for exponent in range(8, 49)} & set(range(effort.long)) | {effort.long}
    )
    parts = {"transferable": [], "specific": [], "rest": []}

    def watch(done: int, form: Tensor) -> None:
        if done in marks:
            for part, value in problem.composition(form).items():
                parts[part].append(numbers(value.view(len(seeds), len(decays)), 5))

    weights = pretrain(problem, of_networks, decay, effort.long, watch)
    keys = [(problem, effort.long, seed, value) for seed, value in zip(of_networks, decay.tolist(), strict=True)]
    remember(keys, weights)
    return {"marks": marks, "decays": list(decays), **parts, "cpu_seconds": round(time.process_time() - start, 1)}
