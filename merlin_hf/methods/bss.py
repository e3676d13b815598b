"""Fine-tuning with batch spectral shrinkage."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch

from ..transfer.distributed import gather_rows, is_distributed
from ..transfer.tokens import rows_of_full_batch
from ..utils.validation import NonNegative, interval
from .regularized import MethodRegularizer, RegularizedTrainer, RegularizedTrainingArguments


class SpectralShrinkage(MethodRegularizer):
    """
    The sum of the squares of the smallest singular values of a batch's features `(n, hidden_size)`.

    On several processes the batch is that of all of them, as the spectrum of a part is another.
    """

    def forward(self, transfer_model, inputs, labels, output):
        """Return `weight` times the sum, `()`."""
        features = output.target_features
        if is_distributed():
            features, _, present = gather_rows(features, labels, rows_of_full_batch(inputs, features, self.batch_size))
            features = features[present]
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            return self.weight * torch.linalg.svdvals(features)[-self.args.num_singular_values :].square().sum()


@dataclass
class BSSTrainingArguments(RegularizedTrainingArguments):
    """
    [`~merlin_hf.methods.regularized.RegularizedTrainingArguments`] for [`BSSTrainer`].

    Args:
        regularization_weight (`float`): eta of the paper.
        num_singular_values (`int`): how many of the smallest ones are shrunk, k of the paper.
    """

    regularization_weight: NonNegative = field(default=0.001, metadata={"help": "Factor of the regularizer."})
    num_singular_values: Annotated[int, interval("[1, 1_000_000]")] = field(
        default=1, metadata={"help": "How many of the smallest ones are shrunk."}
    )


class BSSTrainer(RegularizedTrainer):
    """
    Batch spectral shrinkage: makes the smallest singular values of the features smaller.

        L_target + regularization_weight * sum over i = 1..k of sigma_{-i}(F)^2

    F are the features of a batch, `(n, hidden_size)`. sigma_{-i} is the i-th smallest of its min(n, hidden_size)
    singular values. The loss suppresses parts of the features that pretraining gave and the target does not need. k is
    `num_singular_values`. The method is by Chen, Wang, Fu, Long and Wang (NeurIPS 2019).

    A step costs one batch of the target and one small singular value decomposition.
    """

    training_args_class: ClassVar = BSSTrainingArguments
    regularizer_class: ClassVar = SpectralShrinkage
    search_space: ClassVar = {"regularization_weight": (0.0001, 0.001, 0.01)}
