"""Two batches a step: what every method with a source data set shares."""

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import has_length

from ..hub.mixin import ModelCardMixin
from ..training_args import TransferTrainingArguments, add_missing_options
from ..utils.secret import keep_token_secret
from ..utils.validation import check_options
from .adapters import add_adapter, check_head_is_saved
from .batches import SOURCE_INPUTS, Batches, BatchesAreTaken, no_batch_error, not_taken_error
from .checkpoint import TransferCheckpointsMixin
from .checks import (
    check_batch_labels,
    check_class_names,
    check_has_labels,
    check_is_one_data_set,
    check_kind_of_labels,
    check_label_lists,
    check_labels,
    check_names_of_outputs,
    check_one_row_batches,
    check_parallelism,
    check_sharding,
    check_source_is_wanted,
    check_steps,
    check_target_classes,
    count_source_labels,
    eval_data_sets,
    probe_batch,
)
from .columns import rename_columns
from .evaluation import SettledHeadMixin, real_rows
from .labels import label_column, problem_type_of, split_labels, task_loss
from .mean_loss import MeanLoss, MeanLossMixin
from .metrics import MetricAverager
from .model import TransferModel
from .optimizer import OwnLearningRatesMixin, check_trains_own
from .regularizer import Regularizer
from .seeding import isolated_rng
from .source import SourceStream, is_iterable
from .token_checks import check_tokens
from .weights import SavedWeightsMixin
from .whole_checkpoints import make_output_dir


if TYPE_CHECKING:
    from peft import PeftConfig


