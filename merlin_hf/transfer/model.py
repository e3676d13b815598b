"""One backbone, a source head and a target head, in one forward."""

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle
from transformers.utils import ModelOutput

from ..data.sentence_encoders import RETURN_FEATURES, has_pairs
from .batches import SOURCE_INPUTS, SOURCE_NAME, not_taken_error
from .layers import without_adapter
from .regularizer import Regularizer
from .seeding import isolated_rng
from .sentences import sentence_classifier
from .tokens import TOKENS, features_of_tokens


# peft keeps the layer it replaced beside the trained copy; only the copy takes part in the forward pass.
_PEFT_ORIGINAL = re.compile(r"(^|\.)original_module(\.|$)")
_PEFT_COPY = re.compile(r"\.modules_to_save\.[^.]+")


def find_head(model: nn.Module, head_module: str | None = None) -> str:
    """
    Return the name of the layer that turns a classifier's pooled features into logits.

    It is the only `torch.nn.Linear` with `config.num_labels` outputs outside the model's base model (or inside, where
    the base model holds all layers). No list of architectures is needed.

    Args:
        model (`torch.nn.Module`): any classifier of transformers, or a module built like one, bare or wrapped by peft.
        head_module (`str`, *optional*): the layer's name as in `model.named_modules()`, when it cannot be found. Where
            peft trains a copy of the layer, the name before or after wrapping.

    Raises:
        ValueError: there is no such layer, or more than one, or `head_module` names something else.
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
    base_model = getattr(without_adapter(model), "base_model", None)
    if base_model is not None and base_model is not without_adapter(model):
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


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not _PEFT_ORIGINAL.search(name)
    }


def _describe(layers: Mapping[str, nn.Linear]) -> str:
    return ", ".join(f"{name} ({layer.in_features}->{layer.out_features})" for name, layer in layers.items()) or "none"


def _return_input_hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """Return the layer's input in place of its output, while its attribute `return_features` is set."""
    return args[0] if getattr(module, RETURN_FEATURES) else None


def is_untrained(model: nn.Module) -> bool:
    """
    Return whether all weights of normalisation layers are still the 1 (or 0) that they are initialised with.

    These are the vectors among the weights. Any training changes them; a model without such layers counts as trained.
    """
    vectors = [p for name, p in model.named_parameters() if name.endswith(".weight") and p.ndim == 1 and p.numel()]
    return bool(vectors) and all(bool(((p == 0) | (p == 1)).all()) for p in vectors)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for a block, and back in its earlier mode after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def check_has_no_batch_statistics(model: nn.Module) -> None:
    """Raise a `ValueError` if a row's features depend on the other rows of its batch, by BatchNorm layers."""
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
    The outputs of one training step, for both tasks; those that the step does not need are `None`.

    Attributes:
        source_logits (`torch.FloatTensor` of shape `(source_batch, num_source_labels)`).
        source_head_gram (`torch.FloatTensor` of shape `(num_source_labels, num_source_labels)`): `W W^T` of the source
            head's weight, without gradient. [`~merlin_hf.transfer.balance.gradient_ratio`] uses it.
        target_features (`torch.FloatTensor` of shape `(target_batch, hidden_size)`): what enters the last layer.
        target_logits (`torch.FloatTensor` of shape `(target_batch, num_labels)`): where that layer is trained.
        penalty (`torch.FloatTensor` of shape `()`): the loss of the method's regularizer.
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
        Return views of the source's logits, the target's features and the scalars, at which gradients may be taken.

        A gradient at the outputs themselves would set off DeepSpeed's hooks for the end of a backward pass.
        """
        assert self.target_features is not None, "the step has no target rows"
        source_logits = None if self.source_logits is None else self.source_logits.view_as(self.source_logits)
        features = self.target_features.view_as(self.target_features)
        return source_logits, features, {name: value.view_as(value) for name, value in (self.scalars or {}).items()}


class SourceHead(nn.Linear):
    """A linear layer that also returns `W W^T`: ZeRO-3 gathers a weight for the forward of its own module only."""

    def forward(  # type: ignore[override]  # a pair where `with_gram` is set, which `Linear` does not have
        self, features: Tensor, with_gram: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits `(n, num_source_labels)`; with `with_gram` also `weight @ weight.mT`, without gradient."""
        logits = super().forward(features)
        if not with_gram:
            return logits
        weight = self.weight.detach()
        return logits, weight @ weight.mT


