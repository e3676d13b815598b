"""Phases in one training, told apart by the step."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import TrainingArguments

from ..utils.files import FileError


class Phase(NamedTuple):
    """
    A part of a training that has a loss, an optimizer and a course of the learning rate of its own.

    All phases are one run: the same callbacks, logs and checkpoints, and a run that is resumed is in the phase that
    its step says. The optimizer starts afresh in each (under DeepSpeed it goes on), and the learning rate takes its
    whole course, warm-up included.

    Attributes:
        name (`str`): for messages, and for methods to know it by.
        fraction (`float`): share of all steps, 0 for a phase that is left out.
        uses_source (`bool`): whether source batches are drawn.
        uses_target (`bool`): whether the loss is about the target's batch, which is drawn in any case.
    """

    name: str
    fraction: float
    uses_source: bool
    uses_target: bool


def split_steps(fractions: Sequence[float], steps: int) -> tuple[int, ...]:
    """
    Return the number of steps of each phase: none where its share is 0, else one at least.

    Where there are fewer steps than phases, the first phases are left out.
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


def rows_per_step(phases: Sequence[Phase], source_rows: float, target_rows: float) -> float:
    """
    Return the mean number of rows that a step passes through the backbone, of phases whose batches have so many rows.
    """
    return sum(
        phase.fraction * (phase.uses_source * source_rows + phase.uses_target * target_rows) for phase in phases
    )


def share_between(start: float, end: float) -> float:
    """
    Return the share of the steps between two points in [0, 1]; exactly 0 where only rounding tells them apart, as 1 -
    0.7 and 0.3.
    """
    return 0.0 if math.isclose(start, end, abs_tol=1e-9) else end - start


def distinct(ends: Sequence[int]) -> list[int]:
    """Return the ends of the phases that have steps."""
    return [end for before, end in zip([0, *ends], ends, strict=False) if end > before]


def check_same_phase(
    names: Sequence[str], before: list[int], now: list[int], step: int, args: TrainingArguments
) -> None:
    """
    Check that a checkpoint is of the phase that a run is in at its step.

    Args:
        names (`Sequence[str]`): of the phases.
        before, now (`list[int]`): steps until the end of each phase, in the run of the checkpoint and in this one.
        step (`int`): of the checkpoint.

    Raises:
        FileError: its step is of another phase in this run.
    """
    if _place(before, step) == _place(now, step):
        return
    options = ("source_phase_fraction", "first_phase_fraction", "target_phase_fraction")
    fractions = " and ".join(f"`{name}`" for name in options if hasattr(args, name))
    raise FileError(
        f"The checkpoint of step {step} is of a run with {_describe(names, before)}, and this run has "
        f"{_describe(names, now)}. Resume with the same `max_steps` (or `num_train_epochs` and batch size) and the "
        f"same {fractions}."
    )


def _place(ends: Sequence[int], step: int) -> tuple[int, list[bool]]:
    """Return how many phases there are, and which of them were over before the update that led to a step."""
    return len(distinct(ends)), [step > end for end in ends[:-1]]


def _describe(names: Sequence[str], ends: Sequence[int]) -> str:
    spans = zip(names, [0, *ends], ends, strict=False)
    return ", ".join(f"`{name}` until step {end}" for name, start, end in spans if end > start)


def checkpoints_activations(args: TrainingArguments) -> bool:
    """Return whether the backward pass computes activations again, by the name that the option has in this release."""
    return getattr(args, "activation_checkpointing", getattr(args, "gradient_checkpointing", False))


def check_finds_unused(trainer: Any) -> None:
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
            f"`ddp_find_unused_parameters=True` (got {finds}; it is off by default where activations are "
            "checkpointed)."
        )


def check_schedule(trainer: Any) -> None:
    """
    Check that the learning rate has a course that each phase can take.

    Raises:
        ValueError: it depends on evaluations, and is no function of the step.
    """
    schedule = getattr(trainer.args.lr_scheduler_type, "value", trainer.args.lr_scheduler_type)
    if schedule in ("reduce_lr_on_plateau", "greedy"):
        raise ValueError(
            f"{type(trainer).__name__} has phases with a schedule each, and `lr_scheduler_type={schedule!r}` "
            "is none. Use 'linear', 'cosine' or 'constant'."
        )
