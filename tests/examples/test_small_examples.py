"""peft_lora.py, custom_head.py and custom_method.py, as a user runs them but on a tiny model and tiny data."""

import importlib
import os

import custom_method
import numpy as np
import peft_lora
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, pipeline

from merlin_hf import METHODS
from merlin_hf.heads import HEADS, encode_targets, get_head
from tests.examples.test_demo import cache  # noqa: F401  (a fixture)


@pytest.fixture
def options(cache, model_path, tmp_path):  # noqa: F811
    """Arguments for a tiny model and sentences whose first word tells the label."""
    flags = ["--model", model_path, "--data_dir", str(cache), "--output_dir", str(tmp_path / "out")]
    flags += ["--target_rows", "32", "--batch_size", "16", "--learning_rate", "3e-3"]
    return [*flags, "--max_steps", "24"]


@pytest.fixture
def custom_head(monkeypatch):
    """The example's module, whose head other tests are not to find among the registered ones."""
    module = importlib.import_module("custom_head")
    HEADS.pop("lda", None)
    monkeypatch.setitem(HEADS, "lda", module.DiscriminantHead)
    return module


def check_is_plain(folder):
    """What is in a folder is a plain classifier, and it answers in the target's words."""
    assert type(AutoModelForSequenceClassification.from_pretrained(folder)) is BertForSequenceClassification
    answer = pipeline("text-classification", model=str(folder), device="cpu")(["w0 w7 w8", "w1 w7 w8"])
    assert [one["label"] for one in answer] == ["positive", "negative"]


def test_lora_learns_and_is_merged_into_a_plain_model(options, tmp_path):
    assert peft_lora.main(options) > 0.8
    assert {"adapter_model.safetensors", "adapter_config.json"} <= set(os.listdir(tmp_path / "out"))
    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_size < 40_000
    check_is_plain(tmp_path / "out" / "merged")


def test_the_new_head_is_used_by_name(custom_head, options, tmp_path):
    accuracies = custom_head.main(options)
    assert set(accuracies) == {"ridge", "lda"} and min(accuracies.values()) > 0.8
    check_is_plain(tmp_path / "out")


def test_the_new_method_learns_and_has_a_name(options, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(METHODS, "contrastive", raising=False)
    assert custom_method.main(options) > 0.8
    assert METHODS.pop("contrastive") is custom_method.ContrastiveTrainer
    assert "contrastive_loss" in capsys.readouterr().out
    check_is_plain(tmp_path / "out")


def rows(seed=0, count=60):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    features = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    features[:, 0] += labels
    targets, _ = encode_targets(labels, num_labels=3, problem_type="single_label_classification", dtype=torch.float64)
    return features, labels, targets


def test_the_new_head_is_that_of_scikit_learn_without_shrinkage(custom_head):
    features, labels, targets = rows()
    head = get_head("lda").fit(features, targets, l2=1e-12)
    reference = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(features.numpy(), labels.numpy())
    ours = head(features).softmax(-1).numpy()
    np.testing.assert_allclose(ours, reference.predict_proba(features.numpy()), rtol=1e-5)


def test_the_new_head_is_the_same_from_batches_and_ranks_and_can_be_differentiated(custom_head):
    features, _, targets = rows()
    whole = get_head("lda").fit(features, targets, l2=2.0)
    batches = [(features[:25], targets[:25], None), (features[25:], targets[25:], torch.ones(35))]
    of_batches = get_head("lda").fit_batches(batches, 2.0)
    torch.testing.assert_close(of_batches.weight, whole.weight)
    torch.testing.assert_close(of_batches.bias, whole.bias)

    # Two ranks with the same rows count each twice, as a weight of two does.
    doubled = get_head("lda").fit_batches(batches, 2.0, reduce=lambda total: 2 * total)
    torch.testing.assert_close(
        doubled.weight, get_head("lda").fit(features, targets, 2.0, torch.full((60,), 2)).weight
    )

    small = features[:12].requires_grad_()
    weights = torch.tensor([[1.0, 0.0] * 6, [0.0, 1.0] * 6], dtype=torch.float64)  # two splits at once
    assert torch.autograd.gradcheck(lambda x: get_head("lda").fit(x, targets[:12], 1.0, weights).weight, small)


def test_the_contrastive_loss_is_that_of_the_paper():
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    labels = torch.tensor([0, 0, 1, 2])
    similar = np.array([1.0, 0.0, 0.6]) / 0.5
    expected = -(similar[0] - np.log(np.exp(similar).sum()))
    assert custom_method.contrastive(features, labels, 0.5).item() == pytest.approx(expected, rel=1e-5)
    assert custom_method.contrastive(features, torch.arange(4), 0.5) == 0
