"""A report on one training run: `results.md` with its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.log_history import training_table
from ..utils.markdown import visible
from ..utils.probabilities import probability_metrics, reliability
from ..utils.tables import shown
from ..utils.validation import ConfigError
from .blocks import Block, Heading, Picture, Table, Text, to_markdown, write_blocks
from .confusion import confusion_figure, confusion_matrix
from .curves import read_log_history, shown_series, training_curves
from .final import final_score, score_blocks
from .projection import projection_figure
from .reliability import reliability_figure


COMMENT = "Written by `merlin-hf report` from the files of a run; do not edit."


def write_run_report(folder: str | Path, output_dir: str | Path | None = None, **known: Any) -> str:
    """
    Report the final score and the course of a run, and its model's predictions of rows, where they are given.

    Args:
        folder (`str` or `Path`): what the run left.
        output_dir (`str` or `Path`, *optional*): where `results.md` and its figures, as PNG and SVG, are written;
            nothing is if not given.
        known: what is known of rows, as for [`run_blocks`], which has the errors too.

    Returns:
        `str`: the text of `results.md`, without the figures where none are written.
    """
    blocks = run_blocks(folder, **known)
    if output_dir is not None:
        list(write_blocks(blocks, Path(output_dir), COMMENT))
    return to_markdown(blocks, COMMENT, with_pictures=output_dir is not None)


def name_of(path: str | Path) -> str:
    """Return the name of a run: that of its folder, also where `path` is its `trainer_state.json`."""
    path = Path(path)
    return (path if path.is_dir() else path.parent).resolve().name or "run"


def run_blocks(
    folder: str | Path,
    references: np.ndarray | None = None,
    predictions: np.ndarray | None = None,
    features: Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    logits: np.ndarray | None = None,
) -> list[Block]:
    """
    Return a report on a run.

    Args:
        folder (`str` or `Path`): what the run left, with `trainer_state.json` in it or in a checkpoint.
        references, predictions (`np.ndarray` of shape `(n,)`, *optional*): labels of rows, and what the model says.
        features (`Mapping[str, np.ndarray]`, *optional*): of the same rows, as for [`projection_figure`].
        names (`Sequence[str]`, *optional*): of the classes; `None` for real labels.
        logits (`np.ndarray` of shape `(n, num_labels)`, *optional*): of the same rows, where labels are classes.

    Raises:
        FileNotFoundError: there is no state of a Trainer.
        ConfigError: it has logged nothing.
    """
    history = read_log_history(folder)
    pictures = []
    if shown_series(history):
        pictures.append(Picture("training_curves", "The course of training", training_curves(history)))
    if references is not None and predictions is not None and names is not None:
        figure = confusion_figure(confusion_matrix(references, predictions, len(names)), names)
        pictures.append(Picture("confusion_matrix", "Classes and what they are taken for", figure))
    if logits is not None and references is not None:
        figure = reliability_figure(reliability(logits, references))
        pictures.append(Picture("reliability", "How often the model is right, by how sure it is", figure))
    if features and references is not None:
        title = "The target's features, by the two directions in which they vary most"
        pictures.append(Picture("features", title, projection_figure(features, references, names)))
    rows, score = training_table(history), final_score(folder, history)
    if not rows and not pictures and score is None:
        raise ConfigError(
            f"The run in {visible(folder)!r} has logged nothing: set `logging_steps` or `eval_strategy`."
        )
    blocks: list[Block] = [Heading(name_of(folder), 1), *(score_blocks(score) if score is not None else ())]
    if rows:
        blocks += [Heading("Course of training"), Table(list(rows[0]), [list(row.values()) for row in rows])]
    if logits is not None and references is not None:
        scores = [[name, shown(value)] for name, value in probability_metrics(logits, references).items()]
        blocks += [Heading("Probabilities"), Text(f"Of {len(references)} rows, the lower the better.")]
        blocks.append(Table(["metric", "value"], scores))
    return [*blocks, *pictures]
