"""GLUE's metrics, computed here or by `evaluate`, on answers of a model whose labels have an order of their own."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from huggingface_hub import constants
from scipy.special import softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, matthews_corrcoef

from merlin_hf.data.labels import Labels
from merlin_hf.data.models import pretrained_outputs
from merlin_hf.scripts import metrics


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_label_order_of_the_model_is_kept_and_scored_as_the_data_numbers_it():
    names = {0: "Equivalent", 1: "NOT_equivalent"}
    config = transformers.BertConfig(id2label=names, label2id={name: id for id, name in names.items()})
    ids = pretrained_outputs(config, ["not_equivalent", "equivalent"])
    assert ids == [1, 0]
    assert pretrained_outputs(config, ["no", "yes"]) == [0, 1]
    metric = metrics.make_compute_metrics("mrpc", Labels(["not_equivalent", "equivalent"], ids))
    logits = np.eye(2)[[0, 0, 1, 0]]  # says equivalent, equivalent, not equivalent, equivalent
    scores = metric(SimpleNamespace(predictions=(logits, None), label_ids=np.array([0, 1, 1, 0])))
    assert scores["f1"] == pytest.approx(f1_score([1, 0, 0, 1], [1, 1, 0, 1]))
    assert scores["combined_score"] == pytest.approx((scores["f1"] + scores["accuracy"]) / 2)
    assert scores["macro_f1"] == pytest.approx(f1_score([0, 1, 1, 0], [0, 0, 1, 0], average="macro"))
    probabilities = softmax(logits, axis=-1)  # of the model's own outputs
    assert scores["log_loss"] == pytest.approx(log_loss([0, 1, 1, 0], probabilities))
    assert scores["brier_score"] == pytest.approx(brier_score_loss([0, 1, 1, 0], probabilities[:, 1]))
    assert scores["ece"] == pytest.approx(abs(probabilities.max() - 0.75))


def test_local_metrics_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    said, true = draw.integers(0, 2, 50), draw.integers(0, 2, 50)
    for task in ("mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "wnli", None):
        expected = {"accuracy": accuracy_score(true, said)}
        if task in ("mrpc", "qqp"):
            expected["f1"] = f1_score(true, said)
        assert metrics.local_metric(task, False, said, true) == pytest.approx(expected)
    assert metrics.local_metric("cola", False, said, true) == pytest.approx(
        {"matthews_correlation": matthews_corrcoef(true, said)}
    )
    said, true = draw.normal(size=50), draw.normal(size=50)
    correlations = {"pearson": pearsonr(said, true)[0], "spearmanr": spearmanr(said, true)[0]}
    assert metrics.local_metric("stsb", True, said, true) == pytest.approx(correlations)
    assert metrics.local_metric(None, True, said, true) == pytest.approx(
        {"mse": np.mean((said - true) ** 2), **correlations}
    )


def test_evaluate_is_used_where_it_can_be_reached(monkeypatch, caplog):
    caplog.set_level("INFO", "merlin_hf")
    loaded = []

    class Metric:
        def compute(self, predictions, references):
            return {"accuracy": 0.125}

    def load(*args, **kwargs):
        loaded.append(args)
        return Metric()

    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "evaluate", SimpleNamespace(load=load))
    ones = np.ones(3, dtype=int)
    assert metrics.load_metric("rte", False)(ones, ones) == {"accuracy": 1.0}
    assert not loaded and "HF_HUB_OFFLINE is set" in caplog.text

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert metrics.load_metric("rte", False)(ones, ones) == {"accuracy": 0.125}
    assert loaded == [("glue", "rte")] and "evaluate's glue/rte" in caplog.text

    monkeypatch.setitem(sys.modules, "evaluate", SimpleNamespace(load=fail))
    assert metrics.load_metric("rte", False)(ones, ones) == {"accuracy": 1.0}
    assert "could not be loaded: no route" in caplog.text
