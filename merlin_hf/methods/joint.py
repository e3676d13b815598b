"""Joint training on both tasks with a shared backbone."""

from typing import ClassVar

from ..transfer.trainer import TransferTrainer


class JointTrainer(TransferTrainer):
    """
    Multi-task training: a shared backbone and two heads, all trained by gradient descent on the weighted sum of losses.

        min over phi, theta_s, theta_t:  source_weight * L_source(theta_s, phi) + L_target(theta_t, phi)

    Takes the same arguments as [`~merlin_hf.MerlinTrainer`], with [`~merlin_hf.TransferTrainingArguments`].
    """

    trains_target_head: ClassVar[bool] = True

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum above on one micro-batch of each task; Trainer's own loss where there is no source batch."""
        batches = self.take_batches(inputs)
        if batches is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        outputs = model(source_inputs=batches.source_inputs, target_inputs=batches.target_inputs)
        source_loss = self.source_loss(outputs.source_logits, batches.source_labels)
        target_loss = self.target_loss(outputs.target_logits, batches.target_labels)

        self.record(source_loss=source_loss, target_loss=target_loss)
        loss = self.args.source_weight * source_loss + target_loss
        return (loss, outputs) if return_outputs else loss
