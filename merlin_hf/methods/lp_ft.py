"""Linear probing, then fine-tuning."""

from ..transfer.checks import check_head_can_be_written
from .linear_probe import ProbeTrainer


class LinearProbeThenFinetuneTrainer(ProbeTrainer):
    """
    LP-FT (Kumar, Raghunathan, Jones, Ma and Liang 2022, arXiv 2202.10054): fine-tuning that starts at a fitted head.

        theta_0 = argmin over theta_t:  L_target(theta_t, phi_0) + l2 * |theta_t|^2
        min over phi, theta_t from (phi_0, theta_0):  L_target(theta_t, phi)

    A random head sends large gradients into the backbone while it is learned, which distorts the features of what was
    not seen. The first phase is that of [`~merlin_hf.methods.LinearProbeTrainer`]: solved, with the backbone
    untouched.

    A step costs one batch of the target; the first phase one pass over its rows without gradient.
    """

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Make a training step; the head is fit before the first."""
        if self.state.global_step == 0 and self.micro_step == 0:
            self._head_needs_refit = True
            self.refit_head_if_stale()
            self.head_metrics = {}  # of the fitted head, which is trained from here on
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the target's loss as a mean over the rows at hand."""
        batches = self.take_batches(inputs)
        if batches is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(target_inputs=batches.target_inputs)
        loss = self.target_loss(outputs.target_logits, batches.target_labels)
        self.record(target_loss=loss)
        return (loss, outputs) if return_outputs else loss

    def check_data(self):
        """
        Check the data as TransferTrainer does.

        Raises:
            ValueError: the head cannot be written, as under DeepSpeed.
        """
        super().check_data()
        check_head_can_be_written(self)
