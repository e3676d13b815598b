"""Phases in one training, told apart by the step."""

import itertools
import math
from typing import Any, ClassVar

import torch
from torch.optim.lr_scheduler import SequentialLR
from transformers import TrainingArguments

from ..trainer_base import TrainerBase
from ..utils.files import FileError
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
    phase_names: ClassVar[tuple[str, ...]] = ("source", "target")

    @property
    def phase_fractions(self) -> tuple[float, ...]:
        """Share of the steps of each phase, 0 for one that is left out: here the source's, left out without a source, and the target's."""
        first = self.args.first_phase_fraction if self.source_dataset is not None else 0.0
        return first, 1.0 - first

    @property
    def has_phases(self) -> bool:
        """Whether there is more than one."""
        return sum(fraction > 0 for fraction in self.phase_fractions) > 1

    @property
    def leaves_unused(self) -> bool:
        """Whether a phase does not use all parameters that are trained: here each has a head of its own."""
        return self.has_phases

    @property
    def phase_ends(self) -> list[int]:
        """Updates until the end of each phase."""
        return list(itertools.accumulate(self.split_steps(self.state.max_steps)))

    @property
    def phase(self) -> int:
        """The number of the phase, from 0, that the current update belongs to; outside of training the last that there is."""
        ends = self.phase_ends
        last = max(number for number, fraction in enumerate(self.phase_fractions) if fraction > 0)
        return next((phase for phase, end in enumerate(ends) if self.state.global_step < end), last)

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
        """
        Updates of each phase: none where its share is 0, else one at least. Where there are fewer steps than phases, the first
        ones are left out.
        """
        fractions = list(self.phase_fractions)
        wanted = [number for number, fraction in enumerate(fractions) if fraction > 0]
        wanted = wanted[max(len(wanted) - steps, 0) :]
        ends, end = [], 0
        for number, share in enumerate(itertools.accumulate(fractions)):
            if number in wanted:
                after = len(wanted) - wanted.index(number) - 1  # phases that still need a step
                end = min(max(round(share * steps), end + 1), steps - after)
            ends.append(end)
        return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))

    def start_phase(self, phase: int) -> None:
        """Called before the first micro-batch of every phase after number 0 that has steps, at step 0 where those before it have none."""
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
        phases = [steps for steps in self.split_steps(num_training_steps) if steps] if self.is_active else []
        if self.lr_scheduler is not None or len(phases) < 2:
            return super().create_scheduler(num_training_steps, optimizer)
        optimizer = self.optimizer if optimizer is None else optimizer
        schedulers = []
        for steps in phases:
            schedulers.append(super().create_scheduler(steps, optimizer))
            self.lr_scheduler = None
        self.lr_scheduler = SequentialLR(optimizer, schedulers, milestones=list(itertools.accumulate(phases))[:-1])
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        scheduler = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        if isinstance(scheduler, SequentialLR):  # which would go on with the milestones of the run that was saved
            scheduler._milestones = _distinct(self.phase_ends)[:-1]

    def run_state(self):
        """As in TransferCheckpointsMixin: where the phases end."""
        return {**super().run_state(), "phase_ends": torch.tensor(self.phase_ends)}

    def check_run_state(self, saved):
        """
        As in TransferCheckpointsMixin.

        Raises:
            FileError: the checkpoint is of one phase, and its step of another in this run.
        """
        super().check_run_state(saved)
        now = self.phase_ends
        before = saved["phase_ends"].tolist() if "phase_ends" in saved else now
        step = self.state.global_step
        if _place(before, step) != _place(now, step):
            names = ("source_phase_fraction", "first_phase_fraction", "target_phase_fraction")
            fractions = " and ".join(f"`{name}`" for name in names if hasattr(self.args, name))
            raise FileError(
                f"The checkpoint of step {step} is of a run with {self._describe(before)}, and this run has {self._describe(now)}. Resume "
                f"with the same `max_steps` (or `num_train_epochs` and batch size) and the same {fractions}."
            )

    def _describe(self, ends: list[int]) -> str:
        """The phases that have steps, for messages."""
        spans = zip(self.phase_names, [0, *ends], ends, strict=False)
        return ", ".join(f"`{name}` until step {end}" for name, start, end in spans if end > start)

    def check_settings(self):
        """
        As in TransferTrainer.

        Raises:
            ValueError: a phase leaves parameters unused, and distributed training is told that none are; or the schedule of the
                learning rate is not a function of the step.
        """
        super().check_settings()
        if self.leaves_unused:
            check_finds_unused(self)
        schedule = getattr(self.args.lr_scheduler_type, "value", self.args.lr_scheduler_type)
        if self.has_phases and schedule in ("reduce_lr_on_plateau", "greedy"):
            raise ValueError(
                f"{type(self).__name__} has phases with a schedule each, and `lr_scheduler_type={schedule!r}` "
                "is none. Use 'linear', 'cosine' or 'constant'."
            )


def share_between(start: float, end: float) -> float:
    """The share of the steps between two points in [0, 1]; exactly 0 where they are the same but for rounding, as 1 - 0.7 and 0.3."""
    return 0.0 if math.isclose(start, end, abs_tol=1e-9) else end - start


def _distinct(ends: list[int]) -> list[int]:
    """Ends of the phases that have steps."""
    return [end for before, end in zip([0, *ends], ends, strict=False) if end > before]


def _place(ends: list[int], step: int) -> tuple[int, list[bool]]:
    """How many phases there are, and which of them were over before the update that led to a step."""
    return len(_distinct(ends)), [step > end for end in ends[:-1]]


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
            f"{type(trainer).__name__} has steps that do not use all parameters. On several processes set "
            f"`ddp_find_unused_parameters=True` (got {finds}; it is off by default where activations are checkpointed)."
        )
