"""Plain fine-tuning on the target."""

from transformers import Trainer

from ..transfer.labels import MeanLoss
from ..transfer.weights import SavedWeightsMixin
from ..transfer.whole_checkpoints import WholeCheckpointsMixin


class FinetuneTrainer(WholeCheckpointsMixin, SavedWeightsMixin, Trainer):
    """
    [`~transformers.Trainer`] on the target alone, with a loss that is a mean over rows for every model.

        min over phi, theta_t:  L_target(theta_t, phi)

    Stock Trainer (5.23) passes `num_items_in_batch` to any forward with `**kwargs` and takes the loss for scaled, but
    BERT, RoBERTa, DistilBERT, ResNet and others drop it: four accumulation steps then give four times the gradient, two
    processes twice (huggingface/transformers#47688). Compared with that, every other method would have another learning
    rate.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_is_scaled_for_ga = False
        if self.compute_loss_func is not None:
            self.compute_loss_func = MeanLoss(self.compute_loss_func)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Trainer's micro-batches, without the count of items."""
        batch_samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batch_samples, None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Trainer's loss as a mean over the rows at hand."""
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch=None)
