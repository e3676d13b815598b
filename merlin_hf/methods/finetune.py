"""Plain fine-tuning on the target."""

from typing import ClassVar

from ..transfer.trainer import TransferTrainer


class FinetuneTrainer(TransferTrainer):
    """
    [`~transformers.Trainer`] on the target alone, with a loss that is a mean over rows for every model.

        min over phi, theta_t:  L_target(theta_t, phi)

    Compared with stock Trainer, whose loss is scaled by the model (see [`~merlin_hf.transfer.mean_loss.MeanLossMixin`]), every
    other method would have another learning rate.

    A step costs one batch of the target.
    """

    takes_source: ClassVar[bool] = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.use_mean_loss()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Trainer's micro-batches, without the count of items."""
        batch_samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batch_samples, None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Trainer's loss as a mean over the rows at hand, each counted once in evaluation."""
        return self.loss_of_real_rows(model, inputs, return_outputs)
