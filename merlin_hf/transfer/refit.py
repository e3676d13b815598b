"""
The final head, fit to all target rows with the current backbone.

[`~merlin_hf.transfer.trainer.TransferTrainer.refit_head_if_stale`] decides when it is fit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import logger as trainer_logger
from transformers.trainer_utils import has_length
from transformers.utils import logging

from ..heads import HeadSolver, LinearHead, encode_targets
from .distributed import (
    assign_parameter,
    broadcast_buffers,
    gather_parameter,
    is_distributed,
    lockstep_batches,
    reshard,
    sum_over_ranks,
)
from .labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .model import evaluating
from .seeding import isolated_rng
from .source import RankRows, Rows, is_iterable, plain_dataloader


logger = logging.get_logger(__name__)


@dataclass
class FeatureBatches:
    """
    A data set in terms of a head: iterating yields `(features, targets, sample_weight)` for each batch.

    The first pass runs the backbone. Later passes, which iterative solvers make, read the features from memory (`n *
    hidden_size` floats on the CPU), as another pass of the backbone would cost far more.

    Args:
        batches (`Callable`): starts a pass over batches with labels, and whether each is this rank's own. Each row is
            this rank's own on one rank only.
        features (`Callable`): maps a batch without labels to features `(n, hidden_size)`.
        encode (`Callable`): maps labels to targets `(n, num_labels)` and sample weights `(n,)`.
        divide (`Callable`): moves a batch to the device, and divides it into inputs and labels.
        keep (`bool`): keep features for later passes.
        sample_size (`int`): the number of rows, the first ones, that `sample` has at least after a pass.
    """

    batches: Callable[[], Iterable[tuple[Any, bool]]]
    features: Callable[[Mapping[str, Any]], Tensor]
    encode: Callable[[Tensor], tuple[Tensor, Tensor]]
    divide: Callable[[Any], tuple[dict[str, Any], Tensor]]
    keep: bool = False
    sample_size: int = 10_000
    sample: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, init=False)
    target_sum: Tensor | float = field(default=0.0, init=False)  # of the first pass; of classes, the rows of each
    _kept: list[tuple[Tensor, Tensor, Tensor]] | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, rows, self.target_sum = [], 0, 0.0
        for batch, is_own in self.batches():
            inputs, labels = self.divide(batch)
            features = self.features(inputs)
            targets, weight = self.encode(labels)
            if not is_own:
                continue
            self.target_sum = self.target_sum + (targets * weight.unsqueeze(-1)).sum(0)
            if self.keep or rows < self.sample_size:
                kept.append((features.cpu(), targets.cpu(), weight.cpu()))
                rows += len(labels)
            yield features, targets, weight
        self.sample = kept
        if self.keep:
            self._kept = kept


def rank_batches(trainer: Trainer, dataset: Rows) -> Iterator[tuple[Any, bool]]:
    """
    Yield batches of this rank's share of the target's rows in order, and whether they are its own.

    Each row is on one rank, without padding. Where the model is sharded, ranks with fewer batches get more.
    """
    rows, collate_fn = trainer._with_collator(dataset, None, "training")
    args, rank, world_size = trainer.args, trainer.args.process_index, trainer.args.world_size
    if is_iterable(rows):
        own = plain_dataloader(RankRows(rows, rank, world_size), collate_fn, args, batch_size=args.eval_batch_size)
    else:
        sampler = range(rank, len(rows), world_size)
        own = plain_dataloader(rows, collate_fn, args, batch_size=args.eval_batch_size, sampler=sampler)
    if trainer.is_sharded:
        yield from lockstep_batches(own, lambda: collate_fn([next(iter(rows))]), args.device)
    else:
        yield from ((batch, True) for batch in own)


def fit_targets(trainer: Trainer, labels: Tensor, solver: HeadSolver) -> tuple[Tensor, Tensor]:
    """
    Return the targets of a fit `(n, num_labels)`, and sample weights `(n,)`, which are 0 for ignored rows.

    Multi-label targets are shifted so that a logit of 0 means undecided, with or without a bias.
    """
    problem_type = trainer.problem_type(labels)
    targets, sample_weight = encode_targets(labels, trainer.transfer_model.num_labels, problem_type)
    return (targets - solver.decision_threshold if problem_type == MULTI_LABEL else targets), sample_weight


def write_head(layer: nn.Linear, head: LinearHead, scale: float = 1.0) -> None:
    """Write a fitted head into a model's last layer; `scale` multiplies the logits, to calibrate their softmax."""
    assign_parameter(layer.weight, head.weight * scale)
    if layer.bias is not None:
        assign_parameter(layer.bias, head.bias * scale)


