import pytest
import torch

from merlin_hf.heads import encode_targets


def test_single_label_with_ignored_rows():
    targets, weight = encode_targets(torch.tensor([2, -100, 0]), 3, "single_label_classification")
    assert torch.equal(targets, torch.tensor([[0.0, 0, 1], [0, 0, 0], [1, 0, 0]]))
    assert torch.equal(weight, torch.tensor([1.0, 0, 1]))


def test_multi_label_keeps_its_rows():
    labels = torch.tensor([[1, 0, 1], [0, 0, 0]])
    targets, weight = encode_targets(labels, 3, "multi_label_classification", dtype=torch.float64)
    assert torch.equal(targets, labels.double())
    assert torch.equal(weight, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("shape, outputs", [((4,), 1), ((4, 1), 1), ((4, 3), 3)])
def test_regression_shapes(shape, outputs):
    targets, weight = encode_targets(torch.randn(shape), outputs, "regression")
    assert targets.shape == (4, outputs) and weight.shape == (4,)


@pytest.mark.parametrize(
    "labels, num_labels, problem_type, message",
    [
        (torch.tensor([0, 3]), 3, "single_label_classification", r"labels must lie in 0\.\.2 .* got \[3\]"),
        (torch.tensor([0, -1]), 3, "single_label_classification", r"or be -100, got \[-1\]"),
        (torch.tensor([0.0, 1.0]), 3, "single_label_classification", "must be integers"),
        (torch.zeros(4, 2), 3, "multi_label_classification", r"shape \(n, num_labels=3\), got \(4, 2\)"),
        (torch.zeros(4), 3, "regression", r"shape \(n, num_labels=3\)"),
        (torch.tensor([1.0, float("nan")]), 1, "regression", "NaN"),
        (torch.zeros(4), 0, "regression", "num_labels=0"),
        (torch.zeros(4), 1, "ranking", "problem_type='ranking'"),
    ],
)
def test_bad_labels_are_named(labels, num_labels, problem_type, message):
    with pytest.raises(ValueError, match=message):
        encode_targets(labels, num_labels, problem_type)
