"""EfficientNet-lite0's weights in EfficientNet of transformers, against the network in torch's functions."""

import pytest
import torch
from torch.nn import functional as F

from tests.benchmarks.modules import benchmark_modules


@pytest.fixture(scope="module")
def efficientnet():
    """The benchmark's module of the name."""
    with benchmark_modules("transfer", "efficientnet") as found:
        yield found["efficientnet"]


# Of each stage: blocks, kernel size, stride of the first, factor of expansion, channels that go in and out (Tan and
# Le, 2019, table 1).
STAGES = [
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
]


def blocks():
    """Kernel size, stride, factor and channels of each block."""
    for count, kernel, stride, factor, channels_in, channels_out in STAGES:
        for number in range(count):
            yield (
                kernel,
                stride if number == 0 else 1,
                factor,
                channels_in if number == 0 else channels_out,
                channels_out,
            )


def random_weights(classes=10):
    """Weights by the names in the package."""
    torch.manual_seed(0)
    weights = {}

    def conv(name, channels_out, channels_in, kernel):
        scale = (2 / (channels_in * kernel**2)) ** 0.5
        weights[f"{name}.weight"] = scale * torch.randn(channels_out, channels_in, kernel, kernel)

    def norm(name, channels):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.rand(channels) + 0.5, 0.1 * torch.randn(channels)
        weights[f"{name}.running_mean"], weights[f"{name}.running_var"] = (
            torch.randn(channels),
            torch.rand(channels) + 0.5,
        )
        weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for number, (kernel, _, factor, channels_in, channels_out) in enumerate(blocks()):
        wide, name = factor * channels_in, f"_blocks.{number}"
        if factor != 1:
            conv(f"{name}._expand_conv", wide, channels_in, 1)
            norm(f"{name}._bn0", wide)
        conv(f"{name}._depthwise_conv", wide, 1, kernel)
        norm(f"{name}._bn1", wide)
        conv(f"{name}._project_conv", channels_out, wide, 1)
        norm(f"{name}._bn2", channels_out)
    conv("_conv_head", 1280, 320, 1)
    norm("_bn1", 1280)
    weights["_fc.weight"], weights["_fc.bias"] = 0.05 * torch.randn(classes, 1280), torch.randn(classes)
    return weights


def logits(weights, images):
    """EfficientNet-lite0 in evaluation, with TensorFlow's `SAME` padding."""

    def conv(name, x, stride=1, groups=1):
        weight = weights[f"{name}.weight"]
        kernel, size = weight.shape[-1], x.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
        return F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride, groups=groups)

    def norm(name, x):
        of = {kind: weights[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")}
        return F.batch_norm(x, *of.values(), eps=1e-3)

    x = F.relu6(norm("_bn0", conv("_conv_stem", images, stride=2)))
    for number, (_, stride, factor, channels_in, channels_out) in enumerate(blocks()):
        name, y = f"_blocks.{number}", x
        if factor != 1:
            y = F.relu6(norm(f"{name}._bn0", conv(f"{name}._expand_conv", y)))
        y = F.relu6(norm(f"{name}._bn1", conv(f"{name}._depthwise_conv", y, stride, groups=factor * channels_in)))
        y = norm(f"{name}._bn2", conv(f"{name}._project_conv", y))
        x = x + y if stride == 1 and channels_in == channels_out else y
    x = F.relu6(norm("_bn1", conv("_conv_head", x)))
    return F.linear(x.mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])


@pytest.mark.parametrize("size", [64, 96])
def test_the_model_is_the_network_of_the_weights(efficientnet, size):
    weights, images = random_weights(), torch.randn(3, 3, size, size)
    model = efficientnet.convert(weights, efficientnet.lite0_config(num_labels=10))
    with torch.no_grad():
        found, expected = model(images).logits, logits(weights, images)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_squeeze_and_excitation_stays_away_in_training(efficientnet):
    model = efficientnet.convert(random_weights(), efficientnet.lite0_config(num_labels=10)).train()
    model(torch.randn(4, 3, 64, 64)).logits.square().sum().backward()
    gates = {name: p.grad for name, p in model.named_parameters() if ".squeeze_excite." in name}
    assert len(gates) == 4 * 16 and not any(gradient.any() for gradient in gates.values())
    assert model.efficientnet.encoder.blocks[0].projection.project_conv.weight.grad.any()


def test_weights_that_are_missing_or_left_over_are_named(efficientnet):
    weights = random_weights()
    weights["_blocks.16._bn1.weight"] = weights.pop("_blocks.2._bn1.weight")
    with pytest.raises(ValueError, match=r"blocks.16.depthwise_conv.depthwise_norm.weight.*blocks.2.depthwise_conv"):
        efficientnet.convert(weights, efficientnet.lite0_config(num_labels=10))
