"""The settings that are tried for a method."""

import itertools
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
    ranks = {name: _shuffled_ranks(name, len(values)) for name, values in space.items()}
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    places = list(itertools.product(*ranks.values()))
    others = [
        (setting, place)
        for number, (setting, place) in enumerate(zip(grid, places, strict=True))
        if setting != defaults and setting not in grid[:number]
    ]
    tried = [dict(defaults)]
    while others and len(tried) < trials:
        setting, place = min(others, key=lambda other: list(zip(_uses(other[0], tried), other[1], strict=True)))
        others.remove((setting, place))
        tried.append(setting)
    return tried


def _uses(setting: dict, tried: list[dict]) -> list[int]:
    return [sum(one[name] == value for one in tried) for name, value in setting.items()]


def _shuffled_ranks(name: str, length: int) -> list[int]:
    return np.random.default_rng(derived_seed("search", name)).permutation(length).tolist()
