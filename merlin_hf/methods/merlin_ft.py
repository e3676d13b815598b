"""MeRLin, then fine-tuning from its features and its head."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from transformers import TrainingArguments

from ..trainer import MerlinTrainer
from ..training_args import MerlinTrainingArguments
from ..transfer.checks import check_head_can_be_written
from ..transfer.phases import share_between
from ..utils.validation import Share, interval


FINETUNING_PHASE = 3


@dataclass
class MerlinFinetuneTrainingArguments(MerlinTrainingArguments):
    """
    [`MerlinTrainingArguments`] for [`MerlinFinetuneTrainer`].

    Args:
        source_phase_fraction (`float`): as there; with a default of its own, which did better on average than none with 100 labelled rows
            (`benchmarks/ablations`). 0 leaves the source's phase out, as in the paper.
        target_phase_fraction (`float`): as there; these steps come before those of fine-tuning.
        first_phase_fraction (`float`): share of all steps before fine-tuning, in (0, 1): MeRLin's, with those of
            `source_phase_fraction` and `target_phase_fraction`.
    """

    source_phase_fraction: Annotated[float, interval("[0, 1)")] = field(
        default=0.4,
        metadata={"help": "Share of the steps, at their beginning, that train on the source alone, in [0, 1)."},
    )
    target_phase_fraction: Annotated[float, interval("[0, 1)")] = field(
        default=0.0,
        metadata={
            "help": "Share of the steps, just before fine-tuning, that train on the meta loss alone, in [0, 1)."
        },
    )
    first_phase_fraction: Share = field(
        default=0.8,
        metadata={"help": "Share of the steps before fine-tuning: MeRLin's and those of the two phases above."},
    )

    @classmethod
    def check_options(cls, args: TrainingArguments) -> None:
        """Check the options, and that there are steps for each phase."""
        super().check_options(args)
        source, target, before = args.source_phase_fraction, args.target_phase_fraction, args.first_phase_fraction
        if source >= before or target >= before or source + target > before + 1e-9:
            raise ValueError(
                "`source_phase_fraction` and `target_phase_fraction` must each be less than `first_phase_fraction`, and together not more, "
                f"got {source}, {target} and {before}: they are parts of the steps before fine-tuning, which need some for each loss. Lower "
                "them or raise `first_phase_fraction`; `source_phase_fraction=0` leaves the source's phase out."
            )


class MerlinFinetuneTrainer(MerlinTrainer):
    """
    MeRLin-FT (Liu et al. 2020, arXiv 2011.01418): after a phase on the source MeRLin finds the features, and fine-tuning on the target goes on from
    them.

        phi_0 = argmin over phi, theta_s:  L_source(theta_s, phi)
        phi_1 = argmin over phi, theta_s from phi_0:  L_source(theta_s, phi) + rho * L_meta(phi)
        min over phi, theta_t from (phi_1, theta(phi_1; all target rows)):  L_target(theta_t, phi)

    With `target_phase_fraction` the last steps before fine-tuning are on L_meta alone. Fine-tuning starts at the head that fits all target rows, as
    LP-FT does. The first line, a phase on the source alone, is not the paper's:
    `source_phase_fraction=0` leaves it out, and phi_0 is what the model comes with.

    A step costs a batch of each task in MeRLin's phase, one of the source before it and one of the target after it, where L_meta is alone as
    well.
    """

    training_args_class: ClassVar = MerlinFinetuneTrainingArguments
    phase_names: ClassVar = (*MerlinTrainer.phase_names, "fine-tuning")
    # The optimizer and the wrapper of distributed training must know it from the start; only fine-tuning uses it.
    trains_target_head: ClassVar[bool] = True

    @property
    def phase_fractions(self):
        """The source's phase, if any, that of both losses, the target's, if any, and fine-tuning."""
        source, target = self.args.source_phase_fraction, self.args.target_phase_fraction
        before = self.args.first_phase_fraction
        return source, share_between(source, before - target), target, 1 - before

    @property
    def is_finetuning(self) -> bool:
        """Whether the current update belongs to the last phase."""
        return self.phase == FINETUNING_PHASE

    @classmethod
    def rows_per_step(cls, args, has_source):
        """As in MerlinTrainer; fine-tuning takes no rows of the source."""
        rows = super().rows_per_step(args, has_source)
        if not has_source:
            return rows
        source = args.per_device_source_batch_size or args.per_device_train_batch_size
        return rows - (1 - args.first_phase_fraction) * source

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.is_active and resume_from_checkpoint is None:
            self._head_is_stale = any(self.split_steps(max_steps)[:FINETUNING_PHASE])
        return prepared

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As in MerlinTrainer; the features of the phases before fine-tuning ask for a head fit anew."""
        needs_fit = self.is_active and not self.is_finetuning
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._head_is_stale = needs_fit
        return loss

    def start_phase(self, phase):
        """As in PhasesMixin; fine-tuning starts from the head that fits all target rows."""
        if phase == FINETUNING_PHASE:
            self._head_is_stale |= self.state.global_step == 0  # where no step is left for the phases before
            self.settle_head()
            self.head_metrics = {}  # of the fitted head, which is trained from here on
        super().start_phase(phase)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """MeRLin's objective, then the target's loss."""
        if not self.is_active or not self.is_finetuning:
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
