"""Plain fine-tuning on the target."""

from typing import ClassVar

from ..transfer.trainer import TransferTrainer


class FinetuneTrainer(TransferTrainer):
    """
    [`~transformers.Trainer`] on the target alone, with a loss that is a mean over rows for every model.

        min over phi, theta_t:  L_target(theta_t, phi)

    Compared with stock Trainer, whose loss is scaled by the model (see [`~merlin_hf.transfer.compat.mean_loss`]),
    every other method would have another learning rate.

    A step costs one batch of the target.
    """

    takes_source: ClassVar[bool] = False
    averages_loss: ClassVar[bool] = True
