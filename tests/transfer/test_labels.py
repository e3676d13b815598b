import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_pt_utils import LabelSmoother

from merlin_hf.transfer.labels import infer_num_labels, label_values, problem_type_of, split_labels, task_loss
from tests.tiny import tiny_bert, tiny_inputs


@pytest.mark.parametrize(
    ("labels", "num_labels", "problem_type"),
    [
        (torch.tensor([0, 2, 1, 1, 0]), 3, "single_label_classification"),
        (torch.tensor([[0.0, 1, 1]] * 5), 3, "multi_label_classification"),
        (torch.randn(5), 1, "regression"),
    ],
)
def test_loss_is_that_of_the_model_itself(labels, num_labels, problem_type):
    model = tiny_bert(num_labels=num_labels).eval()
    output = model(**tiny_inputs(model), labels=labels)
    assert problem_type_of(labels, num_labels) == problem_type == model.config.problem_type
    torch.testing.assert_close(task_loss(output.logits, labels, problem_type), output.loss)


def test_ignored_rows_and_label_smoothing_are_those_of_trainer():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 3, -100, 1, 2, -100])
    output = SequenceClassifierOutput(logits=logits)
    smoothed = task_loss(logits, labels, "single_label_classification", 0.1)
    torch.testing.assert_close(smoothed, LabelSmoother(0.1)(output, labels))
    assert task_loss(logits, torch.full((6,), -100), "single_label_classification") == 0


@pytest.mark.parametrize(
    ("column", "feature", "expected"),
    [
        ([0, 1, 1], ClassLabel(names=["a", "b", "c"]), 3),
        ([0, 4, 1], Value("int64"), 5),
        ([0.5, 4.0, 1.0], Value("float32"), 1),
        ([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], None, 2),
    ],
)
def test_number_of_labels_is_read_from_the_data(column, feature, expected):
    features = None if feature is None else Features({"label": feature})
    dataset = Dataset.from_dict({"label": column}, features=features)
    assert infer_num_labels(dataset) == expected
    assert infer_num_labels(object()) is None


def test_label_values_see_through_selections_and_transforms():
    dataset = Dataset.from_dict({"label": [3, 1, 2], "x": [0, 0, 0]}).select([2, 0])
    dataset = dataset.with_transform(lambda rows: {"nothing": rows["x"]})
    np.testing.assert_array_equal(label_values(dataset), [2, 3])


def test_a_batch_without_labels_is_an_error_that_lists_what_it_has():
    with pytest.raises(ValueError, match="no `labels`, only input_ids, attention_mask"):
        split_labels({"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 3)})


def test_integers_and_booleans_are_what_they_stand_for():
    logits = torch.randn(5, 3)
    several = torch.tensor([[0, 1, 1]] * 5)
    assert problem_type_of(several, 3) == "multi_label_classification"
    torch.testing.assert_close(
        task_loss(logits, several, "multi_label_classification"),
        task_loss(logits, several.float(), "multi_label_classification"),
    )
    one = torch.tensor([True, False, True, True, False])
    torch.testing.assert_close(
        task_loss(logits, one, "single_label_classification"),
        task_loss(logits, one.long(), "single_label_classification"),
    )
