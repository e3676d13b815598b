"""Evaluating with a head that belongs to the current backbone, and counting every row once."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator

from ..trainer_base import TrainerBase
from .distributed import in_step
from .source import RankRows, is_iterable, plain_dataloader


class SettledHeadMixin(TrainerBase):
    """
    For a [`~merlin_hf.transfer.trainer.TransferTrainer`]: a head that is not trained by gradient descent is fit again whenever
    the model is used and has changed.
    """

    _head_is_stale = False
    head_metrics: dict[str, float] = {}  # replaced, never changed, by `refit_head`

    def refit_head(self) -> None:
        """Fit the model's own last layer to the whole target training set; for methods that do not train it."""

    def settle_head(self) -> None:
        """[`SettledHeadMixin.refit_head`] if the backbone has changed since; a collective, so every rank calls it."""
        if self._head_is_stale:
            self.check_finite()  # no solver says as well what is at fault
            # Schedule-free optimizers evaluate and save other weights than they train; a training step switches back.
            if callable(getattr(self.optimizer, "eval", None)):
                self.optimizer.eval()
            self.refit_head()
            self._head_is_stale = False

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """
        Trainer's loop for `evaluate` and `predict`, with a head that belongs to the current backbone.

        Where there are labels, `head_metrics` are among the metrics, so that `metric_for_best_model` may name them.
        """
        self.settle_head()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if f"{metric_key_prefix}_loss" in output.metrics:
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in self.head_metrics.items()})
        return output

    def _finalize_training(self, *args, **kwargs):
        # Callbacks may save the model at the end of training; a best checkpoint brings its own head.
        if not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
            self.settle_head()
        return super()._finalize_training(*args, **kwargs)

    def _load_best_model(self):
        super()._load_best_model()
        self._head_is_stale = False
        self.head_metrics = {}

    def rank_dataloader(self, dataset: torch.utils.data.Dataset, batch_size: int) -> torch.utils.data.DataLoader:
        """Batches of the target's rows in their order, shared out over the ranks, each row once and nothing padded."""
        known, collate_fn = self._with_collator(dataset, None, "training")
        rank, world_size = self.args.process_index, self.args.world_size
        if is_iterable(known):
            return plain_dataloader(RankRows(known, rank, world_size), collate_fn, self.args, batch_size=batch_size)
        rows = range(rank, len(known), world_size)
        return plain_dataloader(known, collate_fn, self.args, batch_size=batch_size, sampler=rows)

    def rank_batches(self, dataset: torch.utils.data.Dataset, batch_size: int) -> Iterator[tuple[Any, bool]]:
        """[`SettledHeadMixin.rank_dataloader`]'s batches; a sharded model gets others where this rank has fewer, marked `False`."""
        loader = self.rank_dataloader(dataset, batch_size)
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            return ((batch, True) for batch in loader)
        rows, collate_fn = self._with_collator(dataset, None, "training")
        return in_step(loader, lambda: collate_fn([next(iter(rows))]), self.args.device)


def real_rows(rows: int, accelerator: Accelerator) -> int:
    """
    How many of this rank's `rows` of an evaluation batch are not there to make the last batches of all ranks equal.

    Those are dropped from gathered predictions, but a mean loss over them would count rows twice.
    """
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return rows
    return min(max(state.remainder - accelerator.process_index * rows, 0), rows)
