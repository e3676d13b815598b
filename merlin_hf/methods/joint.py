"""Joint training on both tasks with a shared backbone."""

import math
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..training_args import TransferTrainingArguments
from ..transfer.seeding import derived_seed
from .task_losses import TaskLossesTrainer


BATCH_MIXES = ("equal", "proportional")


@dataclass
class JointTrainingArguments(TransferTrainingArguments):
    """
    [`TransferTrainingArguments`] for [`JointTrainer`].

    Args:
        batch_mix (`str`): `"equal"`: each step has a batch of each task. `"proportional"`: each step has a batch of
            one task, in proportion to how many batches the data sets have, evenly spread, as if their batches were
            shuffled together.
    """

    batch_mix: str = field(
        default="equal",
        metadata={
            "help": "Tasks of a step: one batch of each (equal), or of one by size (proportional).",
            "choices": list(BATCH_MIXES),
        },
    )


class JointTrainer(TaskLossesTrainer):
    """
    Multi-task training: one backbone and two heads, trained on the weighted sum of both losses.

        min over phi, theta_s, theta_t:  source_weight * L_source(theta_s, phi) + L_target(theta_t, phi)

    It takes the arguments of [`~merlin_hf.MerlinTrainer`], with `JointTrainingArguments`. `batch_mix="proportional"`
    sums over all rows of both data sets, so a small target has little influence. That is the mixing of MT-DNN (Liu et
    al. 2019, arXiv 1901.11504).

    A step costs a batch of each task, or one batch with the proportional mix.
    """

    training_args_class: ClassVar = JointTrainingArguments
    search_space: ClassVar = {"source_weight": (0.1, 0.3, 1.0)}

    @classmethod
    def rows_per_step(cls, args, has_source):
        """Return the rows of a step; with the proportional mix those of the source, which is the most it can be."""
        if has_source and args.batch_mix == "proportional":
            return args.per_device_source_batch_size or args.per_device_train_batch_size
        return super().rows_per_step(args, has_source)

    @property
    def has_unused_parameters(self):
        """Whether a step does not use both heads, as with the proportional mix."""
        return self.args.batch_mix == "proportional" and self.source_dataset is not None

    @property
    def draws_source(self):
        """Whether the current update needs source batches; with the proportional mix where it is the source's."""
        if self.source_dataset is None or self.args.batch_mix == "equal":
            return super().draws_source
        step = self.state.global_step
        return self.target_updates_before(step + 1) == self.target_updates_before(step)

    @property
    def uses_target(self):
        """Whether the current update uses the target's batch; with the proportional mix, where it is the target's."""
        return self.args.batch_mix == "equal" or not self.draws_source

    @property
    def source_updates_before(self):
        """How many updates before the current one drew source batches."""
        step = self.state.global_step
        if self.args.batch_mix == "equal":
            return step
        return step - self.target_updates_before(step)

    def target_updates_before(self, step: int) -> int:
        """
        Return how many of the first `step` updates of the proportional mix are the target's.

        By systematic sampling an update is the target's with its share of batches as the probability, and the counts
        of no run differ from the shares by one.
        """
        target = self.count_rows(self.train_dataset, "train_dataset") / self._train_batch_size
        source = (
            sum(self.count_rows(source.dataset, source.argument) for source in self.sources) / self.source_batch_size
        )
        offset = derived_seed("batch_mix", self.args.seed) / 2**63
        return math.floor(offset + step * target / (target + source))

    def check_data(self):
        """Check the data as TransferTrainer does, and that the proportional mix knows how long data sets are."""
        super().check_data()
        if self.args.batch_mix == "proportional":
            self.target_updates_before(0)

    def count_rows(self, dataset: Any, argument: str) -> int:
        """Return how many rows a data set has; raise a `ValueError` where it does not know, as a stream."""
        if isinstance(dataset, Sized):
            return len(dataset)
        raise ValueError(
            f"`batch_mix='proportional'` needs to know how many rows `{argument}` has, and a "
            f"{type(dataset).__name__} does not tell. Use `batch_mix='equal'`."
        )
