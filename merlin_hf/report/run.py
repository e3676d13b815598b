"""A report on one training run: `results.md` with its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..utils.files import write_text
from ..utils.log_history import training_table
from ..utils.markdown import escape, visible
from ..utils.probabilities import probability_metrics, reliability
from ..utils.tables import markdown_table, shown
from ..utils.validation import ConfigError
from .confusion import confusion_figure, confusion_matrix
from .curves import has_curves, read_log_history, training_curves
from .final import final_score, score_section
from .plotting import save
from .projection import projection_figure
from .reliability import reliability_figure
from .summary import Report


HEADER = "<!-- Written by `merlin-hf report` from the files of a run; do not edit. -->"
RESULTS = "results.md"


def write_run_report(
    folder: str | Path,
    output_dir: str | Path | None = None,
    references: np.ndarray | None = None,
    predictions: np.ndarray | None = None,
    features: Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    logits: np.ndarray | None = None,
) -> str:
    """
    Report the final score and the course of a run, and its model's predictions of rows, where they are given.

    Args:
        folder (`str` or `Path`): what the run left, with `trainer_state.json` in it or in a checkpoint.
        output_dir (`str` or `Path`, *optional*): where `results.md` and its figures, as PNG and SVG, are written;
            nothing is if not given.
        references, predictions (`np.ndarray` of shape `(n,)`, *optional*): labels of rows, and what the model says.
        features (`Mapping[str, np.ndarray]`, *optional*): of the same rows, as for [`projection_figure`].
        names (`Sequence[str]`, *optional*): of the classes; `None` for real labels.
        logits (`np.ndarray` of shape `(n, num_labels)`, *optional*): of the same rows, where labels are classes.

    Returns:
        `str`: the text of `results.md`, without the figures where none are written.

    Raises:
        FileNotFoundError: there is no state of a Trainer.
        ConfigError: it has logged nothing.
    """
    return make_run_report(folder, output_dir, references, predictions, features, names, logits).text


def name_of(path: str | Path) -> str:
    """Return the name of a run: that of its folder, also where `path` is its `trainer_state.json`."""
    path = Path(path)
    return (path if path.is_dir() else path.parent).resolve().name or "run"


def make_run_report(
    folder: str | Path,
    output_dir: str | Path | None = None,
    references: np.ndarray | None = None,
    predictions: np.ndarray | None = None,
    features: Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    logits: np.ndarray | None = None,
) -> Report:
    """Do as [`write_run_report`]; return the names of the files as well."""
    history = read_log_history(folder)
    figures = {}
    if has_curves(history):
        figures["training_curves"] = ("The course of training", training_curves(history))
    if references is not None and predictions is not None and names is not None:
        matrix = confusion_matrix(references, predictions, len(names))
        figures["confusion_matrix"] = ("Classes and what they are taken for", confusion_figure(matrix, names))
    if logits is not None and references is not None:
        title = "How often the model is right, by how sure it is"
        figures["reliability"] = (title, reliability_figure(reliability(logits, references)))
    if features and references is not None:
        title = "The target's features, by the two directions in which they vary most"
        figures["features"] = (title, projection_figure(features, references, names))
    rows, score = training_table(history), final_score(folder, history)
    if not rows and not figures and score is None:
        raise ConfigError(
            f"The run in {visible(folder)!r} has logged nothing: set `logging_steps` or `eval_strategy`."
        )
    parts = [HEADER, f"# {escape(name_of(folder))}"]
    if score is not None:
        parts.append(score_section(score))
    if rows:
        parts.append("## Course of training")
        parts.append(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))
    if logits is not None and references is not None:
        scores = probability_metrics(logits, references)
        parts.append(f"## Probabilities\n\nOf {len(references)} rows, the lower the better.")
        parts.append(markdown_table(["metric", "value"], [[name, shown(value)] for name, value in scores.items()]))
    if output_dir is None:
        return Report("\n\n".join(parts) + "\n", [])
    files = [RESULTS]
    for name, (title, figure) in figures.items():
        files += save(figure, Path(output_dir), name)
        parts.append(f"![{title}]({name}.png)\n\n{title} ([SVG]({name}.svg)).")
    text = "\n\n".join(parts) + "\n"
    write_text(Path(output_dir) / RESULTS, text)
    return Report(text, files)
