"""Models of comparisons: frozen layers stay as they are."""

import copy

import datasets
import numpy as np
import pytest
import torch
import transformers
from torch import nn

from merlin_hf.comparison import ConfigError
from merlin_hf.comparison.models import freeze
from merlin_hf.methods.stochnorm import batch_norms
from merlin_hf.transfer.layers import layer_stack


SIDE = 32
TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
DEPTHS = {"hidden_sizes": [8, 16, 16], "depths": [1, 2, 1]}
# What they differ in: embeddings of three names, with and without class token, BatchNorm, stages that are lists of
# layers themselves, and whether `hidden_states` begins with the embeddings.
MODELS = {
    "vit": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**TRANSFORMER, intermediate_size=32, num_labels=2)
    ),
    "dinov2": lambda: transformers.Dinov2ForImageClassification(
        transformers.Dinov2Config(**TRANSFORMER, num_labels=2)
    ),
    "resnet": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(**DEPTHS, embedding_size=8, layer_type="basic", num_labels=2)
    ),
    "convnext": lambda: transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 5, 1], num_labels=2)
    ),
    "efficientnet": lambda: transformers.EfficientNetForImageClassification(
        transformers.EfficientNetConfig(
            width_coefficient=0.25,
            depth_coefficient=0.5,
            hidden_dim=320,
            dropout_rate=0.0,
            drop_connect_rate=0.0,
            num_labels=2,
        )
    ),
    "mobilenet_v2": lambda: transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(depth_multiplier=0.1, classifier_dropout_prob=0.0, num_labels=2)
    ),
}


def make(name):
    """A tiny classifier of images with random weights; BatchNorm knows their statistics, so that logits differ."""
    torch.manual_seed(0)
    model = MODELS[name]()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        nn.init.ones_(norm.weight)
    with torch.no_grad():
        model.train()(pixel_values=torch.as_tensor(np.stack(pixels(32)["pixel_values"])))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


@pytest.fixture(params=MODELS)
def model(request):
    """One of the tiny classifiers."""
    return make(request.param)


def pixels(rows=4):
    """A data set of noise."""
    draw = np.random.default_rng(0)
    return datasets.Dataset.from_dict(
        {"pixel_values": draw.normal(size=(rows, 3, SIDE, SIDE)).astype(np.float32), "labels": [0, 1] * (rows // 2)}
    ).with_format("numpy")


def test_stages_are_counted_and_not_the_layers_of_the_longest(model):
    stack = layer_stack(model)
    expected = {"ViT": 3, "Dinov2": 3, "ResNet": 3, "ConvNext": 4, "EfficientNet": 10, "MobileNetV2": 16}
    assert len(stack) == expected[type(model).__name__.removesuffix("ForImageClassification")]


def test_the_embeddings_and_the_lower_layers_are_frozen_and_no_others(model):
    freeze(model, 1)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    lowest = f"{layer_stack(model)[0]}."
    assert all(name in frozen for name, _ in model.named_parameters() if name.startswith(lowest))
    above = [f"{name}." for name in layer_stack(model)[1:]]
    assert not any(name.startswith(tuple(above)) for name in frozen) and len(frozen) < len(
        dict(model.named_parameters())
    )
    assert any(not name.startswith(lowest) for name in frozen), "the embeddings"


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "efficientnet"])
def test_batch_norm_of_frozen_layers_stays_as_it_is(name):
    model = make(name)
    freeze(model, 2)
    kept = [f"{name}." for name in layer_stack(model)[:2]]
    before = copy.deepcopy(model.state_dict())
    images = torch.as_tensor(np.stack(pixels()["pixel_values"]))
    given = []
    model.get_submodule(layer_stack(model)[2]).register_forward_pre_hook(lambda module, args: given.append(args[0]))
    for mode in (True, False):
        model.train(mode)(pixel_values=images)
    torch.testing.assert_close(*given, msg="frozen layers normalise by their running statistics in training too")
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all("running_" in key or "num_batches" in key for key in changed)
    assert not any(key.startswith(tuple(kept)) or ".embedder." in key or "conv_stem" in key for key in changed)
    assert len(batch_norms(model)) == sum(key.endswith("running_mean") for key in changed)


def test_a_model_without_embeddings_is_refused():
    model = MODELS["resnet"]()
    model.resnet.stem = model.resnet.embedder
    del model.resnet.embedder
    with pytest.raises(
        ConfigError, match="`freeze_layers` needs a model with embeddings, and ResNetModel has nothing"
    ):
        freeze(model, 1)
