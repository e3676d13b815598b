"""Training on the source alone; its own head answers for the target."""

from typing import ClassVar

from ..transfer.refit import refit_head
from ..transfer.shared_labels import need_shared_labels, source_head_for_target
from .regularized import check_same_features
from .source_probe import SourceOnlyTrainer


class ZeroShotTrainer(SourceOnlyTrainer):
    """
    Training on the source alone; the source's head predicts the target.

        min over phi, theta_s:  L_source(theta_s, phi),  theta_t = theta_s in the order of the target's labels

    No target row is used, neither to train nor to choose a setting. The labels of both tasks must have the same names.
    Names that differ only in upper and lower case are matched, with a warning. Other names are an error.

    A step costs a batch of the source.
    """

    takes_several_sources: ClassVar[bool] = False
    uses_shared_labels: ClassVar[bool] = True

    def refit_head(self):
        """Write the source's head into the model's last layer."""
        refit_head(self)

    def final_head(self, scalars):
        """Return the source's head, in the order of the target's labels."""
        return source_head_for_target(self.build_transfer_model(), need_shared_labels(self))

    def logit_scale(self, scalars):
        """Return 1: the source's logits are those of probabilities."""
        return 1.0

    def check_data(self):
        """Check the data as TransferTrainer does, and that the model's last layer can be the source's head."""
        super().check_data()
        need_shared_labels(self)
        check_same_features(self)
        if self.build_transfer_model().head.bias is None:
            raise ValueError("ZeroShotTrainer writes a head with a bias into the model's last layer, which has none.")
