"""Seeing the whole target batch on every rank."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor, nn


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums each row's gradient over ranks and gives it to the rank it came from."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        return gather(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # All rows are summed, not only this rank's: not every backend scatters, and features are small.
        gradient = sum_over_ranks(gradient.contiguous().clone())
        start = torch.distributed.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """
    Concatenate `tensor` over all ranks, in rank order, and let gradients flow back to the rank each row came from.

    Every rank computes the same loss on the result. The backward pass sums those `world_size` equal gradients, and the
    data-parallel wrapper then divides by `world_size`, so the averaged gradient is that of one process with the whole
    batch. `accelerate`'s `gather` is not differentiable, and torch's own differentiable one is deprecated (2.13).

    Args:
        tensor (`torch.Tensor` of shape `(n, ...)`): the same shape on every rank.

    Returns:
        `torch.Tensor` of shape `(world_size * n, ...)`; `tensor` itself where there is one process.
    """
    return _Gather.apply(tensor) if is_distributed() else tensor


def gather_rows(features: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    The rows of a batch over all ranks, which may have different numbers of them, as in a last batch.

    Every rank fills up to `size` rows: shapes then agree without asking the others, which would wait for the device.

    Args:
        features (`torch.Tensor` of shape `(n, hidden_size)`): gradients flow back to the rank each row came from.
        labels (`torch.Tensor` of shape `(n,)` or `(n, num_labels)`).
        size (`int`): at least n, and the same on every rank.

    Returns:
        features `(world_size * size, hidden_size)`; labels, -100 in rows that are filled up where they are class ids; present
        `(world_size * size,)`, which rows are real.
    """
    missing = size - len(features)
    if missing < 0:
        raise ValueError(
            f"A target batch has {len(features)} rows on this process, more than the {size} of a full batch."
        )
    is_class_id = labels.ndim == 1 and not labels.is_floating_point()
    present = torch.arange(size, device=features.device) < len(features)
    if missing:
        features = torch.cat([features, features.new_zeros(missing, *features.shape[1:])])
        filler = labels.new_full((missing, *labels.shape[1:]), -100 if is_class_id else 0)
        labels = torch.cat([labels, filler])
    return gather_with_gradient(features), gather(labels), gather(present)


def gather(tensor: Tensor) -> Tensor:
    """[`gather_with_gradient`] without the gradient, for labels."""
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all ranks (no gradient); `tensor` itself where there is one process."""
    if is_distributed():
        torch.distributed.all_reduce(tensor)
    return tensor


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """
    Give every rank the first one's buffers, such as BatchNorm's running statistics; a collective.

    Data-parallel wrappers do it before a forward pass, so that after a step each rank has those of its own batch.
    """
    if is_distributed():
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def end_training(accelerator: Accelerator) -> None:
    """
    [`~accelerate.Accelerator.end_training`], after which the interpreter can exit; for the last line of a program.

    A worker thread of gloo (torch 2.13) takes the interpreter's lock to drop the tensors of its last collectives. Where it
    comes to that only while the interpreter exits, the process hangs or aborts, so it is left a moment before.
    """
    if is_distributed():
        accelerator.wait_for_everyone()
        time.sleep(0.2)
    accelerator.end_training()


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def lockstep_batches(
    batches: Iterable[Any], filler: Callable[[], Any], device: torch.device
) -> Iterator[tuple[Any, bool]]:
    """
    The batches of this rank, and then fillers until every rank is done.

    The forward pass of a sharded model is a collective, so that all ranks must make as many.

    Args:
        filler (`Callable`): makes a batch, of any rows.
        device (`torch.device`): that of the process group.

    Returns:
        `Iterator[tuple[Any, bool]]`: batches, and whether they are this rank's own.
    """
    iterator = iter(batches)
    while True:
        batch = next(iterator, None)
        if not sum_over_ranks(torch.tensor(batch is not None, dtype=torch.float32, device=device)):
            return
        yield (filler(), False) if batch is None else (batch, True)


def is_partitioned(parameter: Tensor) -> bool:
    """Whether DeepSpeed's ZeRO-3 has divided a parameter over the ranks; outside of its module's forward it is empty then."""
    return hasattr(parameter, "ds_id")


@torch.no_grad()
def gather_parameter(parameter: Tensor) -> Tensor:
    """
    A parameter that may be sharded (FSDP2, ZeRO-3) as a whole, on every rank and without gradient; a collective where it is.

    ZeRO-3 marks the parameter itself: what `detach()` or a `state_dict` made of it is empty, and not known as such.
    """
    if is_partitioned(parameter):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    parameter = parameter.detach()
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


@torch.no_grad()
def assign_parameter(parameter: Tensor, value: Tensor) -> None:
    """Put the same whole value into a parameter that may be sharded (FSDP2, ZeRO-3), on every rank; a collective where it is."""
    value = value.to(device=parameter.device, dtype=parameter.dtype)
    if is_partitioned(parameter):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
        return
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    parameter.copy_(value)


def reshard(model: nn.Module) -> None:
    """Drop the whole copies that FSDP2 keeps after a forward pass; what is written to them would be lost."""
    for module in model.modules():
        if hasattr(module, "reshard") and hasattr(module, "set_reshard_after_forward"):
            module.reshard()


def real_rows(rows: int, accelerator: Accelerator) -> int:
    """
    Return how many of this rank's `rows` of an evaluation batch are not there to make the last batches of all ranks equal.

    Those are dropped from gathered predictions, but a mean loss over them would count rows twice.
    """
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return rows
    return min(max(state.remainder - accelerator.process_index * rows, 0), rows)
