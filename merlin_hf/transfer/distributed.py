"""Operations on several processes: gather rows, sum, and read and write sharded parameters."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor, nn


class _Gather(torch.autograd.Function):
    """
    All-gather whose backward pass sums each row's gradient over ranks and gives it to the rank it came from.

    Every rank computes the same loss on the result. The backward pass sums those `world_size` equal gradients, and the
    data-parallel wrapper then divides by `world_size`, so the averaged gradient is that of one process with the whole
    batch. `accelerate`'s `gather` is not differentiable, and torch's own differentiable one is deprecated (2.13).
    """

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


def gather_rows(features: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    Gather the rows of a batch over all ranks, which may have different numbers of rows, as in a last batch.

    Every rank pads its rows to `size`: shapes then agree without asking the others, which would wait for the device.

    Args:
        features (`torch.Tensor` of shape `(n, hidden_size)`): gradients flow back to the rank each row came from.
        labels (`torch.Tensor` of shape `(n,)` or `(n, num_labels)`).
        size (`int`): at least n, and the same on every rank.

    Returns:
        features `(world_size * size, hidden_size)`; labels, where class ids are -100 in padding; and a mask
        `(world_size * size,)` of the rows that are not padding.
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
    features = _Gather.apply(features) if is_distributed() else features
    return features, gather(labels), gather(present)


def gather(tensor: Tensor) -> Tensor:
    """Concatenate `tensor` over all ranks, in rank order, without gradient."""
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all ranks in place, without gradient, and return it."""
    if is_distributed():
        torch.distributed.all_reduce(tensor)
    return tensor


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """
    Copy the first rank's buffers, such as BatchNorm's running statistics, to all ranks; a collective.

    Data-parallel wrappers do so before a forward pass only; after a step, each rank has those of its own batch.
    """
    if is_distributed():
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def end_training(accelerator: Accelerator) -> None:
    """
    Call [`~accelerate.Accelerator.end_training`] such that the interpreter can exit after it: a program's last line.

    A worker thread of gloo (torch 2.13) takes the interpreter's lock to drop the tensors of its last collectives. The
    process hangs or aborts if that happens while the interpreter exits, so the thread gets a moment before.
    """
    if is_distributed():
        accelerator.wait_for_everyone()
        time.sleep(0.2)
    accelerator.end_training()


def most_over_ranks(number: int, device: torch.device) -> int:
    """Return the largest `number` of all ranks; a collective that waits for the device."""
    if not is_distributed():
        return number
    most = torch.tensor(number, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


def is_distributed() -> bool:
    """Return whether this process is one of several."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def lockstep_batches(
    batches: Iterable[Any], filler: Callable[[], Any], device: torch.device
) -> Iterator[tuple[Any, bool]]:
    """
    Yield the batches of this rank, then those of `filler` until every rank is done, and whether a batch is its own.

    The forward pass of a sharded model is a collective: all ranks must make the same number of passes.
    """
    iterator = iter(batches)
    while True:
        batch = next(iterator, None)
        if not sum_over_ranks(torch.tensor(batch is not None, dtype=torch.float32, device=device)):
            return
        yield (filler(), False) if batch is None else (batch, True)


def is_partitioned(parameter: Tensor) -> bool:
    """Return whether ZeRO-3 has divided a parameter over the ranks; it is then empty outside its module's forward."""
    return hasattr(parameter, "ds_id")


@torch.no_grad()
def gather_parameter(parameter: Tensor) -> Tensor:
    """
    Return the whole of a parameter that may be sharded (FSDP2, ZeRO-3), without gradient; a collective where it is.

    Pass the parameter itself: ZeRO-3 does not know its copies (`detach()`, `state_dict`), which are empty.
    """
    if is_partitioned(parameter):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    parameter = parameter.detach()
    full_tensor = getattr(parameter, "full_tensor", None)  # FSDP2
    return parameter if full_tensor is None else full_tensor()


@torch.no_grad()
def assign_parameter(parameter: Tensor, value: Tensor) -> None:
    """Copy a whole value, the same on all ranks, into a parameter that may be sharded; a collective where it is."""
    value = value.to(device=parameter.device, dtype=parameter.dtype)
    if is_partitioned(parameter):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
        return
    if hasattr(parameter, "full_tensor"):  # FSDP2
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    parameter.copy_(value)


def reshard(model: nn.Module) -> None:
    """Drop the whole parameters that FSDP2 keeps after a forward pass: what is written to them would be lost."""
    for module in model.modules():
        reshard_module = getattr(module, "reshard", None)
        if callable(reshard_module) and hasattr(module, "set_reshard_after_forward"):
            reshard_module()


def real_rows(rows: int, accelerator: Accelerator) -> int:
    """
    Return how many of this rank's `rows` of an evaluation batch count.

    The others repeat rows, to make the last batches of all ranks equal. They are dropped from gathered predictions,
    but a mean loss over them would count rows twice.
    """
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return rows
    return min(max(state.remainder - accelerator.process_index * rows, 0), rows)


class MetricAverager:
    """
    Running means of named scalars.

    `add` never reads a value back from the device; `pop` does so once for all of them.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget everything added so far."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], finite_only: bool = False) -> None:
        """Add scalars of one micro-batch, the same names on all ranks; NaN counts as the mean so far, if asked."""
        for name, value in values.items():
            value = value.detach().float().reshape(())
            if finite_only:
                so_far = self._sums[name] / self._counts[name] if name in self._sums else torch.zeros_like(value)
                value = torch.where(value.isfinite(), value, so_far)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over micro-batches and ranks since the last call, and forget them; a collective."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        means = accelerator.reduce(means, reduction="mean").tolist()
        self.reset()
        return dict(zip(names, means, strict=True))
