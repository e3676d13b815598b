"""Frozen layers of models of images: they stay as they are, and what they make of an image is kept."""

import copy
import itertools
from types import SimpleNamespace

import datasets
import numpy as np
import psutil
import pytest
import torch
import transformers
from torch import nn
from transformers import default_data_collator

from merlin_hf.comparison import ConfigError, compare
from merlin_hf.comparison.config import TargetConfig
from merlin_hf.comparison.encoding import ImageEncoder, resize_and_scale
from merlin_hf.comparison.experiment import Experiment
from merlin_hf.comparison.frozen import (
    FrozenImageEncoder,
    LowerLayers,
    check_cut,
    check_memory,
    cut_lower_layers,
    layer_stack,
    names_above_the_cut,
    stack_states,
)
from merlin_hf.comparison.models import freeze
from merlin_hf.comparison.plan import make_plans
from merlin_hf.comparison.tasks import load_rows
from merlin_hf.data.images import read_image
from merlin_hf.methods.stochnorm import batch_norms
from tests.comparison.conftest import read
from tests.comparison.test_frozen import finals


SIDE = 32
TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
DEPTHS = {"hidden_sizes": [8, 16, 16], "depths": [1, 2, 1]}
# What they differ in: embeddings of three names, with and without class token, BatchNorm, stages that are lists of layers themselves,
# and whether `hidden_states` begins with the embeddings.
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
    """A tiny classifier of images with random weights, of which BatchNorm knows the statistics, so that logits differ between images."""
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


def test_the_layers_above_the_cut_give_the_logits_and_gradients_of_the_whole_model(model):
    freeze(model, 1)
    lower = LowerLayers(model, 1, default_data_collator)
    check_cut(lower, pixels())
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and any(parameter.requires_grad for parameter in model.parameters())
    upper = cut_lower_layers(copy.deepcopy(model), 1)
    states = lower(pixels().remove_columns("labels").__getitem__, [0, 1, 2, 3])
    logits = [
        model(pixel_values=torch.as_tensor(np.stack(pixels()["pixel_values"]))).logits,
        upper(**stack_states([{"pixel_values": state} for state in states])).logits,
    ]
    assert logits[0].std(0).max() > 1e-3, "equal logits tell nothing"
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
    for of_model in logits:
        of_model.square().sum().backward()
    gradients = [[p.grad for p in part.parameters() if p.grad is not None] for part in (model, upper)]
    assert len(gradients[0]) >= 4 and all(p.grad is None for name, p in model.named_parameters() if name in frozen)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_stages_are_counted_and_not_the_layers_of_the_longest(model):
    stack = layer_stack(model)
    expected = {"ViT": 3, "Dinov2": 3, "ResNet": 3, "ConvNext": 4, "EfficientNet": 10, "MobileNetV2": 16}
    assert len(stack) == expected[type(model).__name__.removesuffix("ForImageClassification")]


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "efficientnet"])
def test_batch_norm_of_frozen_layers_stays_as_it_is(name):
    model = make(name)
    freeze(model, 2)
    kept = {
        f"{name}." for name, module in model.named_modules() for layer in layer_stack(model)[:2] if module is layer
    }
    before = copy.deepcopy(model.state_dict())
    images = torch.as_tensor(np.stack(pixels()["pixel_values"]))
    given = []
    layer_stack(model)[2].register_forward_pre_hook(lambda module, args: given.append(args[0]))
    for mode in (True, False):
        model.train(mode)(pixel_values=images)
    torch.testing.assert_close(*given, msg="frozen layers normalise by their running statistics in training too")
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all("running_" in key or "num_batches" in key for key in changed)
    assert not any(key.startswith(tuple(kept)) or ".embedder." in key or "conv_stem" in key for key in changed)
    assert len(batch_norms(model)) == sum(key.endswith("running_mean") for key in changed)


@pytest.mark.parametrize(
    ("name", "method"),
    [*itertools.product(["vit", "resnet"], ["finetune", "joint", "merlin", "delta"]), ("resnet", "stochnorm")],
)
@pytest.mark.slow
def test_a_run_on_kept_states_is_the_run_on_the_images(images, config, tmp_path, name, method):
    model = make(name)
    assert not any(module.p for module in model.modules() if isinstance(module, nn.Dropout))
    model.save_pretrained(tmp_path / "model")
    options = {
        "model": str(tmp_path / "model"),
        "target": {"path": str(images / "target"), "rows": 16},
        "source": {"path": str(images / "source")},
        "methods": {method: {}},
        "search": {"trials": 0},
        "training": {**config["training"], "logging_steps": 1, "learning_rate": 1e-2},
        "image_size": SIDE,
        "freeze_layers": 2,
    }
    found = {}
    for cached in (False, True):
        changes = {"cache_frozen_layers": cached, "output_dir": str(tmp_path / str(cached))}
        compare(read(config, **options, **changes), show_progress=False)
        found[cached] = finals(tmp_path / str(cached))
    assert found[True].keys() == found[False].keys() and len(found[True]) == 2
    for run, losses in found[True].items():
        expected = [loss for loss in found[False][run] if loss]
        assert len(expected) >= 3
        np.testing.assert_allclose([loss for loss in losses if loss], expected, rtol=1e-3, atol=1e-4)