class TransferTrainer(
    SettledHeadMixin,
    OwnLearningRatesMixin,
    TransferCheckpointsMixin,
    SavedWeightsMixin,
    MeanLossMixin,
    ModelCardMixin,
    Trainer,
):
    """
    [`~transformers.Trainer`] that draws a batch of a source task beside each batch of the target task.

    `train_dataset` is the target: epochs, evaluation, prediction, saving and pushing are about it, and `trainer.model`
    is its plain classifier. Without `source_dataset` this class is `Trainer`. A method is a subclass with a `compute_loss`
    that calls [`TransferTrainer.take_batches`] and returns a mean over the micro-batch.

    Class attributes of a method:
        training_args_class: its options.
        takes_source, needs_source: whether a `source_dataset` may and must be given.
        trains_without_source: whether it is more than `Trainer` without one.
        trains_target_head: whether the model's own last layer is trained by gradient descent, or fit to the final features.
        search_space: its own options that are worth a search, and values for them.

    Args:
        source_dataset (`torch.utils.data.Dataset` or `datasets.Dataset`, *optional*): the source task, with its own
            labels. It may share label ids with the target without sharing their meaning.
        source_collator (`Callable`, *optional*): makes a batch of source rows; `data_collator` if not given.
        source_column_mapping (`Mapping[str, str]`, *optional*): from names of columns in `source_dataset` to the names that
            the collator and the model expect, such as `{"stars": "label"}`.
        source_compute_loss_func (`Callable`, *optional*): the loss of the source task, `(outputs, labels,
            num_items_in_batch) -> loss` with `outputs.logits` of shape `(n, num_source_labels)`, for example with class
            weights. `compute_loss_func` is about the target.
        peft_config (`peft.PeftConfig`, *optional*): trains an adapter in the backbone, and the heads, instead of all weights.
        args, kwargs: as in [`~transformers.Trainer`]. Plain `TrainingArguments` get this class's defaults.

    Raises:
        ValueError: the data, the labels and the model do not fit together; the message says what would.
    """

    training_args_class: ClassVar[type[TransferTrainingArguments]] = TransferTrainingArguments
    takes_source: ClassVar[bool] = True
    needs_source: ClassVar[bool] = False
    trains_without_source: ClassVar[bool] = False
    trains_target_head: ClassVar[bool] = True
    takes_steps: ClassVar[bool] = True  # False for a method that is done before the first
    search_space: ClassVar[Mapping[str, tuple]] = {}

    def __init__(
        self,
        *args,
        source_dataset: torch.utils.data.Dataset | None = None,
        source_collator: Callable[[list], Any] | None = None,
        source_column_mapping: Mapping[str, str] | None = None,
        source_compute_loss_func: Callable[..., Tensor] | None = None,
        peft_config: "PeftConfig | None" = None,
        **kwargs,
    ):
        check_is_one_data_set(source_dataset, "source_dataset")
        if source_column_mapping and source_dataset is not None:
            source_dataset = rename_columns(
                source_dataset, source_column_mapping, "source_dataset", "source_column_mapping"
            )
        check_source_is_wanted(type(self), source_dataset)
        self.source_dataset = source_dataset
        self.source_collator = source_collator
        self.source_compute_loss_func = source_compute_loss_func and MeanLoss(source_compute_loss_func)
        self.peft_config = peft_config
        self.transfer_model: TransferModel | None = None
        self._source_stream: SourceStream | None = None
        self._source_batches: deque[Any] = deque()
        self._step_metrics = MetricAverager()
        self.micro_step = 0  # how many micro-batches of this update came before the one in hand
        self._micro_batches = 0  # of this update
        self._batches_taken = 0  # how often `take_batches` gave the batches of a step
        self._checked: tuple = ()
        if self.is_active:
            args, kwargs = self._with_options(args, kwargs)
        self._given_args = args[1] if len(args) > 1 else kwargs.get("args")
        if self._given_args is not None:
            keep_token_secret(self._given_args)
            if self._given_args.should_save:
                make_output_dir(self._given_args.output_dir)
        if args:
            args = (self._with_adapter(args[0]), *args[1:])
        elif "model" in kwargs:
            kwargs["model"] = self._with_adapter(kwargs["model"])
        super().__init__(*args, **kwargs)
        self._get_ready()

    def _get_ready(self) -> None:
        """Check the data sets that there are now: scripts set some of them on a trainer that exists."""
        if not self.is_active:
            for argument, dataset in {
                "train_dataset": self.train_dataset,
                **eval_data_sets(self.eval_dataset),
            }.items():
                check_tokens(dataset, argument, self.model)
            return
        if not any(isinstance(callback, BatchesAreTaken) for callback in self.callback_handler.callbacks):
            add_missing_options(self.args, self.training_args_class)
            self.use_mean_loss()
            self.callback_handler.callbacks.insert(0, BatchesAreTaken(self))
        data = (self.source_dataset, self.train_dataset, self.eval_dataset)
        if not self._checked or any(now is not before for now, before in zip(data, self._checked, strict=True)):
            self.check_data()
            self._checked = data

    @property
    def is_active(self) -> bool:
        """Whether this is more than `Trainer`."""
        return self.source_dataset is not None or self.trains_without_source

    @property
    def draws_source(self) -> bool:
        """Whether the current update needs source batches; a function of the step, the same on every rank."""
        return self.source_dataset is not None

    @property
    def source_updates_before(self) -> int:
        """How many updates before the current one drew source batches; a function of the step."""
        return self.state.global_step

    @classmethod
    def depends_on_source(cls) -> bool:
        """Return whether the method is nothing without a source: it refuses to train, or is plain `Trainer`."""
        return cls.needs_source or (cls.takes_source and not cls.trains_without_source)

    @classmethod
    def rows_per_step(cls, args: TransferTrainingArguments, has_source: bool) -> float:
        """
        What a micro-step costs on one device, in rows that pass the backbone forward and backward, averaged over the run.

        A pass forward alone, which is about a third of the work, counts as a third of a row.
        """
        target = args.per_device_train_batch_size
        return target + (args.per_device_source_batch_size or target) if has_source else target

    def _with_options(self, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        given = args[1] if len(args) > 1 else kwargs.get("args")
        if given is None:
            given = self.training_args_class("tmp_trainer")
        add_missing_options(given, self.training_args_class)
        if len(args) > 1:
            return (args[0], given, *args[2:]), kwargs
        return args, {**kwargs, "args": given}

    def _with_adapter(self, model: nn.Module | None) -> nn.Module | None:
        if model is None or self.peft_config is None:
            return model
        head_module, seed = (getattr(self._given_args, name, None) for name in ("head_module", "seed"))
        with isolated_rng("adapter", seed):
            return add_adapter(model, self.peft_config, head_module)

    def _hp_search_setup(self, trial):
        super()._hp_search_setup(trial)
        self._check_options()
        if self.is_active:
            self.check_settings()

    def _check_options(self) -> None:
        """Check the arguments again, which may have been assigned to; without a source they may be plain `TrainingArguments`."""
        if self.is_active:
            self.training_args_class.check_options(self.args)
        else:
            check_options(self.args, self.training_args_class)

    def call_model_init(self, trial=None):
        """The model that `model_init` makes, with the adapter of `peft_config`."""
        return self._with_adapter(super().call_model_init(trial))

    # What a method may use in its `compute_loss`

    def take_batches(self, inputs: dict[str, Any]) -> "Batches | None":
        """
        Divide the inputs of a training step into the two tasks.

        Returns:
            [`Batches`]; `None` outside of a training step, as in evaluation: the loss is Trainer's own then.
        """
        if not isinstance(inputs, Mapping) or SOURCE_INPUTS not in inputs:
            return None
        self._batches_taken += 1
        source_inputs = inputs.pop(SOURCE_INPUTS)
        source = (None, None) if source_inputs is None else split_labels(source_inputs)
        return Batches(*source, *split_labels(inputs))

    def learned_scalars(self) -> dict[str, float]:
        """Names and first values of the scalars that are trained with the backbone."""
        return {}

    def source_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of the source task: as given, or cross-entropy, its multi-label form or squared error, by the labels."""
        if self.source_compute_loss_func is not None:
            return self.source_compute_loss_func(SequenceClassifierOutput(logits=logits), labels)
        problem_type = problem_type_of(labels, logits.shape[-1])
        return task_loss(logits, labels, problem_type, self.args.label_smoothing_factor)

    def record(self, **metrics: Tensor) -> None:
        """Have scalars logged with the training loss, averaged over micro-batches and ranks."""
        self._step_metrics.add(metrics, finite_only=self.args.logging_nan_inf_filter)

    def check_data(self) -> None:
        """Raise an error that says what to change where the data sets, the labels, the model and the options do not fit together."""
        check_parallelism(self.args, type(self).__name__)
        check_sharding(self.accelerator, type(self).__name__)
        names = self.args.label_names
        if names is not None and "labels" not in names:
            raise ValueError(
                f"`label_names={names!r}` lacks 'labels', under which the collator hands on the labels: evaluation would have no loss. Leave "
                "it out, and name the column `label` or `labels`."
            )
        evaluated = eval_data_sets(self.eval_dataset)
        known = {"source_dataset": self.source_dataset, "train_dataset": self.train_dataset, **evaluated}
        for argument, dataset in known.items():
            check_is_one_data_set(dataset, argument)
            needs_column = self.args.remove_unused_columns and argument not in evaluated
            check_has_labels(dataset, argument, needs_column)
        transfer_model = self.build_transfer_model()
        check_head_is_saved(transfer_model.model, transfer_model.head_name)
        config = getattr(self.model, "config", None)
        if self.source_dataset is not None:
            self._check_task(self.source_dataset, "source_dataset", transfer_model.source_head.out_features)
        for argument, dataset in known.items():
            if argument != "source_dataset" and dataset is not None:
                problem_type = getattr(config, "problem_type", None)
                self._check_task(dataset, argument, transfer_model.num_labels, problem_type)
        if self.train_dataset is not None:
            check_names_of_outputs(self.train_dataset, config, transfer_model.num_labels)
            check_target_classes(self.train_dataset, transfer_model.num_labels)
            for argument, dataset in evaluated.items():
                check_class_names(dataset, argument, self.train_dataset, config)
        self.check_settings()

    def _check_task(self, dataset: Any, argument: str, num_labels: int, problem_type: str | None = None) -> None:
        """Check the labels of a data set, and its first rows as the collator makes them."""
        check_labels(dataset, argument, num_labels, problem_type)
        check_tokens(dataset, argument, self.model)
        is_source, is_evaluated = argument == "source_dataset", argument.startswith("eval_dataset")
        if is_iterable(dataset) or (
            is_evaluated and type(self).get_eval_dataloader is not Trainer.get_eval_dataloader
        ):
            return
        collator = self.source_collator if is_source else None
        prepared = self._with_collator(
            dataset, collator, "source" if is_source else "evaluation" if is_evaluated else "training"
        )
        batch = probe_batch(
            *prepared,
            dataset,
            argument,
            "source_collator" if is_source else "data_collator",
            needs_labels=not is_evaluated,
        )
        if batch.get("labels") is None:
            return
        if argument == "train_dataset" and self.target_compute_loss_func is None:
            check_label_lists(batch["labels"], dataset)
        check_kind_of_labels(batch["labels"], argument, num_labels, problem_type)
        if not is_evaluated and self._has_one_row_batches(dataset, is_source):
            one = probe_batch(*prepared, dataset, argument, "", rows=1)
            name = "per_device_source_batch_size" if is_source else "per_device_train_batch_size"
            remedy = f"Set another `{name}`" + (
                "." if is_source else ", or `dataloader_drop_last=True` to leave a last batch out."
            )
            check_one_row_batches(self.model, one, argument, remedy)

    def _has_one_row_batches(self, dataset: Any, is_source: bool) -> bool:
        """Whether a step may see a single row; the last batches of several processes are filled up, and those of the source are full."""
        if self.args.world_size > 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return False
        if is_source:
            return self.source_batch_size == 1
        size = self._train_batch_size
        return size == 1 or (len(dataset) % size == 1 and not self.args.dataloader_drop_last)

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        """[`~transformers.Trainer.evaluate`], with the checks of `eval_dataset` for a data set that is given only now."""
        self._check_evaluated(eval_dataset, "eval_dataset")
        return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset, *args, **kwargs):
        """[`~transformers.Trainer.predict`], with the checks of `eval_dataset`."""
        self._check_evaluated(test_dataset, "test_dataset")
        return super().predict(test_dataset, *args, **kwargs)

    def _check_evaluated(self, dataset: Any, argument: str) -> None:
        known = [*eval_data_sets(self.eval_dataset).values(), self.train_dataset]
        if not self.is_active or dataset is None or isinstance(dataset, str | Mapping):
            return
        if any(dataset is one for one in known) or self.is_fsdp_enabled:
            return
        check_is_one_data_set(dataset, argument)
        check_has_labels(dataset, argument, needs_column=False)
        if label_column(dataset) is not None:
            config, num_labels = getattr(self.model, "config", None), self.build_transfer_model().num_labels
            check_labels(dataset, argument, num_labels, getattr(config, "problem_type", None))
            check_class_names(dataset, argument, self.train_dataset, config)
        check_tokens(dataset, argument, self.model)

    def check_settings(self) -> None:
        """Raise an error where options do not go with the model or the data; also called for each trial of a search."""
        if self.takes_steps:
            check_steps(self.args)

    def check_batch_size(self) -> None:
        """Raise an error where target batches of `_train_batch_size` rows are too small for the method."""

    # Two batches a step

    def _with_collator(
        self, dataset: torch.utils.data.Dataset, collator: Callable | None, description: str
    ) -> tuple[torch.utils.data.Dataset, Callable]:
        """The data set and its collator, with the columns that the model does not take removed as Trainer does."""
        collator = collator or self.data_collator
        if isinstance(dataset, datasets.Dataset):
            return self._remove_unused_columns(dataset, description=description), collator
        return dataset, self._get_collator_with_removed_columns(collator, description=description)

    def _source_with_collator(self) -> tuple[torch.utils.data.Dataset, Callable]:
        return self._with_collator(self.source_dataset, self.source_collator, "source")

    def get_train_dataloader(self):
        """The target's DataLoader, as in Trainer; the source starts anew beside it."""
        if self.is_active:
            self.check_batch_size()
        loader = super().get_train_dataloader()
        if self.is_active and has_length(loader) and len(loader) == 0:
            raise no_batch_error(self)
        return loader

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The target's micro-batches of one update; as many source batches wait for `training_step`."""
        if not self.is_active:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        try:
            batch_samples, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        except ValueError as error:  # of accelerate, where a stream that it hands out has no rows
            if self.state.global_step or "does not contain any data" not in str(error):
                raise
            batch_samples, num_items_in_batch = [], None
        if not batch_samples:
            if not self.state.global_step:
                raise no_batch_error(self)
            return batch_samples, num_items_in_batch
        self.micro_step, self._micro_batches, self._batches_taken = 0, len(batch_samples), 0
        self._source_batches = deque(self._draw_source()[: len(batch_samples)] if self.draws_source else ())
        if is_iterable(self.train_dataset):
            self._check_stream(batch_samples, "train_dataset", self.transfer_model.num_labels)
        return batch_samples, None

    def _check_stream(self, batches: list[Any], argument: str, num_labels: int) -> None:
        """Check the labels of a stream's batches; on an accelerator those of the first update alone, as it would be waited for."""
        for batch in batches:
            labels = batch.get("labels") if isinstance(batch, Mapping) else None
            if isinstance(labels, Tensor) and (labels.device.type == "cpu" or self.state.global_step == 0):
                check_batch_labels(labels, argument, num_labels)

    def _draw_source(self) -> list[Any]:
        # All of an update's batches are drawn, also where the target's epoch ends early: the position of the source is
        # then a function of the update alone, and a resumed run finds it without a record.
        steps = self.args.gradient_accumulation_steps
        if self._source_stream is None:
            self._source_stream = SourceStream(
                *self._source_with_collator(),
                self.args,
                batch_size=self.source_batch_size,
                start=self.source_updates_before * steps,
            )
        batches = self._source_stream.take(steps)
        if is_iterable(self.source_dataset):
            self._check_stream(batches, "source_dataset", self.transfer_model.source_head.out_features)
        return batches

    @property
    def source_batch_size(self) -> int:
        """Source rows per device and micro-step; `auto_find_batch_size` shrinks them with the target's."""
        given = self.args.per_device_source_batch_size or self.args.train_batch_size
        return max(1, given * self._train_batch_size // self.args.train_batch_size)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """A training step of Trainer, on the target batch and the source batch that waits for it."""
        if self._source_batches:
            source_inputs = self._source_batches.popleft()
            self.current_flos += float(self.floating_point_ops(source_inputs))
            inputs = {**inputs, SOURCE_INPUTS: source_inputs}
        elif self.is_active and not self.draws_source:
            inputs = {**inputs, SOURCE_INPUTS: None}
        taken = self._batches_taken
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.is_active and self._batches_taken == taken:
            raise not_taken_error()
        if SOURCE_INPUTS in inputs:
            self.micro_step += 1
            self._head_is_stale = not self.trains_target_head
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        Trainer's own loss, for evaluation; methods override this for training.

        Where the method is active, it is a mean over the rows at hand, see [`~merlin_hf.transfer.mean_loss.MeanLossMixin`].
        """
        if not self.is_active:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return self.loss_of_real_rows(model, inputs, return_outputs)

    def loss_of_real_rows(self, model, inputs, return_outputs=False):
        """The mean loss over the rows at hand; in evaluation without those that fill up the last batches of all ranks."""
        labels = inputs.get("labels")
        if not model.training:
            self._check_stream([inputs], "eval_dataset", self.build_transfer_model().num_labels)
        loss, outputs = self.mean_loss(model, inputs, return_outputs=True)
        if not model.training and labels is not None:
            rows = real_rows(len(labels), self.accelerator)
            if 0 < rows < len(labels):
                logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
                loss = self.target_loss(logits[:rows], labels[:rows]).to(loss.dtype)
        return (loss, outputs) if return_outputs else loss

    def target_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of the target task: `compute_loss_func`, or as the model itself would compute it on these rows."""
        if self.target_compute_loss_func is not None:
            return self.target_compute_loss_func(SequenceClassifierOutput(logits=logits), labels)
        config = getattr(self.model, "config", None)
        problem_type = problem_type_of(labels, logits.shape[-1], getattr(config, "problem_type", None))
        return task_loss(logits, labels, problem_type, self.args.label_smoothing_factor)

    def log(self, logs, start_time=None):
        """Adds what [`TransferTrainer.record`] collected to the training logs."""
        if "loss" in logs:
            logs.update(self._step_metrics.pop(self.accelerator))
        super().log(logs, start_time)

    # The model that is trained: `self.model` stays the plain classifier, `self.model_wrapped` holds both heads

    def build_transfer_model(self) -> TransferModel:
        """The [`TransferModel`] around the current `self.model`; the same one as long as the model is the same."""
        if isinstance(self.model, TransferModel):  # as FSDP leaves it
            return self.model
        if self.transfer_model is None or self.transfer_model.model is not self.model:
            num_source_labels = 0
            if self.source_dataset is not None:
                num_source_labels = count_source_labels(self.source_dataset, self.args.num_source_labels)
            self.transfer_model = TransferModel(
                self.model,
                num_source_labels=num_source_labels,
                head_module=self.args.head_module,
                scalars=self.learned_scalars(),
                trains_target_head=self.trains_target_head,
                seed=self.args.seed,
                target_chunk_size=self.args.target_chunk_size,
            )
            with isolated_rng("regularizer", self.args.seed):
                self.transfer_model.regularizer = self.build_regularizer(self.transfer_model)
        return self.transfer_model

    def build_regularizer(self, transfer_model: TransferModel) -> Regularizer | None:
        """The method's extra loss on the target's rows, if it has one; it is evaluated within the model's forward."""

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        if not self.is_active:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        plain_model = self.model
        self._step_metrics.reset()
        self._source_stream = None
        self._source_batches.clear()
        self.model = self.model_wrapped = self.build_transfer_model()
        self.transfer_model.leaves_out_nothing = self.is_deepspeed_enabled
        self.transfer_model.attach()
        try:
            prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
            if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # which train copies
                check_trains_own(self.optimizer, self.transfer_model)
            # A checkpoint brings a head of its own.
            self._head_is_stale |= not self.trains_target_head and resume_from_checkpoint is None
            return prepared
        finally:
            if not self.is_fsdp_enabled:
                self.model = self.callback_handler.model = plain_model

    def _wrap_model(self, model, training=True, dataloader=None):
        # Evaluation during training goes through the module whose forward `accelerate` gave its mixed precision.
        if not training and self.transfer_model is not None and model is self.transfer_model.model:
            if self.accelerator._models:
                return self.transfer_model
        return super()._wrap_model(model, training, dataloader)

    def train(self, *args, **kwargs):
        """[`~transformers.Trainer.train`]; the model is left plain, whatever happens, and its head fit to it."""
        self._check_options()
        self._get_ready()
        try:
            output = super().train(*args, **kwargs)
            self.settle_head()
            return output
        finally:
            if self.transfer_model is not None:
                self.transfer_model.detach()


def _with_trainers_parameters(init: Callable) -> inspect.Signature:
    """The signature that `init` has in effect: Trainer's parameters in their order, and then its own."""
    own = [p for p in inspect.signature(init).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return inspect.Signature([*inspect.signature(Trainer.__init__).parameters.values(), *own])


TransferTrainer.__init__.__signature__ = _with_trainers_parameters(TransferTrainer.__init__)
