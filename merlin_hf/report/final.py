"""The score that a training run ended with."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.files import FileError, read_json
from ..utils.log_history import NO_RESULT_PREFIXES, NO_RESULTS, is_number, last_evaluations, metric_title
from ..utils.markdown import visible
from ..utils.tables import shown
from ..utils.validation import ConfigError
from .blocks import Block, Heading, Table, Text


# What `Trainer.save_metrics` writes: the evaluation alone first, as the other file may hold that of an earlier run.
FILES = ("eval_results.json", "all_results.json")
PREFIXES = {"eval_": "", "predict_": " (predictions)"}
NO_SCORES = (*NO_RESULTS, "samples")
MOST_RESULTS = 1000


class FinalScore(NamedTuple):
    """Metrics such as `eval_accuracy`, the file that they are from, and their number of rows, where it is known."""

    metrics: dict[str, float]
    read_from: str
    rows: int | None


def final_score(folder: str | Path, history: list[dict[str, Any]]) -> FinalScore | None:
    """
    Return the metrics of the model that a run left, else of its last evaluation; `None` where there was none.

    Raises:
        ConfigError: a file of results is not a JSON object.
    """
    given = Path(folder)
    for name in FILES:
        results = _read(given if given.is_dir() else given.parent, name)
        metrics = {key: float(value) for key, value in results.items() if _is_score(key, value)}
        if metrics:
            rows = results.get("eval_samples")
            return FinalScore(metrics, name, rows if isinstance(rows, int) else None)
    found = {f"eval_{name}": value for one in last_evaluations(history) for name, value in one.metrics.items()}
    return FinalScore(found, "trainer_state.json", None) if found else None


def score_blocks(score: FinalScore) -> list[Block]:
    """Return the metrics as a section."""
    counted = "" if score.rows is None else f" on {score.rows:,} rows"
    rows = [(_title(name), shown(value)) for name, value in score.metrics.items()]
    return [Heading("Final score"), Text(f"Of the last evaluation{counted}."), Table(("metric", "value"), rows)]


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        results = read_json(folder / name)
        if not isinstance(results, dict):
            raise FileError("it is not a JSON object of metrics")
        if len(results) > MOST_RESULTS:
            raise FileError(f"it has {len(results):,} numbers, more than {MOST_RESULTS:,}")
    except FileNotFoundError:
        return {}
    except FileError as error:
        raise ConfigError(
            f"{visible(folder / name)!r} cannot be used: {error}. Remove it, or evaluate again."
        ) from None
    return results


def _is_score(name: str, value: Any) -> bool:
    """Return whether it is a metric of the model; `_mm` is MNLI's second evaluation set."""
    if not is_number(value) or not math.isfinite(value):
        return False
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
    return (
        prefix is not None
        and not name.removesuffix("_mm").endswith(NO_SCORES)
        and not name.removeprefix(prefix).startswith(NO_RESULT_PREFIXES)
    )


def _title(name: str) -> str:
    prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    return metric_title(name.removeprefix(prefix)) + PREFIXES[prefix]
