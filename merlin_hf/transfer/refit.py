"""The final head, fit on all target rows with the backbone as it is."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer import logger as trainer_logger
from transformers.trainer_utils import has_length
from transformers.utils import logging

from ..heads import HeadSolver, LinearHead, encode_targets, get_head
from ..trainer_base import TrainerBase
from .distributed import is_distributed, reshard, share_buffers, sum_over_ranks, whole, write
from .labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, problem_type_of, split_labels
from .model import evaluating
from .seeding import isolated_rng


logger = logging.get_logger(__name__)


class FeatureBatches:
    """
    A data set as the features that enter a head: iterating gives `(features, targets, sample_weight)`.

    The first pass runs the backbone. Later passes, which iterative solvers make, read the features back from memory
    (`n * hidden_size` floats on the CPU), as another pass of the backbone would cost far more.

    Args:
        batches (`Callable`): starts a pass over batches with `labels`, each row on one rank only, and whether they are this
            rank's own.
        features (`Callable`): maps a batch without labels to features `(n, hidden_size)`.
        encode (`Callable`): maps labels to targets `(n, num_labels)` and sample weights `(n,)`.
        prepare_inputs (`Callable`): moves a batch to the device.
        keep (`bool`): keep features for later passes.
        sample_size (`int`): rows that `sample` has at least, the first ones, after a pass.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[tuple[Any, bool]]],
        features: Callable[[Mapping[str, Any]], Tensor],
        encode: Callable[[Tensor], tuple[Tensor, Tensor]],
        prepare_inputs: Callable[[Any], Any],
        keep: bool = False,
        sample_size: int = 10_000,
    ):
        self.batches = batches
        self.features = features
        self.encode = encode
        self.prepare_inputs = prepare_inputs
        self.keep = keep
        self.sample_size = sample_size
        self.sample: list[tuple[Tensor, Tensor, Tensor]] = []
        self.target_sum: Tensor | float = 0.0  # for classes how many rows of each, of the last pass over the model
        self._kept: list[tuple[Tensor, Tensor, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, rows, self.target_sum = [], 0, 0.0
        for batch, is_own in self.batches():
            inputs, labels = split_labels(self.prepare_inputs(batch))
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


def write_head(layer: nn.Linear, head: LinearHead, scale: float = 1.0) -> None:
    """
    Put a fitted head into a model's last layer.

    Args:
        layer (`torch.nn.Linear`): with `weight` of shape `(num_labels, hidden_size)`, with or without a bias.
        head ([`~merlin_hf.heads.LinearHead`]): of the same shape.
        scale (`float`): factor of the logits, so that their softmax is calibrated; predictions do not depend on it.
    """
    write(layer.weight, head.weight * scale)
    if layer.bias is not None:
        write(layer.bias, head.bias * scale)


class RefitHeadMixin(TrainerBase):
    """For a [`~merlin_hf.transfer.trainer.TransferTrainer`] whose final head is fit on all target rows by a solver of `merlin_hf.heads`."""

    target_problem_type: str | None = None

    @torch.no_grad()
    def refit_head(self) -> None:
        """Write [`RefitHeadMixin.final_head`] into the model's last layer."""
        transfer_model = self.transfer_model
        scalars = {name: whole(value).reshape(()) for name, value in transfer_model.scalars.items()}
        head = self.final_head(scalars)
        reshard(transfer_model)
        if self.is_deepspeed_enabled:  # the same for ZeRO-3
            self.deepspeed.empty_partition_cache()
        write_head(transfer_model.head, head, float(self.logit_scale(scalars)))

    def final_head(self, scalars: dict[str, Tensor]) -> LinearHead:
        """
        The head that fits all of `train_dataset` with the backbone as it is, in evaluation mode.

        Rows are shared out over the ranks, each once. Draws nothing from the global generators.
        """
        transfer_model, args = self.transfer_model, self.args
        model = self.model_wrapped if self.is_fsdp_enabled else transfer_model
        l2 = self.final_head_l2(scalars)
        share_buffers(transfer_model)
        with isolated_rng("refit", args.seed), transfer_model.attached(), evaluating(transfer_model):
            if self.target_problem_type is None:
                batch, _ = next(iter(self.rank_batches(self.train_dataset, args.eval_batch_size)))
                self.target_problem_type = self.problem_type(split_labels(batch)[1])
            solver = self.head_solver(self.target_problem_type)
            batches = FeatureBatches(
                lambda: self.rank_batches(self.train_dataset, args.eval_batch_size),
                features=lambda inputs: model(target_inputs=inputs, with_target_logits=False).target_features,
                encode=self.fit_targets,
                prepare_inputs=self._prepare_inputs,
                keep=not solver.single_pass,
            )
            head = solver.fit_batches(batches, l2, reduce=sum_over_ranks if is_distributed() else None)
            head = self.finish_head(head, batches, scalars)
            # A solver that has nothing to choose takes its default for "auto".
            self.head_metrics = self.measure_head(head, batches, solver.default_l2 if isinstance(l2, str) else l2)
            self._log_final_head(solver, is_l2_chosen="l2" in head.info)
            if head.info.get("solver_unconverged", 0) > 0:
                logger.warning(
                    f"The final {type(solver).__name__} did not converge on the target rows (residual "
                    f"{float(head.info['solver_residual']):.1e}); a larger `head_l2` or `refit_l2` makes it easier."
                )
        return head

    def finish_head(self, head: LinearHead, batches: FeatureBatches, scalars: dict[str, Tensor]) -> LinearHead:
        """What is done to the head that a solver has fit to all of `batches`; nothing."""
        return head

    def _log_final_head(self, solver: HeadSolver, is_l2_chosen: bool) -> None:
        """Say what was fit, as Trainer says what it runs, and where it does: by its logger, with the user's verbosity."""
        if not self.is_world_process_zero():
            return
        chosen = " (chosen by cross-validation)" if is_l2_chosen else ""
        trainer_logger.info("***** Fitted the final head *****")
        trainer_logger.info(f"  Solver = {type(solver).__name__}")
        if has_length(self.train_dataset):
            trainer_logger.info(f"  Num examples = {len(self.train_dataset):,}")
        trainer_logger.info(f"  l2 = {self.head_metrics['head_l2']:.4g}{chosen}")

    def measure_head(self, head: LinearHead, batches: FeatureBatches, l2: float) -> dict[str, float]:
        """
        Metrics of the final head, which evaluation reports with a prefix.

        Returns:
            `dict[str, float]`: `head_l2`, as chosen where it was to be, and for classification `head_train_accuracy` on the
            rows it was fit on (10,000 of each rank at most): far above the accuracy on others, it says that the backbone has
            memorised them.
        """
        metrics = {"head_l2": float(head.info.get("l2", l2))}
        if self.target_problem_type != REGRESSION:
            correct = torch.zeros(2, dtype=torch.float64)
            for features, targets, sample_weight in batches.sample:
                logits = head(features.to(head.weight.device))
                correct += self.count_correct(logits.cpu(), targets.cpu(), sample_weight.cpu() > 0)
            if is_distributed():
                correct = sum_over_ranks(correct.to(self.args.device))
            correct, total = correct.tolist()
            metrics["head_train_accuracy"] = correct / max(total, 1)
        return metrics

    def count_correct(self, logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        """Right predictions, and all of them, `(2,)`: rows of one label, or single labels where there are several."""
        if self.target_problem_type == SINGLE_LABEL:
            right = logits.argmax(-1) == targets.argmax(-1)
        else:
            right = (logits > 0) == (targets > 0)
            counted = counted.unsqueeze(-1).expand_as(right)
        return torch.stack([(right & counted).sum(), counted.sum()]).double()

    def fit_targets(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """
        What a head is fit to: targets `(n, num_labels)` and sample weights `(n,)`, 0 for ignored rows.

        Multi-label targets are shifted so that a logit of 0 is undecided, with or without a bias.
        """
        problem_type = self.problem_type(labels)
        targets, sample_weight = encode_targets(labels, self.transfer_model.num_labels, problem_type)
        if problem_type == MULTI_LABEL:
            targets = targets - self.head_solver(problem_type).decision_threshold
        return targets, sample_weight

    def head_solver(self, problem_type: str) -> HeadSolver:
        """The solver that [`RefitHeadMixin.head_name`] names, with an intercept where the model's last layer has a bias."""
        fit_intercept = self.transfer_model.head.bias is not None
        return get_head(self.head_name(problem_type), problem_type=problem_type, fit_intercept=fit_intercept)

    def head_name(self, problem_type: str) -> str:
        """The solver of the head for such labels, a name in `merlin_hf.heads.HEADS`."""
        raise NotImplementedError

    def final_head_l2(self, scalars: dict[str, Tensor]) -> float | str:
        """The final head's regulariser, or `"auto"` to have it chosen by cross-validation."""
        return self.args.refit_l2

    def logit_scale(self, scalars: dict[str, Tensor] | None) -> Tensor | float:
        """What the head's outputs are multiplied by, so that their softmax is calibrated."""
        return 1.0 if self.is_regression else self.head_solver(SINGLE_LABEL).default_logit_scale

    @property
    def is_regression(self) -> bool:
        """Whether the target's labels are real numbers, as the model's configuration tells."""
        config = getattr(self.model, "config", None)
        problem_type = getattr(config, "problem_type", None)
        return problem_type == REGRESSION or (problem_type is None and getattr(config, "num_labels", None) == 1)

    def problem_type(self, labels: Tensor) -> str:
        """The target's problem type, by the rule of transformers' own classifiers."""
        config = getattr(self.transfer_model.model, "config", None)
        return problem_type_of(labels, self.transfer_model.num_labels, getattr(config, "problem_type", None))
