"""How much memory a training run takes, roughly and before it runs."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from ..methods.joint import JointTrainer
from ..trainer import MerlinTrainer
from ..transfer.model import TransferModel
from ..transfer.phases import checkpoints_activations


LEFT_OUT = (
    "the context of the GPU and its libraries, temporary buffers of kernels, the solve of a head, extra passes of a method's "
    "regularizer, what activation checkpointing computes again, the batches themselves and fragmentation"
)
# Bytes of optimizer state for a trained parameter: two numbers in 32 bits, unless the name says otherwise.
OPTIMIZER_BYTES = {"sgd": 0, "adafactor": 0, "rmsprop": 4, "adagrad": 4, "lion": 4}
USUAL_OPTIMIZER_BYTES = 8


def estimate(trainer: Trainer) -> dict[str, Any]:
    """
    The memory of each process, without sharding.

    Args:
        trainer ([`~transformers.Trainer`]): before its training, with a `train_dataset`.

    Returns:
        `dict`: bytes of `weights`, `gradients`, `optimizer` and `activations` and their sum `total`, the numbers of
        `trained_parameters` and `parameters`, the `rows` whose activations are counted, and what is `left_out`.
    """
    module = trainer.build_transfer_model() if getattr(trainer, "is_active", False) else trainer.model
    with _as_trained(module):
        parameters = list(module.parameters())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        weights = sum(_bytes(tensor) for tensor in [*parameters, *module.buffers()])
        regularizer = getattr(module, "regularizer", None)
        if getattr(regularizer, "keeps_a_copy", False):
            weights += sum(_bytes(parameter) for parameter in parameters)
        rows = rows_in_memory(trainer)
        needs_backward = steps_by_gradient(trainer)
        activations = activation_bytes(trainer, module) * rows if needs_backward else 0
    count = sum(parameter.numel() for parameter in trained)
    found = {
        "weights": weights,
        "gradients": sum(_bytes(parameter) for parameter in trained) if needs_backward else 0,
        "optimizer": count * optimizer_bytes(trainer.args) if needs_backward else 0,
        "activations": activations,
    }
    return {
        **found,
        "total": sum(found.values()),
        "trained_parameters": count if needs_backward else 0,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "rows": rows,
        "left_out": LEFT_OUT,
    }


def steps_by_gradient(trainer: Trainer) -> bool:
    """Whether there is any backward pass: a head alone may be fit in closed form."""
    has_source = getattr(trainer, "source_dataset", None) is not None
    rows_per_step = getattr(type(trainer), "rows_per_step", None)
    return rows_per_step is None or bool(rows_per_step(trainer.args, has_source))


def rows_in_memory(trainer: Trainer) -> int:
    """Rows on a device whose activations are kept at once: both batches where a step has both, else the larger one."""
    args = trainer.args
    target = args.train_batch_size
    chunk = getattr(args, "target_chunk_size", None)
    target = min(target, chunk) if chunk else target
    if getattr(trainer, "source_dataset", None) is None:
        return target
    source = args.per_device_source_batch_size or args.train_batch_size
    is_mixed = getattr(args, "batch_mix", "equal") != "equal"
    has_both = isinstance(trainer, MerlinTrainer | JointTrainer) and not is_mixed
    return target + source if has_both else max(target, source)


def optimizer_bytes(args: Any) -> float:
    """Bytes of optimizer state for each trained parameter, by the optimizer's name."""
    name = str(getattr(args.optim, "value", args.optim))
    size = next((size for start, size in OPTIMIZER_BYTES.items() if start in name), USUAL_OPTIMIZER_BYTES)
    return size / 4 if "8bit" in name else size


def activation_bytes(trainer: Trainer, module: nn.Module) -> float:
    """
    What the backward pass keeps of a row, measured in one pass forward of the longest row, twice.

    Args:
        trainer ([`~transformers.Trainer`]).
        module (`torch.nn.Module`): the model, or the [`~merlin_hf.transfer.model.TransferModel`] around it.
    """
    inputs = _longest_rows(trainer, 2)
    model = trainer.model
    if checkpoints_activations(trainer.args):
        kwargs = getattr(trainer.args, "activation_checkpointing_kwargs", None)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    owned = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(), trainer.compute_loss_context_manager():
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                outputs = model(**inputs)
        del outputs
    finally:
        model.train(was_training)
    return sum(kept.values()) / 2


def _longest_rows(trainer: Trainer, count: int) -> dict[str, Any]:
    dataset, row = trainer.train_dataset, 0
    if "input_ids" in (getattr(dataset, "column_names", None) or ()):
        lengths = [len(ids) for ids in dataset["input_ids"]]
        row = lengths.index(max(lengths))
    dataset, collator = trainer._with_collator(dataset, None, "training")
    batch = trainer._prepare_inputs(collator([dataset[row]] * count))
    labels = ("labels", "label")
    return {name: value for name, value in batch.items() if name not in labels} if isinstance(batch, Mapping) else {}


@contextlib.contextmanager
def _as_trained(module: nn.Module) -> Iterator[None]:
    """With a head that is not trained frozen, as while training."""
    with module.attached() if isinstance(module, TransferModel) else contextlib.nullcontext():
        yield


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
