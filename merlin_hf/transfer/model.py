"""One backbone, a source head and a target head, in one forward."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from .batches import SOURCE_INPUTS, not_taken_error
from .regularizer import Regularizer
from .seeding import isolated_rng


# peft keeps the layer it replaced beside the trained copy; only the copy takes part in the forward pass.
_PEFT_ORIGINAL = re.compile(r"(^|\.)original_module(\.|$)")
_PEFT_COPY = re.compile(r"\.modules_to_save\.[^.]+")


def find_head(model: nn.Module, head_module: str | None = None) -> str:
    """
    The name of the layer that turns a classifier's pooled features into logits.

    It is the only `torch.nn.Linear` with `config.num_labels` outputs that lies outside the model's base model (or,
    where the base model holds all layers, the only one inside), found without a list of architectures.

    Args:
        model (`torch.nn.Module`): any `AutoModelForSequenceClassification`, `...ImageClassification`,
            `...AudioClassification`, or a module built like one, bare or wrapped by peft.
        head_module (`str`, *optional*): the layer's name as in `model.named_modules()`, when it cannot be found; of a layer that peft
            trains a copy of, the name that it had before.

    Raises:
        ValueError: there is no such layer, or more than one, or `head_module` names something else; the message lists
            the candidates.
    """
    if head_module is not None:
        named = dict(model.named_modules())
        if isinstance(named.get(head_module), nn.Linear):
            return head_module
        wanted = _PEFT_COPY.sub("", f".{head_module}")
        matches = [name for name in named if _PEFT_COPY.sub("", f".{name}").endswith(wanted)]
        linear = [name for name in matches if isinstance(named[name], nn.Linear) and not _PEFT_ORIGINAL.search(name)]
        if len(linear) == 1:
            return linear[0]
        found = ", ".join(f"{name} ({type(named[name]).__name__})" for name in matches) or "no module of that name"
        raise ValueError(
            f"`head_module={head_module!r}` must name one torch.nn.Linear of {type(model).__name__}; found {found}. "
            f"Its Linear layers are: {_describe(_linear_layers(model))}."
        )

    num_labels = getattr(getattr(model, "config", None), "num_labels", None)
    layers = _linear_layers(model)
    candidates = {name: layer for name, layer in layers.items() if layer.out_features == num_labels}
    base_model = getattr(_unwrap_peft(model), "base_model", None)
    if base_model is not None and base_model is not _unwrap_peft(model):
        inside = {id(module) for module in base_model.modules()}
        outside = {name: layer for name, layer in candidates.items() if id(layer) not in inside}
        candidates = outside or candidates
    if len(candidates) == 1:
        return next(iter(candidates))
    raise ValueError(
        f"Cannot tell which layer of {type(model).__name__} turns features into its {num_labels} logits: found "
        f"{len(candidates)} torch.nn.Linear layers with {num_labels} outputs ({_describe(candidates)}). Name it with "
        f"`head_module=`, one of: {_describe(dict(list(layers.items())[-8:]))}."
    )


def _unwrap_peft(model: nn.Module) -> nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not _PEFT_ORIGINAL.search(name)
    }


def _describe(layers: Mapping[str, nn.Linear]) -> str:
    return ", ".join(f"{name} ({layer.in_features}->{layer.out_features})" for name, layer in layers.items()) or "none"


def _return_input_hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """Forward hook: what entered the layer leaves it, while `return_features` is set."""
    return args[0] if module.return_features else None


def _rows(value: Any, rows: slice, batch_size: int) -> Any:
    return value[rows] if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch_size else value


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A block with a model in evaluation mode, which is then in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def check_has_no_batch_statistics(model: nn.Module) -> None:
    """
    Check that a row's features do not depend on the other rows of its batch.

    Raises:
        ValueError: the model has BatchNorm layers.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"`target_chunk_size` would change what {type(model).__name__} computes: {name!r} is a "
                f"{type(module).__name__}, whose statistics are those of a chunk. Use a smaller "
                "`per_device_train_batch_size`, or a model with another normalisation."
            )


@dataclass
class TransferOutput(ModelOutput):
    """
    What one step needs of both tasks.

    Attributes:
        source_logits (`torch.FloatTensor` of shape `(source_batch, num_source_labels)`).
        source_head_gram (`torch.FloatTensor` of shape `(num_source_labels, num_source_labels)`): the products of the
            source head's rows, without gradient; by them a gradient at the logits has the norm it has at the features.
        target_features (`torch.FloatTensor` of shape `(target_batch, hidden_size)`): what enters the model's last layer.
        target_logits (`torch.FloatTensor` of shape `(target_batch, num_labels)`): by the model's own last layer, when
            that layer is trained by gradient descent.
        penalty (`torch.FloatTensor` of shape `()`): what the method's regularizer gives.
        scalars (`dict[str, torch.FloatTensor]`): learned scalars, each of shape `()`.
    """

    source_logits: Tensor | None = None
    source_head_gram: Tensor | None = None
    target_features: Tensor | None = None
    target_logits: Tensor | None = None
    penalty: Tensor | None = None
    scalars: dict[str, Tensor] | None = None

    def views(self) -> tuple[Tensor | None, Tensor, dict[str, Tensor]]:
        """
        Of a step with target rows: source logits `(source_batch, num_source_labels)` or `None`, target features `(target_batch,
        hidden_size)` and scalars, as views: a gradient at the outputs themselves would set off DeepSpeed's hooks for the end of a backward pass.
        """
        source_logits = None if self.source_logits is None else self.source_logits.view_as(self.source_logits)
        features = self.target_features.view_as(self.target_features)
        return source_logits, features, {name: value.view_as(value) for name, value in (self.scalars or {}).items()}


