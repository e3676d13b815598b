"""Types of numbers."""

import time

import torch


CLEARLY_LESS = 0.8  # of the time: about equal is not worth fewer digits


def bfloat16_is_fast(device: str | torch.device | None = None) -> bool:
    """
    Return whether bfloat16 is faster than float32, as timed with a small matrix product; by default on a GPU if any.

    Processors without instructions for bfloat16 emulate it, ten times slower than float32 or worse.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return seconds_of_a_product(torch.bfloat16, device) < CLEARLY_LESS * seconds_of_a_product(torch.float32, device)


@torch.no_grad()
def seconds_of_a_product(dtype: torch.dtype, device: str | torch.device, size: int = 256) -> float:
    """Return the least of five times of a product of two matrices `(size, size)`; infinite if there is none."""
    times = []
    try:
        matrix = torch.ones(size, size, dtype=dtype, device=device)
        for _ in range(6):  # the first one is slow, whatever the type
            start = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # waits for the device
            times.append(time.perf_counter() - start)
    except (RuntimeError, TypeError):  # not there on this device
        return float("inf")
    return min(times[1:])
