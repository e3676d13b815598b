"""The queue of Bi-Tuning; its loss is in `test_written_out.py`."""

import pytest
import torch

from merlin_hf.methods.bi_tuning import KeyQueue
from tests.methods.support import build
from tests.tiny import tiny_bert


@pytest.mark.parametrize("batches", [[3], [2, 2], [1, 5, 1], [9, 4, 20]], ids=str)
def test_the_queue_keeps_the_last_keys_of_each_class(batches):
    """Batches with more rows of a class than there are places included."""
    size, generator = 3, torch.Generator().manual_seed(0)
    queue, kept = KeyQueue(4, size, (2, 1), torch.device("cpu")), {label: [] for label in range(4)}
    for rows in batches:
        keys = torch.randn(rows, 3, generator=generator)
        labels = torch.randint(-1, 3, (rows,), generator=generator)  # none of the last class
        labels[labels == -1] = -100
        queue.add(keys, labels)
        for key, label in zip(keys, labels.tolist(), strict=True):
            if label != -100:
                kept[label].append(key)
        for label, of_class in kept.items():
            expected = {tuple(key.tolist()) for key in of_class[-size:]}
            assert {tuple(key.tolist()) for key in queue.keys[label][queue.filled[label]]} == expected
            assert queue.count[label] == min(len(of_class), size)
    first, second = queue.split()
    assert torch.equal(torch.cat([first, second], -1), queue.keys) and first.shape == (4, 3, 2)


def test_keys_of_a_step_are_not_changed_by_the_next():
    """The backward pass of one micro-batch may come after the next has added its keys."""
    queue = KeyQueue(2, 2, (1, 1), torch.device("cpu"))
    before, _ = queue.split()
    queue.add(torch.ones(2, 2), torch.tensor([0, 1]))
    assert not before.any() and queue.split()[0].any()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_copy_follows_once_an_update(tmp_path, accumulation):
    """After n updates the copy is m times itself and 1 - m times the weights before each, for all micro-batches."""
    seen = []

    class Watching(build("bi_tuning", tmp_path).__class__):
        def training_step(self, model, inputs, num_items_in_batch=None):
            weights = self.model.classifier.weight.detach().clone()
            loss = super().training_step(model, inputs, num_items_in_batch)
            seen.append((weights, self.transfer_model.regularizer.copy.model.model.classifier.weight.clone()))
            return loss

    trainer = build(
        "bi_tuning",
        tmp_path,
        source=False,
        trainer_class=Watching,
        max_steps=3,
        key_momentum=0.6,
        learning_rate=0.1,
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=2,
    )
    trainer.train()
    expected = seen[0][0]
    for update in range(3):
        of_update = seen[update * accumulation : (update + 1) * accumulation]
        expected = 0.6 * expected + 0.4 * of_update[0][0]
        for _, copied in of_update:
            torch.testing.assert_close(copied, expected)
    assert not torch.allclose(expected, trainer.model.classifier.weight, atol=1e-3)


def test_two_views_of_a_row_differ_by_their_dropout(tmp_path):
    """The key comes from another pass; without dropout it is the row's own features at first."""
    penalties = {}
    for dropout in (0.0, 0.3):
        trainer = build("bi_tuning", tmp_path, model=tiny_bert(dropout=dropout), source=False, max_steps=1)
        similarity = []
        trainer.transfer_model.regularizer.register_forward_hook(
            lambda module, args, output, similarity=similarity: similarity.append(
                torch.cosine_similarity(args[3].target_features, module.copy.features(args[1])).mean().item()
            )
        )
        trainer.train()
        penalties[dropout] = similarity[0]
    assert penalties[0.0] == pytest.approx(1.0, abs=1e-5) and penalties[0.3] < 0.999
