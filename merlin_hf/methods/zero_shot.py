"""Training on the source alone; its own head answers for the target."""

from typing import ClassVar

from ..transfer.refit import refit_head
from ..transfer.shared_labels import need_shared_labels, source_head_for_target
from .regularized import check_same_features
from .source_probe import SourceOnlyTrainer


class ZeroShotTrainer(SourceOnlyTrainer):
    """
    The source alone, whose own head is used for the target, where the labels have the same names.

        min over phi, theta_s:  L_source(theta_s, phi),  theta_t = theta_s in the order of the target's labels

    The target's rows take no part, neither in training nor in a choice. Names are compared as they are, and by upper
    and lower case alone with a warning; where they do not agree, the method cannot be used.

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
