"""How the answers of a saved model are scored."""

from typing import Any

import numpy as np
from transformers import PretrainedConfig

from ..comparison.metrics import classification_metrics, regression_metrics
from ..comparison.values import ConfigError
from ..report.confusion import confusion_matrix, scores_by_class
from ..scripts.text_tasks import Labels, local_metric
from .evaluation import model_ids


def classes_of(labels: Labels, config: PretrainedConfig, by_number: bool = False) -> np.ndarray | None:
    """
    The output of the model for each class of the data; `None` where labels are real numbers.

    Raises:
        ConfigError: the model answers with another kind of labels than the data has.
    """
    if config.problem_type == "multi_label_classification":
        raise ConfigError("The model gives several labels per row, which `evaluate` does not score.")
    is_regression = config.problem_type == "regression" or config.num_labels == 1
    if is_regression != labels.is_regression:
        kinds = ("real numbers", "classes") if is_regression else ("classes", "real numbers")
        raise ConfigError(f"The model answers with {kinds[0]}, and the labels of the data are {kinds[1]}.")
    return None if is_regression else model_ids(labels, config, by_number)


def metrics_of(
    logits: np.ndarray, references: np.ndarray, ids: np.ndarray | None, config: PretrainedConfig, task_name: str | None
) -> dict[str, Any]:
    """
    Metrics in all and by class.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`).
        references (`np.ndarray` of shape `(n,)`): as the data set numbers them, or real numbers.
        ids (`np.ndarray`, *optional*): see [`classes_of`].
        config ([`~transformers.PretrainedConfig`]): of the model.
        task_name (`str`, *optional*): a GLUE task, whose own metrics are added.
    """
    if ids is None:
        metrics = regression_metrics(logits.reshape(-1), references.astype(float))
        return {"metrics": _plain(metrics), "classes": None, "labels": None, "confusion_matrix": None}
    names = [config.id2label[id] for id in range(config.num_labels)]
    predictions, classes = logits.argmax(-1), ids[references]
    matrix = confusion_matrix(classes, predictions, config.num_labels)
    of_class = scores_by_class(matrix)
    occurs = matrix.sum(0) + matrix.sum(1) > 0
    found = classification_metrics(predictions, classes, config.num_labels)
    metrics = {
        "loss": float((np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(len(classes)), classes]).mean()),
        "accuracy": found["accuracy"],
        "macro_f1": of_class["f1"][occurs].mean(),
        "matthews_correlation": found["matthews_correlation"],
    }
    if task_name is not None and sorted(ids) == list(range(config.num_labels)):
        metrics.update(local_metric(task_name.lower(), False, np.argsort(ids)[predictions], references))
    return {
        "metrics": _plain(metrics),
        "classes": [
            {"class": name, **{key: values[id].item() for key, values in of_class.items()}}
            for id, name in enumerate(names)
            if occurs[id]
        ],
        "labels": names,
        "confusion_matrix": matrix.tolist(),
    }


def _plain(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