@torch.no_grad()
def refit_head(trainer: Trainer) -> None:
    """Write the head that fits all of `train_dataset` into the model's last layer; a collective."""
    transfer_model = trainer.transfer_model
    scalars = {name: gather_parameter(value).reshape(()) for name, value in transfer_model.scalars.items()}
    head = trainer.final_head(scalars)
    reshard(transfer_model)
    if trainer.is_deepspeed_enabled:  # the same for ZeRO-3
        trainer.deepspeed.empty_partition_cache()
    write_head(transfer_model.head, head, trainer.final_logit_scale(scalars))


@torch.no_grad()
def fit_final_head(trainer: Trainer, scalars: dict[str, Tensor]) -> LinearHead:
    """
    Fit a head to all of `train_dataset` with the current backbone, in evaluation mode, and set `trainer.head_metrics`.

    A collective. Each row is on one rank. Nothing is drawn from the global generators.

    Args:
        trainer: its `final_solver`, `final_head_l2` and `finish_head` are used.
        scalars (`dict[str, torch.FloatTensor]`): the learned scalars, each of shape `()`.
    """
    transfer_model, args = trainer.transfer_model, trainer.args
    model = trainer.model_wrapped if trainer.is_fsdp_enabled else transfer_model
    l2 = trainer.final_head_l2(scalars)
    broadcast_buffers(transfer_model)
    with isolated_rng("refit", args.seed), transfer_model.feature_mode(), evaluating(transfer_model):
        if trainer.target_problem_type is None:
            batch, _ = next(rank_batches(trainer, trainer.train_dataset))
            trainer.target_problem_type = trainer.problem_type(trainer.split_batch(batch)[1])
        solver = trainer.final_solver(trainer.target_problem_type)
        batches = FeatureBatches(
            lambda: rank_batches(trainer, trainer.train_dataset),
            features=lambda inputs: model(target_inputs=inputs, with_target_logits=False).target_features,
            encode=lambda labels: fit_targets(trainer, labels, solver),
            divide=lambda batch: trainer.split_batch(trainer._prepare_inputs(batch)),
            keep=not solver.single_pass,
        )
        head = solver.fit_batches(batches, l2, reduce=sum_over_ranks if is_distributed() else None)
        head = trainer.finish_head(head, batches, scalars)
        # A solver that has nothing to choose takes its default for "auto".
        l2 = float(head.info.get("l2", solver.default_l2 if isinstance(l2, str) else l2))
        trainer.head_metrics = head_metrics(head, batches, l2, trainer.target_problem_type, args.device)
        if trainer.is_world_process_zero():
            _log_fit(trainer.train_dataset, solver, l2, is_l2_chosen="l2" in head.info)
        if head.info.get("solver_unconverged", 0) > 0:
            logger.warning(
                f"The final {type(solver).__name__} did not converge on the target rows (residual "
                f"{float(head.info['solver_residual']):.1e}); a larger `head_l2` or `refit_l2` makes it easier."
            )
    return head


def head_metrics(
    head: LinearHead, batches: FeatureBatches, l2: float, problem_type: str, device: torch.device
) -> dict[str, float]:
    """
    Return the metrics of the final head, which evaluation reports with a prefix.

    They are `head_l2`, and for classification `head_train_accuracy` on the rows it was fit on (10,000 of each rank at
    most). If that is far above the accuracy on other rows, the backbone has memorised these.
    """
    metrics = {"head_l2": l2}
    if problem_type != REGRESSION:
        correct = torch.zeros(2, dtype=torch.float64)
        for features, targets, sample_weight in batches.sample:
            logits = head(features.to(head.weight.device))
            correct += count_correct(logits.cpu(), targets.cpu(), sample_weight.cpu() > 0, problem_type)
        if is_distributed():
            correct = sum_over_ranks(correct.to(device))
        right, total = correct.tolist()
        metrics["head_train_accuracy"] = right / max(total, 1)
    return metrics


def count_correct(logits: Tensor, targets: Tensor, counted: Tensor, problem_type: str) -> Tensor:
    """Return the numbers of right predictions and of all, `(2,)`; with several labels a row, each label counts."""
    if problem_type == SINGLE_LABEL:
        right = logits.argmax(-1) == targets.argmax(-1)
    else:
        right = (logits > 0) == (targets > 0)
        counted = counted.unsqueeze(-1).expand_as(right)
    return torch.stack([(right & counted).sum(), counted.sum()]).double()


def _log_fit(dataset: Any, solver: HeadSolver, l2: float, is_l2_chosen: bool) -> None:
    """Log the fit by Trainer's logger, as Trainer does for evaluation."""
    chosen = " (chosen by cross-validation)" if is_l2_chosen else ""
    trainer_logger.info("***** Fitted the final head *****")
    trainer_logger.info(f"  Solver = {type(solver).__name__}")
    if has_length(dataset):
        trainer_logger.info(f"  Num examples = {len(dataset):,}")
    trainer_logger.info(f"  l2 = {l2:.4g}{chosen}")
