import torch
from torch import nn

from merlin_hf import JointTrainer
from tests.test_trainer import SOURCE_LABELS, make_args, one_step_inputs
from tests.tiny import tiny_bert, tiny_dataset


def joint_trainer(output_dir, rows=24, **kwargs):
    return JointTrainer(
        model=tiny_bert(dropout=0.0),
        args=make_args(output_dir, **kwargs),
        train_dataset=tiny_dataset(rows=rows),
        source_dataset=tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1),
    )


def test_loss_is_the_weighted_sum_of_both_tasks(tmp_path):
    trainer = joint_trainer(tmp_path, source_weight=0.5)
    inputs = one_step_inputs(trainer)
    source, target = dict(inputs["__source_inputs__"]), {k: v for k, v in inputs.items() if k != "__source_inputs__"}
    model = trainer.model
    target_loss = model(**target).loss
    features = model.bert(**{k: source[k] for k in ("input_ids", "attention_mask")}).pooler_output
    source_loss = nn.functional.cross_entropy(trainer.transfer_model.source_head(features), source["labels"])
    loss = trainer.compute_loss(trainer.model_wrapped, inputs)
    torch.testing.assert_close(loss, target_loss + 0.5 * source_loss)


def test_both_heads_and_the_backbone_are_trained(tmp_path):
    trainer = joint_trainer(tmp_path, max_steps=2)
    transfer_model = trainer.transfer_model
    before = {name: value.clone() for name, value in transfer_model.named_parameters()}
    trainer.train()
    unchanged = [name for name, value in transfer_model.named_parameters() if torch.equal(before[name], value)]
    assert unchanged == []
    assert {"source_loss", "target_loss"} < set(trainer.state.log_history[0])


def test_head_learning_rate_is_that_of_both_heads(tmp_path):
    trainer = joint_trainer(tmp_path, head_learning_rate=0.5, max_steps=1)
    trainer.train()
    groups = trainer.optimizer.param_groups
    heads = [*trainer.model.classifier.parameters(), *trainer.transfer_model.source_head.parameters()]
    fast = [parameter for group in groups if group["initial_lr"] == 0.5 for parameter in group["params"]]
    assert {id(parameter) for parameter in fast} == {id(parameter) for parameter in heads}
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in trainer.transfer_model.parameters())
