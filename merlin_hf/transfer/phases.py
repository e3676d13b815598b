"""Phases of one training, each for a range of steps."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.optim.lr_scheduler import SequentialLR
from transformers import TrainingArguments

from ..utils.files import FileError


class Phase(NamedTuple):
    """
    A part of a training with its own loss, optimizer state and learning rate schedule.

    All phases are one run, with the same callbacks, logs and checkpoints. The step decides the phase, also in a run
    that is resumed. In each phase the optimizer starts anew (except under DeepSpeed), and the schedule takes its whole
    course, warm-up included.

    Attributes:
        name (`str`): by which messages and methods refer to it.
        fraction (`float`): share of all steps, 0 for a phase that is left out.
        uses_source (`bool`): whether source batches are drawn.
        uses_target (`bool`): whether the loss uses the target's batch, which is drawn in any case.
    """

    name: str
    fraction: float
    uses_source: bool
    uses_target: bool


def split_steps(fractions: Sequence[float], steps: int) -> tuple[int, ...]:
    """
    Return the number of steps of each phase: none if its fraction is 0, else at least one.

    If there are fewer steps than phases, the first phases get none.
    """
    wanted = [number for number, fraction in enumerate(fractions) if fraction > 0]
    wanted = wanted[max(len(wanted) - steps, 0) :]
    ends: list[int] = []
    end = 0
    for number, share in enumerate(itertools.accumulate(fractions)):
        if number in wanted:
            after = len(wanted) - wanted.index(number) - 1  # phases that still need a step
            end = min(max(round(share * steps), end + 1), steps - after)
        ends.append(end)
    return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


def share_between(start: float, end: float) -> float:
    """Return the share of the steps between two points in [0, 1]; 0 where they differ by rounding, as 1 - 0.7, 0.3."""
    return 0.0 if math.isclose(start, end, abs_tol=1e-9) else end - start


def distinct(ends: Sequence[int]) -> list[int]:
    """Return the ends of the phases that have steps."""
    return [end for before, end in zip([0, *ends], ends, strict=False) if end > before]


def set_milestones(lr_scheduler: Any, ends: Sequence[int]) -> None:
    """Give a scheduler of several phases their ends; others stay as they are."""
    scheduler = getattr(lr_scheduler, "scheduler", lr_scheduler)
    if isinstance(scheduler, SequentialLR):
        scheduler._milestones = distinct(ends)[:-1]


def check_same_phase(trainer: Any, before: list[int]) -> None:
    """Raise a `FileError` if a checkpoint's step is in another phase of its own run, by its ends `before`."""
    step, now, args = trainer.state.global_step, trainer.phase_ends, trainer.args
    if _place(before, step) == _place(now, step):
        return
    names = [phase.name for phase in trainer.phases]
    options = ("source_phase_fraction", "first_phase_fraction", "target_phase_fraction")
    is_mixed = getattr(args, "mix_weights", False)  # with shares that no option sets
    fractions = [f"`{name}`" for name in options if hasattr(args, name) and not is_mixed]
    raise FileError(
        f"The checkpoint of step {step} is of a run with {_describe(names, before)}, and this run has "
        f"{_describe(names, now)}. Resume with the same `max_steps` (or `num_train_epochs` and batch size)"
        f"{' and the same ' * bool(fractions)}{' and '.join(fractions)}."
    )


def _place(ends: Sequence[int], step: int) -> tuple[int, list[bool]]:
    """Return how many phases there are, and which of them were over before the update that led to a step."""
    return len(distinct(ends)), [step > end for end in ends[:-1]]


def _describe(names: Sequence[str], ends: Sequence[int]) -> str:
    spans = zip(names, [0, *ends], ends, strict=False)
    return ", ".join(f"`{name}` until step {end}" for name, start, end in spans if end > start)


def checkpoints_activations(args: TrainingArguments) -> bool:
    """Return whether the backward pass computes activations again; releases have two names for the option."""
    return getattr(args, "activation_checkpointing", getattr(args, "gradient_checkpointing", False))


def check_phases(trainer: Any) -> None:
    """
    Raise a `ValueError` if a phase of a trainer cannot be trained.

    A step does not use all parameters, and data-parallel training would wait for their gradients; the learning rate
    schedule depends on evaluations, so that a phase cannot have its own; or a phase on the source alone has
    `source_weight=0`.
    """
    args, name = trainer.args, type(trainer).__name__
    is_ddp = args.world_size > 1 and not trainer.is_sharded
    finds = args.ddp_find_unused_parameters
    misses = finds is False or (finds is None and checkpoints_activations(args))
    if trainer.has_unused_parameters and is_ddp and misses:
        raise ValueError(
            f"{name} has steps that do not use all parameters. On several processes set "
            f"`ddp_find_unused_parameters=True` (got {finds}; it is off by default where activations are "
            "checkpointed)."
        )
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if trainer.has_phases and schedule in ("reduce_lr_on_plateau", "greedy"):
        raise ValueError(
            f"{name} has phases with a schedule each, and `lr_scheduler_type={schedule!r}` is none. Use 'linear', "
            "'cosine' or 'constant', or a run without phases (`mix_weights=False` for MeRLin)."
        )
    for phase in trainer.phases:
        if phase.fraction > 0 and phase.uses_source and not phase.uses_target and args.source_weight == 0:
            raise ValueError(
                f"{name} trains on the source alone in {phase.fraction:.0%} of its steps, and `source_weight=0` would "
                "have them train nothing. Set it above 0, or leave that phase or the source out."
            )
