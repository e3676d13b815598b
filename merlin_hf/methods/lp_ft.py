"""Linear probing, then fine-tuning."""

from ..transfer.checks import check_head_can_be_written
from .linear_probe import ProbeTrainer
from .task_losses import TaskLossesTrainer


class LinearProbeThenFinetuneTrainer(TaskLossesTrainer, ProbeTrainer):
    """
    LP-FT: fine-tuning that starts at a fitted head.

        theta_0 = argmin over theta_t:  L_target(theta_t, phi_0) + l2 * |theta_t|^2
        min over phi, theta_t from (phi_0, theta_0):  L_target(theta_t, phi)

    While a random head is learned, it sends large gradients into the backbone. These distort the features of rows that
    are not in the training set. The first phase is [`~merlin_hf.methods.LinearProbeTrainer`]. The method is by Kumar,
    Raghunathan, Jones, Ma and Liang 2022 (arXiv 2202.10054).

    A step costs one batch of the target. The first phase costs one pass over its rows without gradient.
    """

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Make a training step; the head is fit before the first."""
        if self.state.global_step == 0 and self.micro_step == 0:
            self._head_needs_refit = True
            self.refit_head_if_stale()
            self.head_metrics = {}  # of the fitted head, which is trained from here on
        return super().training_step(model, inputs, num_items_in_batch)

    def check_data(self):
        """Check the data as TransferTrainer does, and that the head can be written, as it cannot under DeepSpeed."""
        super().check_data()
        check_head_can_be_written(self)
