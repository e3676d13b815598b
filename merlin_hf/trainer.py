"""MeRLin: train a backbone such that a head fit on part of the target data does well on the rest."""

import functools
import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers import logging
from transformers.modeling_outputs import SequenceClassifierOutput

from .heads import HeadSolver, LinearHead, encode_targets, get_head
from .training_args import MerlinTrainingArguments, default_head
from .transfer.balance import balance
from .transfer.batches import Batches
from .transfer.checks import check_target_batch
from .transfer.class_prior import add_log_prior
from .transfer.compat.mean_loss import MeanLoss
from .transfer.distributed import gather_rows, is_distributed, sum_over_ranks
from .transfer.labels import REGRESSION, SINGLE_LABEL, row_losses
from .transfer.mixing import HALVES, MIX, SOURCE, START, Branches
from .transfer.model import is_untrained
from .transfer.phases import Phase, share_between
from .transfer.refit import fit_targets
from .transfer.regularizer import at_least_float32
from .transfer.seeding import derived_generator
from .transfer.splits import Split, fold_by_class, fold_by_sentence, leave_one_out, split_by_class, split_by_sentence
from .transfer.tokens import check_sentence_batch, check_token_settings, gather_tokens
from .transfer.trainer import TransferTrainer
from .utils.files import FileError


logger = logging.get_logger(__name__)


# The share of the steps on each half of the target, where weights are mixed.
HALF_FRACTION = 1 / 14
HEAD_SPEED = 10  # of a new source head, whose phase is short


