"""What is done at moments of a training that Trainer calls callbacks at."""

from transformers import Trainer, TrainerCallback

from .batches import not_taken_error


class TransferCallback(TrainerCallback):
    """
    For a trainer with a method that is active: the first of its callbacks, so that the others find what it leaves.

    Args:
        trainer ([`~merlin_hf.transfer.trainer.TransferTrainer`]).
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """
        Stop before an update whose gradients are not of the method's batches, or of a model that is not saved.

        Raises:
            ValueError: a method of the trainer or its model has been replaced.
        """
        trainer = self.trainer
        if not 0 < trainer.micro_batches <= trainer.batches_taken:
            raise not_taken_error()
        trainer.batches_taken = trainer.micro_batches = 0
        is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # which have models of their own
        if trainer.model is not trainer.transfer_model.model and not is_sharded:
            raise ValueError(
                "`trainer.model` has been replaced during training, by a callback perhaps: what is trained would not "
                "be what is evaluated and saved. Replace it before `train()`, or give `model_init=`."
            )

    def on_train_end(self, args, state, control, **kwargs):
        """
        Have the head fit the final backbone, as other callbacks may save the model now; a best checkpoint brings its
        own head.
        """
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self.trainer.head_is_loaded()
        else:
            self.trainer.refit_head_if_stale()