class SourceHead(nn.Linear):
    """A linear layer that also gives the products of its rows, as ZeRO-3 has its weight whole in its own forward only."""

    def forward(self, features: Tensor, with_gram: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits; with `with_gram`, and `weight @ weight.mT` without gradient."""
        logits = super().forward(features)
        if not with_gram:
            return logits
        weight = self.weight.detach()
        return logits, weight @ weight.mT


class Scalars(nn.ParameterDict):
    """Parameters of one element each, read by calling this, as ZeRO-3 has them whole in a module's own forward only."""

    # `ParameterDict` refuses to be called.
    __call__ = nn.Module.__call__

    def forward(self) -> dict[str, Tensor]:
        """Each as a tensor of shape `()`."""
        return {name: value.sum() for name, value in self.items()}


class TransferModel(nn.Module):
    """
    A Hugging Face classifier for the target task with a second head for the source task.

    All that is trained is used inside [`TransferModel.forward`], so that the wrapper of distributed training sees it.
    The classifier is held, not copied: its parameter names, class and configuration stay what they were, and called
    with its own arguments this module is the classifier.

    Args:
        model (`transformers.PreTrainedModel` or `torch.nn.Module`): the target classifier.
        num_source_labels (`int`): outputs of the source head; 0 for none.
        head_module (`str`, *optional*): see [`find_head`].
        scalars (`Mapping[str, float]`, *optional*): names and first values of learned scalars.
        trains_target_head (`bool`): whether the model's own last layer is trained by gradient descent; otherwise it is
            frozen while attached, as it will be written in closed form.
        seed (`int`): for the source head's first weights.
        target_chunk_size (`int`, *optional*): rows of the target that go through the classifier at a time while training, with
            their activations computed again in the backward pass; all at once if not given.

    Raises:
        ValueError: chunks would change what the model computes, as it has BatchNorm layers.
    """

    def __init__(
        self,
        model: nn.Module,
        num_source_labels: int,
        head_module: str | None = None,
        scalars: Mapping[str, float] | None = None,
        trains_target_head: bool = False,
        seed: int = 0,
        target_chunk_size: int | None = None,
    ):
        super().__init__()
        self.head_name = find_head(model, head_module)
        self.trains_target_head = trains_target_head
        self.model = model
        head = self.head
        self.source_head = None
        self.regularizer: Regularizer | None = None
        if num_source_labels:
            with isolated_rng("source_head", seed):
                # On the CPU, whose generator is the one that is seeded here.
                self.source_head = SourceHead(head.in_features, num_source_labels, dtype=head.weight.dtype)
                self._initialise(self.source_head)
            self.source_head.to(head.weight.device)
        # One element rather than none: fully sharded wrappers refuse scalar parameters.
        self.scalars = Scalars(
            {
                name: torch.full((1,), float(value), device=head.weight.device)
                for name, value in (scalars or {}).items()
            }
        )
        # ZeRO-3 keeps the last gradient of what a step leaves out, and takes another step by it.
        self.touch_all_parameters = False
        self.target_chunk_size = target_chunk_size
        if target_chunk_size is not None:
            check_has_no_batch_statistics(model)
        self._hook = None

    def _initialise(self, layer: nn.Linear) -> None:
        initialise = getattr(_unwrap_peft(self.model), "_init_weights", None)
        if initialise is not None:
            initialise(layer)

    @property
    def config(self):
        """The classifier's configuration."""
        return self.model.config

    @property
    def _no_split_modules(self) -> list[str]:
        """What the automatic wrapping of FSDP shards layer by layer: the classifier's own list, as far as it has such layers."""
        present = {type(module).__name__ for module in self.model.modules()}
        return [name for name in getattr(self.model, "_no_split_modules", None) or () if name in present]

    @property
    def head(self) -> nn.Linear:
        """The classifier's own last layer."""
        return self.model.get_submodule(self.head_name)

    @property
    def num_labels(self) -> int:
        """Outputs of the classifier's last layer."""
        return self.head.out_features

    def prepare_for_features(self) -> None:
        """
        Prepare the classifier for training: features can be read, a head that is not trained is frozen, and the source head
        follows where the classifier was moved or cast to.
        """
        if self._hook is None:
            head = self.head
            for module in (self.source_head, self.regularizer):
                if module is not None:
                    module.to(device=head.weight.device, dtype=head.weight.dtype)
            head.return_features = False
            self._hook = head.register_forward_hook(_return_input_hook)
            if not self.trains_target_head:
                self._head_requires_grad = {name: p.requires_grad for name, p in head.named_parameters()}
                head.requires_grad_(False)

    def leave_feature_mode(self) -> None:
        """Leave the classifier as it was before [`TransferModel.prepare_for_features`], but for its weights."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            del self.head.return_features
            if not self.trains_target_head:
                for name, parameter in self.head.named_parameters():
                    parameter.requires_grad_(self._head_requires_grad[name])

    @contextlib.contextmanager
    def feature_mode(self) -> Iterator[None]:
        """[`TransferModel.prepare_for_features`] for a block, where it is not attached already."""
        was_attached = self._hook is not None
        self.prepare_for_features()
        try:
            yield
        finally:
            if not was_attached:
                self.leave_feature_mode()

    def features(self, inputs: Mapping[str, Any]) -> Tensor:
        """
        What enters the last layer, after the model's own pooling wherever it lies.

        Args:
            inputs (`Mapping[str, Any]`): the model's arguments, without labels.

        Returns:
            `torch.FloatTensor` of shape `(batch, hidden_size)`.

        Raises:
            ValueError: the model changes its logits after the last layer, so that features cannot be read there.
        """
        head = self.head
        head.return_features = True
        try:
            outputs = self.model(**inputs)
        finally:
            head.return_features = False
        features = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        if features.ndim != 2 or features.shape[-1] != head.in_features:
            raise ValueError(
                f"Layer {self.head_name!r} of {type(self.model).__name__} takes {head.in_features} features, but handing "
                f"them on gave logits of shape {tuple(features.shape)} instead of (batch, {head.in_features}). Name the "
                "layer whose output is the logits with `head_module=`."
            )
        return features

    def target_features(
        self, inputs: Mapping[str, Any], features: Callable[[Mapping[str, Any]], Tensor] | None = None
    ) -> Tensor:
        """
        [`TransferModel.features`], in chunks of `target_chunk_size` rows while gradients are wanted.

        Only the features of all rows stay in memory, and the activations of one chunk: its others are computed again, with the
        same dropout, when the backward pass comes to it (Chen et al. 2016, arXiv 1604.06174).

        Args:
            inputs (`Mapping[str, Any]`): the model's arguments, without labels.
            features (`Callable`, *optional*): what is called with the inputs of a chunk, and again in the backward pass.
        """
        features = features or self.features
        rows = next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor))
        size = self.target_chunk_size
        if size is None or rows <= size or not torch.is_grad_enabled():
            return features(inputs)
        chunks = [
            {name: _rows(value, slice(start, start + size), rows) for name, value in inputs.items()}
            for start in range(0, rows, size)
        ]
        return torch.cat([checkpoint(features, chunk, use_reentrant=False) for chunk in chunks])

    def forward(
        self,
        *args,
        source_inputs: Mapping[str, Any] | None = None,
        target_inputs: Mapping[str, Any] | None = None,
        target_labels: Tensor | None = None,
        with_target_logits: bool | None = None,
        with_scalars: bool = True,
        **inputs,
    ) -> TransferOutput | Any:
        """
        Both halves of a step, or the plain classifier where neither is given.

        Args:
            source_inputs (`Mapping[str, Any]`, *optional*): the model's arguments for the source rows, without labels.
            target_inputs (`Mapping[str, Any]`, *optional*): the same for the target rows.
            target_labels (`torch.Tensor`, *optional*): of the target rows, for the regularizer, which is left out without.
            with_target_logits (`bool`, *optional*): whether to compute them; by default where their head is trained. What is
                computed and not used in a loss would let distributed training wait for its gradient.
            with_scalars (`bool`): whether to give the learned scalars, for the same reason.

        Returns:
            [`TransferOutput`] or the classifier's own output.
        """
        if source_inputs is None and target_inputs is None:
            if SOURCE_INPUTS in inputs:
                raise not_taken_error()  # a `compute_loss` passes all on, as for a plain model
            return self.model(*args, **inputs)
        if with_target_logits is None:
            with_target_logits = self.trains_target_head
        output = TransferOutput(scalars=(self.scalars() or None) if with_scalars else None)
        if source_inputs is not None:
            features = self.features(source_inputs)
            output.source_logits, output.source_head_gram = self.source_head(features, with_gram=True)
        if target_inputs is not None:
            is_regularized = self.regularizer is not None and target_labels is not None
            with self.regularizer.record_activations(self) if is_regularized else contextlib.nullcontext():
                output.target_features = self.target_features(target_inputs)
            is_idle = source_inputs is None and self.source_head is not None
            if self.touch_all_parameters and is_idle and torch.is_grad_enabled():
                nothing = 0.0 * self.source_head(output.target_features.detach()).sum()
                output.target_features = output.target_features + nothing
            if with_target_logits:
                output.target_logits = self.head(output.target_features)
            if is_regularized:
                output.penalty = self.regularizer(self, target_inputs, target_labels, output)
        return output
