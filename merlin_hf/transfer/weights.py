"""Whether the weights of a model are finite."""

import torch
from torch import nn


class NotFiniteError(FloatingPointError):
    """Training has diverged: weights are NaN or infinite. Nothing was saved over an earlier checkpoint."""


def not_finite(model: nn.Module) -> str | None:
    """
    Return the name of the first parameter or buffer that is not finite, `None` where all are.

    Of a sharded model this process's part is looked at. Buffers may be infinite (masks), but not NaN. All are read
    once, and the device is waited for once.
    """
    checks: dict[str, torch.Tensor] = {}
    for name, tensor in model.named_parameters():
        tensor = _local_part(tensor)
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            checks[name] = tensor.isfinite().all()
    for name, tensor in model.named_buffers():
        tensor = _local_part(tensor)
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            checks[name] = tensor.isnan().any().logical_not()
    device = next(iter(checks.values())).device if checks else None
    if not checks or torch.stack([check.to(device) for check in checks.values()]).all():
        return None
    return next(name for name, check in checks.items() if not check)


def _local_part(tensor: torch.Tensor) -> torch.Tensor:
    tensor = getattr(tensor, "ds_tensor", tensor).detach()  # ZeRO-3
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
