"""The Trainer that all methods share: it draws a batch of a source task beside each batch of the target."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import SequentialLR
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import has_length

from ..data.sentence_encoders import SentenceTokenizer
from ..heads import HeadSolver, LinearHead, get_head
from ..hub.mixin import ModelCardMixin
from ..training_args import TransferTrainingArguments, add_missing_options
from ..utils.secret import keep_token_secret
from ..utils.validation import check_options
from .adapters import add_adapter
from .batches import SOURCE_INPUTS, SOURCE_NAME, Batches, TransferCallback, no_batch_error, not_taken_error
from .checkpoint import Checkpoints, plain_state
from .checks import check_data, check_evaluated, check_steps, check_tokens, eval_data_sets
from .compat.mean_loss import MeanLoss
from .compat.saved_weights import loads_renamed
from .distributed import MetricAverager, broadcast_buffers, real_rows
from .label_checks import check_batch, count_source_labels
from .labels import REGRESSION, SINGLE_LABEL, configured_problem_type, problem_type_of, split_labels, task_loss
from .model import TransferModel
from .named_sources import check_source_dataset, list_sources, rename_source_columns
from .optimizer import OwnRates, add_own_groups, check_trains_own
from .phases import Phase, check_phases, check_same_phase, set_milestones, split_steps
from .refit import FeatureBatches, fit_final_head, refit_head
from .regularizer import Regularizer
from .seeding import isolated_rng
from .sentences import as_classifier, default_collator, source_features, use_own_tokenizer
from .source import MixedSourceStream, Rows, Source, SourceStream, is_iterable, make_source_stream
from .tokens import Sentences, average_over_tokens, is_token_classifier, sentences_of, take_tokens
from .whole_checkpoints import make_output_dir


if TYPE_CHECKING:
    from peft import PeftConfig


class TransferTrainer(ModelCardMixin, Trainer):
    """
    A [`~transformers.Trainer`] that draws a batch of a source task beside each batch of the target task.

    `train_dataset` is the target: epochs, evaluation, prediction, saving and pushing are about it, and `trainer.model`
    is its plain classifier. Without `source_dataset` this class behaves as `Trainer`. A method is a subclass with a
    `compute_loss` that calls [`TransferTrainer.take_batches`] and returns a mean over the micro-batch.

    Class attributes of a method:
        training_args_class: the class of its options.
        takes_source, needs_source: whether a `source_dataset` may be given, and whether it must.
        takes_several_sources: whether there may be more than one.
        trains_without_source: whether it differs from `Trainer` without a source.
        trains_target_head: whether the model's own last layer is trained by gradient descent. If not, it is fit to the
            final features.
        averages_loss: whether losses are means over rows also without a source.
        target_row_cost: the cost of a row of the target, in passes forward and backward.
        search_space: its own options that are worth a search, and values for them.
        uses_shared_labels: whether it does otherwise where the labels of source and target have the same names.

    Args:
        model ([`~transformers.PreTrainedModel`] or `SentenceTransformer`): a classifier; or a sentence encoder, which
            gets a linear head on its own pooling, for the labels of `train_dataset` where its configuration has none.
        args ([`~transformers.TrainingArguments`], *optional*): this class's options; plain `TrainingArguments` get
            their defaults. The arguments that are not listed here are those of [`~transformers.Trainer`].
        source_dataset (`torch.utils.data.Dataset` or `datasets.Dataset`, *optional*): the source task, with its own
            labels. It may share label ids with the target without sharing their meaning. A dictionary of data sets is
            several sources by name, each with a head of its own: a batch is of one of them, as `source_mix` says. The
            three arguments below may then be dictionaries with the same names.
        source_collator (`Callable`, *optional*): makes a batch of source rows; `data_collator` if not given.
        source_column_mapping (`Mapping[str, str]`, *optional*): from names of columns in `source_dataset` to the names
            that the collator and the model expect, such as `{"stars": "label"}`.
        source_compute_loss_func (`Callable`, *optional*): the loss of the source task, `(outputs, labels,
            num_items_in_batch) -> loss` with `outputs.logits` of shape `(n, num_source_labels)`, for example with
            class weights. `compute_loss_func` is about the target.
        peft_config (`peft.PeftConfig`, *optional*): trains an adapter in the backbone, and the heads, instead of all
            weights.

    Raises:
        ValueError: the data, the labels and the model do not fit together; the message says what would.
    """

    training_args_class: ClassVar[type[TransferTrainingArguments]] = TransferTrainingArguments
    takes_source: ClassVar[bool] = True
    needs_source: ClassVar[bool] = False
    takes_several_sources: ClassVar[bool] = True
    trains_without_source: ClassVar[bool] = False
    trains_target_head: ClassVar[bool] = True
    averages_loss: ClassVar[bool] = False
    target_row_cost: ClassVar[float] = 1.0
    search_space: ClassVar[Mapping[str, tuple]] = {}
    uses_shared_labels: ClassVar[bool] = False

    model: Any
    optimizer: Any
    lr_scheduler: Any
    compute_loss_func: Callable[..., Tensor] | None
    # The model that is trained, with both heads; `None` before `build_transfer_model`, so always without a method.
    transfer_model: TransferModel = None  # type: ignore[assignment]  # a method's steps all come after
    target_compute_loss_func: MeanLoss | None = None
    micro_step: int = 0  # how many micro-batches of this update came before the current one
    micro_batches: int = 0  # of this update
    batches_taken: int = 0  # how often `take_batches` returned the batches of this update
    target_problem_type: str | None = None
    _head_needs_refit: bool = False
    source_name: str | None = None  # of several sources, that of the current batch
    target_sentences: Sentences | None = None  # of the current batch of a token classifier, or None
    _is_in_step: bool = False
    _source_stream: SourceStream | MixedSourceStream | None = None
    _checked: tuple[Any, ...] = ()  # the data sets that `check_data` has seen

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        model_init=None,
        compute_loss_func=None,
        compute_metrics=None,
        callbacks=None,
        optimizers=(None, None),
        optimizer_cls_and_kwargs=None,
        preprocess_logits_for_metrics=None,
        *,
        source_dataset: torch.utils.data.Dataset | Mapping[str, torch.utils.data.Dataset] | None = None,
        source_collator: Callable[[list], Any] | Mapping[str, Callable[[list], Any]] | None = None,
        source_column_mapping: Mapping[str, str] | Mapping[str, Mapping[str, str]] | None = None,
        source_compute_loss_func: Callable[..., Tensor] | Mapping[str, Callable[..., Tensor]] | None = None,
        peft_config: "PeftConfig | None" = None,
    ):
        check_source_dataset(source_dataset, type(self))
        self.source_dataset = rename_source_columns(source_dataset, source_column_mapping)
        self.source_collator = source_collator
        self.source_compute_loss_func = source_compute_loss_func
        self.peft_config = peft_config
        self.checkpoints = Checkpoints(self)
        self.head_metrics: dict[str, float] = {}  # of the final head; replaced, never changed
        self._source_batches: deque[Any] = deque()
        self._step_metrics = MetricAverager()
        self._given_args = self._prepare_args(args)
        if isinstance(processing_class, SentenceTokenizer):
            processing_class = None  # the model's own is saved with it
        self.train_dataset = train_dataset  # `_prepared` reads its labels before Trainer has set it
        super().__init__(
            self._prepared(model),
            self._given_args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            compute_loss_func,
            compute_metrics,
            callbacks,
            optimizers,
            optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics,
        )
        if self.averages_loss:
            self._use_mean_loss()
        use_own_tokenizer(self)
        if data_collator is None:
            self.data_collator = default_collator(self)
        self._get_ready()

    def _prepare_args(self, args: TrainingArguments | None) -> TrainingArguments | None:
        """Return the arguments, with this method's options where it is in use, and make their folder."""
        if self.is_active:
            args = self.training_args_class("tmp_trainer") if args is None else args
            add_missing_options(args, self.training_args_class)
        if args is not None:
            keep_token_secret(args)
            if args.should_save:
                make_output_dir(args.output_dir)
        return args

    def _get_ready(self) -> None:
        """Check the current data sets, which scripts may have replaced since the trainer was made."""
        if not self.is_active:
            data_sets = {"train_dataset": self.train_dataset, **eval_data_sets(self.eval_dataset)}
            for argument, dataset in data_sets.items():
                check_tokens(dataset, argument, self.model)
            return
        if not any(isinstance(callback, TransferCallback) for callback in self.callback_handler.callbacks):
            add_missing_options(self.args, self.training_args_class)
            self._use_mean_loss()
            self.callback_handler.callbacks.insert(0, TransferCallback(self))
        data = (self.source_dataset, self.train_dataset, self.eval_dataset)
        if not self._checked or any(now is not before for now, before in zip(data, self._checked, strict=True)):
            self.check_data()
            self._checked = data

    @classmethod
    def depends_on_source(cls) -> bool:
        """Return whether the method needs a source to be more than plain `Trainer`."""
        return cls.needs_source or (cls.takes_source and not cls.trains_without_source)

    @property
    def is_active(self) -> bool:
        """Whether the method is in use; if not, this trainer behaves as `Trainer`."""
        return self.source_dataset is not None or self.trains_without_source

    @property
    def classifies_tokens(self) -> bool:
        """Whether the model is a token classifier, whose rows of features are labelled tokens."""
        return is_token_classifier(self.model if self.transfer_model is None else self.transfer_model.model)

    @property
    def is_sharded(self) -> bool:
        """Whether a process holds only a part of the weights (FSDP, DeepSpeed)."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    @property
    def sources(self) -> list[Source]:
        """The sources with their collators and losses; a single one has no name."""
        return list_sources(self.source_dataset, self.source_collator, self.source_compute_loss_func)

    def _prepared(self, model: nn.Module | None) -> nn.Module | None:
        """Return a classifier, also for a sentence encoder, with the adapter of `peft_config`."""
        seed = str(getattr(self._given_args, "seed", None))
        model = as_classifier(model, self.train_dataset, seed)
        if model is None or self.peft_config is None:
            return model
        return add_adapter(model, self.peft_config, getattr(self._given_args, "head_module", None), seed)

    def call_model_init(self, trial=None):
        """Return the model that `model_init` makes, with the adapter of `peft_config`."""
        return self._prepared(super().call_model_init(trial))

    def _check_options(self) -> None:
        """Check the arguments again, as they may have been assigned to since they were made."""
        if self.is_active:
            self.training_args_class.check_options(self.args)
        else:  # they may be plain `TrainingArguments`
            check_options(self.args, self.training_args_class)

    def check_data(self) -> None:
        """Raise a `ValueError` if the data sets, the labels, the model and the options do not fit together."""
        check_data(self)
        self.check_settings()

    def check_settings(self) -> None:
        """Raise a `ValueError` if options do not go with the model and the data; called for each trial of a search."""
        if self.phases:
            check_steps(self.args)
        check_phases(self)

    def check_batch_size(self) -> None:
        """Raise an error where target batches of `_train_batch_size` rows are too small for the method."""

    # Phases

    @classmethod
    def plan_phases(cls, args: TransferTrainingArguments, has_source: bool) -> tuple[Phase, ...]:
        """Return the phases of a run, here one; those that are left out have a fraction of 0."""
        if not has_source:
            return (Phase("target", 1.0, uses_source=False, uses_target=True),)
        return (Phase("source and target", 1.0, uses_source=True, uses_target=True),)

    @classmethod
    def rows_per_step(cls, args: TransferTrainingArguments, has_source: bool) -> float:
        """Return the mean cost of a micro-step, in rows that pass forward and backward; forward alone is a third."""
        target = args.per_device_train_batch_size * cls.target_row_cost
        source = args.per_device_source_batch_size or args.per_device_train_batch_size
        phases = cls.plan_phases(args, has_source)
        return sum(phase.fraction * (phase.uses_source * source + phase.uses_target * target) for phase in phases)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of this run, in their order."""
        return self.plan_phases(self.args, self.source_dataset is not None)

    @property
    def has_phases(self) -> bool:
        """Whether the run has more than one phase."""
        return sum(phase.fraction > 0 for phase in self.phases) > 1

    @property
    def has_unused_parameters(self) -> bool:
        """Whether there is a phase that does not use all trained parameters: here each uses its own head only."""
        return self.has_phases

    def split_steps(self, steps: int) -> tuple[int, ...]:
        """Return the number of steps of each phase, see [`~merlin_hf.transfer.phases.split_steps`]."""
        return split_steps([phase.fraction for phase in self.phases], steps)

    @property
    def phase_ends(self) -> list[int]:
        """The step at which each phase ends."""
        return list(itertools.accumulate(self.split_steps(self.state.max_steps)))

    @property
    def _phase_number(self) -> int:
        last = max(number for number, phase in enumerate(self.phases) if phase.fraction > 0)
        return next((number for number, end in enumerate(self.phase_ends) if self.state.global_step < end), last)

    @property
    def phase(self) -> Phase:
        """The phase of the current update; outside of training the last phase."""
        return self.phases[self._phase_number]

    def start_phase(self, phase: Phase) -> None:
        """
        Start a phase: the optimizer's state is cleared.

        Called before the first micro-batch of each phase that has steps, except the first phase of the run. If the
        phases before it have no steps, that is at step 0.
        """
        broadcast_buffers(self.transfer_model)  # so that copies of the model are the same on every rank
        if self.state.global_step and not self.is_deepspeed_enabled:  # whose optimizer keeps its state elsewhere
            getattr(self.optimizer, "optimizer", self.optimizer).state.clear()

    def finish_phases(self) -> None:
        """Called after the last update of a run, before it is evaluated and saved."""

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Create Trainer's scheduler; with several phases, one for each."""
        phases = [steps for steps in self.split_steps(num_training_steps) if steps] if self.is_active else []
        if self.lr_scheduler is not None or len(phases) < 2:
            return super().create_scheduler(num_training_steps, optimizer)
        optimizer = self.optimizer if optimizer is None else optimizer
        schedulers = []
        for steps in phases:
            schedulers.append(super().create_scheduler(steps, optimizer))
            self.lr_scheduler = None
        self.lr_scheduler = SequentialLR(optimizer, schedulers, milestones=list(itertools.accumulate(phases))[:-1])
        return self.lr_scheduler

    def run_state(self) -> dict[str, Tensor]:
        """Return the state that must be the same in a run that resumes: where the phases end."""
        return {"phase_ends": torch.tensor(self.phase_ends)} if len(self.phases) > 1 else {}

    def check_run_state(self, saved: dict[str, Tensor]) -> None:
        """Raise a `FileError` if a checkpoint's step is in another phase of this run; `saved` is its `run_state`."""
        if "phase_ends" in saved:
            check_same_phase(self, saved["phase_ends"].tolist())

    # Batches

    @property
    def draws_source(self) -> bool:
        """Whether the current update draws source batches; it depends on the step alone, for all ranks alike."""
        return self.source_dataset is not None and self.phase.uses_source

    @property
    def source_updates_before(self) -> int:
        """How many updates before the current one drew source batches; it depends on the step alone."""
        return self.state.global_step

    @property
    def source_batch_size(self) -> int:
        """Source rows per device and micro-step; `auto_find_batch_size` shrinks them with the target's."""
        given = self.args.per_device_source_batch_size or self.args.train_batch_size
        return max(1, given * self._train_batch_size // self.args.train_batch_size)

    def _with_collator(self, dataset: Rows, collator: Callable | None, description: str) -> tuple[Rows, Callable]:
        """Return the data set and its collator; one of them drops columns that the model does not take, as Trainer."""
        collator = collator or self.data_collator
        if isinstance(dataset, datasets.Dataset):
            return self._remove_unused_columns(dataset, description=description), collator
        return dataset, self._get_collator_with_removed_columns(collator, description=description)

    def get_train_dataloader(self):
        """Return the target's DataLoader, after checks of its batches and of what a search may have set."""
        if not self.is_active:
            return super().get_train_dataloader()
        self._check_options()
        self.check_settings()
        self.check_batch_size()
        loader = super().get_train_dataloader()
        if self.phases and has_length(loader) and len(loader) == 0:
            raise no_batch_error(self)
        return loader

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the target's micro-batches of one update, and draw as many of the source for `training_step`."""
        if not self.is_active:
            batch_samples, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
            return batch_samples, None if self.averages_loss else num_items_in_batch
        try:
            batch_samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        except ValueError as error:  # from accelerate, where a stream that it dispatches has no rows
            if self.state.global_step or "does not contain any data" not in str(error):
                raise
            batch_samples = []
        if not batch_samples:
            if not self.state.global_step:
                raise no_batch_error(self)
            return batch_samples, None
        self.micro_step, self.micro_batches, self.batches_taken = 0, len(batch_samples), 0
        self._source_batches.clear()
        if self.draws_source:
            # All of an update's batches are drawn, also where the target's epoch ends early: the position in the
            # source then depends on the update alone, and a resumed run needs no record of it.
            steps = self.args.gradient_accumulation_steps
            if self._source_stream is None:
                self._source_stream = make_source_stream(self, self.source_updates_before * steps)
            self._source_batches.extend(self._source_stream.take(steps)[: len(batch_samples)])
        if is_iterable(self.train_dataset):
            for batch in batch_samples:
                check_batch(self, batch, "train_dataset", self.transfer_model.num_labels)
        return batch_samples, None

    def take_batches(self, inputs: dict[str, Any]) -> Batches | None:
        """
        Divide the inputs of a training step into the batches of the two tasks.

        Returns:
            [`Batches`], or `None` outside of a training step, as in evaluation, where the loss is Trainer's own.
        """
        if not isinstance(inputs, Mapping) or SOURCE_INPUTS not in inputs:
            return None
        self.batches_taken += 1
        source_inputs = inputs.pop(SOURCE_INPUTS)
        self.source_name = None if source_inputs is None else source_inputs.get(SOURCE_NAME)
        source_inputs, source_labels = (None, None) if source_inputs is None else self.split_batch(source_inputs)
        target_inputs, target_labels = self.split_batch(inputs)
        self.target_sentences = sentences_of(target_inputs)
        return Batches(source_inputs, source_labels, target_inputs, target_labels)

    def split_batch(self, batch: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """Divide a batch into inputs and labels `(n,)` or `(n, num_labels)`; rows of a token classifier are tokens."""
        inputs, labels = split_labels(batch)
        return take_tokens(inputs, labels) if self.classifies_tokens else (inputs, labels)

    # The step

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Make a training step on the target batch and its source batch; start a phase at its first step."""
        if not self.is_active:
            return super().training_step(model, inputs, num_items_in_batch)
        if self.micro_step == 0 and self.state.global_step in self.phase_ends[: self._phase_number]:
            self.start_phase(self.phase)
        if self._source_batches:
            source_inputs = self._source_batches.popleft()
            self.current_flos += float(self.floating_point_ops(source_inputs))
            inputs = {**inputs, SOURCE_INPUTS: source_inputs}
        elif not self.draws_source:
            inputs = {**inputs, SOURCE_INPUTS: None}
        taken, needs_refit = self.batches_taken, self.fits_head
        self._is_in_step = True
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._is_in_step = False
        if self.batches_taken == taken:
            raise not_taken_error()
        self.micro_step += 1
        self._head_needs_refit = needs_refit
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return Trainer's own loss, for evaluation; where the method is in use, a mean over the batch."""
        if not (self.is_active or self.averages_loss):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.get("labels")
        if not model.training and self.is_active:
            check_batch(self, inputs, "eval_dataset", self.build_transfer_model().num_labels)
        if self.target_compute_loss_func is None:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=None)
        else:
            given = inputs.pop("labels", None)
            outputs = model(**inputs)
            if self.classifies_tokens:
                loss = self.target_loss(outputs["logits"] if isinstance(outputs, Mapping) else outputs[0], given)
            else:
                loss = self.target_compute_loss_func(outputs, given)
        if model.training and self.classifies_tokens:
            loss = average_over_tokens(loss, labels)
        if not model.training and labels is not None:  # without the rows that pad the last batches of all ranks
            rows = real_rows(len(labels), self.accelerator)
            if 0 < rows < len(labels):
                logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
                loss = self.target_loss(logits[:rows], labels[:rows]).to(loss.dtype)
        return (loss, outputs) if return_outputs else loss

    def source_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """
        Return the mean loss of the source task, of shape `()`.

        It is `source_compute_loss_func`, or, depending on the labels, cross-entropy, binary cross-entropy or squared
        error. With several sources, it is also logged under the source's name.
        """
        function = {source.name: source.compute_loss_func for source in self.sources}.get(self.source_name)
        if function is not None:
            loss = MeanLoss(function)(SequenceClassifierOutput(logits=logits), labels)
        else:
            problem_type = problem_type_of(labels, logits.shape[-1])
            loss = task_loss(logits, labels, problem_type, self.args.label_smoothing_factor)
        loss = self._mean_of_step(loss, labels)
        if self.source_name is not None:
            self.record(**{f"source_loss_{self.source_name}": loss})
        return loss

    def target_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """
        Return the mean loss of the target task, of shape `()`.

        It is `compute_loss_func`, or the loss that the model itself would compute. Of tokens it is the mean over those
        that are labelled; logits `(batch, length, num_labels)` and labels `(batch, length)` will do as well.
        """
        if logits.ndim == 3:
            logits, labels = logits.flatten(0, 1), labels.flatten()
        if self.target_compute_loss_func is not None:
            loss = self.target_compute_loss_func(SequenceClassifierOutput(logits=logits), labels)
        else:
            problem_type = problem_type_of(labels, logits.shape[-1], configured_problem_type(self.model))
            loss = task_loss(logits, labels, problem_type, self.args.label_smoothing_factor)
        return self._mean_of_step(loss, labels)

    def _mean_of_step(self, loss: Tensor, labels: Tensor) -> Tensor:
        """Return a loss of a training step; of tokens weighted, as ranks have different numbers of them."""
        return average_over_tokens(loss, labels) if self._is_in_step and self.classifies_tokens else loss

    def _use_mean_loss(self) -> None:
        self.loss_is_scaled_for_ga = False
        if self.compute_loss_func is not None:
            self.target_compute_loss_func, self.compute_loss_func = MeanLoss(self.compute_loss_func), None

    def record(self, **metrics: Tensor) -> None:
        """Log scalars with the training loss, averaged over micro-batches and ranks."""
        self._step_metrics.add(metrics, finite_only=self.args.logging_nan_inf_filter)

    def log(self, logs, start_time=None):
        """Log as Trainer does; training logs have the averages of [`TransferTrainer.record`] as well."""
        if "loss" in logs:
            logs.update(self._step_metrics.pop(self.accelerator))
        super().log(logs, start_time)

    # The model that is trained: `self.model` stays the plain classifier, `self.model_wrapped` holds both heads

    def learned_scalars(self) -> dict[str, float]:
        """Return names and first values of scalars to train with the backbone; none here."""
        return {}

    def build_regularizer(self, transfer_model: TransferModel) -> Regularizer | None:
        """Return the method's extra loss on the target's rows, computed in the model's forward; `None` here."""
        return None

    def build_transfer_model(self) -> TransferModel:
        """Return the [`TransferModel`] around the current `self.model`, which is made once for each model."""
        if isinstance(self.model, TransferModel):  # as FSDP leaves it
            return self.model
        if self.transfer_model is None or self.transfer_model.model is not self.model:
            given = self.args.num_source_labels if self.sources else None
            labels = {s.name: count_source_labels(s.dataset, given, s.argument) for s in self.sources}
            self.transfer_model = TransferModel(
                self.model,
                num_source_labels=labels,
                head_module=self.args.head_module,
                scalars=self.learned_scalars(),
                trains_target_head=self.trains_target_head,
                seed=self.args.seed,
                target_chunk_size=self.args.target_chunk_size,
                num_source_features=source_features(self.model, self.sources),
            )
            with isolated_rng("regularizer", self.args.seed):
                self.transfer_model.regularizer = self.build_regularizer(self.transfer_model)
        return self.transfer_model

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        # The model that the optimizer, the wrappers and the training loop get is taken from `self.model` here. `train`
        # comes too early (`model_init` has not been called) and `create_optimizer` too late (the callbacks' model is
        # set after it).
        if not self.is_active:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        plain_model = self.model
        self._step_metrics.reset()
        self._source_stream = None
        self.model = self.model_wrapped = transfer_model = self.build_transfer_model()
        transfer_model.touch_all_parameters = self.is_deepspeed_enabled
        transfer_model.prepare_for_features()
        try:
            if resume_from_checkpoint is not None:
                self.checkpoints.load(resume_from_checkpoint)
            prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        finally:
            if not self.is_fsdp_enabled:
                self.model = self.callback_handler.model = plain_model
        if not self.is_sharded:  # FSDP and DeepSpeed train copies of the parameters
            check_trains_own(self.optimizer, transfer_model)
        if resume_from_checkpoint is None:  # a checkpoint has its own head
            self._head_needs_refit |= self.fits_head
        set_milestones(self.lr_scheduler, self.phase_ends)  # it was loaded with those of the run that was saved
        return prepared

    def _wrap_model(self, model, training=True, dataloader=None):
        # Evaluation during training has to go through the module whose forward `accelerate` gave its mixed precision.
        # The loop takes the model from here, and has no argument for it.
        is_plain = self.transfer_model is not None and model is self.transfer_model.model
        if is_plain and not training and self.accelerator._models:
            return self.transfer_model
        return super()._wrap_model(model, training, dataloader)

    def train(self, resume_from_checkpoint=None, trial=None, *args, **kwargs):
        """
        Train as [`~transformers.Trainer.train`] does, and fit the model's last layer where the method does so.

        `resume_from_checkpoint=True` is the newest whole checkpoint. A checkpoint of another run (method, classes,
        model, with or without a source) is refused; other differences are logged as a warning. From a checkpoint of
        the last step nothing is trained. With `overwrite_output_dir` and no `resume_from_checkpoint`, checkpoints of
        earlier runs are deleted first.

        Raises:
            FileError: a `ValueError`; `resume_from_checkpoint` names an incomplete checkpoint or that of another run,
                or there is none; or `output_dir` cannot be written to, or is in use by another run.
            NotFiniteError: training has diverged.
        """
        self._check_options()
        self._get_ready()
        try:
            with self.checkpoints.of_training(resume_from_checkpoint, trial) as checkpoint:
                output = super().train(checkpoint, trial, *args, **kwargs)
            self.refit_head_if_stale()
            return output
        finally:
            if self.transfer_model is not None:
                self.transfer_model.leave_feature_mode()

    def set_initial_training_values(self, args, dataloader):
        """Return Trainer's values, with 0 epochs where the run is finished."""
        epochs, *values, max_steps = super().set_initial_training_values(args, dataloader)
        return (self.checkpoints.epochs_left(epochs, max_steps), *values, max_steps)

    # The optimizer

    def get_decay_parameter_names(self, model):
        """Return Trainer's names, without the learned scalars."""
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not (self.is_active and name.startswith("scalars."))]

    def create_optimizer(self, model=None):
        """Create Trainer's optimizer, with the heads and the learned scalars in groups of their own."""
        super().create_optimizer(model)
        if self.is_active:
            add_own_groups(self)
        return self.optimizer

    def parameters_with_learning_rates(self) -> OwnRates:
        """Return parameters with their learning rates; `None` leaves them in the groups where they are."""
        target_head = self.transfer_model.head if self.trains_target_head else None
        modules = (target_head, self.transfer_model.source_head, self.transfer_model.regularizer)
        heads = [parameter for module in modules if module is not None for parameter in module.parameters()]
        return [(heads, self.args.head_learning_rate)]

    # The final head

    @property
    def fits_head(self) -> bool:
        """Whether the model's last layer is to be fit to the features after the current update, not trained by it."""
        return not self.trains_target_head

    def refit_head_if_stale(self) -> None:
        """
        Refit the model's last layer if the backbone has changed since it was fit; a collective.

        Called before evaluation, before saving, at the end of training, and where a method trains on from the fitted
        head. The head is stale after the start of a run, and after each step for which `fits_head` is true.
        """
        if self._head_needs_refit:
            self.checkpoints.check_finite()  # its message is clearer than that of a solver
            # Schedule-free optimizers evaluate and save other weights than they train; a training step switches back.
            if callable(getattr(self.optimizer, "eval", None)):
                self.optimizer.eval()
            self.refit_head()
            self._head_needs_refit = False

    def refit_head(self) -> None:
        """Fit the model's last layer to all of `train_dataset`, if the method names a solver."""
        if type(self).solver_name is not TransferTrainer.solver_name:
            refit_head(self)

    def final_head(self, scalars: dict[str, Tensor]) -> LinearHead:
        """Return a head fit to all of `train_dataset`, see [`~merlin_hf.transfer.refit.fit_final_head`]."""
        return fit_final_head(self, scalars)

    def finish_head(self, head: LinearHead, batches: FeatureBatches, scalars: dict[str, Tensor]) -> LinearHead:
        """Change the head that a solver has fit to all of `batches`; here it stays as it is."""
        return head

    def solver_name(self, problem_type: str) -> str:
        """Return the name of the head's solver in `merlin_hf.heads.HEADS`; for methods that fit a head."""
        raise NotImplementedError(f"{type(self).__name__} fits no head.")

    def head_solver(self, problem_type: str) -> HeadSolver:
        """Return the solver of `solver_name`; it fits an intercept if the last layer has a bias."""
        fit_intercept = self.transfer_model.head.bias is not None
        return get_head(self.solver_name(problem_type), problem_type=problem_type, fit_intercept=fit_intercept)

    def final_solver(self, problem_type: str) -> HeadSolver:
        """Return the solver of the final head: that of training, unless a method has another."""
        return self.head_solver(problem_type)

    def final_logit_scale(self, scalars: dict[str, Tensor]) -> float:
        """Return the factor of the final head's outputs, so that their softmax is calibrated."""
        return float(self.logit_scale(scalars))

    def final_head_l2(self, scalars: dict[str, Tensor]) -> float | str:
        """Return the final head's regulariser; `"auto"` has it chosen by cross-validation."""
        return "auto"

    def logit_scale(self, scalars: dict[str, Tensor] | None) -> Tensor | float:
        """Return the factor of the head's outputs with which their softmax is calibrated."""
        return 1.0 if self.is_regression else self.head_solver(SINGLE_LABEL).default_logit_scale

    @property
    def is_regression(self) -> bool:
        """Whether the target's labels are real numbers, by the model's configuration."""
        problem_type = configured_problem_type(self.model)
        num_labels = getattr(getattr(self.model, "config", None), "num_labels", None)
        return problem_type == REGRESSION or (problem_type is None and num_labels == 1)

    def problem_type(self, labels: Tensor) -> str:
        """Return the target's problem type, by the rule of transformers' own classifiers."""
        model = self.transfer_model.model
        return problem_type_of(labels, self.transfer_model.num_labels, configured_problem_type(model))

    # Evaluation

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        """Evaluate as Trainer does, after a check of a data set that is new."""
        check_evaluated(self, eval_dataset, "eval_dataset")
        return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset, *args, **kwargs):
        """Predict as Trainer does, after a check of a data set that is new."""
        check_evaluated(self, test_dataset, "test_dataset")
        return super().predict(test_dataset, *args, **kwargs)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """Run Trainer's loop with a head that fits the backbone, and report `head_metrics` where there are labels."""
        self.refit_head_if_stale()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if f"{metric_key_prefix}_loss" in output.metrics:
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in self.head_metrics.items()})
        return output

    # Checkpoints; checkpoint.py says what they contain

    def save_model(self, output_dir=None, _internal_call=False):
        """Save as Trainer does, with a head that fits the current backbone, and all weights of a sharded model."""
        self.refit_head_if_stale()
        if self.is_fsdp_enabled and "FULL_STATE_DICT" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            # Trainer leaves the model out here.
            keep_token_secret(self.args)
            state_dict = self.accelerator.get_state_dict(self.model)  # a collective
            if self.args.should_save:
                self._save(output_dir, state_dict=state_dict)
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir=None, state_dict=None):
        # `save_model` gathers a sharded model and passes its tensors to this method, under the names that they have in
        # the model that is trained.
        if state_dict is None or self.transfer_model is None:
            return super()._save(output_dir, state_dict)
        model, self.model = self.model, self.transfer_model.model
        try:
            # Evaluated but never trained, DeepSpeed wraps the classifier itself.
            is_transfer = isinstance(self.accelerator.unwrap_model(self.model_wrapped), TransferModel)
            super()._save(output_dir, plain_state(state_dict) if is_transfer else state_dict)
        finally:
            self.model = model

    def _get_output_dir(self, trial):
        # The only place where Trainer asks for the folder of a checkpoint; it has no argument for it.
        return self.checkpoints.staged(super()._get_output_dir(trial))

    def _save_checkpoint(self, model, trial):
        # The only place where all files of a checkpoint are written and older checkpoints are not yet deleted.
        run_dir = self._get_output_dir(trial)
        final = self.checkpoints.save(functools.partial(super()._save_checkpoint, model, trial), run_dir)
        self.push_waiting_checkpoint(final)
        self.checkpoints.discard_old(run_dir)

    @property
    def holds_pushes(self) -> bool:
        """Whether a push has to wait until the checkpoint has its final name, as an upload reads it later."""
        return self.checkpoints.is_staging

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # The only place that reads weights to resume; see compat/saved_weights.py.
        if self.is_sharded or not loads_renamed(self.model if model is None else model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        # The only place that reads weights of the best checkpoint; see compat/saved_weights.py.
        if self.is_sharded or not loads_renamed(self.model, self.state.best_model_checkpoint):
            super()._load_best_model()
