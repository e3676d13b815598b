"""Random numbers that are functions of what they are for, and leave the global generators alone."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derived_seed(*parts: int | str) -> int:
    """
    A 63-bit seed that depends on all of `parts` and on nothing else.

    Two streams derived from the same user seed under different names (`"source"`, `"split"`) are unrelated, which
    `seed + offset` does not give: source and target of equal size would then be shuffled alike.
    """
    digest = hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def derived_generator(*parts: int | str) -> torch.Generator:
    """A CPU `torch.Generator` seeded with [`derived_seed`]."""
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
