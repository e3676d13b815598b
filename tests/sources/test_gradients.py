"""Gradients in the backbone's parameters against finite differences and heads written out, in float64."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from merlin_hf.heads import LinearHead
from merlin_hf.sources.gradients import backbone_parameters, meta_gradient, pull_back, source_gradient
from merlin_hf.sources.head import fit_source_head, held_out_accuracy
from merlin_hf.sources.measures import gradient_alignment
from merlin_hf.transfer.model import TransferModel
from merlin_hf.transfer.splits import split_by_class
from tests.tiny import TINY_CLASSIFIERS, tiny_bert, tiny_inputs


ROWS = 12


@pytest.fixture
def model():
    return TransferModel(tiny_bert().double().eval(), num_source_labels=0)


def task(model, seed=0, classes=3):
    inputs = tiny_inputs(model.model, ROWS, seed)
    with model.feature_mode(), torch.no_grad():
        return inputs, model.features(inputs), torch.arange(ROWS) % classes


def batches(inputs, size):
    for start in range(0, ROWS, size):
        rows = torch.arange(start, min(start + size, ROWS))
        yield {name: value[rows] for name, value in inputs.items()}, rows


def slopes(model, inputs, loss, parameters, direction, step=1e-5):
    """The derivative of `loss(features)` along a direction of the parameters, by central differences."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter += sign * step * direction[name]
            with model.feature_mode():
                values.append(float(loss(model.features(inputs))))
            for name, parameter in parameters.items():
                parameter -= sign * step * direction[name]
    return (values[0] - values[1]) / (2 * step)


def directions(parameters, seed=0):
    """A random direction of all parameters, and one of each group of them."""
    generator = torch.Generator().manual_seed(seed)
    every = {
        name: torch.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in parameters.items()
    }
    yield every
    for part in ("embeddings", "layer.0", "layer.1", "pooler"):
        yield {name: value if part in name else torch.zeros_like(value) for name, value in every.items()}


def written_out_meta_loss(features, labels, split):
    """Ridge regression on each train half by its normal equations, and the cross-entropy of ten times its outputs."""
    losses = []
    for train, validation in zip(*split, strict=True):
        targets = torch.nn.functional.one_hot(labels).double()
        x, y = features[train], targets[train]
        centred, mean, mean_target = x - x.mean(0), x.mean(0), y.mean(0)
        penalty = 10.0 * centred.square().sum(-1).mean()
        weight = torch.linalg.solve(
            centred.T @ centred + penalty * torch.eye(x.shape[1], dtype=x.dtype), centred.T @ (y - mean_target)
        )
        logits = 10.0 * ((features[validation] - mean) @ weight + mean_target)
        losses.append(torch.nn.functional.cross_entropy(logits, labels[validation]))
    return sum(losses) / len(losses)


def test_the_meta_gradient_is_that_of_the_meta_loss(model):
    inputs, features, labels = task(model)
    split = split_by_class(labels, 0.5, 3, torch.Generator().manual_seed(7))
    at_features = meta_gradient(features, labels, 3, 3, torch.Generator().manual_seed(7))
    parameters = backbone_parameters(model)
    found = dict(zip(parameters, pull_back(model, batches(inputs, ROWS), [at_features], parameters)[0], strict=True))
    for direction in directions(parameters):
        expected = slopes(model, inputs, lambda f: written_out_meta_loss(f, labels, split), parameters, direction)
        inner = sum(float((found[name] * direction[name]).sum()) for name in found)
        assert inner == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_source_gradient_is_that_of_the_source_loss(model):
    inputs, features, labels = task(model, classes=2)
    head = LinearHead(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)).double(), torch.zeros(2).double())
    at_features = source_gradient(features, labels, head)
    parameters = backbone_parameters(model)
    found = dict(zip(parameters, pull_back(model, batches(inputs, 5), [at_features], parameters)[0], strict=True))
    for direction in directions(parameters):
        expected = slopes(
            model,
            inputs,
            lambda f: torch.nn.functional.cross_entropy(f @ head.weight.T, labels),
            parameters,
            direction,
        )
        inner = sum(float((found[name] * direction[name]).sum()) for name in found)
        assert inner == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_step_on_the_source_lowers_the_meta_loss_by_the_inner_product(model):
    """What the alignment is for: the first-order change of the meta loss under gradient descent on the source."""
    inputs, features, labels = task(model)
    source_inputs, source_features, source_labels = task(model, seed=1)
    split = split_by_class(labels, 0.5, 2, torch.Generator().manual_seed(3))
    metas = [meta_gradient(features, labels, 3, 2, torch.Generator().manual_seed(3))]
    head = fit_source_head(source_features, source_labels, 3)
    parameters = backbone_parameters(model)
    source = pull_back(
        model, batches(source_inputs, 4), [source_gradient(source_features, source_labels, head)], parameters
    )[0]
    found = gradient_alignment(source, pull_back(model, batches(inputs, 4), metas, parameters))
    direction = dict(zip(parameters, source, strict=True))
    change = slopes(model, inputs, lambda f: written_out_meta_loss(f, labels, split), parameters, direction, step=1e-3)
    assert found.inner_product == pytest.approx(change, rel=1e-3)


