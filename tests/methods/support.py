"""What the tests of methods share: any method by name, and runs written out in plain PyTorch to compare with."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import ResNetConfig, ResNetForImageClassification

from merlin_hf import METHODS
from merlin_hf.transfer.trainer import SOURCE_INPUTS
from tests.support import EVERY_STEP, SOURCE_LABELS
from tests.tiny import CONV, NUM_LABELS, tiny_bert, tiny_dataset


NO_STEPS = ["linear_probe", "embeddings"]
SAME_LABELS = ["zero_shot", "pooled"]  # methods for tasks whose labels have the same names
TEXT_METHODS = [name for name in METHODS if name != "stochnorm"]
REGULARIZED = ["l2_sp", "delta", "bss", "lwf", "co_tuning", "bi_tuning", "r3f"]
WITHOUT_SOURCE = ["wise_ft", "l2_sp", "delta", "bss", "bi_tuning", "r3f"]
TWO_PHASES = ["sequential", "wise_ft", *REGULARIZED, "merlin_ft"]

# A schedule-free run: every step is `weight -= learning_rate * gradient`.
PLAIN_SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "learning_rate": 0.1}


def a_pretrained_bert(dropout: float = 0.0) -> nn.Module:
    """A model whose features differ from row to row, as those of a random one hardly do."""
    model = tiny_bert(dropout=dropout)
    model.bert.pooler.dense.weight.data.mul_(30)
    return model


def inputs_of(dataset: Dataset) -> dict[str, Tensor]:
    """The model's arguments for all rows of a data set."""
    return {name: torch.tensor(dataset[name][:]) for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def features_of(model: nn.Module, dataset: Dataset) -> np.ndarray:
    """What enters the last layer of a BERT, in float64."""
    return model.eval().bert(**inputs_of(dataset)).pooler_output.double().numpy()


def tiny_resnet(seed: int = 0) -> ResNetForImageClassification:
    """A four-stage ResNet, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNetForImageClassification(ResNetConfig(num_labels=NUM_LABELS, embedding_size=8, **CONV))


def digits(classes: list[int], rows: int, dtype: torch.dtype = torch.float32, size: int = 16) -> list[dict]:
    """Scans of handwritten digits, `(3, size, size)`, as many of each class; labels are positions in `classes`."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images).float().view(-1, 1, 8, 8) / 8 - 1
    images = nn.functional.interpolate(images, size=(size, size)).expand(-1, 3, -1, -1).to(dtype)
    chosen = [int((labels == classes[i % len(classes)]).nonzero()[0][i // len(classes)]) for i in range(rows)]
    return [{"pixel_values": images[row], "labels": i % len(classes)} for i, row in enumerate(chosen)]


def padded(dataset: Dataset) -> Dataset:
    """The same rows with ends of different lengths masked."""
    lengths = torch.arange(len(dataset)) % 4 + 5
    mask = (torch.arange(8) < lengths[:, None]).long()
    ids = torch.tensor(dataset["input_ids"][:]) * mask
    dataset = dataset.remove_columns(["input_ids", "attention_mask"])
    return dataset.add_column("input_ids", ids.tolist()).add_column("attention_mask", mask.tolist())


def partly_labelled(dataset: Dataset) -> Dataset:
    """The same rows, every fifth without a label."""
    labels = [-100 if i % 5 == 4 else label for i, label in enumerate(dataset["label"])]
    return dataset.remove_columns("label").add_column("label", labels)


def source_rows() -> Dataset:
    return tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1)


def source_rows_of_same_labels(names: Sequence[str] = ("class2", "class0", "class1")) -> Dataset:
    """A source whose classes have the names of the target's, in another order."""
    return tiny_dataset(rows=40, num_labels=NUM_LABELS, seed=1).cast_column("label", ClassLabel(names=list(names)))


def build(method, output_dir, model=None, target=None, source=True, trainer_class=None, args=None, **options):
    """
    The trainer of a method on tiny texts, or for a ResNet on digits; `source` may be a data set of one's own.

    Options are those of the training arguments, some of the trainer, and `image_size`. MeRLin-FT has the paper's two
    phases unless told otherwise.
    """
    trainer_class = trainer_class or METHODS[method]
    image_size = options.pop("image_size", 16)
    given = {
        name: options.pop(name)
        for name in ("callbacks", "data_collator", "peft_config", "eval_dataset")
        if name in options
    }
    defaults = {
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
    }
    if method == "merlin":
        defaults.update(EVERY_STEP)
    if method == "merlin_ft":
        defaults.update(source_phase_fraction=0.0, rho=0.3, balance_gradients=True)
    model = tiny_bert() if model is None else model
    if source is True:
        source = METHODS[method].takes_source
    is_image = model.config.model_type == "resnet"
    if is_image:  # in a list, which does not tell how many classes there are
        kind = {"dtype": model.classifier[-1].weight.dtype, "size": image_size}
        target, held_out = digits([0, 1, 2], 24, **kind), digits([0, 1, 2], 12, **kind)
        source = digits([3, 4, 5, 6], 40, **kind) if source else None
        defaults["num_source_labels"] = SOURCE_LABELS if source else None
    else:
        target, held_out = tiny_dataset() if target is None else target, tiny_dataset(rows=12, seed=2)
        if source is True:
            source = source_rows_of_same_labels() if method in SAME_LABELS else source_rows()
    return trainer_class(
        model=model,
        args=trainer_class.training_args_class(str(output_dir), **{**defaults, **options}) if args is None else args,
        train_dataset=target,
        **{"eval_dataset": held_out, **({"source_dataset": source} if source else {}), **given},
    )


def weights(trainer) -> dict[str, Tensor]:
    """All that a trainer trains, and buffers, by name."""
    return {name: tensor.clone() for name, tensor in trainer.transfer_model.state_dict().items()}


def assert_same_weights(one, other, exact=True, tolerance=1e-12, but=()):
    """Of two trainers or dictionaries of weights, `but` for some names."""
    one, other = (w if isinstance(w, dict) else weights(w) for w in (one, other))
    one, other = ({n: t for n, t in w.items() if n not in but} for w in (one, other))
    assert set(one) == set(other)
    for name, weight in one.items():
        if exact:
            assert torch.equal(weight, other[name]), name
        else:
            torch.testing.assert_close(
                other[name], weight, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )


# Runs written out


class Step(NamedTuple):
    """A micro-batch as a method's `compute_loss` got it, the state of the generator before, and the loss it gave."""

    source: dict[str, Tensor] | None
    target: dict[str, Tensor]
    generator: Tensor
    loss: float

    @property
    def labels(self) -> Tensor:
        return self.target["labels"]

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.target.items() if name != "labels"}


def traced(trainer_class, steps: list[Step]):
    """A trainer class that appends what each training step is about to `steps`."""

    class Traced(trainer_class):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            if SOURCE_INPUTS not in inputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            source, target = inputs[SOURCE_INPUTS], {n: v for n, v in inputs.items() if n != SOURCE_INPUTS}
            generator = torch.get_rng_state()
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            steps.append(Step(source, target, generator, loss.item()))
            return loss

    return Traced


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over labelled rows, or over labelled tokens of logits `(batch, length, num_labels)`."""
    return cross_entropy(logits.flatten(0, -2), labels.flatten())


class Written:
    """The modules of a trainer, copied to be trained by a plain loop: the classifier, source head and projector."""

    def __init__(self, trainer):
        self.model = copy.deepcopy(trainer.model).train()
        self.source_head = copy.deepcopy(trainer.transfer_model.source_head)
        regularizer = copy.deepcopy(trainer.transfer_model.regularizer)
        self.projector = None if regularizer is None else getattr(regularizer, "projector", None)
        if self.projector is not None:
            self.projector.double()

    def modules(self):
        return [m for m in (self.model, self.source_head, self.projector) if m is not None]

    def parameters(self):
        return [parameter for module in self.modules() for parameter in module.parameters()]

    def named_weights(self):
        prefixes = ("model.", "source_head.", "regularizer.projector.")
        modules = zip(prefixes, (self.model, self.source_head, self.projector), strict=True)
        return {p + n: t for p, m in modules if m is not None for n, t in m.state_dict().items()}

    def features(self, inputs, model=None):
        model = self.model if model is None else model
        if model.config.model_type == "resnet":
            return model.resnet(inputs["pixel_values"]).pooler_output.flatten(1)
        output = model.bert(**inputs)  # there is no dropout in these tests
        is_of_tokens = output.pooler_output is None
        return output.last_hidden_state if is_of_tokens else output.pooler_output

    def head(self):
        return self.model.classifier[-1] if isinstance(self.model.classifier, nn.Sequential) else self.model.classifier

    def source_loss(self, step):
        inputs = {name: value for name, value in step.source.items() if name != "labels"}
        return mean_cross_entropy(self.source_head(self.features(inputs)), step.source["labels"])

    def target_loss(self, step):
        return mean_cross_entropy(self.model(**step.inputs).logits, step.labels)

    def descend(self, loss, learning_rate):
        gradients = torch.autograd.grad(loss, self.parameters(), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters(), gradients, strict=True):
                if gradient is not None:
                    parameter -= learning_rate * gradient


def check_written_out(trainer, steps, penalty, start=lambda written: None, after=None, tolerance=1e-9):
    """
    Train, and check losses and weights against a plain loop over the same batches.

    Args:
        trainer: of a [`traced`] class, with `PLAIN_SGD` and a model in float64 without dropout, where a step has one
        micro-batch.
        penalty (`Callable`): maps [`Written`], a memory and a [`Step`] to what the method adds to the target's loss.
        start (`Callable`): makes the memory where training on the target begins.
        after (`Callable`, *optional*): called with [`Written`], the memory and the step when the weights have moved.

    Returns:
        the losses of the target's steps and the penalties in them.
    """
    written, rate = Written(trainer), trainer.args.learning_rate
    trainer.train()
    memory: Any = None
    started, target_losses, penalties = False, [], []
    assert len(steps) == trainer.args.max_steps
    for number, step in enumerate(steps):
        if step.source is not None:
            loss = written.source_loss(step)
        else:
            if not started:
                memory, started = start(written), True
            target_losses.append(written.target_loss(step))
            penalties.append(penalty(written, memory, step))
            loss = target_losses[-1] + penalties[-1]
        assert step.loss == pytest.approx(loss.item(), rel=tolerance), f"step {number}"
        written.descend(loss, rate)
        if after is not None and started:
            after(written, memory, step)
    expected, found = written.named_weights(), weights(trainer)
    assert set(expected) == set(found)
    for name, weight in expected.items():
        torch.testing.assert_close(
            found[name].to(weight.dtype), weight, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    return [x.item() for x in target_losses], [torch.as_tensor(x).item() for x in penalties]
