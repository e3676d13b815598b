"""Parameter-efficient fine-tuning: adapters in the backbone, heads in full."""

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from .model import find_head
from .seeding import isolated_rng


if TYPE_CHECKING:
    from peft import PeftConfig


def add_adapter(model: nn.Module, peft_config: "PeftConfig", head_module: str | None, seed: str) -> Any:
    """
    Return a classifier as a `peft.PeftModel`; layers outside its pretrained base model are trained and saved in full.

    They are added to `modules_to_save`. peft itself adds `classifier` and `score` for `task_type="SEQ_CLS"` only, and
    misses the new layers before the head that DistilBERT, DeBERTa, T5 and Wav2Vec2 have. The adapter is drawn by
    `seed`.

    Raises:
        ImportError: peft is not installed.
        ValueError: `model` has an adapter already.
    """
    try:
        from peft import PeftModel, get_peft_model
    except ImportError as error:
        raise ImportError("`peft_config` needs peft: `pip install peft`.") from error
    if isinstance(model, PeftModel):
        raise ValueError(
            "`peft_config` was given with a `model` that is a PeftModel already. Pass the PeftModel alone, or "
            "`model.merge_and_unload()` with the `peft_config`."
        )
    peft_config = copy.deepcopy(peft_config)
    named = list(getattr(peft_config, "modules_to_save", None) or ())
    peft_config.modules_to_save = [*named, *(name for name in new_modules(model, head_module) if name not in named)]
    with isolated_rng("adapter", seed):
        return get_peft_model(model, peft_config)


def new_modules(model: nn.Module, head_module: str | None = None) -> list[str]:
    """Return the names of children outside the base model with parameters, or the last layer if it lies inside."""
    base_model = getattr(model, "base_model", model)
    head = find_head(model, head_module)
    outside = [
        name
        for name, child in model.named_children()
        if child is not base_model and any(True for _ in child.parameters())
    ]
    return outside if head.split(".")[0] in outside else [head]


def check_head_is_saved(model: nn.Module, head_name: str) -> None:
    """Raise a `ValueError` if a `PeftModel` would lose the last layer, which training fits, with its checkpoint."""
    short_name = head_name.removeprefix("base_model.model.").removesuffix(".base_layer")
    if hasattr(model, "peft_config") and ".modules_to_save." not in f".{head_name}.":
        raise ValueError(
            f"`model` is a PeftModel that does not save its head {head_name!r}: the adapter's checkpoint would lose "
            f'it. Name the layer in the adapter\'s configuration, `modules_to_save=["{short_name}"]`, or pass the '
            "plain model with `peft_config=`, which does so."
        )
