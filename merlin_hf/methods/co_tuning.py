"""Co-Tuning: target labels translated to the source's."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..transfer.distributed import sum_over_ranks
from ..transfer.model import evaluating
from ..transfer.refit import rank_batches
from ..transfer.regularizer import at_least_float32
from ..transfer.seeding import isolated_rng
from ..utils.validation import NonNegative
from .regularized import (
    MethodRegularizer,
    RegularizedTrainer,
    RegularizedTrainingArguments,
    check_single_label,
    check_source_classes,
    mean_of_labelled,
)


class TranslatedLabels(MethodRegularizer):
    """
    Cross-entropy of the source head's answers to translated labels.

        mean over rows of - sum over s of p(s | y) log softmax(source logits)_s

    p(s | y) is the mean, over the target's rows of class y, of what the model says of the source classes s before it
    is trained on the target.
    """

    supports_sharding: ClassVar[bool] = False

    def start(self, trainer):
        """Compute p(s | y) in one pass over the target."""
        self.kept["relationship"] = category_relationship(trainer)

    def forward(self, transfer_model, inputs, labels, output):
        """Return `weight` times the mean, `()`; rows with the label -100 are ignored."""
        log_probabilities = at_least_float32(transfer_model.source_head(output.target_features)).log_softmax(-1)
        losses = -(self.kept["relationship"][labels.clamp(min=0)] * log_probabilities).sum(-1)
        return self.weight * mean_of_labelled(losses, labels)


@torch.no_grad()
def category_relationship(trainer) -> Tensor:
    """
    Return the mean source probabilities of each target class, by the model in evaluation mode; a collective.

    Returns:
        `torch.FloatTensor` of shape `(num_labels, num_source_labels)`; uniform for a class without rows.
    """
    transfer_model = trainer.transfer_model
    head = transfer_model.source_head
    sums = at_least_float32(head.weight.new_zeros(transfer_model.num_labels, head.out_features))
    with isolated_rng("relationship", trainer.args.seed), transfer_model.feature_mode(), evaluating(transfer_model):
        for batch, is_own in rank_batches(trainer, trainer.train_dataset):
            inputs, labels = trainer.split_batch(trainer._prepare_inputs(batch))
            probabilities = at_least_float32(transfer_model(source_inputs=inputs).source_logits).softmax(-1)
            if is_own:
                counted = labels != -100
                sums.index_add_(0, labels[counted], probabilities[counted].to(sums.dtype))
    sums = sum_over_ranks(sums)
    totals = sums.sum(-1, keepdim=True)
    return torch.where(totals > 0, sums / totals.clamp(min=1e-12), 1 / sums.shape[-1])


@dataclass
class CoTuningTrainingArguments(RegularizedTrainingArguments):
    """
    [`~merlin_hf.methods.regularized.RegularizedTrainingArguments`] for [`CoTuningTrainer`].

    Args:
        regularization_weight (`float`): lambda of the paper.
    """

    regularization_weight: NonNegative = field(default=2.3, metadata={"help": "Factor of the loss on source labels."})


class CoTuningTrainer(RegularizedTrainer):
    """
    Co-Tuning: fine-tunes the source head as well, on source labels that stand for target labels.

        L_target + regularization_weight * mean of - sum over s of p(s | y_t) log softmax(theta_s(phi(x_t)))_s

    p(s | y_t) is estimated from the target's training rows between the two phases. It is the mean of the source
    probabilities over the rows of a class, the paper's direct approach. Target rows must have one class each. The
    method is by You, Kou, Long and Wang (NeurIPS 2020).

    A step costs one batch of the target.
    """

    training_args_class: ClassVar = CoTuningTrainingArguments
    needs_source: ClassVar[bool] = True
    takes_several_sources: ClassVar[bool] = False
    regularizer_class: ClassVar = TranslatedLabels
    search_space: ClassVar = {"regularization_weight": (0.3, 1.0, 2.3)}

    def check_data(self):
        """Check the data as RegularizedTrainer does, and that both tasks have one class per row."""
        super().check_data()
        check_single_label(self)
        check_source_classes(self)
