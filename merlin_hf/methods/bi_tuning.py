"""Fine-tuning with contrasts between rows, as well as with labels."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..transfer.distributed import gather_rows, is_distributed
from ..transfer.model import TransferModel
from ..transfer.regularizer import at_least_float32
from ..transfer.tokens import rows_of_full_batch
from ..transfer.trainer import TransferTrainer
from ..utils.validation import NonNegative, Positive, interval
from .regularized import (
    CopyRegularizer,
    RegularizedTrainer,
    RegularizedTrainingArguments,
    check_single_label,
    mean_of_labelled,
)


QUEUE = ("keys", "next", "count")  # the tensors of a queue


class KeyQueue:
    """
    The last keys of each class, in two forms.

    Args:
        num_labels (`int`): classes.
        size (`int`): keys of a class that are kept, K.
        widths (`tuple[int, int]`): lengths of the two forms of a key.
        device (`torch.device`): where they are kept.
        dtype (`torch.dtype`): as which they are kept.
    """

    def __init__(
        self,
        num_labels: int,
        size: int,
        widths: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ):
        self.widths = widths
        self.keys = torch.zeros(num_labels, size, sum(widths), device=device, dtype=dtype)
        self.next = torch.zeros(num_labels, dtype=torch.long, device=device)
        self.count = torch.zeros(num_labels, dtype=torch.long, device=device)

    @property
    def filled(self) -> Tensor:
        """Return which places have a key, `(num_labels, size)`."""
        return torch.arange(self.keys.shape[1], device=self.keys.device) < self.count.unsqueeze(-1)

    def split(self) -> tuple[Tensor, ...]:
        """Return both forms, `(num_labels, size, width)` each."""
        return self.keys.split(self.widths, dim=-1)

    def add(self, keys: Tensor, labels: Tensor) -> None:
        """
        Put keys in place of the oldest of their classes; those with the label -100 are left out.

        Args:
            keys (`torch.FloatTensor` of shape `(n, sum(widths))`): the new keys.
            labels (`torch.LongTensor` of shape `(n,)`): their classes.
        """
        keys, labels = keys[labels != -100], labels[labels != -100]
        size = self.keys.shape[1]
        of_class = nn.functional.one_hot(labels, len(self.keys))
        order = (of_class.cumsum(0) - 1).gather(1, labels.unsqueeze(1)).squeeze(1)  # among those of its class
        added = of_class.sum(0)
        last = order >= added[labels] - size  # where a class has more than there are places
        self.keys = self.keys.clone()  # the backward pass of the contrasts needs the old ones
        self.keys[labels[last], (self.next[labels] + order)[last] % size] = keys[last].to(self.keys.dtype)
        self.next = (self.next + added) % size
        self.count = (self.count + added).clamp(max=size)


def contrast(own: Tensor, others: Tensor, labels: Tensor, filled: Tensor, temperature: float) -> Tensor:
    """
    Return KL( u || softmax(similarities / temperature) ) of each row, with u uniform over its positives.

    Args:
        own (`torch.FloatTensor` of shape `(n,)`): similarities to the row's own key, a positive.
        others (`torch.FloatTensor` of shape `(n, num_labels, size)`): similarities to the keys of the queue, which are
            positives where their class is the row's.
        labels (`torch.LongTensor` of shape `(n,)`): the classes of the rows.
        filled (`torch.BoolTensor` of shape `(num_labels, size)`): which places of the queue have a key.
        temperature (`float`): T.

    Returns:
        `torch.FloatTensor` of shape `(n,)`.
    """
    is_class = nn.functional.one_hot(labels, others.shape[1]).bool().unsqueeze(-1)
    positive = (is_class & filled).flatten(1)
    logits = others.masked_fill(~filled, -torch.inf).flatten(1)
    log_probabilities = (torch.cat([own.unsqueeze(1), logits], dim=1) / temperature).log_softmax(-1)
    number = 1 + positive.sum(-1, dtype=own.dtype)
    of_positives = log_probabilities[:, 0] + log_probabilities[:, 1:].masked_fill(~positive, 0).sum(-1)
    return -of_positives / number - number.log()


class Contrasts(CopyRegularizer):
    """
    Contrasts of the rows' features with keys.

    z are projected features and h features with a 1 for the bias, both of length 1, as is w_y, the class's row of the
    model's last layer with its bias. A copy of the model that follows slowly makes the keys: one queue holds projected
    ones and the other those of features, by class. u is uniform over the keys of the row's class and the row's own.
    """

    copy_is_training: ClassVar[bool] = True  # its dropout gives the second view of a row

    queue: KeyQueue = None  # type: ignore[assignment]  # there from `start` on

    def __init__(self, trainer: TransferTrainer):
        super().__init__(trainer)
        args, head = trainer.args, trainer.transfer_model.head
        self.shape = (head.out_features, args.queue_size, (args.projection_size, head.in_features + 1))
        self.projector = nn.Linear(head.in_features, args.projection_size)

    def start(self, trainer):
        """Copy the model and the projector, and start with an empty queue."""
        super().start(trainer)
        self.kept = {f"projector.{name}": p.detach().clone() for name, p in self.projector.named_parameters()}
        weight = at_least_float32(self.projector.weight)
        self.queue = KeyQueue(*self.shape, device=weight.device, dtype=weight.dtype)

    @torch.no_grad()
    def follow(self, transfer_model: TransferModel) -> None:
        """Move the copy towards the model; called once an update."""
        pairs = [*zip(self.copy.model.model.parameters(), transfer_model.model.parameters(), strict=True)]
        kept = [(self.kept[f"projector.{name}"], p) for name, p in self.projector.named_parameters()]
        for mine, other in (*pairs, *kept):
            mine.lerp_(other.detach(), 1 - self.args.key_momentum)

    def forward(self, transfer_model, inputs, labels, output):
        """Return `weight` times the mean, `()`; rows with the label -100 are ignored."""
        features = output.target_features
        z, h = normalize(at_least_float32(self.projector(features)), dim=-1), with_bias(at_least_float32(features))
        with torch.no_grad():
            key_features = self.copy.features(inputs)
            projector = self.kept["projector.weight"], self.kept["projector.bias"]
            z_key = normalize(at_least_float32(nn.functional.linear(key_features, *projector)), dim=-1)
            h_key = with_bias(at_least_float32(key_features))
        queue_z, queue_h = self.queue.split()
        filled, classes = self.queue.filled, labels.clamp(min=0)
        temperature = self.args.contrast_temperature
        w = class_weights(transfer_model.head)[classes]
        with torch.autocast(z.device.type, enabled=False):  # the temperature magnifies errors
            losses = contrast(
                (z * z_key).sum(-1), torch.einsum("nd,ckd->nck", z, queue_z), classes, filled, temperature
            ) + contrast((h * w).sum(-1), torch.einsum("nd,ckd->nck", w, queue_h), classes, filled, temperature)

        keys, key_labels = torch.cat([z_key, h_key], dim=-1), labels
        if is_distributed():
            keys, key_labels, _ = gather_rows(keys, labels, rows_of_full_batch(inputs, keys, self.batch_size))
        self.queue.add(keys, key_labels)
        return self.weight * mean_of_labelled(losses, labels)

    def extra_state(self):
        """Return the weights of the copies, and the queue."""
        queue = {} if self.queue is None else {f"queue.{name}": getattr(self.queue, name) for name in QUEUE}
        return super().extra_state() | queue

    def load_extra_state(self, transfer_model, tensors):
        """Take them back."""
        super().load_extra_state(transfer_model, tensors)
        self.queue = KeyQueue(*self.shape, device=transfer_model.head.weight.device)
        for name in QUEUE:
            setattr(self.queue, name, self.kept.pop(f"queue.{name}"))


def with_bias(features: Tensor) -> Tensor:
    """Return features `(n, hidden_size)` with a 1 after the last, scaled to length 1."""
    return normalize(torch.cat([features, features.new_ones(len(features), 1)], dim=-1), dim=-1)


def class_weights(head: nn.Linear) -> Tensor:
    """Return a layer's rows with their biases, or 0, scaled to length 1: `(num_labels, hidden_size + 1)`."""
    weight = at_least_float32(head.weight)
    bias = weight.new_zeros(len(weight)) if head.bias is None else at_least_float32(head.bias)
    return normalize(torch.cat([weight, bias.unsqueeze(-1)], dim=-1), dim=-1)


