"""Derive seeds from the names of what they are for."""

import hashlib


def derived_seed(*parts: int | str) -> int:
    """
    Return a 63-bit seed that depends on all of `parts` and on nothing else.

    Two streams derived from the same user seed under different names (`"source"`, `"split"`) are unrelated, which
    `seed + offset` does not give: source and target of equal size would then be shuffled alike.
    """
    digest = hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
