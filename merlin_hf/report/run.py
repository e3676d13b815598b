"""A report on one training run, as blocks and as plain values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..utils.log_history import training_table
from ..utils.markdown import visible
from ..utils.probabilities import probability_metrics, reliability
from ..utils.tables import shown
from ..utils.validation import ConfigError
from .blocks import Block, Heading, Picture, Table, Text
from .confusion import confusion_figure, confusion_matrix
from .curves import read_log_history, shown_series, training_curves
from .final import final_score, score_blocks
from .projection import projection_figure
from .reliability import reliability_figure


COMMENT = "Written by `merlin-hf report` from the files of a run; do not edit."


class Answers(NamedTuple):
    """
    What is known of rows by the model that a run left.

    Args:
        references (`np.ndarray` of shape `(n,)`): class ids, or real numbers.
        features (`Mapping[str, np.ndarray]`): of the rows, as for [`projection_figure`].
        logits (`np.ndarray` of shape `(n, num_labels)`, *optional*): `None` for real labels.
        names (`Sequence[str]`): of the classes, as many as logits.
    """

    references: np.ndarray
    features: Mapping[str, np.ndarray]
    logits: np.ndarray | None = None
    names: Sequence[str] = ()


def name_of(path: str | Path) -> str:
    """Return the name of a run: that of its folder, also where `path` is its `trainer_state.json`."""
    path = Path(path)
    return (path if path.is_dir() else path.parent).resolve().name or "run"


def run_report(folder: str | Path, answers: Answers | None = None) -> tuple[list[Block], dict[str, Any]]:
    """
    Return a report on a run.

    Args:
        folder (`str` or `Path`): what the run left, with `trainer_state.json` in it or in a checkpoint.
        answers ([`Answers`], *optional*): of its model.

    Returns:
        the blocks, and a `dict`: `final` has the metrics, the file that they are `read_from` and their `rows`, and is
        `None` where the run was not evaluated; `logged` has of each number that the figure shows the last value and
        its step; `labels`, `confusion_matrix`, `probabilities` (their metrics) and `reliability` (the bins) are `None`
        without data, or where labels are real numbers.

    Raises:
        FileNotFoundError: there is no state of a Trainer.
        ConfigError: it has logged nothing.
    """
    history = read_log_history(folder)
    score, course, panels = final_score(folder, history), training_table(history), shown_series(history)
    logged = {name: line for panel in panels.values() for name, line in panel.items()}
    summary: dict[str, Any] = {
        "run": name_of(folder),
        "steps": max((entry["step"] for entry in history), default=0),
        "final": None if score is None else score._asdict(),
        "logged": {name: {"step": steps[-1], "value": values[-1]} for name, (steps, values) in logged.items()},
        "rows": None if answers is None else len(answers.references),
        **dict.fromkeys(("labels", "confusion_matrix", "probabilities", "reliability")),
    }
    if not course and not panels and score is None and answers is None:
        raise ConfigError(
            f"The run in {visible(folder)!r} has logged nothing: set `logging_steps` or `eval_strategy`."
        )
    blocks: list[Block] = [Heading(name_of(folder), 1), *(score_blocks(score) if score is not None else ())]
    pictures = []
    if course:
        blocks += [Heading("Course of training"), Table(list(course[0]), [list(row.values()) for row in course])]
    if panels:
        pictures.append(Picture("training_curves", "The course of training", training_curves(history)))
    if answers is not None and answers.logits is not None:
        references, logits, names = answers.references, answers.logits, answers.names
        matrix, bins = confusion_matrix(references, logits.argmax(-1), len(names)), reliability(logits, references)
        scores = probability_metrics(logits, references)
        summary.update(labels=list(names), confusion_matrix=matrix.tolist())
        summary.update(probabilities=scores, reliability=bins.to_dict())
        blocks += [Heading("Probabilities"), Text(f"Of {len(references)} rows, the lower the better.")]
        blocks.append(Table(["metric", "value"], [[name, shown(value)] for name, value in scores.items()]))
        title = "Classes and what they are taken for"
        pictures.append(Picture("confusion_matrix", title, confusion_figure(matrix, names)))
        title = "How often the model is right, by how sure it is"
        pictures.append(Picture("reliability", title, reliability_figure(bins)))
    if answers is not None:
        figure = projection_figure(answers.features, answers.references, answers.names or None)
        title = "The target's features, by the two directions in which they vary most"
        pictures.append(Picture("features", title, figure))
    return [*blocks, *pictures], summary
