"""The content of a report as plain values, for programs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..utils.probabilities import probability_metrics, reliability
from .comparisons import Comparison, by_pair
from .confusion import confusion_matrix
from .curves import shown_series
from .final import FinalScore
from .ranks import balanced, compared_with_reference, mean_ranks


def comparison_summary(comparison: Comparison) -> dict[str, Any]:
    """
    Return a comparison with its methods as plain values.

    Returns:
        `dict`: by method `mean`, sample standard deviation as `spread`, `scores` and `train_seconds` by seed, the
        `means` of all metrics that were computed,
        `difference` to the reference with `p` after Holm's correction, and the `reason` where there are no scores;
        `None` for what is not defined.
    """
    tested = compared_with_reference(comparison)
    methods = {
        label: {
            "mean": method.mean,
            "spread": method.spread,
            "scores": method.scores,
            "train_seconds": method.seconds,
            "means": method.means,
            "difference": tested.get(label, {}).get("difference"),
            "p": tested.get(label, {}).get("p"),
            "reason": method.reason,
        }
        for label, method in comparison.methods.items()
    }
    return {
        "pair": comparison.pair,
        "rows": comparison.rows,
        "test_rows": comparison.test_rows,
        "metric": comparison.metric,
        "lower_is_better": comparison.lower_is_better,
        "reference": comparison.reference,
        "methods": methods,
        "read_from": comparison.files,
    }


def ranks_summary(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """
    Return the `ranks` of the methods with scores in all ranked comparisons, and what is `ranked`: `pairs` and `rows`.

    [`~merlin_hf.report.ranks.balanced`] says which are ranked. Both are `None` where there is one comparison.
    """
    if len(comparisons) < 2:
        return {"ranks": None, "ranked": None}
    alike = balanced(comparisons)
    ranked = {"pairs": list(by_pair(alike)), "rows": sorted({comparison.rows for comparison in alike})}
    return {"ranks": mean_ranks(alike), "ranked": ranked}


def run_summary(
    name: str,
    history: list[dict[str, Any]],
    references: np.ndarray | None = None,
    predictions: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    score: FinalScore | None = None,
    logits: np.ndarray | None = None,
) -> dict[str, Any]:
    """
    Return what is known of a training run as plain values.

    Args:
        name (`str`): of its folder.
        history (`list[dict]`): as from [`~merlin_hf.report.curves.read_log_history`].
        references, predictions, names, logits (*optional*): as for [`~merlin_hf.report.run.write_run_report`].
        score (`FinalScore`, *optional*): as from [`~merlin_hf.report.final.final_score`].

    Returns:
        `dict`: `final` has the metrics, the file that they are `read_from` and their `rows`, and is `None` where the
        run was not evaluated; `logged` has of each number that the figure shows the last value and its step; `labels`,
        `rows` and `confusion_matrix` are `None` without data, `probabilities` (their metrics) and `reliability` (the
        bins) also where labels are real numbers.
    """
    lines = {name: line for panel in shown_series(history).values() for name, line in panel.items()}
    found: dict[str, Any] = {
        "run": name,
        "steps": max((entry["step"] for entry in history), default=0),
        "final": None if score is None else score._asdict(),
        "logged": {label: {"step": steps[-1], "value": values[-1]} for label, (steps, values) in lines.items()},
        "rows": None if references is None else len(references),
        "labels": None if names is None else list(names),
        "confusion_matrix": None,
        "probabilities": None,
        "reliability": None,
    }
    if references is not None and logits is not None:
        found["probabilities"] = probability_metrics(logits, references)
        found["reliability"] = reliability(logits, references).to_dict()
    if references is not None and predictions is not None and names is not None:
        found["confusion_matrix"] = confusion_matrix(references, predictions, len(names)).tolist()
    return found
