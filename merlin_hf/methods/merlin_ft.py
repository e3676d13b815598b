"""MeRLin, then fine-tuning from its features and its head."""

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments

from ..trainer import MerlinTrainer
from ..training_args import MerlinTrainingArguments
from ..transfer.checks import check_head_can_be_written
from ..transfer.phases import PhasesMixin
from .sequential import check_first_phase_fraction


@dataclass
class MerlinFinetuneTrainingArguments(MerlinTrainingArguments):
    """
    [`MerlinTrainingArguments`] for [`MerlinFinetuneTrainer`].

    Args:
        first_phase_fraction (`float`): share of all steps that are MeRLin's, in (0, 1); the others fine-tune.
    """

    first_phase_fraction: float = field(
        default=0.8, metadata={"help": "Share of the steps that are MeRLin's, before fine-tuning."}
    )

    @staticmethod
    def check_options(args: TrainingArguments) -> None:
        """As in [`MerlinTrainingArguments.check_options`]."""
        MerlinTrainingArguments.check_options(args)
        check_first_phase_fraction(args)


class MerlinFinetuneTrainer(PhasesMixin, MerlinTrainer):
    """
    MeRLin-FT (Liu et al. 2020, arXiv 2011.01418): MeRLin finds the features, fine-tuning on the target goes on from them.

        phi_1 = argmin over phi, theta_s from phi_0:  L_source(theta_s, phi) + rho * L_meta(phi)
        min over phi, theta_t from (phi_1, theta(phi_1; all target rows)):  L_target(theta_t, phi)

    The second phase starts at the head that fits all target rows, as LP-FT does.

    A step costs a batch of each task in the first phase, one of the target in the second.
    """

    training_args_class: ClassVar = MerlinFinetuneTrainingArguments
    # The optimizer and the wrapper of distributed training must know it from the start; the first phase does not use it.
    trains_target_head: ClassVar[bool] = True

    @classmethod
    def rows_per_step(cls, args, has_source):
        """As in TransferTrainer, averaged over both phases."""
        target = args.per_device_train_batch_size
        if not has_source:
            return target
        return target + args.first_phase_fraction * (args.per_device_source_batch_size or target)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As in MerlinTrainer; the features of the first phase ask for a head fit anew."""
        is_merlin = self.is_active and self.in_first_phase
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._head_is_stale = is_merlin
        return loss

    def start_second_phase(self):
        """The head that fits all target rows, and a fresh optimizer."""
        self.settle_head()
        self.head_metrics = {}  # of the fitted head, which is trained from here on
        super().start_second_phase()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """MeRLin's objective, then the target's loss."""
        if not self.is_active or self.in_first_phase:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batches = self.take_batches(inputs)
        if batches is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(target_inputs=batches.target_inputs, with_scalars=False)
        loss = self.target_loss(outputs.target_logits, batches.target_labels)
        self.record(target_loss=loss)
        return (loss, outputs) if return_outputs else loss

    def check_data(self):
        """
        As in MerlinTrainer.

        Raises:
            ValueError: the head cannot be written, as under DeepSpeed.
        """
        super().check_data()
        check_head_can_be_written(self)
