import pytest
import torch
from torch import nn

from merlin_hf import METHODS, JointTrainer
from tests.methods.support import assert_same_weights, build, traced
from tests.support import SOURCE_LABELS, make_args, one_step_inputs
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


# The proportional mix


def mix(tmp_path, resume=None, max_steps=12, **options):
    """24 target rows and 40 of the source: 3 of 8 updates are the target's."""
    steps = []
    trainer = build(
        "joint",
        tmp_path,
        trainer_class=traced(METHODS["joint"], steps),
        batch_mix="proportional",
        max_steps=max_steps,
        save_strategy="steps",
        save_steps=5,
        **options,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, steps


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("batch_size", "source_batch_size", "share"), [(8, None, 3 / 8), (4, 8, 6 / 11), (8, 2, 3 / 23)]
)
def test_updates_are_shared_out_by_the_number_of_batches(tmp_path, seed, batch_size, source_batch_size, share):
    options = {"per_device_train_batch_size": batch_size, "per_device_source_batch_size": source_batch_size}
    trainer, steps = mix(tmp_path, seed=seed, max_steps=23, **options)
    is_target = [step.source is None for step in steps]
    for count in range(1, 24):  # never a whole update away from the share
        assert abs(sum(is_target[:count]) - count * share) < 1
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert ["target_loss" in entry for entry in entries] == is_target
    assert ["source_loss" in entry for entry in entries] == [not target for target in is_target]


def test_updates_come_in_another_order_with_another_seed(tmp_path):
    orders = {tuple(step.source is None for step in mix(tmp_path, seed=seed, max_steps=4)[1]) for seed in range(4)}
    assert len(orders) > 1


def test_an_update_is_about_one_task_with_accumulation_too(tmp_path):
    trainer, steps = mix(tmp_path, gradient_accumulation_steps=3, per_device_train_batch_size=4, max_steps=4)
    tasks = [step.source is None for step in steps]
    assert len(steps) < 13 and trainer.state.global_step == 4 and {True, False} == set(tasks)


def test_source_batches_of_the_mix_are_those_that_were_not_drawn_yet(tmp_path):
    """Five source updates of eight rows are one pass over the 40, and a resumed run goes on where it was."""
    straight, steps = mix(tmp_path / "straight")
    batches = [step.source["input_ids"].tolist() for step in steps if step.source is not None]
    first_pass = sorted(row for batch in batches[:5] for row in batch)
    assert first_pass == sorted(straight.source_dataset["input_ids"][:])
    for stop in (5, 10):
        resumed, rest = mix(tmp_path / "resumed", resume=str(tmp_path / "straight" / f"checkpoint-{stop}"))
        for one, other in zip(steps[stop:], rest, strict=True):
            assert (one.source is None) == (other.source is None)
            if one.source is not None:
                assert torch.equal(one.source["input_ids"], other.source["input_ids"])
        assert_same_weights(straight, resumed)


def test_a_mix_by_size_needs_sizes(tmp_path):
    with pytest.raises(ValueError, match="`batch_mix='proportional'`.*`train_dataset`.*IterableDataset"):
        mix(tmp_path, target=tiny_dataset().to_iterable_dataset())
