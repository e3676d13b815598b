"""Fine-tuning with stochastic normalization."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from ..transfer.layers import batch_norms
from ..transfer.phases import checkpoints_activations
from ..utils.validation import interval
from .sequential import SequentialTrainer, SequentialTrainingArguments


STATISTICS = ("running_mean", "running_var")


@contextlib.contextmanager
def stochastic_normalization(model: nn.Module, probability: float) -> Iterator[None]:
    """
    Normalise channels of BatchNorm layers by the batch's statistics with `probability`, else by the running ones.

    A layer in training mode computes both, the running one with statistics from before the batch, which then move as
    always, and draws for each channel which it gives. Hooks do this, and are gone after the block.
    """
    before: dict[nn.Module, dict[str, Tensor]] = {}

    def keep_statistics(layer, args):
        if layer.training:
            # Copies, as the layer moves its statistics before the backward pass needs what was used here.
            before[layer] = {name: getattr(layer, name).clone() for name in STATISTICS}

    def mix_channels(layer, args, by_batch):
        if not layer.training:
            return None
        layer.training = False  # the call in here comes by these hooks again
        try:
            by_running = functional_call(layer, before.pop(layer), args)
        finally:
            layer.training = True
        channels = [1, by_batch.shape[1]] + [1] * (by_batch.ndim - 2)
        return torch.where(torch.rand(channels, device=by_batch.device) < probability, by_batch, by_running)

    hooks: list[RemovableHandle] = []
    for layer in batch_norms(model).values():
        hooks += [layer.register_forward_pre_hook(keep_statistics), layer.register_forward_hook(mix_channels)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class StochNormTrainingArguments(SequentialTrainingArguments):
    """
    [`~merlin_hf.methods.sequential.SequentialTrainingArguments`] for [`StochNormTrainer`].

    Args:
        batch_statistics_probability (`float`): p of the paper, in [0, 1].
    """

    batch_statistics_probability: Annotated[float, interval("[0, 1]")] = field(
        default=0.5,
        metadata={"help": "Probability of a channel to be normalised by the batch's statistics."},
    )


class StochNormTrainer(SequentialTrainer):
    """
    Stochastic normalization, for models with BatchNorm.

        z = (1 - s) * (x - running mean) / running std + s * (x - batch mean) / batch std
        s ~ Bernoulli(p) for each channel

    The formula is for training on the target. Evaluation is BatchNorm's. p = 1 is BatchNorm, and p = 0 normalises by
    the running statistics alone; batches still update these. With a `source_dataset` the source comes first, as in
    [`~merlin_hf.methods.SequentialTrainer`], with plain BatchNorm. The method is by Kou, You, Long and Wang (NeurIPS
    2020).

    A step costs one batch of the target, with BatchNorm computed twice.
    """

    training_args_class: ClassVar = StochNormTrainingArguments
    needs_source: ClassVar[bool] = False
    trains_without_source: ClassVar[bool] = True
    search_space: ClassVar = {"batch_statistics_probability": (0.25, 0.5, 0.75)}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of SequentialTrainer, with stochastic normalization where the target is trained."""
        if not self.phase.uses_target:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with stochastic_normalization(self.model, self.args.batch_statistics_probability):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def check_data(self):
        """Check the data as TransferTrainer does, and that the model has BatchNorm, computed once a step."""
        super().check_data()
        if checkpoints_activations(self.args):
            raise ValueError(
                "StochNormTrainer draws how a layer normalises once a step, and with `gradient_checkpointing=True` "
                "(in newer releases `activation_checkpointing`) the backward pass would compute it again. Leave it "
                "out, and use a smaller `per_device_train_batch_size` where memory is short."
            )
        if not batch_norms(self.model):
            raise ValueError(
                f"StochNormTrainer changes BatchNorm, and {type(self.model).__name__} has none. It is for models such "
                "as ResNet, RegNet, MobileNet and EfficientNet, with BatchNorm in layers that are trained."
            )
