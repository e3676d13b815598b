"""Fine-tuning that keeps the outputs of layers."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ..heads import LinearHead
from ..transfer.distributed import sum_over_ranks
from ..transfer.layers import channels_first, find_layers, layer_outputs
from ..transfer.model import evaluating
from ..transfer.refit import rank_batches
from ..transfer.regularizer import at_least_float32
from ..transfer.seeding import isolated_rng
from ..transfer.trainer import TransferTrainer
from ..utils.validation import interval
from .l2_sp import StartingPointTrainingArguments, new_parameters, trained_parameters
from .linear_probe import default_probe_head
from .regularized import CopyRegularizer, RegularizedTrainer, count_labelled


ATTENTIONS = ("gradient", "exact", "none")


class LayerDistance(CopyRegularizer):
    """
    The squared distance of what layers put out from what they did at the start, channel by channel.

    FM are what layers put out, `(n, C, positions)`, and FM^0 what they did at the start of training on the target, for
    the same rows; padding is left out where `attention_mask` has a value for each position. The attention a sums to 1
    in each layer.
    """

    uses_hidden_states: ClassVar[bool] = True

    def __init__(self, trainer: TransferTrainer):
        super().__init__(trainer)
        self.layer_names = trainer.layer_names()
        self.new = new_parameters(trainer.transfer_model, trainer.source_dataset is not None)
        self._outputs: Mapping[str, Tensor] = {}

    def start(self, trainer):
        """Copy the model as it is now, and measure which channels matter to the target."""
        super().start(trainer)
        if self.args.channel_attention != "none":
            weights = channel_attention(trainer, self.layer_names, exact=self.args.channel_attention == "exact")
            self.kept = {f"channels.{name}": weight for name, weight in weights.items()}

    @property
    def channel_weights(self) -> dict[str, Tensor]:
        """The weights a of each layer's channels; none where they are equal."""
        return {name.removeprefix("channels."): weight for name, weight in self.kept.items()}

    @contextlib.contextmanager
    def record_activations(self, transfer_model):
        """Record the outputs of the layers within a block."""
        with layer_outputs(transfer_model.model, self.layer_names) as self._outputs:
            yield

    def forward(self, transfer_model, inputs, labels, output):
        """Return the weighted distance, `()`."""
        outputs, self._outputs = self._outputs, {}
        with layer_outputs(self.copy.model.model, self.layer_names) as outputs_before:
            self.copy.features(inputs)
        distance = sum(
            self.layer_distance(name, outputs[name], outputs_before[name], inputs) for name in self.layer_names
        )
        parameters = trained_parameters(transfer_model)
        new = sum(at_least_float32(parameters[name]).square().sum() for name in parameters if name in self.new)
        return (self.weight * distance + self.args.head_regularization_weight * new) / 2

    def layer_distance(self, name: str, output: Tensor, before: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Return the mean distance over rows of one layer, `()`."""
        output, mask = channels_first(at_least_float32(output), inputs)
        squares = (output - channels_first(at_least_float32(before), inputs)[0]).square()
        if mask is None:
            squares = squares.mean(-1)
        else:
            squares = (squares * mask).sum(-1) / mask.sum(-1).clamp(min=1)
        weights = self.channel_weights.get(name)
        return (squares.sum(-1) if weights is None else squares.shape[1] * (squares * weights).sum(-1)).mean()


# Which channels matter


def channel_attention(trainer: Any, layer_names: list[str], exact: bool = False) -> dict[str, Tensor]:
    """
    Return how much each channel of each layer matters to the target, `(C,)` a layer; a collective.

        softmax of (standardised increase of the loss when the channel is set to zero) / 5

    The loss is that of a head fit to the features as they are. With `exact` the increase is measured, by one pass over
    the target's rows for each channel. Else it is that of the first order, - gradient * output (Molchanov et al. 2017,
    arXiv 1611.06440), by one pass for all channels.
    """
    transfer_model = trainer.transfer_model
    with torch.no_grad():
        head = trainer.final_head({})
    trainer.head_metrics = {}  # of that head, which is not the model's
    with isolated_rng("attention", trainer.args.seed), transfer_model.feature_mode(), evaluating(transfer_model):
        measure = exact_increase if exact else first_order_increase
        increases = measure(trainer, layer_names, head)
    weights = {}
    for name, increase in increases.items():
        increase = sum_over_ranks(increase)
        weights[name] = ((increase - increase.mean()) / increase.std(correction=0).clamp(min=1e-12) / 5).softmax(-1)
    return weights


def first_order_increase(trainer: Any, layer_names: list[str], head: LinearHead) -> dict[str, Tensor]:
    """
    Return the increase of the loss when a channel is set to zero, by the first order, `(C,)` a layer.

    The loss is summed over the rows of this rank.
    """
    transfer_model, increases = trainer.transfer_model, dict[str, Tensor]()
    for inputs, labels in local_batches(trainer):
        with torch.enable_grad(), layer_outputs(transfer_model.model, layer_names, edit=with_gradient) as outputs:
            loss = trainer.target_loss(head(transfer_model.features(inputs)), labels) * count_labelled(labels)
            gradients = torch.autograd.grad(loss, [outputs[name] for name in layer_names])
        for name, gradient in zip(layer_names, gradients, strict=True):
            gain = -at_least_float32(channels_first(gradient * outputs[name].detach(), inputs)[0]).sum((0, 2))
            increases[name] = increases[name] + gain if name in increases else gain
    return increases


def with_gradient(_: str, output: Tensor) -> Tensor:
    """Return a layer's output such that it has a gradient, also where the layers up to it are frozen."""
    return output if output.requires_grad else output.detach().requires_grad_()


