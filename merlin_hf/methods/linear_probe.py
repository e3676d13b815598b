"""A linear probe of the pretrained features."""

import copy
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from transformers import TrainingArguments

from ..training_args import TransferTrainingArguments, check_head
from ..transfer.labels import REGRESSION
from ..transfer.trainer import TransferTrainer
from ..utils.validation import Text, Words, interval


@dataclass
class ProbeTrainingArguments(TransferTrainingArguments):
    """
    [`TransferTrainingArguments`] for methods that fit the head to features in closed form, or to convergence.

    Args:
        probe_head (`str`, *optional*): the solver, a name in `merlin_hf.heads.HEADS`; logistic regression if not
            given, and ridge regression for real labels.
        probe_l2 (`str`): its regulariser: `"auto"` (by cross-validation on the target's training rows) or a number.
    """

    probe_head: Text | None = field(
        default=None,
        metadata={"help": "Solver of the head. Default: logistic, and ridge for real labels."},
    )
    probe_l2: Annotated[str, Words(("auto",)), interval("(0, inf)")] = field(
        default="auto",
        metadata={"help": "Regulariser of the head: 'auto' (cross-validation) or a number."},
    )

    @classmethod
    def check_options(cls, args: TrainingArguments) -> None:
        """Check the options; a number for `probe_l2` may come as text."""
        super().check_options(args)
        if args.probe_head is not None:
            check_head(args.probe_head, "probe_head")


def default_probe_head(problem_type: str) -> str:
    """Return `logistic` for classes, and `ridge` for real labels."""
    return "ridge" if problem_type == REGRESSION else "logistic"


class ProbeTrainer(TransferTrainer):
    """A trainer of the target alone that fits a head by the options of [`ProbeTrainingArguments`]."""

    training_args_class: ClassVar = ProbeTrainingArguments
    takes_source: ClassVar[bool] = False
    trains_without_source: ClassVar[bool] = True

    def solver_name(self, problem_type):
        """Return `args.probe_head`, or the default for such labels."""
        return self.args.probe_head or default_probe_head(problem_type)

    def final_head_l2(self, scalars):
        """Return `args.probe_l2`."""
        return self.args.probe_l2


class NoStepsTrainer(TransferTrainer):
    """A trainer that makes no step: `train()` fits the model's last layer, and leaves all below it."""

    trains_target_head: ClassVar[bool] = False

    @classmethod
    def plan_phases(cls, args, has_source):
        """Return no phases, as there are no steps."""
        return ()

    def set_initial_training_values(self, args, *rest):
        """Return Trainer's values for a run without a step."""
        args = copy.copy(args)
        args.max_steps, args.num_train_epochs = -1, 0
        self._head_needs_refit = True  # also where it is resumed
        return super().set_initial_training_values(args, *rest)


class LinearProbeTrainer(NoStepsTrainer, ProbeTrainer):
    """
    A linear head on the features of the pretrained backbone, which is not trained.

        min over theta_t = (W, b):  sum over rows of the loss + l2 * spread / 2 * |W|^2
        spread = mean |phi_0(x) - mean|^2

    The head is solved to convergence. Its regulariser is chosen by cross-validation, as in Kumar et al. 2022 (arXiv
    2202.10054). Learning rates, `max_steps` and `num_train_epochs` have no effect. `train()` is one pass over the
    target's rows without gradient.
    """
