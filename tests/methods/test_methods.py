"""What holds for every method."""

import pytest

from merlin_hf import METHODS, JointTrainer, MerlinTrainer, get_method
from tests.support import make_trainer
from tests.tiny import tiny_bert


@pytest.mark.parametrize("method", ["finetune", "joint"])
def test_accumulation_gives_the_gradient_of_one_batch(tmp_path, method):
    """Stock Trainer inflates the loss of BERT by the accumulation steps: its forward drops `num_items_in_batch`."""
    runs = []
    for batch_size, steps in ((8, 1), (2, 4)):
        kwargs = {} if method == "joint" else {"without_source": True}
        trainer = make_trainer(
            tmp_path,
            model=tiny_bert(dropout=0.0),
            trainer_class=METHODS[method],
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=2,
            train_sampling_strategy="sequential",
            **kwargs,
        )
        trainer.train()
        runs.append([(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history[:2]])
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_accumulation_averages_the_losses_of_its_micro_batches(tmp_path):
    """The source part of k micro-batches is that of one batch; each one is split and its head fit by itself."""
    accumulated, whole = (
        make_trainer(
            tmp_path,
            model=tiny_bert(dropout=0.0),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            rho=0.0,
            train_sampling_strategy="sequential",
        )
        for batch_size, steps in ((6, 4), (24, 1))
    )
    accumulated.train()
    whole.train()
    for key in ("loss", "source_loss", "grad_norm"):
        assert accumulated.state.log_history[0][key] == pytest.approx(whole.state.log_history[0][key], rel=1e-4)


def test_methods_by_name():
    assert get_method("joint") is JointTrainer and get_method("merlin") is MerlinTrainer
    with pytest.raises(
        ValueError, match=r"`method='merln'` is unknown. Did you mean 'merlin'\?.*finetune, .*joint, merlin"
    ):
        get_method("merln")