def test_batches_and_several_gradients_do_not_change_anything(model):
    inputs, features, _ = task(model)
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(features.shape, generator=generator, dtype=features.dtype) for _ in range(2)]
    parameters = backbone_parameters(model)
    requires_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    together = pull_back(model, batches(inputs, 5), gradients, parameters)
    for number, gradient in enumerate(gradients):
        alone = pull_back(model, batches(inputs, ROWS), [gradient], parameters)[0]
        for one, other in zip(together[number], alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_which_parameters(model):
    every, last = backbone_parameters(model), backbone_parameters(model, 1)
    assert not any("classifier" in name for name in every) and any("embeddings" in name for name in every)
    assert set(last) < set(every)
    assert all(name.startswith(("bert.encoder.layer.1.", "bert.pooler.")) for name in last)
    with pytest.raises(ValueError, match="`layers` must be from 1 to 2"):
        backbone_parameters(model, 3)


@pytest.mark.parametrize("architecture", ["distilbert", "gpt2", "t5", "vit", "resnet", "convnext"])
def test_other_architectures(architecture):
    model = TransferModel(TINY_CLASSIFIERS[architecture]().eval(), num_source_labels=0)
    inputs, features, labels = task(model)
    at_features = meta_gradient(features, labels, 3, 2, torch.Generator().manual_seed(0))
    for layers in (None, 1):
        parameters = backbone_parameters(model, layers)
        gradient = pull_back(model, batches(inputs, 6), [at_features], parameters)[0]
        assert gradient_alignment(gradient, [gradient]).cosine == pytest.approx(1, rel=1e-5)


def test_real_labels():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    labels = features[:, 0] + 0.1 * torch.randn(ROWS, generator=generator, dtype=torch.float64)
    head = fit_source_head(features, labels, 1)
    expected = 2 / ROWS * (features @ head.weight[0] + head.bias - labels).unsqueeze(-1) * head.weight
    torch.testing.assert_close(source_gradient(features, labels, head), expected)
    assert meta_gradient(features, labels, 1, 2, generator).shape == features.shape


# The source head


def test_the_accuracy_that_is_reported_is_of_rows_held_out():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(200, 64, generator=generator), torch.arange(200) % 2
    assert held_out_accuracy(features, labels, 2) < 0.62
    features[:, 0] += 3 * labels
    assert held_out_accuracy(features, labels, 2) > 0.85


# Sources with a known answer, in a backbone that can be seen through


class BagOfWords(nn.Module):
    """A table of words, whose mean is a text's features."""

    def __init__(self, table):
        super().__init__()
        self.config = SimpleNamespace(num_labels=2)
        self.words = nn.Embedding.from_pretrained(table, freeze=False)
        self.classifier = nn.Linear(table.shape[1], 2).double()

    def forward(self, input_ids):
        return (self.classifier(self.words(input_ids).mean(1)),)


def alignment(table, target, source):
    """Of two tasks `(input_ids, labels)`."""
    model = TransferModel(BagOfWords(table), num_source_labels=0)
    parameters = {"words.weight": model.model.words.weight}
    gradients = []
    for kind, (words, labels) in (("target", target), ("source", source)):
        features = table[words].mean(1)
        if kind == "target":
            at_features = meta_gradient(features, labels, 2, 16, torch.Generator().manual_seed(0))
        else:
            at_features = source_gradient(features, labels, fit_source_head(features, labels, 2))
        gradients.append(
            pull_back(model, [({"input_ids": words}, torch.arange(len(words)))], [at_features], parameters)[0]
        )
    return gradient_alignment(gradients[1], gradients[:1]).cosine


def texts(rows, seed):
    """Two words each: 0 or 1, then 2 or 3."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (rows, 2), generator=generator) + torch.tensor([0, 2])


def test_sources_that_help_that_do_nothing_and_that_harm():
    # Both words lie along the first axis, so that for a task of one word the other is noise, which learning the task
    # shrinks.
    table = torch.tensor([[1, 0, 0], [-1, 0, 0], [1, 0, 0], [-1, 0, 0]], dtype=torch.float64)
    target_words, source_words = texts(60, 1), texts(200, 2)
    target = target_words, target_words[:, 0]
    helps = alignment(table, target, (source_words, source_words[:, 0]))
    harms = alignment(table, target, (source_words, source_words[:, 1] - 2))
    draws = [torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(seed)) for seed in range(10)]
    random = [alignment(table, target, (source_words, labels)) for labels in draws]
    assert helps > 0.5 and harms < -0.5
    assert min(random) < 0 < max(random)  # in one direction that counts, noise has a sign
    # What the classes are called does not matter.
    assert alignment(table, target, (source_words, 1 - source_words[:, 0])) == pytest.approx(helps, rel=1e-6)
