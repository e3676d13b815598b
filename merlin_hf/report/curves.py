"""Draw the course of a training run, from the `trainer_state.json` that Trainer leaves."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints

from ..utils.files import FileError, read_json
from ..utils.log_history import MOST_METRICS, check_log_history, is_number, metrics_of
from ..utils.markdown import figure_text, visible
from ..utils.validation import ConfigError
from .plotting import COLORS, panels


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# What a panel shows, as far as it was logged.
LOSSES = ("loss", "source_loss", "target_loss", "meta_loss", "eval_loss")
ACCURACIES = ("head_train_accuracy", "head_validation_accuracy", "eval_head_train_accuracy")
SCALARS = ("rho", "logit_scale", "head_l2")
UNIT_INTERVAL = (-0.02, 1.02)


def read_log_history(folder: str | Path) -> list[dict[str, Any]]:
    """
    Read the log history of a run from `trainer_state.json`, or a folder that has it or checkpoints.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: it is not such a file.
    """
    given = Path(folder)
    path = find_state(given) if given.is_dir() else given
    if path is None or not os.path.lexists(path):
        raise FileNotFoundError(
            f"{visible(folder)!r} has no {TRAINER_STATE_NAME}, which Trainer writes with a checkpoint and "
            "`trainer.save_state()`."
        )
    try:
        state = read_json(path)
        if not isinstance(state, dict) or "log_history" not in state:
            raise FileError("it has no `log_history`")
        return check_log_history(state["log_history"])
    except FileError as error:
        raise ConfigError(f"{visible(path)!r} is not a state of a Trainer: {error}.") from None


def find_state(folder: Path) -> Path | None:
    """Return the `trainer_state.json` of a run, else that of its newest checkpoint."""
    found = [folder / TRAINER_STATE_NAME]
    found += [Path(checkpoint) / TRAINER_STATE_NAME for checkpoint in reversed(sort_checkpoints(str(folder)))]
    return next((path for path in found if os.path.lexists(path)), None)


def series(history: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Return the steps at which a number was logged, and its values, which may be NaN."""
    found = {}
    for entry in history:
        value: Any = entry.get(name)
        # The summary that Trainer logs in the end repeats no value of the course.
        if is_number(value) and "train_runtime" not in entry:
            found[entry["step"]] = float(value)
    return list(found), list(found.values())


def shown_series(history: list[dict[str, Any]]) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Return the steps and values of each line of the figure, by panel and by name."""
    evaluated = sorted({f"eval_{name}" for entry in history for name in metrics_of(entry)} - {"eval_loss"})
    by_source = sorted({name for entry in history for name in entry if name.startswith("source_loss_")})
    groups = {
        "loss": (*LOSSES, *by_source[:MOST_METRICS]),
        "accuracy of the head": ACCURACIES,
        "evaluation": tuple(evaluated[:MOST_METRICS]),
        "learning rate": ("learning_rate",),
        **{name: (name,) for name in SCALARS},
    }
    found = {title: {name: series(history, name) for name in names} for title, names in groups.items()}
    found = {title: {name: line for name, line in lines.items() if line[0]} for title, lines in found.items()}
    return {title: lines for title, lines in found.items() if lines}


def training_curves(history: list[dict[str, Any]]) -> "Figure":
    """
    Draw the course of a run, as far as it was logged.

    Panels have the losses, accuracies of the head, metrics of the evaluation, the learning rate and learned scalars.

    Args:
        history (`list[dict]`): as in [`~transformers.TrainerState`].

    Raises:
        ConfigError: nothing of it was logged.
    """
    shown = shown_series(history)
    if not shown:
        raise ConfigError("The run has logged nothing to draw: set `logging_steps` or `eval_strategy`.")
    figure, all_axes = panels(len(shown))
    for axes, (title, lines) in zip(all_axes, shown.items(), strict=True):
        for number, (name, (steps, values)) in enumerate(lines.items()):
            marker = "o" if name.startswith("eval_") or len(steps) == 1 else None
            color = COLORS[number % len(COLORS)]
            axes.plot(steps, values, marker=marker, markersize=3, label=figure_text(name), color=color, linewidth=1.3)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("step")
        bounded = [values for name, (_, values) in lines.items() if "accuracy" in name]
        if len(bounded) == len(lines):
            axes.set_ylim(*UNIT_INTERVAL)
        if len(lines) > 1 or title == "evaluation":
            axes.legend(fontsize="x-small", frameon=False)
    return figure