@dataclass
class BiTuningTrainingArguments(RegularizedTrainingArguments):
    """
    [`~merlin_hf.methods.regularized.RegularizedTrainingArguments`] for [`BiTuningTrainer`].

    Args:
        regularization_weight (`float`): tau, of both contrasts.
        queue_size (`int`): keys of each class that are kept, K.
        key_momentum (`float`): m, of the copy that makes keys.
        contrast_temperature (`float`): T.
        projection_size (`int`): length of projected features.
    """

    regularization_weight: NonNegative = field(default=1.0, metadata={"help": "Factor of the contrasts."})
    queue_size: Annotated[int, interval("[1, 1_000_000]")] = field(
        default=40, metadata={"help": "Keys of each class that are kept."}
    )
    key_momentum: Annotated[float, interval("[0, 1]")] = field(
        default=0.999, metadata={"help": "Momentum of the copy that makes keys."}
    )
    contrast_temperature: Positive = field(default=0.07, metadata={"help": "Temperature of the contrasts."})
    projection_size: Annotated[int, interval("[1, 1_000_000]")] = field(
        default=128, metadata={"help": "Length of projected features."}
    )


class BiTuningTrainer(RegularizedTrainer):
    """
    Bi-Tuning: pulls the features of a class together, and towards the weights of that class.

        L_target + regularization_weight * mean over rows of
            [ KL(u || softmax(z . {z_k, queue} / T)) + KL(u || softmax({h, queue} . w_y / T)) ]

    h are the features of a row and z their projection. u is uniform over the rows of the same class. A queue keeps
    recent features of each class, made by a slowly moving copy of the backbone. Places of the queue that are still
    empty do not count. Gradients reach the class weights w_y, which the reference code cuts off. The second view of a
    row is the copy's own dropout on the same inputs. Target rows must have one class each. The method is by Zhong et
    al. 2020 (arXiv 2011.06182).

    A step costs one batch of the target, a forward pass of the copy, and memory for a second copy of the weights.
    Checkpoints hold that copy too.
    """

    training_args_class: ClassVar = BiTuningTrainingArguments
    regularizer_class: ClassVar = Contrasts
    target_row_cost: ClassVar[float] = 4 / 3
    search_space: ClassVar = {"regularization_weight": (0.1, 0.3, 1.0)}

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Make a training step; the copy follows the model once an update."""
        if self.micro_step == 0 and self.state.global_step > self.phase_ends[0]:
            self.regularizer.follow(self.build_transfer_model())
        return super().training_step(model, inputs, num_items_in_batch)

    def check_data(self):
        """Check the data as RegularizedTrainer does, and that the target has one class per row."""
        super().check_data()
        check_single_label(self)
