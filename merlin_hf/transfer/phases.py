"""Phases in one training, told apart by the step."""

import itertools
from typing import Any

import torch
from torch.optim.lr_scheduler import SequentialLR
from transformers import TrainingArguments

from ..trainer_base import TrainerBase
from .distributed import share_buffers


class PhasesMixin(TrainerBase):
    """
    For a [`~merlin_hf.transfer.trainer.TransferTrainer`] whose first updates have another loss than its later ones.

    All phases are one run: the same callbacks, logs and checkpoints, and a run that is resumed is in the phase its step says.
    Each starts with a fresh optimizer (under DeepSpeed it goes on), and the learning rate takes its whole course in each,
    warm-up included. The target's batches are drawn in all, and left unused where a phase is about the source alone.
    """

    lr_scheduler: Any
    optimizer: Any

    @property
    def phase_fractions(self) -> tuple[float, ...]:
        """Share of the steps of each phase, 0 for one that is left out: the source's, which needs one, and the target's."""
        first = self.args.first_phase_fraction if self.source_dataset is not None else 0.0
        return first, 1.0 - first

    @property
    def has_phases(self) -> bool:
        """Whether there is more than one."""
        return sum(fraction > 0 for fraction in self.phase_fractions) > 1

    @property
    def phase_ends(self) -> list[int]:
        """Updates until the end of each phase."""
        return list(itertools.accumulate(self.split_steps(self.state.max_steps)))

    @property
    def phase(self) -> int:
        """The number of the phase, from 0, that the current update belongs to."""
        ends = self.phase_ends
        return next((phase for phase, end in enumerate(ends) if self.state.global_step < end), len(ends) - 1)

    @property
    def first_phase_steps(self) -> int:
        """Updates of the first phase."""
        return self.phase_ends[0]

    @property
    def in_first_phase(self) -> bool:
        """Whether the current update belongs to the first phase."""
        return self.phase == 0

    @property
    def draws_source(self) -> bool:
        """Source batches are drawn in the first phase only."""
        return self.source_dataset is not None and self.in_first_phase

    def split_steps(self, steps: int) -> tuple[int, ...]:
        """Updates of each phase: one at least, or all of them the last phase's where there are fewer steps than phases."""
        fractions = self.phase_fractions
        count = sum(fraction > 0 for fraction in fractions)
        lengths, left = [], steps
        for fraction in fractions[:-1]:
            if fraction > 0 and steps >= count:
                count -= 1
                lengths.append(min(max(round(fraction * steps), 1), left - count))
            else:
                lengths.append(0)
            left -= lengths[-1]
        return (*lengths, left)

    def start_phase(self, phase: int) -> None:
        """Called before the first micro-batch of each phase but the first one, also where those before it are left out."""
        share_buffers(self.transfer_model)  # what is kept of the model now is then the same on every rank
        if self.state.global_step and not self.is_deepspeed_enabled:  # whose optimizer keeps its state elsewhere
            getattr(self.optimizer, "optimizer", self.optimizer).state.clear()

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As in TransferTrainer; a phase starts when its step comes."""
        if self.is_active and self.micro_step == 0:
            phase = self.phase
            if phase and self.state.global_step == self.phase_ends[phase - 1]:
                self.start_phase(phase)
        return super().training_step(model, inputs, num_items_in_batch)

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Trainer's scheduler, once for each phase."""
        if self.lr_scheduler is not None or not self.is_active or not self.has_phases:
            return super().create_scheduler(num_training_steps, optimizer)
        optimizer = self.optimizer if optimizer is None else optimizer
        schedulers = []
        phases = [steps for steps in self.split_steps(num_training_steps) if steps]
        for steps in phases:
            schedulers.append(super().create_scheduler(steps, optimizer))
            self.lr_scheduler = None
        self.lr_scheduler = SequentialLR(optimizer, schedulers, milestones=list(itertools.accumulate(phases))[:-1])
        return self.lr_scheduler

    def run_state(self):
        """As in TransferCheckpointsMixin: where the phases end."""
        return {**super().run_state(), "phase_ends": torch.tensor(self.phase_ends)}

    def check_run_state(self, saved):
        """
        As in TransferCheckpointsMixin.

        Raises:
            ValueError: the checkpoint is of one phase, and its step of another in this run.
        """
        super().check_run_state(saved)
        now = self.phase_ends
        before = saved["phase_ends"].tolist() if "phase_ends" in saved else now
        step = self.state.global_step
        if [step > end for end in before[:-1]] != [step > end for end in now[:-1]]:
            raise ValueError(
                f"The checkpoint of step {step} is of a run whose phases ended at steps {before}, and this run's end at {now}. Resume "
                "with the same `max_steps` (or `num_train_epochs` and batch size) and the same fractions of the phases."
            )

    def check_data(self):
        """
        As in TransferTrainer.

        Raises:
            ValueError: each phase leaves a head unused, and distributed training is told that none is; or the schedule of the
                learning rate is not a function of the step.
        """
        super().check_data()
        if self.has_phases:
            check_finds_unused(self)
        if self.has_phases and self.args.lr_scheduler_type == "reduce_lr_on_plateau":
            raise ValueError(
                f"{type(self).__name__} has phases with a schedule each, and `lr_scheduler_type='reduce_lr_on_plateau'` "
                "is none. Use 'linear', 'cosine' or 'constant'."
            )


def checkpoints_activations(args: TrainingArguments) -> bool:
    """Whether the backward pass computes activations again, by the name that the option has in this release."""
    return getattr(args, "activation_checkpointing", getattr(args, "gradient_checkpointing", False))


def check_finds_unused(trainer) -> None:
    """
    Check that data-parallel training looks for parameters that a step did not use.

    Raises:
        ValueError: it does not, and would wait for their gradients.
    """
    args = trainer.args
    is_ddp = args.world_size > 1 and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
    finds = args.ddp_find_unused_parameters
    if is_ddp and (finds is False or (finds is None and checkpoints_activations(args))):
        raise ValueError(
            f"{type(trainer).__name__} has steps in which a head is not used. On several processes set "
            f"`ddp_find_unused_parameters=True` (got {finds}; it is off by default where activations are checkpointed)."
        )
