"""Score the logits of a saved model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import f1_score, precision_recall_fscore_support
from transformers import PretrainedConfig

from ..comparison.metrics import classification_metrics, regression_metrics
from ..data.labels import Labels
from ..data.models import is_unnamed, model_names, outputs_of
from ..report.confusion import confusion_matrix
from ..scripts.metrics import local_metric
from ..transfer.labels import MULTI_LABEL, REGRESSION
from ..utils.probabilities import reliability
from ..utils.validation import ConfigError


SCORES = ("precision", "recall", "f1", "rows")  # of a class, as scikit-learn orders them
CLASSES, SEVERAL, REAL = "classes", "several labels per row", "real numbers"


def classes_of(labels: Labels, config: PretrainedConfig, by_number: bool = False) -> np.ndarray | None:
    """Return the output of the model for each class of the data; `None` where labels are real numbers."""
    of_data = SEVERAL if labels.is_multi_label else REAL if labels.is_regression else CLASSES
    if config.problem_type == REGRESSION or config.num_labels == 1:
        of_model = REAL
    elif config.problem_type is None and labels.is_multi_label:  # the configuration does not tell
        of_model = SEVERAL
    else:
        of_model = SEVERAL if config.problem_type == MULTI_LABEL else CLASSES
    if of_model != of_data:
        raise ConfigError(f"The model answers with {of_model}, and the labels of the data are {of_data}.")
    return None if of_data == REAL else np.array(outputs_of(labels, config, by_number))


def names_of(labels: Labels, ids: np.ndarray | None, config: PretrainedConfig) -> list[str]:
    """Return the names of the model's outputs; those of the data where the model, such as an adapter, has none."""
    names = model_names(config)
    if ids is not None and is_unnamed(config):
        for name, id in zip(labels.names, ids, strict=True):
            names[id] = name
    return names


def metrics_of(
    logits: np.ndarray, references: np.ndarray, ids: np.ndarray | None, names: list[str], task_name: str | None
) -> dict[str, Any]:
    """
    Return metrics over all rows and by class, with the confusion matrix and the reliability.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`).
        references (`np.ndarray` of shape `(n,)`): as the data set numbers them, or real numbers; or `(n, classes)`
            zeros and ones.
        ids (`np.ndarray`, *optional*): see [`classes_of`].
        names (`list[str]`): of the model's outputs, see [`names_of`].
        task_name (`str`, *optional*): a GLUE task, whose own metrics are added.
    """
    if ids is None:
        metrics = regression_metrics(logits.reshape(-1), references.astype(float))
        return {"metrics": _plain(metrics), **dict.fromkeys(("classes", "labels", "confusion_matrix", "reliability"))}
    if references.ndim == 2:
        return multi_label_metrics(logits, flags_of(references, ids, len(names)), names)
    predictions, classes = logits.argmax(-1), ids[references]
    matrix = confusion_matrix(classes, predictions, len(names))
    of_class = precision_recall_fscore_support(classes, predictions, labels=range(len(names)), zero_division=0)
    occurs = matrix.sum(0) + matrix.sum(1) > 0
    found = classification_metrics(logits, classes)
    metrics = {"loss": found["log_loss"], **found}  # as Trainer calls it
    del metrics["f1"]  # the table has that of each class
    if task_name is not None and sorted(ids) == list(range(len(names))):
        metrics.update(local_metric(task_name.lower(), False, np.argsort(ids)[predictions], references))
    return {
        "metrics": _plain(metrics),
        "classes": _by_class(names, of_class, occurs),
        "labels": names,
        "confusion_matrix": matrix.tolist(),
        "reliability": reliability(logits, classes).to_dict(),
    }


def flags_of(references: np.ndarray, ids: np.ndarray, num_labels: int) -> np.ndarray:
    """Return zeros and ones for the model's outputs, `(n, num_labels)`; zero for labels that the data lacks."""
    flags = np.zeros((len(references), num_labels), dtype=bool)
    flags[:, ids] = references > 0.5
    return flags


def multi_label_metrics(logits: np.ndarray, flags: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """
    Return metrics for any number of labels per row, those with a probability above one half, without a matrix.

    `accuracy` is the share of rows with all labels right, `micro_f1` counts labels of all rows together, `macro_f1` is
    the mean over labels that occur. `log_loss` and `brier_score` are means over all labels of all rows.
    """
    taken = logits > 0
    of_class = precision_recall_fscore_support(flags, taken, zero_division=0)
    occurs = (taken | flags).any(0)
    loss = (np.logaddexp(0, logits) - flags * logits).mean()
    metrics = {
        "loss": loss,
        "accuracy": (taken == flags).all(1).mean(),
        "micro_f1": f1_score(flags, taken, average="micro", zero_division=0),
        "macro_f1": of_class[2][occurs].mean() if occurs.any() else 0.0,
        "log_loss": loss,
        "brier_score": ((np.exp(-np.logaddexp(0, -logits)) - flags) ** 2).mean(),
    }
    classes = _by_class(names, of_class, occurs)
    found = {"metrics": _plain(metrics), "classes": classes, "labels": list(names)}
    return {**found, "confusion_matrix": None, "reliability": None}


def _by_class(names: Sequence[str], scores: Sequence[np.ndarray], occurs: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"class": name, **{key: values[id].item() for key, values in zip(SCORES, scores, strict=True)}}
        for id, name in enumerate(names)
        if occurs[id]
    ]


def _plain(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
