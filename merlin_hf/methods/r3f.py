"""Fine-tuning that is smooth around its inputs."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..transfer.labels import REGRESSION, problem_type_of
from ..transfer.model import TransferModel
from ..transfer.regularizer import at_least_float32
from ..utils.validation import NonNegative, Positive
from .regularized import MethodRegularizer, RegularizedTrainer, RegularizedTrainingArguments


NOISES = ("uniform", "normal")


class Smoothness(MethodRegularizer):
    """
    The symmetric divergence between the predictions f(x) and f(x + z), averaged over rows.

    It is KL(f(x) || f(x + z)) + KL(f(x + z) || f(x)) of probabilities, of each label's where a row has several, and
    the squared difference of real predictions. z is added to the input embeddings of a text and to the values of any
    other input.
    """

    def forward(self, transfer_model, inputs, labels, output):
        """Return `weight` times the mean, `()`."""

        def noisy_features(inputs):  # in one piece, as the backward pass of a chunk does it again, with the same noise
            with self.noisy(transfer_model, inputs) as noisy_inputs:
                return transfer_model.features(noisy_inputs)

        noisy_logits = at_least_float32(transfer_model.head(transfer_model.target_features(inputs, noisy_features)))
        logits = at_least_float32(output.target_logits)
        config = getattr(transfer_model.model, "config", None)
        kind = problem_type_of(labels, logits.shape[-1], getattr(config, "problem_type", None))
        return self.weight * symmetric_divergence(logits, noisy_logits, kind)

    @contextlib.contextmanager
    def noisy(self, transfer_model: TransferModel, inputs: dict) -> Iterator[dict]:
        """Give the inputs of a second pass; token ids get their noise where they are embedded."""
        model: Any = transfer_model.model
        name = getattr(model, "main_input_name", "input_ids")
        if name in inputs and inputs[name].is_floating_point():
            yield {**inputs, name: self.with_noise(inputs[name])}
            return
        embeddings = model.get_input_embeddings()
        hook = embeddings.register_forward_hook(lambda module, args, embedded: self.with_noise(embedded))
        try:
            yield dict(inputs)
        finally:
            hook.remove()

    def with_noise(self, values: Tensor) -> Tensor:
        """Return the values plus z."""
        z = torch.randn_like(values) if self.args.noise == "normal" else 2 * torch.rand_like(values) - 1
        return values + self.args.noise_scale * z


def symmetric_divergence(logits: Tensor, other_logits: Tensor, problem_type: str) -> Tensor:
    """
    Return the mean over rows of the divergence that [`Smoothness`] is about.

    Args:
        logits, other_logits (`torch.FloatTensor` of shape `(n, num_labels)`): the two predictions.
        problem_type (`str`): as in the model's configuration.

    Returns:
        `torch.FloatTensor` of shape `()`.
    """
    if problem_type == REGRESSION:
        return nn.functional.mse_loss(logits, other_logits)
    if problem_type == "multi_label_classification":  # two classes each, on and off
        logits, other_logits = (torch.stack([x, torch.zeros_like(x)], dim=-1) for x in (logits, other_logits))
    first, second = logits.log_softmax(-1), other_logits.log_softmax(-1)
    return ((first.exp() - second.exp()) * (first - second)).sum() / len(logits)


@dataclass
class R3FTrainingArguments(RegularizedTrainingArguments):
    """
    [`~merlin_hf.methods.regularized.RegularizedTrainingArguments`] for [`R3FTrainer`].

    Args:
        regularization_weight (`float`): lambda of the paper.
        noise_scale (`float`): radius of the uniform noise, or the standard deviation of the normal one.
        noise (`str`): `"uniform"` or `"normal"`.
    """

    regularization_weight: NonNegative = field(default=1.0, metadata={"help": "Factor of the smoothness loss."})
    noise_scale: Positive = field(default=1e-5, metadata={"help": "Scale of the noise on the input embeddings."})
    noise: str = field(default="uniform", metadata={"help": "Kind of noise.", "choices": list(NOISES)})


class R3FTrainer(RegularizedTrainer):
    """
    R3F: keeps predictions from changing with small noise on the input.

        L_target + regularization_weight * [ KL(f(x) || f(x + z)) + KL(f(x + z) || f(x)) ],  z uniform in [-1e-5, 1e-5]

    It is a cheap form of SMART. The second pass draws its own dropout, as in the reference code. The range of the
    noise is `noise_scale`. The method is by Aghajanyan et al. 2020 (arXiv 2008.03156).

    A step costs two batches of the target.
    """

    training_args_class: ClassVar = R3FTrainingArguments
    regularizer_class: ClassVar = Smoothness
    target_row_cost: ClassVar[float] = 2.0
    search_space: ClassVar = {"regularization_weight": (0.1, 1.0, 5.0)}
