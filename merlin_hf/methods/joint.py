"""Joint training on both tasks with a shared backbone."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from ..training_args import TransferTrainingArguments
from ..transfer.seeding import derived_seed
from ..transfer.trainer import TransferTrainer


BATCH_MIXES = ("equal", "proportional")


@dataclass
class JointTrainingArguments(TransferTrainingArguments):
    """
    [`TransferTrainingArguments`] for [`JointTrainer`].

    Args:
        batch_mix (`str`): `"equal"`: each step has a batch of each task. `"proportional"`: each step has a batch of one task, in
            proportion to how many batches the data sets have, evenly spread, as if their batches were shuffled together.
    """

    batch_mix: str = field(
        default="equal",
        metadata={
            "help": "Tasks of a step: one batch of each (equal), or of one by size (proportional).",
            "choices": list(BATCH_MIXES),
        },
    )


class JointTrainer(TransferTrainer):
    """
    Multi-task training: a shared backbone and two heads, all trained by gradient descent on the weighted sum of losses.

        min over phi, theta_s, theta_t:  source_weight * L_source(theta_s, phi) + L_target(theta_t, phi)

    Takes the same arguments as [`~merlin_hf.MerlinTrainer`], with [`JointTrainingArguments`]. With
    `batch_mix="proportional"` the sum is one over all rows of both data sets, so that a small target hardly counts: what happens where data
    sets are just put together (MT-DNN's mixing, Liu et al. 2019, arXiv 1901.11504).

    A step costs a batch of each task; with the proportional mix, of one.
    """

    training_args_class: ClassVar = JointTrainingArguments
    search_space: ClassVar = {"source_weight": (0.1, 0.3, 1.0)}

    @classmethod
    def rows_per_step(cls, args, has_source):
        """As in TransferTrainer; with the proportional mix as if all steps were the source's, which is the most they cost."""
        if has_source and args.batch_mix == "proportional":
            return args.per_device_source_batch_size or args.per_device_train_batch_size
        return super().rows_per_step(args, has_source)

    @property
    def has_unused_parameters(self):
        """With the proportional mix, a step uses one head."""
        return self.args.batch_mix == "proportional" and self.source_dataset is not None

    @property
    def draws_source(self):
        """With the proportional mix, in those updates that are the source's."""
        if self.source_dataset is None or self.args.batch_mix == "equal":
            return super().draws_source
        step = self.state.global_step
        return self.target_updates_before(step + 1) == self.target_updates_before(step)

    @property
    def source_updates_before(self):
        """As in TransferTrainer."""
        step = self.state.global_step
        if self.args.batch_mix == "equal":
            return step
        return step - self.target_updates_before(step)

    def target_updates_before(self, step: int) -> int:
        """
        How many of the first `step` updates of the proportional mix are the target's.

        Systematic sampling: any update is the target's with its share of batches as the probability, and no run has one more or
        less than that share.
        """
        target = len(self.train_dataset) / self._train_batch_size
        source = len(self.source_dataset) / self.source_batch_size
        offset = derived_seed("batch_mix", self.args.seed) / 2**63
        return math.floor(offset + step * target / (target + source))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum above on one micro-batch of each task, or the part of it that the batch is for; Trainer's own in evaluation."""
        batches = self.take_batches(inputs)
        if batches is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        has_source = batches.source_inputs is not None
        has_target = self.args.batch_mix == "equal" or not has_source
        outputs = model(
            source_inputs=batches.source_inputs, target_inputs=batches.target_inputs if has_target else None
        )
        loss = 0.0
        if has_source:
            source_loss = self.source_loss(outputs.source_logits, batches.source_labels)
            loss = loss + self.args.source_weight * source_loss
            self.record(source_loss=source_loss)
        if has_target:
            target_loss = self.target_loss(outputs.target_logits, batches.target_labels)
            loss = loss + target_loss
            self.record(target_loss=target_loss)
        return (loss, outputs) if return_outputs else loss

    def check_data(self):
        """
        As in TransferTrainer.

        Raises:
            ValueError: the proportional mix does not know how long a data set is.
        """
        super().check_data()
        if self.args.batch_mix == "proportional":
            for argument in ("train_dataset", "source_dataset"):
                if not hasattr(getattr(self, argument), "__len__"):
                    raise ValueError(
                        f"`batch_mix='proportional'` needs to know how many rows `{argument}` has, and a "
                        f"{type(getattr(self, argument)).__name__} does not tell. Use `batch_mix='equal'`."
                    )
