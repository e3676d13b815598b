"""Each method is a plain PyTorch loop with the paper's formula: same losses and weights, in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from merlin_hf import METHODS
from tests.methods.support import (
    PLAIN_SGD,
    REGULARIZED,
    WITHOUT_SOURCE,
    Written,
    build,
    check_written_out,
    padded,
    partly_labelled,
    tiny_resnet,
    traced,
)
from tests.tiny import (
    NUM_LABELS,
    TINY_CLASSIFIERS,
    pad_tagged,
    tagged_dataset,
    tiny_bert,
    tiny_dataset,
    tiny_token_bert,
)


def written_out(tmp_path, method, *functions, model=None, target=None, source=True, tolerance=1e-9, **options):
    """See [`check_written_out`]; two steps on the source, if there is one, and three on the target."""
    model = tiny_bert(dropout=0.0) if model is None else model
    steps = []
    trainer = build(
        method,
        tmp_path,
        model=model.double(),
        target=target,
        source=source,
        trainer_class=traced(METHODS[method], steps),
        **{**PLAIN_SGD, "max_steps": 5 if source else 3, "first_phase_fraction": 0.4, **options},
    )
    losses, penalties = check_written_out(trainer, steps, *functions, tolerance=tolerance)
    assert len(losses) == 3
    return trainer, losses, penalties


def of_tokens():
    """A token classifier and its data; batches have different numbers of labelled tokens."""
    source = tagged_dataset(rows=40, num_labels=5, seed=1, longest=14)
    data = {"target": tagged_dataset(), "source": source, "eval_dataset": tagged_dataset(rows=7)}
    return {"model": tiny_token_bert(dropout=0.0), "data_collator": pad_tagged, **data}


@pytest.mark.parametrize("rows", ["sentences", "tokens"])
def test_sequential(tmp_path, rows):
    data = of_tokens() if rows == "tokens" else {"target": partly_labelled(tiny_dataset())}
    written_out(tmp_path, "sequential", lambda written, memory, step: 0.0, **data)


# L2-SP


def starting_weights(written):
    return {name: parameter.detach().clone() for name, parameter in written.model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "source", "new"),
    [
        ("bert", True, {"classifier.weight", "classifier.bias"}),
        ("tokens", True, {"classifier.weight", "classifier.bias"}),
        ("bert", False, {"classifier.weight", "classifier.bias"}),
        (
            "roberta",
            False,
            {f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")},
        ),
    ],
)
def test_l2_sp(tmp_path, name, source, new):
    """New layers are the last one, and without a source what else lies outside the base model."""

    def penalty(written, start, step):
        total = 0.0
        for parameter, weight in written.model.named_parameters():
            if parameter in new:
                total = total + 0.3 / 2 * (weight**2).sum()
            else:
                total = total + 0.7 / 2 * ((weight - start[parameter]) ** 2).sum()
        return total

    given = of_tokens() if name == "tokens" else {"model": tiny_bert(dropout=0.0), "source": source}
    if name == "roberta":
        given["model"] = model = TINY_CLASSIFIERS[name]()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
        model.config.attention_probs_dropout_prob = 0.0
    _, _, penalties = written_out(
        tmp_path,
        "l2_sp",
        penalty,
        starting_weights,
        regularization_weight=0.7,
        head_regularization_weight=0.3,
        **given,
    )
    assert min(penalties) > 1e-3


def test_l2_sp_leaves_frozen_weights_out(tmp_path):
    model = tiny_bert(dropout=0.0)
    model.bert.embeddings.requires_grad_(False)
    trainer = build("l2_sp", tmp_path, model=model, source=False, max_steps=1)
    trainer.train()
    kept = trainer.transfer_model.regularizer.extra_state()
    assert len(kept) > 10 and not any("embeddings" in name for name in kept)


# DELTA


def track_statistics(model, whether):
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = whether


def delta_functions(attention, weight, head_weight):
    """Penalty and start of DELTA for the channel weights that `attention` gives."""

    def outputs(model, layers, inputs):
        if model.config.model_type == "resnet":
            hidden = model.resnet(inputs["pixel_values"], output_hidden_states=True).hidden_states[1:]
            assert len(hidden) == len(layers) == 4
            return [h.flatten(2) for h in hidden], None
        hidden = model.bert(**inputs, output_hidden_states=True).hidden_states[1:]
        return [h.transpose(1, 2) for h in hidden], inputs["attention_mask"][:, None, :].double()

    def start(written):
        return copy.deepcopy(written.model).eval()

    def penalty(written, before, step):
        layers = attention()
        track_statistics(written.model, False)  # which this second pass would move again
        now, mask = outputs(written.model, layers, step.inputs)
        track_statistics(written.model, True)
        with torch.no_grad():
            then, _ = outputs(before, layers, step.inputs)
        total = 0.0
        for layer, one, other in zip(layers, now, then, strict=True):
            rows, channels, positions = one.shape
            for row in range(rows):
                counted = torch.ones(positions) if mask is None else mask[row, 0]
                for channel in range(channels):
                    distance = (counted * (one[row, channel] - other[row, channel]) ** 2).sum() / counted.sum()
                    a = 1 / channels if layer is None else layer[channel]
                    total = total + weight / 2 * channels * a * distance / rows
        head = written.head()
        return total + head_weight / 2 * ((head.weight**2).sum() + (head.bias**2).sum())

    return penalty, start


@pytest.mark.parametrize("attention", ["none", "gradient"])
@pytest.mark.parametrize("name", ["text", "images"])
def test_delta(tmp_path, name, attention):
    """Text with padding, which is left out; the attention itself is compared elsewhere."""
    weight, head_weight = 0.3, 0.2
    steps = []
    trainer = build(
        "delta",
        tmp_path,
        model=(tiny_resnet() if name == "images" else tiny_bert(dropout=0.0)).double(),
        target=None if name == "images" else padded(tiny_dataset()),
        source=name == "text",
        trainer_class=traced(METHODS["delta"], steps),
        channel_attention=attention,
        regularization_weight=weight,
        head_regularization_weight=head_weight,
        **{**PLAIN_SGD, "max_steps": 4, "first_phase_fraction": 0.5, "learning_rate": 0.02},
    )

    def channel_weights():
        regularizer = trainer.transfer_model.regularizer
        found = [regularizer.channel_weights.get(layer) for layer in regularizer.layer_names]
        assert len(found) == (4 if name == "images" else 2)
        assert all((a is None) == (attention == "none") for a in found)
        return found

    _, penalties = check_written_out(trainer, steps, *delta_functions(channel_weights, weight, head_weight))
    assert len(penalties) == (4 if name == "images" else 2)
    assert penalties[-1] != pytest.approx(penalties[0], rel=1e-3)


# BSS


@pytest.mark.parametrize("k", [1, 3])
def test_bss(tmp_path, k):
    """Value and gradient by the singular vectors that NumPy finds."""

    def penalty(written, memory, step):
        features = written.features(step.inputs)
        left, values, right = np.linalg.svd(features.detach().numpy(), full_matrices=False)
        assert values.shape == (8,) and values[0] >= values[-1]
        total = 0.0
        for i in range(1, k + 1):  # a singular value is u' F v, and its gradient u v'
            u, v = torch.tensor(left[:, -i]), torch.tensor(right[-i])
            assert (u @ features @ v).item() == pytest.approx(values[-i], rel=1e-9)
            total = total + 50.0 * (u @ features @ v) ** 2
        return total

    _, _, penalties = written_out(
        tmp_path, "bss", penalty, regularization_weight=50.0, num_singular_values=k, tolerance=1e-8, learning_rate=0.02
    )
    assert min(penalties) > 1e-5


# LWF


def test_lwf(tmp_path):
    def start(written):
        return copy.deepcopy((written.model, written.source_head))

    def penalty(written, before, step):
        with torch.no_grad():
            old = before[1](written.features(step.inputs, before[0])).numpy()
        new = written.source_head(written.features(step.inputs))

        def tempered(logits):
            powers = np.exp((logits - logits.max(-1, keepdims=True)) / 2.0)
            return powers / powers.sum(-1, keepdims=True)

        p, q = tempered(old), tempered(new.detach().numpy())
        value = 5.0 * (p * (np.log(p) - np.log(q))).sum(-1).mean()
        # The gradient at the logits is (q - p) / T; a product with it has the value and the gradient.
        slope = torch.tensor(5.0 * (q - p) / 2.0 / len(p))
        product = (slope * new).sum()
        return product - product.detach() + value

    trainer, _, penalties = written_out(
        tmp_path, "lwf", penalty, start, regularization_weight=5.0, temperature=2.0, learning_rate=0.5
    )
    assert penalties[0] == pytest.approx(0.0, abs=1e-12) and penalties[-1] > 1e-6


# Co-Tuning


def test_co_tuning(tmp_path):
    """p(s | y) of the class means; a class without rows says nothing, and rows without a label do not count."""
    target = partly_labelled(tiny_dataset())
    labels = np.array(target["label"])
    labels[labels == 2] = 1
    target = target.remove_columns("label").add_column("label", labels.tolist())

    def start(written):
        inputs = {name: torch.tensor(target[name][:]) for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            logits = written.source_head(written.features(inputs)).numpy()
        probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        means = [probabilities[labels == c].mean(0) if (labels == c).any() else np.full(4, 0.25) for c in range(3)]
        return torch.tensor(np.stack(means))

    def penalty(written, relationship, step):
        log_probabilities = written.source_head(written.features(step.inputs)).log_softmax(-1)
        rows = [(r, label) for r, label in enumerate(step.labels.tolist()) if label != -100]
        return -1.7 * sum((relationship[c] * log_probabilities[r]).sum() for r, c in rows) / len(rows)

    trainer, _, _ = written_out(tmp_path, "co_tuning", penalty, start, target=target, regularization_weight=1.7)
    relationship = trainer.transfer_model.regularizer.kept["relationship"]
    torch.testing.assert_close(relationship.sum(-1), torch.ones(3).double())
    assert relationship[2].tolist() == pytest.approx([0.25] * 4)
    assert not torch.allclose(relationship[0], relationship[1], rtol=1e-6)


def test_co_tuning_asks_the_model_without_dropout(tmp_path):
    """What was said of each class is of the model in evaluation mode."""
    model = tiny_bert(dropout=0.4).double()
    trainer = build("co_tuning", tmp_path, model=model, max_steps=2, learning_rate=0.0, per_device_eval_batch_size=7)
    written = Written(trainer)
    trainer.train()
    inputs = {name: torch.tensor(trainer.train_dataset[name][:]) for name in ("input_ids", "attention_mask")}
    labels = torch.tensor(trainer.train_dataset["label"])
    with torch.no_grad():
        said = written.source_head(written.features(inputs, written.model.eval())).softmax(-1)
    expected = torch.stack([said[labels == label].mean(0) for label in range(3)])
    torch.testing.assert_close(trainer.transfer_model.regularizer.kept["relationship"], expected)


# Bi-Tuning


class SlowQueues:
    """Keys of each class in lists, and a copy of the model and the projector that follows."""

    def __init__(self, written, momentum):
        self.model, self.projector = copy.deepcopy((written.model, written.projector))
        self.momentum = momentum
        self.keys = {label: [] for label in range(NUM_LABELS)}
        self.new = []

    def follow(self, written, *_):
        own = [*self.model.parameters(), *self.projector.parameters()]
        others = [*written.model.parameters(), *written.projector.parameters()]
        with torch.no_grad():
            for mine, other in zip(own, others, strict=True):
                mine.copy_(self.momentum * mine + (1 - self.momentum) * other)


def with_one(features):
    return normalize(torch.cat([features, torch.ones(len(features), 1).double()], 1), dim=1)


@pytest.mark.parametrize("size", [1, 2, 40], ids=["one place", "fewer places than rows", "never full"])
def test_bi_tuning(tmp_path, size):
    weight, momentum, temperature = 0.8, 0.7, 0.5

    def contrast(anchors, step, queues, form, own):
        total, rows = 0.0, 0
        for row, label in enumerate(step.labels.tolist()):
            if label == -100:
                continue
            similarities, positive = [own[row]], [True]
            for other, keys in queues.keys.items():
                for key in keys[-size:]:
                    similarities.append(anchors[row] @ key[form])
                    positive.append(other == label)
            log_probabilities = (torch.stack(similarities) / temperature).log_softmax(0)
            u = 1 / sum(positive)
            of_row = [
                u * (math.log(u) - log)
                for log, is_positive in zip(log_probabilities, positive, strict=True)
                if is_positive
            ]
            total, rows = total + sum(of_row), rows + 1
        return total / rows

    def penalty(written, queues, step):
        features = written.features(step.inputs)
        z, h = normalize(written.projector(features), dim=1), with_one(features)
        with torch.no_grad():
            key_features = written.features(step.inputs, queues.model)
            z_key, h_key = normalize(queues.projector(key_features), dim=1), with_one(key_features)
        w = normalize(torch.cat([written.head().weight, written.head().bias[:, None]], 1), dim=1)[
            step.labels.clamp(min=0)
        ]
        loss = contrast(z, step, queues, 0, [a @ b for a, b in zip(z, z_key, strict=True)])
        loss = loss + contrast(w, step, queues, 1, [a @ b for a, b in zip(h, w, strict=True)])
        queues.new = [(label, z_key[row], h_key[row]) for row, label in enumerate(step.labels.tolist())]
        return weight * loss

    def after(written, queues, step):
        for label, *key in queues.new:
            if label != -100:
                queues.keys[label].append(key)
        queues.follow(written)

    trainer, _, penalties = written_out(
        tmp_path,
        "bi_tuning",
        penalty,
        lambda written: SlowQueues(written, momentum),
        after,
        target=partly_labelled(tiny_dataset()),
        regularization_weight=weight,
        key_momentum=momentum,
        contrast_temperature=temperature,
        queue_size=size,
        projection_size=6,
    )
    assert penalties[0] == pytest.approx(0.0, abs=1e-12), "a row's own key is all there is"
    assert penalties[1] > 0.1
    queue = trainer.transfer_model.regularizer.queue
    assert queue.count.tolist() == ([size] * 3 if size < 3 else [min(c, size) for c in queue.count.tolist()])
    assert size < 40 or (queue.count.sum() < 24 and (queue.count > 2).all())


def test_bi_tuning_moves_the_weights_of_classes_by_its_contrasts(tmp_path):
    """The reference code takes them without gradient."""
    trainer = build("bi_tuning", tmp_path, model=tiny_bert(dropout=0.0).double(), source=False, max_steps=2)
    trainer.train()
    transfer_model = trainer.transfer_model
    inputs = {name: torch.tensor(trainer.train_dataset[name][:8]) for name in ("input_ids", "attention_mask")}
    labels = torch.tensor(trainer.train_dataset["label"][:8])
    transfer_model.prepare_for_features()
    output = transfer_model(target_inputs=inputs, target_labels=labels)
    transfer_model.leave_feature_mode()
    gradients = torch.autograd.grad(output.penalty, [*transfer_model.head.parameters()])
    assert all(gradient.abs().max() > 1e-4 for gradient in gradients)


# R3F


@pytest.mark.parametrize("noise", ["uniform", "normal"])
def test_r3f(tmp_path, noise):
    def penalty(written, memory, step):
        rows, positions = step.inputs["input_ids"].shape
        torch.set_rng_state(step.generator)
        draw = torch.rand if noise == "uniform" else torch.randn
        z = draw(rows, positions, 32, dtype=torch.float64)
        z = 0.5 * (2 * z - 1 if noise == "uniform" else z)
        embedded = written.model.bert.embeddings.word_embeddings(step.inputs["input_ids"])
        p = written.model(**step.inputs).logits.softmax(-1)
        q = written.model(inputs_embeds=embedded + z, attention_mask=step.inputs["attention_mask"]).logits.softmax(-1)
        divergence = (p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)
        return 30.0 * divergence.mean()

    _, _, penalties = written_out(
        tmp_path,
        "r3f",
        penalty,
        target=padded(tiny_dataset()),
        regularization_weight=30.0,
        noise_scale=0.5,
        noise=noise,
        learning_rate=0.02,
    )
    assert min(penalties) > 1e-3


@pytest.mark.parametrize("kind", ["multi-label", "regression"])
def test_r3f_of_other_targets(tmp_path, kind):
    """Each label of several is a choice between two; real predictions have a squared difference."""
    labels = {
        "multi-label": [[float(i % 3 == j) for j in range(3)] for i in range(24)],
        "regression": [float(i % 3) for i in range(24)],
    }[kind]
    steps = []
    trainer = build(
        "r3f",
        tmp_path,
        model=tiny_bert(num_labels=3 if kind == "multi-label" else 1, dropout=0.0).double(),
        target=tiny_dataset().remove_columns("label").add_column("label", labels),
        source=False,
        trainer_class=traced(METHODS["r3f"], steps),
        noise_scale=0.5,
        regularization_weight=10.0,
        **{**PLAIN_SGD, "max_steps": 1},
    )
    model = copy.deepcopy(trainer.model)
    trainer.train()
    inputs = steps[0].inputs
    torch.set_rng_state(steps[0].generator)
    z = 0.5 * (2 * torch.rand(8, 8, 32, dtype=torch.float64) - 1)
    embedded = model.bert.embeddings.word_embeddings(inputs["input_ids"])
    a = model(**inputs).logits
    b = model(inputs_embeds=embedded + z, attention_mask=inputs["attention_mask"]).logits
    expected = ((a - b) ** 2).mean()
    if kind == "multi-label":
        p, q = a.sigmoid(), b.sigmoid()
        expected = 0.0
        for one, other in ((p, q), (q, p), (1 - p, 1 - q), (1 - q, 1 - p)):
            expected = expected + (one * (one / other).log()).sum() / 8
    target_loss = model(**inputs, labels=steps[0].labels.double()).loss
    assert steps[0].loss == pytest.approx((target_loss + 10.0 * expected).item(), rel=1e-9)
    assert 10.0 * expected > 1e-3


def test_r3f_in_chunks_is_one_batch(tmp_path):
    """The backward pass computes a chunk again with the noise that it had."""
    runs = []
    for chunk in (None, 4):
        trainer = build(
            "r3f",
            tmp_path,
            model=tiny_bert(dropout=0.0).double(),
            source=False,
            target_chunk_size=chunk,
            noise_scale=0.5,
            regularization_weight=10.0,
            **{**PLAIN_SGD, "max_steps": 2},
        )
        trainer.train()
        runs.append(trainer)
    one, other = (run.model.bert.embeddings.word_embeddings.weight for run in runs)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# Joint training


def test_joint(tmp_path):
    steps = []
    trainer = build(
        "joint",
        tmp_path,
        model=tiny_bert(dropout=0.0).double(),
        trainer_class=traced(METHODS["joint"], steps),
        source_weight=0.3,
        target=partly_labelled(tiny_dataset()),
        **{**PLAIN_SGD, "max_steps": 3},
    )
    written = Written(trainer)
    trainer.train()
    for step in steps:
        loss = 0.3 * written.source_loss(step) + written.target_loss(step)
        assert step.loss == pytest.approx(loss.item(), rel=1e-10)
        written.descend(loss, trainer.args.learning_rate)
    for name, weight in written.named_weights().items():
        torch.testing.assert_close(trainer.transfer_model.state_dict()[name], weight, rtol=1e-10, atol=1e-12)


def test_target_loss_is_over_labelled_rows():
    """What the loops here rely on."""
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, -100, 2, -100])
    assert cross_entropy(logits, labels) == cross_entropy(logits[::2], labels[::2])


def test_every_regularizer_is_written_out():
    """A new method needs a test here."""
    written = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    having = {name for name in METHODS if hasattr(METHODS[name], "regularizer_class")}
    assert having - {"wise_ft"} == set(REGULARIZED) <= written, "the one of WiSE-FT adds nothing to the loss"
    assert set(WITHOUT_SOURCE) == {name for name in having if not METHODS[name].needs_source}
