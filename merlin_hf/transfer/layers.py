"""The layers of a classifier, found without a list of architectures, and their outputs."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


# Set on a BatchNorm layer that normalises by its running statistics in training too.
KEPT_STATISTICS = "keeps_its_statistics"


def without_adapter(model: Any) -> Any:
    """Return the model in an adapter of PEFT; other models as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def find_layers(model: nn.Module, count: int) -> list[str]:
    """
    Return the names of `count` layers of [`layer_stack`], or of all, evenly spaced up to the last one.

    Raises:
        ValueError: no layers were found.
    """
    best = layer_stack(model)
    if not best:
        raise ValueError(
            f"Found no stack of layers (torch.nn.ModuleList or Sequential) in {type(model).__name__}. Name the layers "
            "with `layer_modules=`."
        )
    count = min(count, len(best))
    return [best[(i + 1) * len(best) // count - 1] for i in range(count)]


def layer_stack(model: nn.Module) -> list[str]:
    """
    Return the names of the layers of a model, the lowest first: the blocks of a transformer, the stages of a CNN.

    They are the children of the `ModuleList` or `Sequential` that holds most of the weights; empty without one.
    """
    # A stack of one is one only if there is no other: such a list may also hold all that a model has.
    return _largest_stack(model, 2) or _largest_stack(model, 1)


def _largest_stack(model: nn.Module, least: int) -> list[str]:
    best, best_size = [], 0
    for name, module in model.named_modules():
        children = [child for child, layer in module.named_children() if any(True for _ in layer.parameters())]
        size = sum(parameter.numel() for parameter in module.parameters())
        if hasattr(module, "transformers_model"):  # a sentence encoder, whose modules are not layers
            continue
        # The outermost one where they are nested, as it comes first.
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(children) >= least and size > best_size:
            best, best_size = [f"{name}.{child}" if name else child for child in children], size
    return best


@contextlib.contextmanager
def layer_outputs(model: nn.Module, names: list[str], edit: Any = None) -> Iterator[dict[str, Tensor]]:
    """
    Record the outputs of the named layers in the forward passes of a block; each pass overwrites the last.

    `edit` maps a layer's name and output to a replacement of it.
    """
    outputs: dict[str, Tensor] = {}

    def record(name: str):
        def hook(module, args, output):
            tensor = output if isinstance(output, Tensor) else output[0]
            if edit is None:
                outputs[name] = tensor
                return None
            outputs[name] = edit(name, tensor)
            return outputs[name] if isinstance(output, Tensor) else (outputs[name], *output[1:])

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(record(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def channels_first(output: Tensor, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """
    Return a layer's output by channel and position, `(n, channels, positions)`, and which positions are not padding.

    Args:
        output (`torch.Tensor`): `(n, channels, height, width)` of a CNN, `(n, positions, channels)` of a transformer,
            or `(n, channels)`.
        inputs (`Mapping[str, Any]`): of the model, with the `attention_mask` of texts.

    Returns:
        The output, and `(n, 1, positions)` with 1 for positions that count and 0 for padding, or `None`.
    """
    if output.ndim == 4:
        return output.flatten(2), None
    if output.ndim == 2:
        return output.unsqueeze(-1), None
    mask = inputs.get("attention_mask")
    if mask is not None and tuple(mask.shape) == tuple(output.shape[:2]):
        return output.mT, mask.unsqueeze(1).to(output.dtype)
    return output.mT, None


def batch_norms(model: nn.Module) -> dict[str, Any]:
    """
    Return the BatchNorm layers of a model that have running statistics and move them in training, by their names.

    Those of subclasses, such as timm's, are among them.
    """
    kinds = nn.modules.batchnorm._BatchNorm
    found = {name: m for name, m in model.named_modules() if isinstance(m, kinds) and m.running_mean is not None}
    return {name: m for name, m in found.items() if not getattr(m, KEPT_STATISTICS, False)}
