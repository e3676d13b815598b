"""Seeing the whole target batch on every rank."""

import torch
import torch.distributed
from torch import Tensor


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


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )
