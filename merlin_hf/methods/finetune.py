"""Plain fine-tuning on the target."""

from typing import ClassVar

from ..transfer.trainer import TransferTrainer


class FinetuneTrainer(TransferTrainer):
    """
    Fine-tuning on the target alone, as by [`~transformers.Trainer`].

        min over phi, theta_t:  L_target(theta_t, phi)

    The loss is a mean over rows for every model (see `merlin_hf.transfer.compat.mean_loss`). So one learning rate
    means the same to all methods.

    A step costs one batch of the target.
    """

    takes_source: ClassVar[bool] = False
    averages_loss: ClassVar[bool] = True
