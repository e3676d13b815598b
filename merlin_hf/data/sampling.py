"""Draw rows by their labels and a seed."""

from collections.abc import Sequence

import numpy as np

from ..utils.seeding import derived_seed


def allocate(total: int, sizes: Sequence[int], at_least: int = 0) -> list[int]:
    """
    Share out `total` rows over classes in proportion to their sizes, by largest remainders.

    Each class gets `at_least` so many if it has them, and never more than it has. A ValueError if that cannot be.
    """
    counts = [min(at_least, size) for size in sizes]
    if not sum(counts) <= total <= sum(sizes):
        raise ValueError(f"{total} rows cannot be shared out over classes of {list(sizes)} rows.")
    shares = [total * size / sum(sizes) for size in sizes]
    while sum(counts) < total:
        open_classes = [place for place, size in enumerate(sizes) if counts[place] < size]
        counts[max(open_classes, key=lambda place: (shares[place] - counts[place], -place))] += 1
    return counts


def draw_rows(labels: np.ndarray, rows: int | None, is_regression: bool, *seed: int | str) -> list[int]:
    """
    Draw numbers of rows without replacement, of each class in proportion and at least one, in ascending order.

    `labels` `(n,)` are class ids, or real numbers, from which any rows are drawn. All rows for `None` or if there are
    not more. The draw depends on all of `seed`.
    """
    if rows is None or rows >= len(labels):
        return list(range(len(labels)))
    generator = np.random.default_rng(derived_seed("rows", *seed))
    classes = _classes(labels, is_regression)
    counts = allocate(rows, [len(members) for members in classes], at_least=1)
    drawn = [generator.permutation(members)[:count] for members, count in zip(classes, counts, strict=True)]
    return sorted(int(row) for row in np.concatenate(drawn))


def split_off_validation(
    labels: np.ndarray, fraction: float, is_regression: bool, *seed: int | str
) -> tuple[list[int], list[int]]:
    """
    Divide rows into those to train on and those to choose settings by, in each class alike, in ascending order.

    A class of one row stays on the side that is trained on. A ValueError if there are too few rows for both sides.
    """
    generator = np.random.default_rng(derived_seed("validation", *seed))
    classes = _classes(labels, is_regression)
    spare = [len(members) - 1 for members in classes]
    wanted = min(max(round(fraction * len(labels)), 1), sum(spare))
    if wanted < 1:
        raise ValueError(f"{len(labels)} rows of {len(classes)} classes leave no row to choose settings by.")
    counts = allocate(wanted, spare)
    validation = {
        int(row)
        for members, count in zip(classes, counts, strict=True)
        for row in generator.permutation(members)[:count]
    }
    return [row for row in range(len(labels)) if row not in validation], sorted(validation)


def _classes(labels: np.ndarray, is_regression: bool) -> list[np.ndarray]:
    if is_regression:
        return [np.arange(len(labels))]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