class SourceHeads(nn.ModuleDict):
    """
    The heads of several sources, by name.

    A call uses one of them for its logits, and the others with a factor of 0: every parameter then has a gradient in
    each step of each process, as distributed training and ZeRO-3 need it.
    """

    def forward(
        self, features: Tensor, name: str | None = None, with_gram: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return what the named head returns, see [`SourceHead`]; `None` is the first."""
        name = next(iter(self)) if name is None else name
        output = self[name](features, with_gram=with_gram)
        if not torch.is_grad_enabled():
            return output
        idle = sum(idle_term(head, features) for other, head in self.items() if other != name)
        return (output[0] + idle, output[1]) if with_gram else output + idle


def idle_term(heads: nn.Module, like: Tensor) -> Tensor:
    """Return 0, of shape `()`, through which every source head in a module has a gradient, of 0."""
    layers = [layer for layer in heads.modules() if isinstance(layer, SourceHead)]
    return 0.0 * sum(layer(like.new_zeros(1, layer.in_features)).sum() for layer in layers)


class Scalars(nn.ParameterDict):
    """Learned scalars, read by calling this module: ZeRO-3 gathers parameters for their own module's forward."""

    # `ParameterDict` refuses to be called.
    __call__ = nn.Module.__call__

    def forward(self) -> dict[str, Tensor]:
        """Return each scalar as a tensor of shape `()`."""
        return {name: value.sum() for name, value in self.items()}


class TransferModel(nn.Module):
    """
    A Hugging Face classifier for the target task with a second head for the source task.

    All trained parameters are used inside [`TransferModel.forward`], where the wrapper of distributed training sees
    them. The classifier is held, not copied, and stays as it is. Called with the classifier's own arguments, this
    module returns the classifier's outputs.

    Args:
        model (`transformers.PreTrainedModel` or `torch.nn.Module`): the target classifier.
        num_source_labels (`int` or `Mapping[str | None, int]`): outputs of the source head, 0 for none; of several
            sources, which have a head each, by name. The only one has the name `None`.
        head_module (`str`, *optional*): see [`find_head`].
        scalars (`Mapping[str, float]`, *optional*): names and first values of learned scalars.
        trains_target_head (`bool`): whether the model's own last layer is trained by gradient descent. If not, it is
            frozen in feature mode, and written in closed form later.
        seed (`int`): for the source head's first weights.
        target_chunk_size (`int`, *optional*): rows of the target that go through the classifier at a time while
            training, with their activations computed again in the backward pass; all at once if not given.
        num_source_features (`Mapping[str | None, int]`, *optional*): that source heads read, by name; as many as the
            target's if not given.

    Raises:
        ValueError: chunks would change what the model computes, as it has BatchNorm layers.
    """

    def __init__(
        self,
        model: nn.Module,
        num_source_labels: int | Mapping[Any, int],
        head_module: str | None = None,
        scalars: Mapping[str, float] | None = None,
        trains_target_head: bool = False,
        seed: int = 0,
        target_chunk_size: int | None = None,
        num_source_features: Mapping[Any, int] | None = None,
    ):
        super().__init__()
        self.head_name = find_head(model, head_module)
        self.trains_target_head = trains_target_head
        self.model = model
        head = self.head
        self.source_head: SourceHead | SourceHeads | None = None
        self.regularizer: Regularizer | None = None
        if num_source_labels:
            initialise = getattr(without_adapter(model), "_init_weights", lambda layer: None)
            counts = num_source_labels if isinstance(num_source_labels, Mapping) else {None: num_source_labels}
            sizes = num_source_features or dict.fromkeys(counts, head.in_features)
            with isolated_rng("source_head", seed):
                # On the CPU, whose generator is the one that is seeded here.
                heads: dict[Any, SourceHead] = {
                    n: SourceHead(sizes[n], count, dtype=head.weight.dtype) for n, count in counts.items()
                }
                self.source_head = heads[None] if None in heads else SourceHeads(heads)
                for layer in self.source_head.modules():
                    initialise(layer)
            self.source_head.to(head.weight.device)
        # One element rather than none: fully sharded wrappers refuse scalar parameters.
        self.scalars = Scalars(
            {
                name: torch.full((1,), float(value), device=head.weight.device)
                for name, value in (scalars or {}).items()
            }
        )
        # ZeRO-3 keeps the last gradient of parameters that a step does not use, and takes another step by it.
        self.touch_all_parameters = False
        self.target_chunk_size = target_chunk_size
        if target_chunk_size is not None:
            check_has_no_batch_statistics(model)
        self._hook: RemovableHandle | None = None
        self._head_requires_grad: dict[str, bool] = {}

    @property
    def config(self) -> Any:
        """The classifier's configuration."""
        return self.model.config

    @property
    def _no_split_modules(self) -> list[str]:
        """The classes of layers that FSDP wraps one by one: those in the classifier's own list that it has."""
        present = {type(module).__name__ for module in self.model.modules()}
        names: Any = getattr(self.model, "_no_split_modules", None) or ()
        return [name for name in names if name in present]

    @property
    def head(self) -> nn.Linear:
        """The classifier's own last layer."""
        head = self.model.get_submodule(self.head_name)
        assert isinstance(head, nn.Linear)  # as `find_head` makes sure
        return head

    @property
    def num_labels(self) -> int:
        """The number of outputs of the classifier's last layer."""
        return self.head.out_features

    def num_source_labels(self, name: str | None = None) -> int:
        """Return the number of outputs of the source head, or of that of the named source; 0 without a source."""
        if self.source_head is None:
            return 0
        head = self.source_head if name is None else self.source_head.get_submodule(name)
        assert isinstance(head, SourceHead), "several sources have names"
        return head.out_features

    def prepare_for_features(self) -> None:
        """
        Enter feature mode, in which `features` can be called: freeze a target head that is not trained.

        The source head and the regularizer are moved and cast as the classifier was.
        """
        if self._hook is None:
            head = self.head
            for module in (self.source_head, self.regularizer):
                if module is not None:
                    module.to(device=head.weight.device, dtype=head.weight.dtype)
            setattr(head, RETURN_FEATURES, False)
            self._hook = head.register_forward_hook(_return_input_hook)
            if not self.trains_target_head:
                self._head_requires_grad = {name: p.requires_grad for name, p in head.named_parameters()}
                head.requires_grad_(False)

    def leave_feature_mode(self) -> None:
        """Undo `prepare_for_features`; the weights stay as they are."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            delattr(self.head, RETURN_FEATURES)
            if not self.trains_target_head:
                for name, parameter in self.head.named_parameters():
                    parameter.requires_grad_(self._head_requires_grad[name])

    @contextlib.contextmanager
    def feature_mode(self) -> Iterator[None]:
        """Enter feature mode for a block; a model that is in it already stays in it."""
        was_attached = self._hook is not None
        self.prepare_for_features()
        try:
            yield
        finally:
            if not was_attached:
                self.leave_feature_mode()

    def features(self, inputs: Mapping[str, Any]) -> Tensor:
        """
        Return the input of the last layer, after the model's own pooling.

        Args:
            inputs (`Mapping[str, Any]`): the model's arguments, without labels; of a token classifier with the mask of
                [`~merlin_hf.transfer.tokens.take_tokens`].

        Returns:
            `torch.FloatTensor` of shape `(batch, hidden_size)`, or `(number of labelled tokens, hidden_size)`.

        Raises:
            ValueError: the model changes its logits after the last layer, so that features cannot be read there.
        """
        head = self.head
        setattr(head, RETURN_FEATURES, True)
        try:
            outputs = self.model(**{name: value for name, value in inputs.items() if name != TOKENS})
        finally:
            setattr(head, RETURN_FEATURES, False)
        features = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        tokens = inputs.get(TOKENS)
        if tokens is not None:
            features = features_of_tokens(features, tokens)
        if features.ndim != 2 or features.shape[-1] != self.num_features(inputs):
            raise ValueError(
                f"Layer {self.head_name!r} of {type(self.model).__name__} takes {head.in_features} features, but "
                f"handing them on gave logits of shape {tuple(features.shape)} instead of (batch, "
                f"{head.in_features}). Name the layer whose output is the logits with `head_module=`."
            )
        return features

    def num_features(self, inputs: Mapping[str, Any]) -> int:
        """Return how many features rows have; of a sentence encoder pairs of texts have others than single texts."""
        classifier = sentence_classifier(self.model)
        return self.head.in_features if classifier is None else classifier.num_features(has_pairs(inputs))

    def target_features(
        self, inputs: Mapping[str, Any], features: Callable[[Mapping[str, Any]], Tensor] | None = None
    ) -> Tensor:
        """
        Return `features`, computed in chunks of `target_chunk_size` rows where gradients are enabled.

        Memory holds the features of all rows and the activations of one chunk. The backward pass computes those of
        each chunk again, with the same dropout (Chen et al. 2016, arXiv 1604.06174); so it does with other `features`.
        """
        features = features or self.features
        rows = next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor))
        size = self.target_chunk_size
        if size is None or rows <= size or not torch.is_grad_enabled():
            return features(inputs)
        by_row = {name for name, v in inputs.items() if isinstance(v, Tensor) and v.ndim and v.shape[0] == rows}
        chunks = [
            {name: value[start : start + size] if name in by_row else value for name, value in inputs.items()}
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
        Compute the outputs of a step for both tasks, or the classifier's own outputs where neither is given.

        Distributed training waits for the gradient of every parameter that is used here, so a loss must depend on all
        outputs: ask only for those that it needs.

        Args:
            source_inputs (`Mapping[str, Any]`, *optional*): the model's arguments for the source rows, without labels.
            target_inputs (`Mapping[str, Any]`, *optional*): the same for the target rows.
            target_labels (`torch.Tensor`, *optional*): of the target rows, for the regularizer; without them there is
                no penalty.
            with_target_logits (`bool`, *optional*): whether to compute them; by default where their head is trained.
            with_scalars (`bool`): whether to return the learned scalars.
        """
        if source_inputs is None and target_inputs is None:
            if SOURCE_INPUTS in inputs:
                raise not_taken_error()  # a `compute_loss` passes all on, as for a plain model
            return self.model(*args, **inputs)
        if with_target_logits is None:
            with_target_logits = self.trains_target_head
        output = TransferOutput(scalars=(self.scalars() or None) if with_scalars else None)
        if source_inputs is not None:
            assert self.source_head is not None, "a model with `num_source_labels=0` takes no source rows"
            name = source_inputs.get(SOURCE_NAME)
            features = self.features({key: value for key, value in source_inputs.items() if key != SOURCE_NAME})
            named = {} if name is None else {"name": name}
            output.source_logits, output.source_head_gram = self.source_head(features, with_gram=True, **named)
        if target_inputs is not None:
            regularizer = None if target_labels is None else self.regularizer
            with contextlib.nullcontext() if regularizer is None else regularizer.record_activations(self):
                features = self.target_features(target_inputs)
            idle_head = self.source_head if source_inputs is None else None
            if self.touch_all_parameters and idle_head is not None and torch.is_grad_enabled():
                features = features + idle_term(idle_head, features)
            output.target_features = features
            if with_target_logits:
                output.target_logits = self.head(features)
            if regularizer is not None:
                output.penalty = regularizer(self, target_inputs, target_labels, output)
        return output


class FrozenCopy:
    """
    A copy of a [`TransferModel`] in feature mode as it is now, for a method that compares with it.

    It is not a module, so that no optimizer, wrapper or checkpoint finds its weights. `training` keeps dropout and
    batch statistics.
    """

    def __init__(self, transfer_model: TransferModel, training: bool = False):
        regularizer, transfer_model.regularizer = transfer_model.regularizer, None
        try:
            self.model = copy.deepcopy(transfer_model)
        finally:
            transfer_model.regularizer = regularizer
        self.model.requires_grad_(False).train(training)

    @torch.no_grad()
    def features(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the input of the copy's last layer, `(n, hidden_size)`."""
        return self.model.features(inputs)

    @torch.no_grad()
    def source_logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits of the copy's source head on rows of either task, `(n, num_source_labels)`."""
        assert self.model.source_head is not None, "the method needs a source"
        return self.model.source_head(self.model.features(inputs))

    def extra_state(self) -> dict[str, Tensor]:
        """Return all weights of the copy; those that layers share once, as safetensors needs it."""
        names: dict[int, str] = {}
        state = self.model.state_dict(keep_vars=True)
        return {f"copy.{name}": t for name, t in state.items() if names.setdefault(id(t), name) == name}

    @torch.no_grad()
    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the weights of [`FrozenCopy.extra_state`]."""
        for name, tensor in self.extra_state().items():
            tensor.copy_(tensors[name])
