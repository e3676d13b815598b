"""Learning without forgetting."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from ..transfer.regularizer import at_least_float32
from ..utils.validation import NonNegative, Positive
from .regularized import CopyRegularizer, RegularizedTrainer, RegularizedTrainingArguments, check_source_classes


class SourceDistillation(CopyRegularizer):
    """
    Divergence of the source head's answers from those at the start of training on the target.

        mean over rows of KL( softmax(s^0 / T) || softmax(s / T) )

    s are the source head's logits of the target's rows, and s^0 those of the model at the start, of the very same
    inputs: stored ones would belong to other augmentations.
    """

    def forward(self, transfer_model, inputs, labels, output):
        """Return `weight` times the mean, `()`."""
        before = at_least_float32(self.copy.source_logits(inputs))
        now = at_least_float32(transfer_model.source_head(output.target_features))
        log_before, log_now = ((logits / self.args.temperature).log_softmax(-1) for logits in (before, now))
        return self.weight * nn.functional.kl_div(log_now, log_before, log_target=True, reduction="batchmean")


@dataclass
class LWFTrainingArguments(RegularizedTrainingArguments):
    """
    [`~merlin_hf.methods.regularized.RegularizedTrainingArguments`] for [`LWFTrainer`].

    Args:
        regularization_weight (`float`): lambda.
        temperature (`float`): T.
    """

    regularization_weight: NonNegative = field(default=4.0, metadata={"help": "Factor of the distillation loss."})
    temperature: Positive = field(default=3.0, metadata={"help": "Temperature of the distillation."})


class LWFTrainer(RegularizedTrainer):
    """
    Learning without forgetting: the source's predictions for target rows stay what they were.

        L_target + regularization_weight * KL( softmax(s^0 / T) || softmax(s / T) )

    s are the logits of the source head for a target row. s^0 are those at the end of training on the source. The
    source head is trained too. T is `temperature`. The loss has no factor T^2, as in the paper: Li and Hoiem 2016
    (arXiv 1606.09282).

    A step costs one batch of the target, a forward pass of the copy, and memory for a second copy of the weights.
    Checkpoints hold that copy too.
    """

    training_args_class: ClassVar = LWFTrainingArguments
    needs_source: ClassVar[bool] = True
    takes_several_sources: ClassVar[bool] = False
    regularizer_class: ClassVar = SourceDistillation
    target_row_cost: ClassVar[float] = 4 / 3
    search_space: ClassVar = {"regularization_weight": (0.4, 4.0, 10.0)}

    def check_data(self):
        """Check the data as RegularizedTrainer does, and that the source has one class per row."""
        super().check_data()
        check_source_classes(self)
