"""`target_chunk_size`: a target batch in chunks is the whole batch, with the memory of one chunk."""

import gc
import weakref

import pytest
import torch

from merlin_hf import JointTrainer, MerlinTrainer
from tests.support import losses, make_trainer, one_step_inputs
from tests.tiny import TINY_CLASSIFIERS, tiny_bert


BATCH = {"per_device_train_batch_size": 20, "per_device_source_batch_size": 4}


def gradients(trainer, seed=0):
    inputs = one_step_inputs(trainer)
    trainer.model_wrapped.train()
    torch.manual_seed(seed)
    loss = trainer.compute_loss(trainer.model_wrapped, inputs)
    loss.backward()
    found = {name: p.grad for name, p in trainer.transfer_model.named_parameters() if p.grad is not None}
    return loss.detach(), found


@pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer])
@pytest.mark.parametrize("size", [1, 6, 19])
def test_chunks_have_the_loss_and_the_gradient_of_the_whole_batch(tmp_path, trainer_class, size):
    results = []
    for chunk in (None, size):
        model = tiny_bert(dropout=0.0).double()
        trainer = make_trainer(tmp_path, model, trainer_class=trainer_class, target_chunk_size=chunk, **BATCH)
        trainer.transfer_model.double()
        results.append(gradients(trainer))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer])
def test_dropout_is_the_same_when_a_chunk_is_computed_again(tmp_path, trainer_class, monkeypatch):
    """Against chunks that keep their activations, and so compute nothing again."""
    results = []
    for recompute in (True, False):
        if not recompute:
            keep = lambda function, *args, **kwargs: function(*args)  # noqa: E731
            monkeypatch.setattr("merlin_hf.transfer.model.checkpoint", keep)
        trainer = make_trainer(tmp_path, tiny_bert(), trainer_class=trainer_class, target_chunk_size=6, **BATCH)
        results.append(gradients(trainer))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)
    assert results[0][0] != gradients(trainer, seed=1)[0], "there is dropout"


@pytest.mark.parametrize("size", [None, 5])
def test_only_the_activations_of_one_chunk_stay_in_memory(tmp_path, size):
    trainer = make_trainer(tmp_path, tiny_bert(), target_chunk_size=size, **BATCH)
    inputs = one_step_inputs(trainer)
    alive = []
    layer = trainer.model.bert.encoder.layer[0].intermediate
    layer.register_forward_hook(lambda module, args, output: alive.append((output.shape[0], weakref.ref(output))))
    loss = trainer.compute_loss(trainer.model_wrapped.train(), inputs)
    gc.collect()
    kept = [rows for rows, reference in alive if reference() is not None]
    assert [rows for rows, _ in alive] == ([4, 20] if size is None else [4, 5, 5, 5, 5])
    assert kept == ([4, 20] if size is None else [4]), "what is kept without a second computation is the source's"
    alive.clear()
    loss.backward()
    assert [rows for rows, _ in alive] == ([] if size is None else [5] * 4), "each chunk again, once"


def test_training_in_chunks_is_training(tmp_path):
    runs = []
    for size in (None, 3):
        trainer = make_trainer(tmp_path, tiny_bert(dropout=0.0), target_chunk_size=size)
        trainer.train()
        runs.append((losses(trainer), trainer.evaluate()["eval_loss"]))
    assert runs[0] == (pytest.approx(runs[1][0], rel=1e-5), pytest.approx(runs[1][1], rel=1e-4))


def test_batch_statistics_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="`target_chunk_size` would change what ResNetForImageClassification computes"
    ):
        make_trainer(tmp_path, TINY_CLASSIFIERS["resnet"](), target_chunk_size=4)
