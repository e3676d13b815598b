"""Models of comparisons: frozen layers stay as they are, and sentence encoders have their own pooling."""

import copy
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers
from torch import nn

from merlin_hf.comparison import ConfigError
from merlin_hf.comparison.models import build_model, freeze, load_model_config, model_identity
from merlin_hf.data.labels import Labels
from merlin_hf.data.tasks import TEXT
from merlin_hf.transfer.layers import batch_norms, layer_stack
from tests.tiny import tiny_sentence_encoder


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


# Sentence encoders


@pytest.fixture
def section(tmp_path):
    """What a configuration says of a sentence encoder."""
    tiny_sentence_encoder().save(str(tmp_path / "encoder"), create_model_card=False)
    return SimpleNamespace(
        model=str(tmp_path / "encoder"), sentence_encoder=None, from_scratch=False, freeze_layers=0, image_size=None,
        attn_implementation="eager", max_seq_length=7,
    )  # fmt: skip


@pytest.mark.parametrize("pairs", [False, True])
def test_a_sentence_encoder_is_built_for_texts_and_for_pairs(section, pairs):
    config = load_model_config(section, Labels(names=["a", "b", "c"]))
    models = [build_model(section, config, TEXT, seed, pairs) for seed in (1, 1, 2)]
    weights = [model.classifier.weight for model in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert (models[0].pairs, models[0].config.num_labels, models[0].encoder.max_seq_length) == (pairs, 3, 7)
    assert models[0].config._attn_implementation == "eager"
    freeze(models[0], 1)
    assert layer_stack(models[0]) == [f"encoder.0.model.encoder.layer.{n}" for n in range(2)]
    section.from_scratch = True
    scratch = build_model(section, config, TEXT, 1, pairs)
    assert not torch.equal(scratch.get_input_embeddings().weight, models[1].get_input_embeddings().weight)


def test_a_run_is_another_with_and_without_the_pooling_of_the_encoder(section):
    config = load_model_config(section, Labels(names=["a", "b"]))
    found = {model_identity(section, config)}
    pooling = Path(section.model, "1_Pooling", "config.json")
    pooling.write_text(pooling.read_text().replace("mean", "cls"))
    found.add(model_identity(section, config))
    section.sentence_encoder = False
    found.add(model_identity(section, config))
    assert len(found) == 3
    assert isinstance(build_model(section, config, TEXT, 1), transformers.BertForSequenceClassification)
