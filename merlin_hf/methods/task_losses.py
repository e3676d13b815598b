"""The sum of the losses of the tasks that a step is on: what methods without a meta loss share."""

from torch import Tensor

from ..transfer.trainer import TransferTrainer


class TaskLossesTrainer(TransferTrainer):
    """
    A trainer on the loss of each task that the current phase uses, with the method's regularizer.

        source_weight * L_source(theta_s, phi) + L_target(theta_t, phi) + R(phi, theta_t)
    """

    @property
    def uses_target(self) -> bool:
        """Whether the current update uses the target's batch."""
        return self.phase.uses_target

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the sum above, each loss a mean over the rows at hand; Trainer's own in evaluation."""
        batches = self.take_batches(inputs)
        if batches is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        uses_target = self.uses_target
        loss: Tensor | float = 0.0
        outputs = model(
            source_inputs=batches.source_inputs,
            target_inputs=batches.target_inputs if uses_target else None,
            target_labels=batches.target_labels if uses_target else None,
        )
        if batches.source_labels is not None:
            source_loss = self.source_loss(outputs.source_logits, batches.source_labels)
            self.record(source_loss=source_loss)
            loss = self.args.source_weight * source_loss
        if uses_target:
            target_loss = self.target_loss(outputs.target_logits, batches.target_labels)
            self.record(target_loss=target_loss)
            loss = loss + target_loss
            if outputs.penalty is not None:
                penalty = self.mean_penalty(outputs.penalty, batches.target_labels)
                self.record(penalty=penalty)
                loss = loss + penalty
        return (loss, outputs) if return_outputs else loss

    def mean_penalty(self, penalty: Tensor, labels: Tensor) -> Tensor:
        """Return the penalty of a step; of tokens weighted, where it is not a mean over sentences."""
        regularizer = self.build_transfer_model().regularizer
        is_of_sentences = regularizer is not None and regularizer.uses_hidden_states
        return penalty if is_of_sentences else self._mean_of_step(penalty, labels)
