"""The balance of the gradients of two losses at the features they share."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .distributed import is_distributed, sum_over_ranks


class _PrecomputedGradient(torch.autograd.Function):
    """A value with given gradients for some inputs."""

    @staticmethod
    def forward(ctx, value: Tensor, gradients: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(gradient * known for known in ctx.gradients)


def balance(
    source_loss: Tensor,
    source_logits: Tensor,
    source_head_gram: Tensor,
    meta_loss: Tensor,
    features: Tensor,
    scalars: Iterable[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """
    Return [`gradient_ratio`] and the meta loss, both of shape `()`; the backward pass of that loss skips the head.

    Its gradients are computed here, for `features` and `scalars`, the tensors that it depends on, and kept.
    """
    inputs = [features, *scalars]
    found = torch.autograd.grad(meta_loss, inputs, allow_unused=True)
    gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
    ratio = gradient_ratio(source_loss, source_logits, source_head_gram, gradients[0])
    return ratio, _PrecomputedGradient.apply(meta_loss.detach(), gradients, *inputs)


def gradient_ratio(
    source_loss: Tensor, source_logits: Tensor, source_head_gram: Tensor, meta_gradient: Tensor
) -> Tensor:
    """
    Return the gradient norm of the source loss at the features, divided by that of the meta loss; at most 1.

    A head in closed form does not care how little the features of a pretrained model differ between rows, so its
    gradient grows as that difference shrinks: with MiniLM the meta loss starts with tens of times the gradient of the
    source loss, and a fixed `rho` then trains the backbone on the few target rows alone. Multiplied by this ratio,
    `rho` is measured in gradients, the idea of GradNorm (Chen et al. 2018, arXiv 1711.02257); the bound of 1 keeps a
    meta loss that is nearly solved from being blown up. Both losses are means.

    Args:
        source_loss (`torch.FloatTensor` of shape `()`): over this rank's source rows.
        source_logits (`torch.FloatTensor` of shape `(source_batch, num_source_labels)`): what it was computed from.
        source_head_gram (`torch.FloatTensor` of shape `(num_source_labels, num_source_labels)`): `W W^T` of the source
            head, by which `|g W|^2 = g W W^T g^T` gives the gradient's norm at the features.
        meta_gradient (`torch.FloatTensor` of shape `(n, hidden_size)`): of the meta loss, in the features.

    Returns:
        `torch.FloatTensor` of shape `()`, without gradient and the same on every rank. Nothing is read back from the
        device.
    """
    at_logits = torch.autograd.grad(source_loss, source_logits, retain_graph=True)[0].float()
    squared = ((at_logits @ source_head_gram.float()) * at_logits).sum(-1)
    # Both losses are means, so the sums of row norms do not depend on the number of rows.
    source_pull = squared.clamp(min=0).sqrt().sum()
    meta_pull = meta_gradient.float().norm(dim=-1).sum()
    if is_distributed():
        pulls = sum_over_ranks(torch.stack([source_pull, meta_pull]))
        source_pull, meta_pull = pulls / torch.distributed.get_world_size()
    return (source_pull / meta_pull.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1.0)