@torch.no_grad()
def exact_increase(trainer: Any, layer_names: list[str], head: LinearHead) -> dict[str, Tensor]:
    """
    Return the loss when a channel is set to zero, measured, `(C,)` a layer.

    The loss with all channels, which is the same for all of a layer, is not subtracted.
    """
    transfer_model, increases = trainer.transfer_model, dict[str, Tensor]()
    for inputs, labels in local_batches(trainer):
        with layer_outputs(transfer_model.model, layer_names) as outputs:
            transfer_model.features(inputs)
        for name in layer_names:
            dim = 1 if outputs[name].ndim == 4 else -1
            losses = []
            for channel in range(outputs[name].shape[dim]):
                index = torch.tensor([channel], device=labels.device)

                def without(_, output, index=index, dim=dim):
                    return output.index_fill(dim, index, 0)

                with layer_outputs(transfer_model.model, [name], edit=without):
                    loss = trainer.target_loss(head(transfer_model.features(inputs)), labels)
                    losses.append(loss * count_labelled(labels))
            found = torch.stack(losses)
            increases[name] = increases[name] + found if name in increases else found
    return increases


def local_batches(trainer: Any) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Return the target's training rows, shared out over the ranks, as inputs and labels."""
    for batch, is_own in rank_batches(trainer, trainer.train_dataset):
        if is_own:
            yield trainer.split_batch(trainer._prepare_inputs(batch))


@dataclass
class DeltaTrainingArguments(StartingPointTrainingArguments):
    """
    [`~merlin_hf.methods.l2_sp.StartingPointTrainingArguments`] for [`DeltaTrainer`].

    Args:
        channel_attention (`str`): how channels are weighted: `"gradient"` (the first order of what the loss gains
            without them), `"exact"` (measured, one pass over the target's rows for each channel) or `"none"`.
        num_layers (`int`): how many layers are compared, evenly spaced up to the last.
        layer_modules (`list[str]`, *optional*): their names in `model.named_modules()`, where they are not to be
            found.
    """

    channel_attention: str = field(
        default="gradient",
        metadata={"help": "How channels are weighted: gradient, exact or none.", "choices": list(ATTENTIONS)},
    )
    num_layers: Annotated[int, interval("[1, 10_000]")] = field(
        default=4, metadata={"help": "How many layers are compared."}
    )
    layer_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the layers. Default: found, evenly spaced."}
    )


class DeltaTrainer(RegularizedTrainer):
    """
    DELTA: keeps the outputs of layers near those of the starting point, channel by channel.

        L_target + regularization_weight / 2 * mean over rows of
            [ sum over layers of C * sum over c of a_c |FM_c(phi, x) - FM_c(phi_0, x)|^2 / positions ]
        + head_regularization_weight / 2 |w_new|^2

    FM_c is the output of channel c of a layer. The attention a is computed once, before training on the target (see
    `channel_attention`). It is a softmax of how much the target's loss grows without a channel, standardised and
    divided by 5. Layers are the blocks of a transformer or the stages of a CNN. The distance is a mean over rows,
    where the reference code has a sum. The method is by Li et al. 2019 (arXiv 1901.09229).

    A step costs one batch of the target, a forward pass of the copy, and memory for a second copy of the weights.
    Checkpoints hold that copy too.
    """

    training_args_class: ClassVar = DeltaTrainingArguments
    regularizer_class: ClassVar = LayerDistance
    target_row_cost: ClassVar[float] = 4 / 3
    search_space: ClassVar = {"regularization_weight": (0.001, 0.01, 0.1)}

    def layer_names(self) -> list[str]:
        """
        Return the names of the layers that are compared.

        Raises:
            ValueError: one that was named does not exist.
        """
        if self.args.layer_modules is None:
            return find_layers(self.model, self.args.num_layers)
        known = dict(self.model.named_modules())
        for name in self.args.layer_modules:
            if name not in known:
                raise ValueError(
                    f"`layer_modules` names {name!r}, which {type(self.model).__name__} does not have. Found by "
                    f"itself: {', '.join(find_layers(self.model, self.args.num_layers))}."
                )
        return list(self.args.layer_modules)

    def solver_name(self, problem_type):
        """Return the solver of the head by which channels are measured."""
        return default_probe_head(problem_type)
