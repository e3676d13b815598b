"""Fine-tuning that is drawn back to where it started."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from ..transfer.layers import without_adapter
from ..transfer.model import TransferModel
from ..transfer.regularizer import at_least_float32
from ..transfer.trainer import TransferTrainer
from ..utils.validation import NonNegative
from .regularized import MethodRegularizer, RegularizedTrainer, RegularizedTrainingArguments


def trained_parameters(transfer_model: TransferModel) -> dict[str, nn.Parameter]:
    """Return the classifier's parameters that are trained, by name."""
    return {name: p for name, p in transfer_model.model.named_parameters() if p.requires_grad}


def new_parameters(transfer_model: TransferModel, has_source: bool) -> set[str]:
    """
    Return the names of the parameters that are new to the target.

    These are those of the last layer; without a source, whose training reaches all below it, also what else lies
    outside the base model, such as the layer that RoBERTa has before it.
    """
    model: Any = transfer_model.model
    plain = without_adapter(model)
    base = {id(parameter) for parameter in getattr(plain, "base_model", plain).parameters()}
    head = f"{transfer_model.head_name}."
    return {
        name
        for name, parameter in trained_parameters(transfer_model).items()
        if name.startswith(head) or not (has_source or id(parameter) in base)
    }


class DistanceToStart(MethodRegularizer):
    """
    The squared distance of the trained weights to where they started, and of new layers to zero.

    A sum and no mean: the pull on a weight is its own distance, however many others there are.
    """

    stores_model_copy: ClassVar[bool] = True
    supports_sharding: ClassVar[bool] = False

    def __init__(self, trainer: TransferTrainer):
        super().__init__(trainer)
        self.new = new_parameters(trainer.transfer_model, trainer.source_dataset is not None)

    def start(self, trainer):
        """Keep the weights as they are now."""
        parameters = trained_parameters(trainer.transfer_model)
        self.kept = {n: p.detach().clone() for n, p in parameters.items() if n not in self.new}

    def forward(self, transfer_model, inputs, labels, output):
        """Return the sum, `()`; it does not depend on the rows."""
        parameters = {n: at_least_float32(p) for n, p in trained_parameters(transfer_model).items()}
        start = self.kept
        # In the order of the parameters, which that of a checkpoint's tensors is not: the sum is then the same to the
        # bit.
        old = sum((parameters[name] - start[name]).square().sum() for name in parameters if name in start)
        new = sum(parameters[name].square().sum() for name in parameters if name in self.new)
        return (self.weight * old + self.args.head_regularization_weight * new) / 2


@dataclass
class StartingPointTrainingArguments(RegularizedTrainingArguments):
    """
    [`~merlin_hf.methods.regularized.RegularizedTrainingArguments`] for methods that tell new layers from old ones.

    Args:
        regularization_weight (`float`): beta of the papers.
        head_regularization_weight (`float`): alpha of the papers, for new layers, which are drawn to zero.
    """

    head_regularization_weight: NonNegative = field(
        default=0.01, metadata={"help": "Weight decay, as a part of the loss, of the new layers."}
    )


class L2SPTrainer(RegularizedTrainer):
    """
    L2-SP: weight decay towards the starting point in place of zero.

        L_target + regularization_weight / 2 |w_old - w_old^0|^2 + head_regularization_weight / 2 |w_new|^2

    `w_new` are the layers that pretraining did not have. These are the last layer and, without a source, all others
    outside of the base model. Adam scales the pull as it scales any gradient. Leave `weight_decay` at 0, which would
    pull towards zero. The method is by Li, Grandvalet and Davoine 2018 (arXiv 1802.01483).

    A step costs one batch of the target, and memory for a second copy of the weights. Checkpoints hold that copy too.
    """

    training_args_class: ClassVar = StartingPointTrainingArguments
    regularizer_class: ClassVar = DistanceToStart
    search_space: ClassVar = {"regularization_weight": (0.001, 0.01, 0.1)}
