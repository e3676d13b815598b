"""`compute_loss_func` for the target and `source_compute_loss_func` for the source, such as class weights."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from merlin_hf import JointTrainer, MerlinTrainer
from merlin_hf.methods import FinetuneTrainer
from tests.support import SOURCE_LABELS, losses, make_args, one_step_inputs
from tests.tiny import NUM_LABELS, tiny_bert, tiny_dataset


WEIGHTS = {NUM_LABELS: torch.tensor([1.0, 2.0, 5.0]), SOURCE_LABELS: torch.tensor([1.0, 0.5, 3.0, 7.0])}


def weighted_mean(outputs, labels, num_items_in_batch=None):
    return (cross_entropy(outputs.logits, labels, reduction="none") * WEIGHTS[outputs.logits.shape[-1]][labels]).mean()


def weighted_sum_over_items(outputs, labels, num_items_in_batch=None):
    each = cross_entropy(outputs.logits, labels, reduction="none") * WEIGHTS[outputs.logits.shape[-1]][labels]
    return each.sum() / num_items_in_batch


def build(trainer_class, output_dir, **kwargs):
    options = {name: kwargs.pop(name) for name in list(kwargs) if not name.endswith("compute_loss_func")}
    source = {"source_dataset": tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1)}
    return trainer_class(
        model=tiny_bert(dropout=0.0),
        args=make_args(output_dir, **options),
        train_dataset=tiny_dataset(),
        eval_dataset=tiny_dataset(rows=12, seed=2),
        **(source if trainer_class is not FinetuneTrainer else {}),
        **kwargs,
    )


@pytest.mark.parametrize("function", [weighted_mean, weighted_sum_over_items])
@pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer])
def test_source_class_weights(tmp_path, trainer_class, function):
    trainer = build(trainer_class, tmp_path, source_compute_loss_func=function)
    inputs = one_step_inputs(trainer)
    source = inputs["__source_inputs__"]
    trainer.compute_loss(trainer.model_wrapped, inputs)
    logged = trainer._step_metrics.pop(trainer.accelerator)["source_loss"]
    outputs = trainer.transfer_model(source_inputs={k: v for k, v in source.items() if k != "labels"})
    logits, labels = outputs.source_logits, source["labels"]
    assert logged == pytest.approx(weighted_mean(type("O", (), {"logits": logits}), labels).item(), rel=1e-5)
    assert logged != pytest.approx(cross_entropy(logits, labels).item(), rel=1e-2)


@pytest.mark.parametrize("function", [weighted_mean, weighted_sum_over_items])
@pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer, FinetuneTrainer])
def test_the_loss_function_of_the_target_is_used_in_training_and_evaluation(tmp_path, trainer_class, function):
    plain, weighted = (build(trainer_class, tmp_path, **kwargs) for kwargs in ({}, {"compute_loss_func": function}))
    for trainer in (plain, weighted):
        trainer.train()
    part = "meta_loss" if trainer_class is MerlinTrainer else "loss"
    first = [trainer.state.log_history[0][part] for trainer in (plain, weighted)]
    assert first[0] != pytest.approx(first[1], rel=1e-2)

    predictions = weighted.predict(weighted.eval_dataset)
    logits, labels = torch.tensor(predictions.predictions), torch.tensor(predictions.label_ids)
    # Trainer averages the mean losses of batches by their rows.
    each = cross_entropy(logits, labels, reduction="none") * WEIGHTS[NUM_LABELS][labels]
    assert weighted.evaluate()["eval_loss"] == pytest.approx(each.mean().item(), rel=1e-5)


@pytest.mark.parametrize("split", ["half", "kfold", "loo"])
def test_the_meta_loss_of_a_given_plain_cross_entropy_is_the_default_one(tmp_path, split):
    def plain(outputs, labels, num_items_in_batch=None):
        return cross_entropy(outputs.logits, labels)

    results = []
    for kwargs in ({}, {"compute_loss_func": plain}):
        trainer = build(MerlinTrainer, tmp_path, split=split, per_device_train_batch_size=12, num_splits=3, **kwargs)
        inputs = one_step_inputs(trainer)
        loss = trainer.compute_loss(trainer.model_wrapped, inputs)
        loss.backward()
        results.append((loss, trainer.model.bert.embeddings.word_embeddings.weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("trainer_class", [JointTrainer, FinetuneTrainer])
def test_accumulating_with_a_loss_function_is_one_batch(tmp_path, trainer_class):
    settings = {"compute_loss_func": weighted_sum_over_items, "max_steps": 2, "optim": "sgd", "learning_rate": 0.1}
    if trainer_class is JointTrainer:
        settings["source_compute_loss_func"] = weighted_sum_over_items
    whole = build(trainer_class, tmp_path, per_device_train_batch_size=8, **settings)
    parts = build(trainer_class, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    for trainer in (whole, parts):
        trainer.train()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer])
def test_label_smoothing_is_that_of_both_losses(tmp_path, trainer_class):
    trainer = build(trainer_class, tmp_path, label_smoothing_factor=0.2)
    inputs = one_step_inputs(trainer)
    rows = {"source": dict(inputs["__source_inputs__"]), "target": {k: v for k, v in inputs.items() if "__" not in k}}
    labels = {task: of_task.pop("labels") for task, of_task in rows.items()}
    trainer.compute_loss(trainer.model_wrapped, inputs)
    logged = trainer._step_metrics.pop(trainer.accelerator)
    outputs = trainer.transfer_model(source_inputs=rows["source"], target_inputs=rows["target"])
    logits = {"source": outputs.source_logits, "target": outputs.target_logits}
    for task in ("source", "target") if trainer_class is JointTrainer else ("source",):  # MeRLin's is below
        expected = cross_entropy(logits[task], labels[task], label_smoothing=0.2).item()
        assert logged[f"{task}_loss"] == pytest.approx(expected, rel=1e-5)
        assert logged[f"{task}_loss"] != pytest.approx(cross_entropy(logits[task], labels[task]).item(), rel=1e-5)


def test_the_meta_loss_is_smoothed_as_cross_entropy_is(tmp_path):
    trainer = build(MerlinTrainer, tmp_path, label_smoothing_factor=0.2)
    trainer.build_transfer_model()
    logits, labels = torch.randn(2, 6, NUM_LABELS), torch.tensor([0, 1, 2, 0, 1, 2])
    found = trainer.row_losses(logits, labels, 3.0)
    expected = [cross_entropy(3.0 * one, labels, reduction="none", label_smoothing=0.2) for one in logits]
    torch.testing.assert_close(found, torch.stack(expected))
