"""Score the predictions of a classifier: GLUE's metrics, or accuracy, or error and correlations."""

import logging
from collections.abc import Callable

import numpy as np
from huggingface_hub import constants
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from ..data.labels import Labels
from ..utils.probabilities import probability_metrics


logger = logging.getLogger("merlin_hf.scripts")


def local_metric(task_name: str | None, is_regression: bool, predictions, references) -> dict[str, float]:
    """Compute the metrics of `evaluate`'s GLUE task; of other data accuracy, or error and correlations."""
    if task_name == "cola":
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
    if is_regression:
        correlations = {
            "pearson": float(pearsonr(predictions, references)[0]),
            "spearmanr": float(spearmanr(predictions, references)[0]),
        }
        error = {} if task_name else {"mse": float(np.mean((predictions - references) ** 2))}
        return {**error, **correlations}
    accuracy = {"accuracy": float(np.mean(predictions == references))}
    if task_name in ("mrpc", "qqp"):
        return {**accuracy, "f1": float(f1_score(references, predictions))}
    return accuracy


def load_metric(task_name: str | None, is_regression: bool) -> Callable:
    """Return `evaluate`'s metric of a GLUE task where it can be had, else [`local_metric`], with the same numbers."""
    reason = "not a GLUE task" if task_name is None else "HF_HUB_OFFLINE is set"
    if task_name is not None and not constants.HF_HUB_OFFLINE:
        try:
            import evaluate

            metric = evaluate.load("glue", task_name, keep_in_memory=True)
            logger.info(f"Metric: evaluate's glue/{task_name}")
            return lambda predictions, references: metric.compute(predictions=predictions, references=references)
        except Exception as error:  # no network, a proxy, an old version: none is a reason not to train
            reason = f"evaluate's could not be loaded: {error}"
    logger.info(f"Metric: computed here ({reason})")
    return lambda predictions, references: local_metric(task_name, is_regression, predictions, references)


def make_compute_metrics(task_name: str | None, labels: Labels) -> Callable:
    """Return Trainer's `compute_metrics`; of classes with macro-F1 and the scores of probabilities."""
    metric = load_metric(task_name, labels.is_regression)

    def compute_metrics(output):
        predictions = predicted_labels(output.predictions, labels)
        references = np.asarray(output.label_ids).reshape(-1)
        probabilities = {}
        if not labels.is_regression:
            logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
            macro_f1 = f1_score(references, predictions, average="macro", zero_division=0)
            probabilities = {"macro_f1": float(macro_f1), **probability_metrics(logits, references)}
            # The model may have more outputs than the data has classes.
            places = np.full(max(predictions.max(initial=0), references.max(initial=0), *labels.ids) + 1, -1)
            places[labels.ids] = np.arange(len(labels.ids))
            predictions, references = places[predictions], places[references]
        result = metric(predictions, references)
        scores = [value for name, value in result.items() if name != "mse"]
        combined = {"combined_score": float(np.mean(scores))} if len(scores) > 1 else {}
        return {**result, **combined, **probabilities}

    return compute_metrics


def predicted_labels(logits, labels: Labels) -> np.ndarray:
    """Return scores of a regression, else the likeliest output."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits.reshape(-1) if labels.is_regression else logits.argmax(-1)
