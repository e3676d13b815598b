"""Stochastic normalization by hand."""

import copy

import pytest
import torch
from torch import nn

from merlin_hf import METHODS
from merlin_hf.methods.stochnorm import stochastic_normalization
from tests.methods.support import (
    PLAIN_SGD,
    assert_same_weights,
    build,
    check_written_out,
    tiny_resnet,
    traced,
    weights,
)


def both_ways(layer, x):
    """BatchNorm of `x` by its own statistics and by the running ones, by hand."""
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)

    def normalised(mean, var):
        standard = (x - mean.view(shape)) / (var.view(shape) + layer.eps).sqrt()
        return standard * layer.weight.view(shape) + layer.bias.view(shape)

    return normalised(x.mean(dims), x.var(dims, correction=0)), normalised(layer.running_mean, layer.running_var)


def a_layer(channels=2000, kind=nn.BatchNorm2d):
    torch.manual_seed(0)
    layer = kind(channels).double()
    for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
        tensor.normal_()
    layer.running_var.uniform_(0.5, 2)
    shape = {
        nn.BatchNorm1d: (6, channels),
        nn.BatchNorm2d: (4, channels, 2, 2),
        nn.BatchNorm3d: (2, channels, 2, 1, 2),
    }
    return layer, torch.randn(shape[kind], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_each_channel_is_normalised_one_way_or_the_other(probability, kind):
    """The reference code takes p = 0.5 whatever is asked for."""
    layer, x = a_layer(kind=kind)
    by_batch, by_running = both_ways(copy.deepcopy(layer), x)
    plain = copy.deepcopy(layer)
    plain(x)
    with stochastic_normalization(nn.Sequential(layer), probability):
        y = layer(x)
    dims = [0, *range(2, x.ndim)]
    is_batch = (y - by_batch).abs().amax(dims) < 1e-9
    is_running = (y - by_running).abs().amax(dims) < 1e-9
    assert (is_batch ^ is_running).all()
    assert is_batch.double().mean().item() == pytest.approx(probability, abs=0.04 if 0 < probability < 1 else 0)

    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(layer, name), getattr(plain, name)), "they move as in BatchNorm"

    mask = is_batch.view([1, -1] + [1] * (x.ndim - 2))
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.where(mask, by_batch, by_running)
    for one, other in zip(
        torch.autograd.grad((y * weights).sum(), [x, layer.weight, layer.bias]),
        torch.autograd.grad((both(layer, x, mask, wanted) * weights).sum(), [x, layer.weight, layer.bias]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def both(layer, x, mask, wanted):
    """The mixture by hand, of the layer's own parameters; running statistics that have moved are recovered."""
    before = copy.deepcopy(layer)
    with torch.no_grad():
        dims = [0, *range(2, x.ndim)]
        count = x.numel() / x.shape[1]
        before.running_mean.copy_((layer.running_mean - 0.1 * x.mean(dims)) / 0.9)
        before.running_var.copy_((layer.running_var - 0.1 * x.var(dims, correction=0) * count / (count - 1)) / 0.9)
    before.weight, before.bias = layer.weight, layer.bias
    by_batch, by_running = both_ways(before, x)
    mixture = torch.where(mask, by_batch, by_running)
    torch.testing.assert_close(mixture, wanted)
    return mixture


def test_masks_are_drawn_anew_for_each_layer_and_pass():
    layers = nn.Sequential(nn.BatchNorm1d(64, affine=False), nn.BatchNorm1d(64, affine=False))
    for layer in layers:
        layer.running_mean.fill_(100.0)  # what it is normalised by shows in the sign
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with stochastic_normalization(layers, 0.5):
        masks = [layer(x).mean(0) > -1 for layer in layers for _ in range(2)]
    assert all(0 < mask.sum() < 64 for mask in masks)
    assert len({tuple(mask.tolist()) for mask in masks}) == 4


def test_evaluation_is_that_of_batch_norm_and_hooks_are_gone_after_an_error():
    model = tiny_resnet().eval()
    x = torch.randn(2, 3, 16, 16)
    expected = model(x).logits
    with pytest.raises(KeyError), stochastic_normalization(model, 0.5):
        assert torch.equal(model(x).logits, expected)
        raise KeyError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def run(tmp_path, method, model=None, **options):
    trainer = build(method, tmp_path, model=(model or tiny_resnet()).double(), **{**PLAIN_SGD, **options})
    trainer.train()
    return trainer


@pytest.mark.parametrize("source", [True, False])
def test_with_probability_one_it_is_fine_tuning(tmp_path, source):
    stochastic = run(tmp_path, "stochnorm", batch_statistics_probability=1.0, source=source)
    plain = run(tmp_path, "sequential" if source else "finetune", source=source)
    expected = weights(plain) if source else {f"model.{n}": t for n, t in plain.model.state_dict().items()}
    assert_same_weights(stochastic, expected, exact=False)
    other = run(tmp_path, "stochnorm", batch_statistics_probability=0.5, source=source)
    assert not torch.allclose(other.model.classifier[1].weight, plain.model.classifier[1].weight, atol=1e-4)


class RunningNorm(nn.Module):
    """BatchNorm that normalises by running statistics in training too, and moves them after."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.register_buffer("running_mean", layer.running_mean)
        self.register_buffer("running_var", layer.running_var)

    def forward(self, x):
        mean, var = self.running_mean.clone(), self.running_var.clone()
        with torch.no_grad():
            count = x.numel() / x.shape[1]
            self.running_mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
            self.running_var.mul_(0.9).add_(0.1 * x.var((0, 2, 3), correction=0) * count / (count - 1))
        standard = (x - mean[:, None, None]) / (var[:, None, None] + self.eps).sqrt()
        return standard * self.weight[:, None, None] + self.bias[:, None, None]


def by_running_statistics(model):
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, RunningNorm(child))


def test_with_probability_zero_it_normalises_by_running_statistics_that_move(tmp_path):
    steps = []
    trainer = build(
        "stochnorm",
        tmp_path,
        model=tiny_resnet().double(),
        source=False,
        trainer_class=traced(METHODS["stochnorm"], steps),
        batch_statistics_probability=0.0,
        **{**PLAIN_SGD, "learning_rate": 0.01},
    )
    for module in trainer.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_buffer("num_batches_tracked", None)  # no part of the layer that is written out
    replaced = []

    def start(written):
        by_running_statistics(written.model)
        replaced.extend(m for m in written.model.modules() if isinstance(m, RunningNorm))

    check_written_out(trainer, steps, lambda written, memory, step: 0.0, start, tolerance=1e-8)
    assert len(replaced) > 5
