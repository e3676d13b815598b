"""Read results and the course of training from the log history of a Trainer."""

import math
import re
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from .files import FileError
from .markdown import visible
from .tables import shown


# Not about how well the model does: the speed, the memory, and what is known about the head on the rows it was fit on.
NO_RESULTS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "jit_compilation_time")
NO_RESULT_PREFIXES = ("mem_", "head_")
# What training logs that says how it went, in the order of the table.
TRAINING_COLUMNS = {
    "loss": "Training loss",
    "source_loss": "Source loss",
    "target_loss": "Target loss",
    "meta_loss": "Meta loss",
    "head_validation_accuracy": "Head's accuracy on the other half",
}
LOG_ROWS = 20
MOST_METRICS = 30  # in tables and figures, the first by name
MOST_STEPS = 2**53  # the largest whole number that figures can tell from the next


class Evaluation(NamedTuple):
    """The metrics of one evaluation set (`name` where there are several), and the step of the model."""

    name: str | None
    metrics: dict[str, float]
    step: int | None


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a number that fits a float, NaN and infinity too, but not true or false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not isinstance(value, int) or abs(value) <= sys.float_info.max


def check_log_history(history: Any) -> list[dict[str, Any]]:
    """
    Return the entries of a `log_history` of `trainer_state.json` that belong to a step.

    A FileError, which does not name the file, if it is not such a list, or has numbers that training cannot have.
    """
    if not isinstance(history, list):
        raise FileError("its `log_history` is not a list")
    for place, entry in enumerate(history):
        if not isinstance(entry, dict):
            raise FileError(f"entry {place} of its `log_history` is not a mapping")
        for name, value in entry.items():
            is_step = name == "step" and not (is_number(value) and isinstance(value, int) and 0 <= value <= MOST_STEPS)
            if is_step or (isinstance(value, int) and not isinstance(value, bool) and not is_number(value)):
                text = visible(repr(value))
                text = text if len(text) < 40 else f"{text[:36]} ..."
                raise FileError(f"`{visible(name)}` in entry {place} of its `log_history` cannot be {text}")
    return [entry for entry in history if "step" in entry]


def metrics_of(entry: dict[str, Any], prefix: str = "eval_") -> dict[str, float]:
    """Return the metrics in an entry of the log history, without the prefix."""
    found = {name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)}
    return {
        name: value
        for name, value in found.items()
        if is_number(value)
        and math.isfinite(value)
        and not name.endswith(NO_RESULTS)
        and not name.startswith(NO_RESULT_PREFIXES)
    }


def last_evaluations(
    log_history: list[dict[str, Any]], best_step: int | None = None, eval_names: Iterable[str] = ()
) -> list[Evaluation]:
    """
    Return the metrics of the model as it is.

    `best_step` is the step whose model was loaded at the end of training, `eval_names` are those of several sets.
    """
    ends = [index for index, entry in enumerate(log_history) if "train_runtime" in entry]
    entries = [(index, entry) for index, entry in enumerate(log_history) if metrics_of(entry)]
    chosen = [entry for index, entry in entries if ends and index > ends[-1]]
    if chosen:
        step = best_step or chosen[-1].get("step")
    else:
        step = best_step if ends and best_step else entries[-1][1].get("step") if entries else None
        chosen = [entry for _, entry in entries if entry.get("step") == step]
    merged: dict[str, float] = {}
    for entry in reversed(chosen):
        metrics = metrics_of(entry)
        if metrics.keys() & merged.keys():  # an older evaluation, perhaps of another set
            break
        merged = {**metrics, **merged}
    evaluations, rest = [], dict(merged)
    for eval_name in sorted(eval_names, key=len, reverse=True):
        own = {name: value for name, value in rest.items() if name.startswith(f"{eval_name}_")}
        own = {name: value for name, value in own.items() if metrics_of({f"eval_{name}": value}, f"eval_{eval_name}_")}
        rest = {name: value for name, value in rest.items() if not name.startswith(f"{eval_name}_")}
        if own:
            metrics = {name.removeprefix(f"{eval_name}_"): value for name, value in own.items()}
            evaluations.append(Evaluation(eval_name, metrics, step))
    if rest:
        evaluations.append(Evaluation(None, rest, step))
    return sorted(evaluations, key=lambda evaluation: evaluation.name or "")


def metric_title(name: str) -> str:
    """Return the title of a metric in a table."""
    return re.sub(r"\bEce\b", "Calibration error", name.replace("_", " ").capitalize())


def training_table(log_history: list[dict[str, Any]]) -> list[dict[str, str]]:
    """
    Return the course of training, as rows of one table, all with the same columns.

    There is one row per evaluation, or per logged step where there was none; at most 20 that are spread evenly, the
    last one among them.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for entry in log_history:
        if "step" in entry and "train_runtime" not in entry:
            by_step.setdefault(entry["step"], {}).update(entry)
    rows, latest = [], {}
    for step in sorted(by_step):
        entry = by_step[step]
        latest.update({name: entry[name] for name in TRAINING_COLUMNS if name in entry})
        rows.append({**latest, **entry})
    if any(metrics_of(row) for row in rows):
        rows = [row for row in rows if metrics_of(row)]
    rows = spread(rows, LOG_ROWS)
    columns = {
        "epoch": "Epoch",
        "step": "Step",
        **{name: title for name, title in TRAINING_COLUMNS.items() if any(name in row for row in rows)},
    }
    for row in rows:
        columns.update({f"eval_{name}": f"Validation {metric_title(name).lower()}" for name in metrics_of(row)})
    columns = dict(list(columns.items())[: len(TRAINING_COLUMNS) + 2 + MOST_METRICS])
    if len(columns) == 2:
        return []
    return [{title: shown(row.get(name), missing="") for name, title in columns.items()} for row in rows]


def spread(rows: list[Any], count: int) -> list[Any]:
    """Return at most `count` of the rows, evenly spread, with the first and the last."""
    if len(rows) <= count:
        return rows
    return [rows[round(index * (len(rows) - 1) / (count - 1))] for index in range(count)]
