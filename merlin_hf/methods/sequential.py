"""The source first, then the target."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from ..training_args import TransferTrainingArguments
from ..transfer.phases import Phase
from ..transfer.shared_labels import shared_labels, start_from_source_head
from ..utils.validation import Share
from .task_losses import TaskLossesTrainer


@dataclass
class SequentialTrainingArguments(TransferTrainingArguments):
    """
    [`TransferTrainingArguments`] for methods that train on the source first.

    Args:
        first_phase_fraction (`float`): share of all steps that train on the source, in (0, 1).
        start_from_source_head (`bool`): where the labels of both tasks have the same names, train the target's head
            from the source's; else from its first weights.
    """

    first_phase_fraction: Share = field(
        default=0.5,
        metadata={"help": "Share of the steps that train on the source, before the target."},
    )
    start_from_source_head: bool = field(
        default=True, metadata={"help": "Go on with the source's head where labels have the same names."}
    )


class SequentialTrainer(TaskLossesTrainer):
    """
    Training on the source first, then on the target (STILTs).

        phi_1 = argmin over phi, theta_s from phi_0:  L_source(theta_s, phi)
        min over phi, theta_t from phi_1:  L_target(theta_t, phi)

    `max_steps` and `num_train_epochs` count both phases. `first_phase_fraction` divides them. The target's head is not
    trained in the first phase. Where both tasks have the same classes, the second phase starts from the source's head.
    `start_from_source_head=False` starts from a new head, as in the paper: Phang, Févry and Bowman 2018 (arXiv
    1811.01088).

    A step costs one batch, of the source or of the target.
    """

    training_args_class: ClassVar = SequentialTrainingArguments
    needs_source: ClassVar[bool] = True
    uses_shared_labels: ClassVar[bool] = True

    @classmethod
    def plan_phases(cls, args, has_source):
        """Return the source's phase, left out without a source, and the target's."""
        first = args.first_phase_fraction if has_source else 0.0
        return (
            Phase("source", first, uses_source=True, uses_target=False),
            Phase("target", 1.0 - first, uses_source=False, uses_target=True),
        )

    def source_head_places(self) -> list[int] | None:
        """Return the target's id of each source class, where the target's phase starts from the source's head."""
        if (
            not self.args.start_from_source_head
            or self.source_dataset is None
            or self.state.global_step == 0
            or self.is_deepspeed_enabled  # which trains copies, and would put the old head back
        ):
            return None
        head, source_head = self.build_transfer_model().head, self.build_transfer_model().source_head
        # A sentence encoder has other features for pairs than for single texts, and some heads have no bias.
        is_alike = isinstance(source_head, nn.Linear) and source_head.in_features == head.in_features
        return shared_labels(self) if is_alike and head.bias is not None else None

    def start_phase(self, phase):
        """Start a phase; the target's goes on with the source's head where labels have the same names."""
        super().start_phase(phase)
        places = self.source_head_places()
        if places is not None:
            start_from_source_head(self.build_transfer_model(), places)
