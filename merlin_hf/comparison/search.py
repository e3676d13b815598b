"""The settings that are tried for a method."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..transfer.seeding import derived_seed


def trial_settings(defaults: Mapping[str, Any], space: Mapping[str, Sequence], trials: int) -> list[dict]:
    """
    Settings to try: the defaults, and others of the grid in which the values of an option come about equally often.

    Each value of the first option is tried once before any of them is tried again, then each of the second, and so on, as in a
    Latin hypercube (McKay, Beckman and Conover 1979). The order of an option's values depends on the option alone, so that
    methods which share their first option, the learning rate, try it in the same way.

    Args:
        defaults (`Mapping[str, Any]`): a value for each name in `space`.
        space (`Mapping[str, Sequence]`): the values of each option.
        trials (`int`): how many settings, at most.

    Returns:
        `list[dict]`: different settings, the defaults first; all there are if they are not more than `trials`. Fewer trials are
        the first ones of more.
    """
    names, options = list(space), [_distinct(name, values) for name, values in space.items()]

    def setting_of(places: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        return {name: value for name, (_, value) in zip(names, places, strict=True)}

    others = [places for places in itertools.product(*options) if setting_of(places) != defaults]
    uses = Counter(
        (name, rank)
        for name, option in zip(names, options, strict=True)
        for rank, value in option
        if value == defaults[name]
    )
    tried = [dict(defaults)]
    while others and len(tried) < trials:
        chosen = min(
            others,
            key=lambda places: [(uses[name, rank], rank) for name, (rank, _) in zip(names, places, strict=True)],
        )
        others.remove(chosen)
        uses.update((name, rank) for name, (rank, _) in zip(names, chosen, strict=True))
        tried.append(setting_of(chosen))
    return tried


def _distinct(name: str, values: Sequence) -> list[tuple[int, Any]]:
    """Return the values of an option, each once, with their ranks."""
    ranks = _shuffled_ranks(name, len(values))
    return [
        (rank, value)
        for place, (rank, value) in enumerate(zip(ranks, values, strict=True))
        if value not in values[:place]
    ]


def _shuffled_ranks(name: str, length: int) -> list[int]:
    return np.random.default_rng(derived_seed("search", name)).permutation(length).tolist()
