"""Which channels DELTA keeps."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from merlin_hf.methods.delta import channel_attention
from merlin_hf.transfer.layers import find_layers
from tests.methods.support import build, padded, partly_labelled, tiny_resnet
from tests.tiny import tiny_bert, tiny_dataset


def attention_trainer(tmp_path, name, **options):
    """With batches of 7 rows, some of them without a label, and a last one of 3."""
    model = (tiny_resnet() if name == "images" else tiny_bert()).double()
    target = None if name == "images" else partly_labelled(padded(tiny_dataset()))
    return build("delta", tmp_path, model=model, target=target, source=False, per_device_eval_batch_size=7, **options)


def columns(trainer):
    rows = [trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]
    labels = torch.tensor([row.get("labels", row.get("label")) for row in rows])
    names = [name for name in rows[0] if name not in ("labels", "label")]
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in names}, labels


def increases_by_hand(trainer, layer, dim, factor=0.0):
    """What the loss of the labelled rows gains when one channel of the layer's output is scaled, for each channel."""
    inputs, labels = columns(trainer)
    head, model = trainer.final_head({}), trainer.model.eval()

    def loss(channel=None):
        def hook(module, args, output):
            output = output if isinstance(output, torch.Tensor) else output[0]
            index = [slice(None)] * output.ndim
            index[dim] = channel
            output = output.clone()
            output[tuple(index)] *= factor
            return output

        hooks = [] if channel is None else [model.get_submodule(layer).register_forward_hook(hook)]
        if model.config.model_type == "resnet":
            features = model.resnet(**inputs).pooler_output.flatten(1)
        else:
            features = model.bert(**inputs).pooler_output
        for handle in hooks:
            handle.remove()
        logits = features @ head.weight.mT + head.bias
        return cross_entropy(logits, labels, reduction="sum").item()

    whole = loss()
    with torch.no_grad():
        return np.array([loss(channel) - whole for channel in range(8 if dim == 1 else 32)])


@pytest.mark.parametrize(
    ("name", "layer", "dim"), [("text", "bert.encoder.layer.0", 2), ("images", "resnet.encoder.stages.0", 1)]
)
@pytest.mark.parametrize("kind", ["exact", "gradient"])
def test_attention_is_what_the_loss_gains_without_a_channel(tmp_path, name, layer, dim, kind):
    """Measured, or by how the loss changes when the channel begins to vanish."""
    trainer = attention_trainer(tmp_path, name)
    generator = torch.get_rng_state()
    attention = channel_attention(trainer, [layer], exact=kind == "exact")[layer]
    assert torch.equal(torch.get_rng_state(), generator) and trainer.transfer_model.training
    gain = increases_by_hand(trainer, layer, dim, factor=0.0 if kind == "exact" else 1 - 1e-6)
    powers = np.exp((gain - gain.mean()) / gain.std() / 5)
    np.testing.assert_allclose(attention.numpy(), powers / powers.sum(), rtol=1e-6 if kind == "exact" else 1e-3)
    assert attention.max() > 1.2 * attention.min()


@pytest.mark.parametrize(("name", "layers"), [("text", [0, 1]), ("images", [3])])
def test_the_first_order_tells_much_the_same(tmp_path, name, layers):
    """Not in the lower stages of a CNN without pretraining: a missing channel there is no small change."""
    trainer = attention_trainer(tmp_path, name)
    layers = [trainer.layer_names()[i] for i in layers]
    exact, first_order = (channel_attention(trainer, layers, exact=exact) for exact in (True, False))
    for layer in layers:
        gains = np.stack([exact[layer].log().numpy(), first_order[layer].log().numpy()])
        assert np.corrcoef(gains)[0, 1] > 0.4, (
            layer
        )  # of random weights, which releases of transformers draw differently


def test_training_uses_the_attention_that_it_names(tmp_path):
    found = {}
    for kind in ("exact", "gradient", "none"):
        trainer = build("delta", tmp_path, source=False, max_steps=1, channel_attention=kind, num_layers=1)
        before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        trainer.train()
        found[kind] = trainer.transfer_model.regularizer.channel_weights
        trainer.model.load_state_dict(before)
        if kind != "none":
            expected = channel_attention(trainer, trainer.layer_names(), exact=kind == "exact")
            for layer, weights in found[kind].items():
                torch.testing.assert_close(weights, expected[layer], rtol=1e-4, atol=1e-6)
    assert found["none"] == {} and set(found["exact"]) == {"bert.encoder.layer.1"}


def test_what_padding_holds_does_not_matter(tmp_path):
    """Masked positions may have any token."""
    target = padded(tiny_dataset())
    ids, mask = (torch.tensor(target[name][:]) for name in ("input_ids", "attention_mask"))
    other = target.remove_columns("input_ids").add_column("input_ids", (ids + 9 * (1 - mask)).tolist())
    runs = []
    for rows in (target, other):
        trainer = build("delta", tmp_path, target=rows, source=False, max_steps=3, regularization_weight=1.0)
        trainer.train()
        runs.append([entry["penalty"] for entry in trainer.state.log_history if "penalty" in entry])
    assert runs[0] == pytest.approx(runs[1], rel=1e-4) and runs[0][-1] > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_layers": 1}, ["resnet.encoder.stages.3"]),
        ({"num_layers": 2}, ["resnet.encoder.stages.1", "resnet.encoder.stages.3"]),
        ({"num_layers": 9}, [f"resnet.encoder.stages.{i}" for i in range(4)]),
        ({"layer_modules": ["resnet.embedder"]}, ["resnet.embedder"]),
    ],
    ids=str,
)
def test_layers(tmp_path, options, expected):
    trainer = build("delta", tmp_path, model=tiny_resnet(), source=False, max_steps=2, **options)
    trainer.train()
    assert trainer.transfer_model.regularizer.layer_names == expected
    assert set(trainer.transfer_model.regularizer.channel_weights) == set(expected)


def test_attention_below_frozen_layers(tmp_path):
    """Their outputs have no gradient of their own; the attention is what it is with all layers trained."""
    frozen, free = (attention_trainer(tmp_path / name, "text") for name in ("frozen", "free"))
    frozen.model.bert.embeddings.requires_grad_(False)
    frozen.model.bert.encoder.layer[:2].requires_grad_(False)
    layers = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    for one, other in zip(*(channel_attention(t, layers).values() for t in (frozen, free)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_of_one_layer_has_a_layer():
    model = tiny_bert()
    stack = find_layers(model, 4)
    assert stack == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    del model.bert.encoder.layer[1]
    assert find_layers(model, 4) == ["bert.encoder.layer.0"]
    with pytest.raises(ValueError, match="Found no stack of layers"):
        find_layers(torch.nn.Linear(2, 2), 4)