class _LeaveOneOutHead(NamedTuple):
    """Stands for n heads, each fit on all rows but one and applied to that row."""

    solver: Any  # with `leave_one_out`, as ridge regression has
    targets: Tensor
    l2: Tensor | float
    sample_weight: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits `(1, n, num_labels)` of the rows `(n, hidden_size)`, each by the head fit on the others."""
        return self.solver.leave_one_out(features, self.targets, self.l2, self.sample_weight).unsqueeze(0)


class MerlinTrainer(TransferTrainer):
    """
    MeRLin: trains the backbone so that a head fitted on one part of the target works on the rest.

        min over phi, theta_s:  L_source(theta_s, phi) + rho * E over splits (tr, va) [ L_va(theta(phi; tr), phi) ]
        theta(phi; tr) = argmin over theta of L_tr(theta, phi), in closed form and differentiated through

    phi is the backbone and theta_s the source's head. tr and va are random halves of a target batch. The head is class
    means, or with `head="ridge"` the paper's ridge regression.

    `train_dataset` is the target and `source_dataset` the source. Without a source this class is
    [`~transformers.Trainer`]. Training does not use the model's own last layer. The final head is fitted to all target
    rows before the model is evaluated, saved or used. So a streamed `train_dataset` must end. A checkpoint is a
    plain model of the class that was given.

    Few labelled rows are soon memorised. So by default (`mix_weights=True`) the run has three phases, each from the
    weights that the model came with. Two train this objective, each on one half of the target rows. The third trains
    the source loss alone. The changes are added up,

        phi = phi_0 + alpha (phi_source - phi_0) + beta ((phi_1 + phi_2) / 2 - phi_0),

    where alpha and beta are 0.5. Other values, 0 or 1, are taken only where they are better by more than a standard
    error. Rows of the half that a phase has not seen decide this. They also choose the regulariser of the final head,
    a logistic regression. With alpha = 0 a source that does not help is left out. See [`~merlin_hf.transfer.mixing`].

    The phases and the mix are not in the paper: Liu, HaoChen, Wei and Ma 2020 (arXiv 2011.01418).
    `MerlinTrainingArguments.paper()` gives the paper's objective, with both losses in every step. A model
    with random weights is not mixed. It trains on the source in the first half of the steps, and on the meta loss of
    all target rows in the second.

    A step costs a batch of each task and a small solve. With `mix_weights` six of seven steps cost a batch of the
    source alone. Choosing the mix then costs 17 forward passes over at most 256 target rows. With
    BatchNorm it costs twice that, as each mix needs new running statistics.

    Args:
        source_dataset, source_collator: see [`~merlin_hf.transfer.trainer.TransferTrainer`].
        args ([`MerlinTrainingArguments`]): plain `TrainingArguments` get the defaults.
        args, kwargs: as in [`~transformers.Trainer`].

    Raises:
        ValueError: the data sets, the labels and the model do not fit together; the message says what would.
    """

    training_args_class: ClassVar = MerlinTrainingArguments
    trains_target_head: ClassVar[bool] = False
    search_space: ClassVar = {}

    @classmethod
    def plan_phases(cls, args, has_source):
        """Return the phases of both halves of the target and of the source, or without `mix_weights` those given."""
        if not has_source:
            return super().plan_phases(args, has_source)
        if args.mix_weights:
            halves = [Phase(name, HALF_FRACTION, uses_source=True, uses_target=True) for name in HALVES]
            return (*halves, Phase(SOURCE, 1 - 2 * HALF_FRACTION, uses_source=True, uses_target=False))
        source, target = args.source_phase_fraction, args.target_phase_fraction
        return (
            Phase("source", source, uses_source=True, uses_target=False),
            Phase("source and target", share_between(source, 1 - target), uses_source=True, uses_target=True),
            Phase("target", target, uses_source=False, uses_target=True),
        )

    @property
    def phases(self):
        """Those of `plan_phases`; with random weights, which cannot be mixed, the source and then the target."""
        if self.source_dataset is not None and self.args.mix_weights and self.is_untrained:
            source = Phase(SOURCE, 0.5, uses_source=True, uses_target=False)
            return source, Phase("target", 0.5, uses_source=False, uses_target=True)
        return super().phases

    @functools.cached_property
    def is_untrained(self) -> bool:
        """Whether the model came with random weights, see [`~merlin_hf.transfer.model.is_untrained`]."""
        return is_untrained(self.transfer_model.model)

    # The mix of weights

    @property
    def mixes_weights(self) -> bool:
        """Whether this run mixes the weights of its phases."""
        return self.source_dataset is not None and self.args.mix_weights and not self.is_untrained

    @functools.cached_property
    def branches(self) -> Branches:
        """The weights of the phases, where they are mixed."""
        return Branches(self)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the target's micro-batches of one update; in the phase of a half of the target, of its rows."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples and self.mixes_weights:
            if self.state.global_step == 0:
                self.branches.start()
            if self.phase.name in HALVES:
                samples = self.branches.batches(self.phase.name, len(samples))
        return samples, items

    def start_phase(self, phase):
        """Start a phase; where weights are mixed, from those that the run started from."""
        super().start_phase(phase)
        if self.mixes_weights and self.state.global_step:
            ended = sum(end <= self.state.global_step for end in self.phase_ends)
            self.branches.keep(self.phases[ended - 1].name)
            self.branches.write(self.branches.weights[START])

    def finish_phases(self):
        """
        Mix the weights of the phases, so that the final head, and what is saved, are those of the mix.

        The best evaluation so far was of weights of a phase, so from here on the best is looked for anew.
        """
        super().finish_phases()
        # A run may also be stopped in the source's phase; before it there is nothing to mix.
        if self.mixes_weights and self.phase.name == SOURCE and self.branches.weights:
            self.branches.keep(SOURCE)
            self.branches.mix_weights()
            self._head_needs_refit = True
            self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None

    def run_state(self):
        """Return that of TransferTrainer, with the weights of the phases so far, or the mix that was made of them."""
        return {**super().run_state(), **(self.branches.state() if self.mixes_weights else {})}

    def check_run_state(self, saved):
        """
        Take over the weights of the phases so far, after checks.

        Raises:
            FileError: a `ValueError`; the checkpoint holds the mix and there are steps left, or the reverse.
        """
        step = self.checkpoints.resumed_step
        if self.mixes_weights and MIX in saved and not self.checkpoints.is_finished:
            raise FileError(
                f"The checkpoint of step {step} holds the mix of weights of a run that has ended, without what its "
                "phases had learned, so no phase can go on from it. Resume from an earlier checkpoint, or load its "
                "weights with `from_pretrained` and start a new run, with `overwrite_output_dir` or another "
                "`output_dir`."
            )
        if self.mixes_weights and saved and MIX not in saved and self.checkpoints.is_finished:
            raise FileError(
                f"The checkpoint of step {step} holds weights of a phase of a longer run, and this run has "
                f"{self.state.max_steps} steps, so that none is left to mix the weights after. Raise `max_steps` or "
                "`num_train_epochs`."
            )
        super().check_run_state(saved)
        if self.mixes_weights:
            self.branches.load_state(saved)

    @property
    def has_unused_parameters(self):
        """Whether a phase does not use all trained parameters: it leaves out a head, or the learned scalars."""
        leaves_source_head = any(phase.fraction > 0 and not phase.uses_source for phase in self.phases)
        return self.has_phases and (self.trains_target_head or leaves_source_head or bool(self.learned_scalars()))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        Return the objective above on one micro-batch of each task.

        In the phases of the source and of the target it is one term of that; in evaluation it is Trainer's own loss.
        """
        batches = self.take_batches(inputs)
        if batches is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if batches.source_labels is None:
            return self.target_phase_loss(model, batches, return_outputs)
        if not self.phase.uses_target:
            return self.source_phase_loss(model, batches, return_outputs)

        outputs = model(
            source_inputs=batches.source_inputs, target_inputs=batches.target_inputs, with_target_logits=False
        )
        source_logits, features, scalars = outputs.views()
        source_loss = self.source_loss(source_logits, batches.source_labels)
        meta_loss, features = self.meta_loss(features, batches.target_labels, scalars)

        rho = self.args.rho
        if self.args.balance_gradients and source_logits.requires_grad and features.requires_grad:
            gram = outputs.source_head_gram
            ratio, meta_loss = balance(source_loss, source_logits, gram, meta_loss, features, scalars.values())
            rho = rho * ratio
            self.record(rho=rho)

        self.record(source_loss=source_loss, meta_loss=meta_loss)
        loss = self.args.source_weight * source_loss + rho * meta_loss
        return (loss, outputs) if return_outputs else loss

    def source_phase_loss(self, model, batches: Batches, return_outputs: bool = False):
        """Return `source_weight * L_source(theta_s, phi)`, of shape `()`, the loss of the source's phase."""
        assert batches.source_labels is not None
        outputs = model(source_inputs=batches.source_inputs, with_scalars=False)
        source_loss = self.source_loss(outputs.source_logits, batches.source_labels)
        self.record(source_loss=source_loss)
        loss = self.args.source_weight * source_loss
        return (loss, outputs) if return_outputs else loss

    def target_phase_loss(self, model, batches: Batches, return_outputs: bool = False):
        """Return `L_va(theta(phi; tr), phi)`, averaged over splits, of shape `()`, the loss of the target's phase."""
        outputs = model(target_inputs=batches.target_inputs, with_target_logits=False)
        _, features, scalars = outputs.views()
        meta_loss, _ = self.meta_loss(features, batches.target_labels, scalars)
        self.record(meta_loss=meta_loss)
        return (meta_loss, outputs) if return_outputs else meta_loss

    def meta_loss(self, features: Tensor, labels: Tensor, scalars: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """
        Fit heads on one part of the target batch and return their loss on the rest, over the rows of all processes.

        Features of lower precision are taken to float32 first: rounded to bfloat16, close class means are the same.

        Args:
            features (`torch.FloatTensor` of shape `(n, hidden_size)`): of this process.
            labels (`torch.Tensor` of shape `(n,)` or `(n, num_labels)`).
            scalars (`dict[str, torch.FloatTensor]`): the learned scalars.

        Returns:
            The loss, of shape `()`, and the features that it was computed from, those of all processes.
        """
        features, labels, present = self.gather_target(at_least_float32(features), labels)
        self.target_problem_type = self.problem_type(labels)
        split = self.split(labels, present)
        head = self.fit_head(features, labels, split.train, scalars)
        return self.validate_head(head, features, labels, split, scalars), features

    def gather_target(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Return the target batch that heads are fit on: that of all ranks, or of this one with `head_scope="local"`.

        With features `(n, hidden_size)` and labels comes a mask `(n,)` of the rows that are not padding, or `None` for
        all.
        """
        if self.args.head_scope == "local" or not is_distributed():
            return features, labels, None
        if self.target_sentences is not None:
            features, labels, present, self.target_sentences = gather_tokens(
                features, labels, self.target_sentences, self._train_batch_size
            )
            return features, labels, present
        return gather_rows(features, labels, self._train_batch_size)

    def split(self, labels: Tensor, present: Tensor | None = None) -> Split:
        """
        Divide a target batch as `args.split` says, by class where there are classes; tokens by their sentences.

        The result depends on the seed and the step alone: it is the same on every rank and in a resumed run. Rows that
        are not `present` are padding.
        """
        if self.problem_type(labels) != SINGLE_LABEL:
            labels = labels.new_zeros(len(labels), dtype=torch.long)
            labels = labels if present is None else labels.masked_fill(~present, -100)
        generator = derived_generator("split", self.args.seed, self.state.global_step, self.micro_step)
        if self.target_sentences is not None:
            groups = (labels, *self.target_sentences, self.transfer_model.num_labels)
            if self.args.split == "kfold":
                return fold_by_sentence(*groups, self.args.num_splits, generator)
            return split_by_sentence(*groups, self.args.validation_fraction, self.args.num_splits, generator)
        if self.args.split == "loo":
            return leave_one_out(labels)
        if self.args.split == "kfold":
            return fold_by_class(labels, self.args.num_splits, generator)
        return split_by_class(labels, self.args.validation_fraction, self.args.num_splits, generator)

    def fit_head(
        self, features: Tensor, labels: Tensor, train: Tensor, scalars: dict[str, Tensor] | None = None
    ) -> "LinearHead | _LeaveOneOutHead":
        """
        Fit the head of each split, theta(phi; tr).

        Args:
            features (`torch.FloatTensor` of shape `(n, hidden_size)`).
            labels (`torch.Tensor` of shape `(n,)` or `(n, num_labels)`).
            train (`torch.BoolTensor` of shape `(num_splits, n)`): the rows that each head is fit on.
            scalars (`dict[str, torch.FloatTensor]`, *optional*): the learned scalars.

        Returns:
            [`~merlin_hf.heads.LinearHead`] with weight `(num_splits, num_labels, hidden_size)`, or a stand-in for the
            heads of leave-one-out.
        """
        solver: Any = self.head_solver(self.problem_type(labels))
        targets, sample_weight = fit_targets(self, labels, solver)
        if self.args.split == "loo":
            return _LeaveOneOutHead(solver, targets, self.head_l2, train[0] * sample_weight)
        head = solver.fit(features, targets, self.head_l2, train * sample_weight)
        self.record(**head.info)
        if self.adds_class_prior(self.problem_type(labels)):
            counts = (targets * (train * sample_weight).unsqueeze(-1)).sum(-2)
            head = add_log_prior(head, counts, self.logit_scale(scalars))
        return head

    def validate_head(
        self,
        head: LinearHead | _LeaveOneOutHead,
        features: Tensor,
        labels: Tensor,
        split: Split,
        scalars: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """
        Return the mean loss of each head on the rows that it was not fit on, L_va(theta, phi), averaged over splits.

        It has shape `()`, and is 0 in a batch where no class has two rows.
        """
        logits = head(features)
        self.record_head(logits, labels, split, scalars)
        if self.target_compute_loss_func is not None:
            scaled = self.logit_scale(scalars) * logits
            return self.given_loss(self.target_compute_loss_func, scaled, labels, split.validation)
        losses = self.row_losses(logits, labels, self.logit_scale(scalars))
        rows = split.validation.to(losses.dtype)
        return (losses * rows).sum() / rows.sum().clamp(min=1)

    def given_loss(self, loss: MeanLoss, logits: Tensor, labels: Tensor, validation: Tensor) -> Tensor:
        """Return a user's `compute_loss_func` on the validation rows of each split, averaged over all those rows."""
        total = 0.0 * logits.sum()
        for of_split, rows in zip(logits, validation, strict=True):
            if rows.any():
                outputs = SequenceClassifierOutput(logits=of_split[rows])
                total = total + rows.sum() * loss(outputs, labels[rows])
        return total / validation.sum().clamp(min=1)

    def row_losses(self, logits: Tensor, labels: Tensor, scale: Tensor | float) -> Tensor:
        """
        Return the loss of each row: squared error to the encoded targets, or cross-entropy of the scaled logits.

        Classes are smoothed by `label_smoothing_factor`. Logits are `(num_splits, n, num_labels)`, losses
        `(num_splits, n)`.
        """
        problem_type = self.problem_type(labels)
        targets, _ = encode_targets(labels, self.transfer_model.num_labels, problem_type, dtype=logits.dtype)
        logits = logits if problem_type == REGRESSION else scale * logits
        return row_losses(logits, targets, problem_type, self.args.label_smoothing_factor)

    def record_head(
        self, logits: Tensor, labels: Tensor, split: Split, scalars: dict[str, Tensor] | None = None
    ) -> None:
        """Log the head's accuracy on both halves, the number of validation rows, and the learned scalars."""
        if self.problem_type(labels) == SINGLE_LABEL:
            correct = logits.argmax(-1) == labels
            halves = {"validation": split.validation}
            if self.args.split != "loo":  # there all logits are of rows that were left out
                halves["train"] = split.train
            for name, rows in halves.items():
                accuracy = (correct & rows).sum() / rows.sum().clamp(min=1)
                self.record(**{f"head_{name}_accuracy": accuracy})
        self.record(validation_rows=split.validation.sum() / len(split.validation))
        for name, value in (scalars or {}).items():
            self.record(**{name.removeprefix("log_"): value.exp()})

    # The head's settings

    def finish_head(self, head, batches, scalars):
        """Return the head; to class means the log prior of the classes, by all target rows, is added."""
        problem_type = self.target_problem_type
        if problem_type is None or self.mixes_weights or not self.adds_class_prior(problem_type):
            return head
        counts = torch.zeros_like(head.bias)
        counts += torch.as_tensor(batches.target_sum).to(counts)  # a plain 0 on a rank without rows
        return add_log_prior(head, sum_over_ranks(counts), float(self.logit_scale(scalars)))

    def adds_class_prior(self, problem_type: str) -> bool:
        """
        Return whether the log prior of the classes is added to the head's bias.

        It is for class means, where there is one class per row; other heads learn it from the labels. The model's last
        layer needs a bias to keep it in, and a loss of the user's own may weigh the classes otherwise.
        """
        return (
            problem_type == SINGLE_LABEL
            and self.solver_name(problem_type) == "centroid"
            and self.target_compute_loss_func is None
            and self.transfer_model.head.bias is not None
        )

    def learned_scalars(self) -> dict[str, float]:
        """Return `log_logit_scale` with its first value, where it is learned."""
        if not self.args.learn_logit_scale or self.is_regression:
            return {}
        return {"log_logit_scale": math.log(self.logit_scale(None))}

    def solver_name(self, problem_type):
        """Return `args.head`, or the default for such labels."""
        return self.args.head or default_head(self.args, problem_type)

    @property
    def _default_solver(self) -> HeadSolver:
        """The head's solver, for its own defaults."""
        return get_head(self.solver_name(REGRESSION if self.is_regression else SINGLE_LABEL))

    @property
    def head_l2(self) -> float:
        """The head's regulariser: as given, or the solver's default."""
        return self.args.head_l2 or self._default_solver.default_l2

    def logit_scale(self, scalars: dict[str, Tensor] | None) -> Tensor | float:
        """Return the scale of the head's logits: learned or as given, and 1 for regression."""
        if self.is_regression:
            return 1.0
        if scalars and "log_logit_scale" in scalars:
            return scalars["log_logit_scale"].exp()
        return self.args.logit_scale or self._default_solver.default_logit_scale

    def final_solver(self, problem_type, **options):
        """Return logistic regression, for real labels ridge regression, where weights are mixed."""
        if not self.mixes_weights:
            return super().final_solver(problem_type)
        name = "ridge" if problem_type == REGRESSION else "logistic"
        fit_intercept = self.transfer_model.head.bias is not None
        return get_head(name, problem_type=problem_type, fit_intercept=fit_intercept, **options)

    def final_logit_scale(self, scalars):
        """Return the scale of the final head's logits: 1 for the heads that weights are mixed for."""
        return 1.0 if self.mixes_weights else super().final_logit_scale(scalars)

    def final_head_l2(self, scalars: dict[str, Tensor]) -> float | str:
        """Return the final head's regulariser: as given, or with `refit_l2="meta"` that of training or of the mix."""
        if self.args.refit_l2 != "meta":
            return self.args.refit_l2
        return self.branches.l2 if self.mixes_weights else self.head_l2

    def parameters_with_learning_rates(self):
        """
        Return those of TransferTrainer, and the learned scalars with `scalar_learning_rate`.

        Where weights are mixed and no `head_learning_rate` is given, the source head learns ten times as fast.
        """
        groups = super().parameters_with_learning_rates()
        if self.mixes_weights and self.args.head_learning_rate is None:
            groups = [(parameters, HEAD_SPEED * self.args.learning_rate) for parameters, _ in groups]
        return [*groups, (list(self.transfer_model.scalars.values()), self.args.scalar_learning_rate)]

    def check_data(self):
        """Check the data as TransferTrainer does, and that target batches can be split."""
        super().check_data()
        self.check_batch_size()

    def check_settings(self):
        """Check the settings as TransferTrainer does, and that the phases go with the model and with DeepSpeed."""
        super().check_settings()
        if self.classifies_tokens:
            check_token_settings(self.args)
        if self.source_dataset is not None and self.args.mix_weights and self.is_untrained:
            logger.warning_once(
                f"{type(self.transfer_model.model).__name__} has random weights: its normalisation layers are as they "
                "are initialised. There is nothing to mix, so it is trained on the source in the first half of the "
                "steps, then on the meta loss. Give a pretrained model, or set `mix_weights=False` for both in every "
                "step."
            )
        if self.mixes_weights and self.is_deepspeed_enabled:
            raise ValueError(
                f"{type(self).__name__} mixes the weights of several phases, and DeepSpeed, which trains copies of "
                "its own, would undo it. Set `mix_weights=False`, or use `ddp` or `fsdp2` as the configuration of "
                "accelerate."
            )
        head = f"{self.transfer_model.head_name}."
        backbone = (p for name, p in self.transfer_model.model.named_parameters() if not name.startswith(head))
        if (
            self.args.target_phase_fraction
            and not self.learned_scalars()
            and not any(p.requires_grad for p in backbone)
        ):
            raise ValueError(
                f"`target_phase_fraction={self.args.target_phase_fraction}` has steps on the meta loss alone, and it "
                "trains nothing here: all parameters below the head are frozen. Leave it out, or unfreeze some."
            )

    def check_batch_size(self):
        """Raise an error if a target batch may have no rows to validate the head on."""
        if self.train_dataset is not None:
            ranks = self.args.world_size if self.args.head_scope == "global" else 1
            batch_size = self._train_batch_size * ranks
            if self.classifies_tokens:
                return check_sentence_batch(self.train_dataset, batch_size)
            check_target_batch(self.train_dataset, self.transfer_model.num_labels, batch_size)
