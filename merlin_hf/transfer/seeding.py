"""Random numbers that are functions of what they are for, and leave the global generators alone."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from ..utils.seeding import derived_seed


def derived_generator(*parts: int | str) -> torch.Generator:
    """Return a CPU `torch.Generator` seeded with [`derived_seed`]."""
    return torch.Generator().manual_seed(derived_seed(*parts))


@contextlib.contextmanager
def isolated_rng(*parts: int | str) -> Iterator[None]:
    """
    Run a block with Python's, NumPy's and torch's CPU generators seeded from `parts`, and give them back untouched.

    Whatever the block draws (augmentation, random masking, weight initialisation) is then the same in a resumed run,
    and the rest of the run is what it would have been without the block.
    """
    seed = derived_seed(*parts)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.random.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
