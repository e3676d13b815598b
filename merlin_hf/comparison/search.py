"""The settings that are tried for a method."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..transfer.seeding import derived_seed


def trial_settings(defaults: Mapping[str, Any], space: Mapping[str, Sequence], trials: int, name: str) -> list[dict]:
    """
    Settings to try: the defaults, and others drawn without replacement from the grid of all combinations.

    Args:
        defaults (`Mapping[str, Any]`): a value for each name in `space`.
        space (`Mapping[str, Sequence]`): the values of each option.
        trials (`int`): how many settings, at most.
        name (`str`): what the draw depends on, beside `space`: the method.

    Returns:
        `list[dict]`: different settings, the defaults first; all there are if they are not more than `trials`.
    """
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    others = [setting for place, setting in enumerate(grid) if setting != defaults and setting not in grid[:place]]
    generator = np.random.default_rng(derived_seed("search", name))
    order = generator.permutation(len(others))
    return [dict(defaults), *(others[place] for place in order[: max(trials - 1, 0)])]
