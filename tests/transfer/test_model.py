"""Features of any classifier: handed on from the last layer, whatever the pooling before or after it."""

import copy

import peft
import pytest
import torch
import transformers
from torch import nn

from merlin_hf.transfer.model import TransferModel, find_head
from tests.tiny import TINY_CLASSIFIERS, tiny_bert, tiny_inputs


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_features_times_head_weight_are_the_models_own_logits(name):
    model = TINY_CLASSIFIERS[name]().eval()
    inputs = tiny_inputs(model)
    keys = list(model.state_dict())
    transfer_model = TransferModel(model, num_source_labels=4)
    logits = model(**inputs).logits

    with transfer_model.feature_mode():
        features = transfer_model(target_inputs=inputs).target_features
        again = transfer_model(**inputs).logits

    head = transfer_model.head
    assert features.shape == (len(logits), head.in_features)
    torch.testing.assert_close(nn.functional.linear(features, head.weight, head.bias), logits)
    torch.testing.assert_close(again, logits)
    assert list(model.state_dict()) == keys


def test_both_halves_in_one_forward():
    model = tiny_bert().eval()
    inputs = tiny_inputs(model)
    transfer_model = TransferModel(model, num_source_labels=4, scalars={"log_l2": 0.5}, trains_target_head=True)
    with transfer_model.feature_mode():
        output = transfer_model(source_inputs=inputs, target_inputs=inputs)
    torch.testing.assert_close(output.target_logits, model(**inputs).logits)
    torch.testing.assert_close(output.source_logits, transfer_model.source_head(output.target_features))
    assert output.scalars["log_l2"].shape == () and output.scalars["log_l2"].item() == 0.5


def test_a_head_that_is_not_trained_is_frozen_while_attached_and_only_then():
    model = tiny_bert()
    transfer_model = TransferModel(model, num_source_labels=4)
    with transfer_model.feature_mode():
        assert not any(parameter.requires_grad for parameter in model.classifier.parameters())
        assert model.bert.pooler.dense.weight.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.classifier._forward_hooks and not hasattr(model.classifier, "return_features")


def test_the_source_head_draws_nothing_from_the_global_generator():
    model = tiny_bert()
    state = torch.get_rng_state()
    first = TransferModel(model, num_source_labels=4, seed=1).source_head.weight
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, TransferModel(model, num_source_labels=4, seed=1).source_head.weight)
    assert not torch.equal(first, TransferModel(model, num_source_labels=4, seed=2).source_head.weight)


def test_the_model_can_be_copied_while_attached():
    model = tiny_bert().eval()
    with TransferModel(model, num_source_labels=4).feature_mode():
        copied = copy.deepcopy(model)
    inputs = tiny_inputs(model)
    torch.testing.assert_close(copied(**inputs).logits, model(**inputs).logits)


def test_head_of_a_peft_model_is_the_trained_copy():
    model = peft.get_peft_model(
        tiny_bert(), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    )
    name = find_head(model)
    assert "modules_to_save" in name and "original_module" not in name
    assert model.get_submodule(name).weight.requires_grad


def test_a_head_that_is_named_is_found_with_and_without_an_adapter():
    plain = tiny_bert()
    wrapped = peft.get_peft_model(
        copy.deepcopy(plain), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    )
    name = find_head(wrapped)
    assert find_head(plain, head_module="classifier") == "classifier"
    assert find_head(wrapped, head_module="classifier") == name
    assert find_head(wrapped, head_module=name) == name
    wrapped.add_adapter("other", peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    other = name.replace("default", "other")
    assert find_head(wrapped, head_module=name) == name and find_head(wrapped, head_module=other) == other


@pytest.mark.parametrize("touch_all_parameters", [False, True])
def test_a_source_head_without_rows_gets_a_gradient_of_zero_where_nothing_may_be_left_out(touch_all_parameters):
    model = tiny_bert().eval()
    inputs = tiny_inputs(model)
    transfer_model = TransferModel(model, num_source_labels=4)
    transfer_model.touch_all_parameters = touch_all_parameters
    with transfer_model.feature_mode():
        features = transfer_model(target_inputs=inputs).target_features
        features.square().sum().backward()
        torch.testing.assert_close(features, transfer_model.features(inputs), rtol=0, atol=0)
    gradient = transfer_model.source_head.weight.grad
    assert (gradient is not None and not gradient.any()) if touch_all_parameters else gradient is None
    assert model.bert.embeddings.word_embeddings.weight.grad.any()


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = transformers.PretrainedConfig(num_labels=3)
        self.left, self.right = nn.Linear(8, 3), nn.Linear(8, 3)


def test_two_candidates_are_an_error_that_lists_them_and_names_the_remedy():
    with pytest.raises(ValueError, match=r"found 2 .*left \(8->3\), right \(8->3\).*`head_module=`"):
        find_head(TwoHeads())
    assert find_head(TwoHeads(), head_module="right") == "right"


def test_no_candidate_is_an_error_that_lists_the_linear_layers():
    model = tiny_bert()
    model.config.num_labels = 7
    with pytest.raises(ValueError, match=r"found 0 .*with 7 outputs .*`head_module=`.*classifier \(\d+->3\)"):
        find_head(model)


def test_head_module_that_is_no_linear_layer():
    with pytest.raises(ValueError, match=r"`head_module='bert.pooler'`.*BertPooler"):
        find_head(tiny_bert(), head_module="bert.pooler")
    with pytest.raises(ValueError, match=r"`head_module='nothing'`.*no module of that name"):
        find_head(tiny_bert(), head_module="nothing")


class ScaledLogits(nn.Module):
    """A classifier that widens its logits after the last layer."""

    def __init__(self):
        super().__init__()
        self.config = transformers.PretrainedConfig(num_labels=3)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return {"logits": torch.cat([self.head(x), x], dim=-1)}


def test_logits_that_change_after_the_last_layer_are_an_error():
    transfer_model = TransferModel(ScaledLogits(), num_source_labels=2)
    with transfer_model.feature_mode(), pytest.raises(ValueError, match=r"'head'.*\(5, 16\).*`head_module=`"):
        transfer_model(target_inputs={"x": torch.randn(5, 8)})
