"""MeRLin, then fine-tuning from its features and its head."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from transformers import TrainingArguments

from ..trainer import MerlinTrainer
from ..training_args import MerlinTrainingArguments
from ..transfer.checks import check_head_can_be_written
from ..transfer.phases import Phase, share_between
from ..utils.validation import NonNegative, Share, interval


FINETUNING = "fine-tuning"


@dataclass
class MerlinFinetuneTrainingArguments(MerlinTrainingArguments):
    """
    [`MerlinTrainingArguments`] for [`MerlinFinetuneTrainer`].

    Args:
        mix_weights (`bool`): `False`: the run ends with fine-tuning.
        rho, balance_gradients: as there, with the defaults that did best here.
        source_phase_fraction (`float`): as there; with a default of its own. 0 leaves the source's phase out, as
            in the paper.
        target_phase_fraction (`float`): as there; these steps come before those of fine-tuning.
        first_phase_fraction (`float`): share of all steps before fine-tuning, in (0, 1): MeRLin's, with those of
            `source_phase_fraction` and `target_phase_fraction`.
    """

    mix_weights: bool = field(default=False, metadata={"help": "Not possible here: the run ends with fine-tuning."})
    rho: NonNegative = field(default=0.3, metadata={"help": "Factor of the meta loss (rho in the paper)."})
    balance_gradients: bool = field(
        default=True, metadata={"help": "Scale rho down where the meta loss would drown the source loss."}
    )
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
        if args.mix_weights:
            raise ValueError("`mix_weights=True` is not possible: MeRLin-FT ends with fine-tuning. Use MerlinTrainer.")
        source, target, before = args.source_phase_fraction, args.target_phase_fraction, args.first_phase_fraction
        if source >= before or target >= before or source + target > before + 1e-9:
            raise ValueError(
                "`source_phase_fraction` and `target_phase_fraction` must each be less than `first_phase_fraction`, "
                f"and together not more, got {source}, {target} and {before}: they are parts of the steps before "
                "fine-tuning, which need some for each loss. Lower them or raise `first_phase_fraction`; "
                "`source_phase_fraction=0` leaves the source's phase out."
            )


class MerlinFinetuneTrainer(MerlinTrainer):
    """
    MeRLin-FT: MeRLin first, then fine-tuning on the target.

        phi_0 = argmin over phi, theta_s:  L_source(theta_s, phi)
        phi_1 = argmin over phi, theta_s from phi_0:  L_source(theta_s, phi) + rho * L_meta(phi)
        min over phi, theta_t from (phi_1, theta(phi_1; all target rows)):  L_target(theta_t, phi)

    Fine-tuning starts at the head that fits all target rows, as in LP-FT. With `target_phase_fraction` the last steps
    before fine-tuning use L_meta alone. The first line, a phase on the source alone, is not in the paper.
    `source_phase_fraction=0` leaves it out, and phi_0 is then the pretrained backbone. The method is by Liu et al.
    2020 (arXiv 2011.01418).

    A step costs a batch of each task in MeRLin's phase. Before and after it, and where L_meta is alone, it costs one
    batch.
    """

    training_args_class: ClassVar = MerlinFinetuneTrainingArguments
    search_space: ClassVar = {"rho": (0.1, 0.3, 1.0)}
    # The optimizer and the wrapper of distributed training must know it from the start; only fine-tuning uses it.
    trains_target_head: ClassVar[bool] = True

    @classmethod
    def plan_phases(cls, args, has_source):
        """Return the phases of MeRLin, and fine-tuning."""
        if not has_source:
            return super().plan_phases(args, has_source)
        source, _, target = super().plan_phases(args, has_source)
        before = args.first_phase_fraction
        both = Phase(
            "source and target",
            share_between(source.fraction, before - target.fraction),
            uses_source=True,
            uses_target=True,
        )
        return source, both, target, Phase(FINETUNING, 1 - before, uses_source=False, uses_target=True)

    @property
    def fits_head(self):
        """Whether the head is fit to the features, as in all phases before fine-tuning."""
        return self.phase.name != FINETUNING

    def start_phase(self, phase):
        """Start a phase; fine-tuning starts from the head that fits all target rows."""
        if phase.name == FINETUNING:
            self._head_needs_refit |= self.state.global_step == 0  # where no step is left for the phases before
            self.refit_head_if_stale()
            self.head_metrics = {}  # of the fitted head, which is trained from here on
        super().start_phase(phase)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return MeRLin's objective, and in fine-tuning the target's loss."""
        if not self.is_active or self.fits_head:
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
        Check the data as MerlinTrainer does.

        Raises:
            ValueError: the head cannot be written, as under DeepSpeed.
        """
        super().check_data()
        check_head_can_be_written(self)
