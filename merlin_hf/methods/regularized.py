"""Fine-tuning with a regularizer: what its methods share."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from ..transfer.labels import label_values
from ..transfer.model import FrozenCopy, TransferModel
from ..transfer.regularizer import Regularizer
from ..transfer.trainer import TransferTrainer
from ..utils.validation import NonNegative
from .sequential import SequentialTrainer, SequentialTrainingArguments


@dataclass
class RegularizedTrainingArguments(SequentialTrainingArguments):
    """
    [`~merlin_hf.methods.sequential.SequentialTrainingArguments`] for fine-tuning with a regularizer.

    Args:
        regularization_weight (`float`): factor of the regularizer; the default is the method's own.
    """

    regularization_weight: NonNegative = field(default=0.01, metadata={"help": "Factor of the regularizer."})


class MethodRegularizer(Regularizer):
    """A regularizer with the options of its method, times `args.regularization_weight`."""

    def __init__(self, trainer: TransferTrainer):
        super().__init__(trainer.args.regularization_weight)
        self.args = trainer.args


class CopyRegularizer(MethodRegularizer):
    """A regularizer that compares with a copy of the model at the start, which checkpoints keep."""

    stores_model_copy: ClassVar[bool] = True
    supports_sharding: ClassVar[bool] = False
    copy_is_training: ClassVar[bool] = False  # whether the copy keeps dropout and batch statistics

    copy: FrozenCopy = None  # type: ignore[assignment]  # there from `start` on

    def start(self, trainer):
        """Copy the model as it is now."""
        self.copy = FrozenCopy(trainer.transfer_model, training=self.copy_is_training)

    def extra_state(self):
        """Return the copy's weights, and what is kept beside them."""
        return super().extra_state() | ({} if self.copy is None else self.copy.extra_state())

    def load_extra_state(self, transfer_model, tensors):
        """Take them back."""
        self.copy = FrozenCopy(transfer_model, training=self.copy_is_training)
        self.copy.load_extra_state(tensors)
        super().load_extra_state(transfer_model, {n: t for n, t in tensors.items() if not n.startswith("copy.")})


class RegularizedTrainer(SequentialTrainer):
    """
    Fine-tuning on the target with an extra loss that keeps what pretraining has learned.

        min over phi, theta_t:  L_target(theta_t, phi) + regularization_weight * R(phi, theta_t)

    With a `source_dataset` the source comes first, as in [`~merlin_hf.methods.SequentialTrainer`], and what is kept
    are the weights that it leads to; without, those of the model as it came.
    """

    training_args_class: ClassVar = RegularizedTrainingArguments
    needs_source: ClassVar[bool] = False
    trains_without_source: ClassVar[bool] = True
    regularizer_class: ClassVar[type[MethodRegularizer]]

    def build_regularizer(self, transfer_model: TransferModel) -> Regularizer:
        """Return the regularizer with the method's options."""
        return self.regularizer_class(self)

    @property
    def regularizer(self) -> Any:
        """The regularizer of the model that is trained."""
        return self.build_transfer_model().regularizer

    def start_phase(self, phase):
        """Start a phase, and the regularizer with the model that the target's phase starts from."""
        super().start_phase(phase)
        self.regularizer.start(self)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Make a training step; the regularizer is told how many rows a batch has."""
        self.regularizer.batch_size = self._train_batch_size
        return super().training_step(model, inputs, num_items_in_batch)

    def check_data(self):
        """Check the data as TransferTrainer does, and that the regularizer sees whole tensors and whole batches."""
        super().check_data()
        name = type(self).__name__
        if not self.regularizer_class.supports_sharding and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                f"{name} keeps whole tensors of its own, such as the weights that training started at, and does not "
                "work where the model is sharded (FSDP, DeepSpeed). Use plain data parallelism, as in the "
                "configuration `ddp`."
            )
        if self.regularizer_class.uses_hidden_states and self.args.target_chunk_size is not None:
            raise ValueError(
                f"{name} reads the layers of the whole target batch, got "
                f"`target_chunk_size={self.args.target_chunk_size}`. Leave it out, and use a smaller "
                "`per_device_train_batch_size` where memory is short."
            )


def mean_of_labelled(losses: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of losses `(n,)` over the rows whose label is not -100, `()`; 0 where there is none."""
    counted = labels != -100
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def count_labelled(labels: Tensor) -> Tensor | int:
    """Return how many rows of a batch its mean loss is over."""
    return len(labels) if labels.is_floating_point() else (labels != -100).sum()


def _are_class_ids(dataset: Any) -> bool:
    """Return whether labels may be one class a row; streams do not tell theirs."""
    values = label_values(dataset)
    return values is None or (values.ndim == 1 and values.dtype.kind in "iu")


def check_single_label(trainer: RegularizedTrainer) -> None:
    """Raise a `ValueError` if the target has not one class a row, for a method that is defined for these alone."""
    kind = getattr(getattr(trainer.model, "config", None), "problem_type", None)
    are_ids = _are_class_ids(trainer.train_dataset)
    num_labels = trainer.build_transfer_model().num_labels
    if num_labels == 1 or kind not in (None, "single_label_classification") or not are_ids:
        raise ValueError(
            f"{type(trainer).__name__} needs a target with one class per row; the model has "
            f"{num_labels} labels and `problem_type={kind!r}`"
            f"{'' if are_ids else ', and the labels of `train_dataset` are not class ids'}."
        )


def check_same_features(trainer: TransferTrainer) -> None:
    """Raise a `ValueError` if the source head cannot read the target's features: of pairs, or of single texts."""
    transfer_model = trainer.build_transfer_model()
    head = transfer_model.source_head
    if isinstance(head, nn.Linear) and head.in_features != transfer_model.head.in_features:
        raise ValueError(
            f"{type(trainer).__name__} reads the target's rows by the source head, and one of `train_dataset` and "
            "`source_dataset` has pairs of texts and the other single texts, which a sentence encoder gives other "
            "features. Use a source of the same kind, or MerlinTrainer or L2SPTrainer."
        )


def check_source_classes(trainer: RegularizedTrainer) -> None:
    """Raise a `ValueError` if there is no source head that gives probabilities of classes to the target's rows."""
    check_same_features(trainer)
    source_head = trainer.build_transfer_model().source_head
    has_one_output = isinstance(source_head, nn.Linear) and source_head.out_features < 2
    if has_one_output or not _are_class_ids(trainer.source_dataset):
        values = label_values(trainer.source_dataset)
        kind = "one real label a row" if values is None or values.ndim == 1 else "several labels a row"
        raise ValueError(
            f"{type(trainer).__name__} compares the probabilities of classes that the source head gives the "
            f"target's rows, and `source_dataset` has {kind}. Use a source with one class a row, or L2SPTrainer."
        )
