"""Two phases in one training, told apart by the step."""

from typing import Any

import torch
from torch.optim.lr_scheduler import SequentialLR
from transformers import TrainingArguments

from ..trainer_base import TrainerBase
from .distributed import share_buffers


class PhasesMixin(TrainerBase):
    """
    For a [`~merlin_hf.transfer.trainer.TransferTrainer`] whose first updates have another loss than its later ones.

    Both are one run: the same callbacks, logs and checkpoints, and a run that is resumed is in the phase its step says. The
    second phase starts with a fresh optimizer (under DeepSpeed it goes on), and the learning rate takes its whole course in each, warm-up included. The
    target's batches of the first phase are drawn, and left unused where the phase is about the source alone.
    """

    lr_scheduler: Any
    optimizer: Any

    @property
    def has_first_phase(self) -> bool:
        """Whether there is one at all: for most methods, whether there is a source."""
        return self.source_dataset is not None

    @property
    def first_phase_steps(self) -> int:
        """Updates of the first phase."""
        return self.split_steps(self.state.max_steps)[0]

    @property
    def in_first_phase(self) -> bool:
        """Whether the current update belongs to the first phase."""
        return self.state.global_step < self.first_phase_steps

    @property
    def draws_source(self) -> bool:
        """Source batches are drawn in the first phase only."""
        return self.source_dataset is not None and self.in_first_phase

    def split_steps(self, steps: int) -> tuple[int, int]:
        """Updates of the first and of the second phase; each has one at least where there are two."""
        if not self.has_first_phase or steps < 2:
            return 0, steps
        first = min(max(round(self.args.first_phase_fraction * steps), 1), steps - 1)
        return first, steps - first

    def start_second_phase(self) -> None:
        """Called before the first micro-batch of the second phase, and where there is no first one, of the run."""
        share_buffers(self.transfer_model)  # what is kept of the model now is then the same on every rank
        if self.first_phase_steps and not self.is_deepspeed_enabled:  # whose optimizer keeps its state elsewhere
            getattr(self.optimizer, "optimizer", self.optimizer).state.clear()

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As in TransferTrainer; the second phase starts when its step comes."""
        if self.is_active and self.micro_step == 0 and self.state.global_step == self.first_phase_steps:
            self.start_second_phase()
        return super().training_step(model, inputs, num_items_in_batch)

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Trainer's scheduler, once for each phase."""
        phases = self.split_steps(num_training_steps)
        if self.lr_scheduler is not None or not self.is_active or not phases[0]:
            return super().create_scheduler(num_training_steps, optimizer)
        optimizer = self.optimizer if optimizer is None else optimizer
        schedulers = []
        for steps in phases:
            schedulers.append(super().create_scheduler(steps, optimizer))
            self.lr_scheduler = None
        self.lr_scheduler = SequentialLR(optimizer, schedulers, milestones=[phases[0]])
        return self.lr_scheduler

    def run_state(self):
        """As in TransferCheckpointsMixin: where the second phase starts."""
        return {**super().run_state(), "first_phase_steps": torch.tensor(self.first_phase_steps)}

    def check_run_state(self, saved):
        """
        As in TransferCheckpointsMixin.

        Raises:
            ValueError: the checkpoint is of one phase, and its step of the other in this run.
        """
        super().check_run_state(saved)
        before = int(saved.get("first_phase_steps", self.first_phase_steps))
        step, now = self.state.global_step, self.first_phase_steps
        if (step > before) != (step > now):
            raise ValueError(
                f"The checkpoint of step {step} is of a run whose first phase had {before} steps, and this run's has {now}. Resume "
                "with the same `max_steps` (or `num_train_epochs` and batch size) and the same `first_phase_fraction`."
            )

    def check_data(self):
        """
        As in TransferTrainer.

        Raises:
            ValueError: each phase leaves a head unused, and distributed training is told that none is; or the schedule of the
                learning rate is not a function of the step.
        """
        super().check_data()
        if self.has_first_phase:
            check_finds_unused(self)
        if self.has_first_phase and self.args.lr_scheduler_type == "reduce_lr_on_plateau":
            raise ValueError(
                f"{type(self).__name__} has two phases with a schedule each, and `lr_scheduler_type='reduce_lr_on_plateau'` "
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