def test_an_image_goes_through_the_lower_layers_once_and_only_then_are_its_pixels_made(images):
    rows = load_rows(TargetConfig(path=str(images / "target")), "target", "train_split")
    preprocess, made, seen = resize_and_scale(SIDE, 3), [], []

    def counted(batch):
        made.append(len(batch))
        return preprocess(batch)

    model = make("resnet")
    lower = LowerLayers(model, 1, default_data_collator)
    encoder = FrozenImageEncoder(ImageEncoder(counted), lower)
    model.resnet.embedder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    encoded = encoder(rows)
    batch = encoder.collator([encoded[place] for place in (3, 7, 3)])
    again = encoder.collator(list(encoded.select([7, 3])))
    assert sum(made) == sum(seen) == 2
    torch.testing.assert_close(again["pixel_values"], batch["pixel_values"][[1, 0]])
    assert batch["labels"].tolist() == [rows.labels[place] for place in (3, 7, 3)]
    assert len(encoded[[3, 7, 11, 3]]["pixel_values"]) == 4 and sum(seen) == 3
    with torch.no_grad():
        images_of = torch.as_tensor(preprocess([read_image(rows.dataset[place]["image"]) for place in (3, 7, 3)]))
        expected = model.base_model(images_of, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(batch["pixel_values"], expected)


def test_states_are_stacked_in_float32():
    states = torch.randn(2, 4, 3, 3).half()
    batch = stack_states([{"pixel_values": state, "labels": number} for number, state in enumerate(states)])
    assert batch["pixel_values"].dtype == torch.float32 and torch.equal(batch["pixel_values"], states.float())
    assert batch["labels"].tolist() == [0, 1]
    assert "labels" not in stack_states([{"pixel_values": states[0]}])


def test_models_that_pass_more_than_states_are_refused():
    swin = transformers.SwinForImageClassification(
        transformers.SwinConfig(
            image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4
        )
    )
    with pytest.raises(ConfigError, match="`cache_frozen_layers` cannot be used with SwinForImageClassification"):
        check_cut(LowerLayers(swin, 1, default_data_collator), pixels())


def test_logits_that_are_the_same_for_all_images_tell_nothing():
    torch.manual_seed(0)
    model = MODELS["mobilenet_v2"]()  # as BatchNorm is at first, a deep network's features vanish
    with pytest.raises(ConfigError, match="its logits are the same for all of 4 rows"):
        check_cut(LowerLayers(model, 1, default_data_collator), pixels())


def test_layers_that_are_left_have_other_names(model):
    stack = next(name for name, module in model.named_modules() if module is layer_stack(model))
    names = [f"{stack}.0", f"{stack}.1", f"{stack}.1.x.0", f"{stack}.2.y", "classifier"]
    assert names_above_the_cut(model, names, 1) == [f"{stack}.0", f"{stack}.0.x.0", f"{stack}.1.y", "classifier"]


@pytest.mark.parametrize("frozen", [1, 2, 3])
def test_delta_compares_the_layers_that_are_left(images, config, tmp_path, frozen):
    make("resnet").save_pretrained(tmp_path / "model")
    options = {
        "model": str(tmp_path / "model"),
        "target": {"path": str(images / "target"), "rows": 16},
        "source": {"path": str(images / "source")},
        "methods": ["delta", "stochnorm"],
        "search": {"trials": 0},
        "image_size": SIDE,
        "freeze_layers": frozen,
        "cache_frozen_layers": True,
    }
    experiment = Experiment(read(config, **options))
    delta, stochnorm = make_plans(experiment)
    if frozen == 3:
        for plan, told in (
            (delta, "freezes all layers that are compared"),
            (stochnorm, "with BatchNorm in layers that are trained"),
        ):
            with pytest.raises(ValueError, match=told):
                trainer, _ = experiment.build_trainer(plan.method, plan.final_runs(experiment, {})[0])
        return
    trainer, _ = experiment.build_trainer(delta.method, delta.final_runs(experiment, {})[0])
    assert trainer.layer_names() == [f"resnet.encoder.stages.{number}" for number in range(3 - frozen)]


def test_a_model_without_embeddings_is_refused():
    model = MODELS["resnet"]()
    model.resnet.stem = model.resnet.embedder
    del model.resnet.embedder
    with pytest.raises(
        ConfigError, match="`freeze_layers` needs a model with embeddings, and ResNetModel has nothing"
    ):
        freeze(model, 1)


@pytest.mark.parametrize(("dtype", "size"), [(None, 4), (torch.bfloat16, 2)])
def test_more_than_the_memory_is_refused_before_it_is_full(monkeypatch, dtype, size):
    lower = LowerLayers(make("resnet"), 1, default_data_collator, dtype)
    one = 8 * (SIDE // 4) ** 2 * size
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000 * one))
    check_memory(lower, pixels(), 1000)
    with pytest.raises(ConfigError, match=r"\(8, 8, 8\) numbers of each of 1,001 images"):
        check_memory(lower, pixels(), 1001)
