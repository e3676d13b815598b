"""
Dividing a target batch into the rows a head is fit on and the rows it is judged by. Knows nothing of transformers.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """
    `num_splits` ways to divide the same `n` rows.

    Attributes:
        train (`torch.BoolTensor` of shape `(num_splits, n)`): the rows the head is fit on.
        validation (`torch.BoolTensor` of shape `(num_splits, n)`): the rows it is judged by. Never overlaps `train`;
            rows in neither are ignored (label -100) or left out.
    """

    train: Tensor
    validation: Tensor


def _num_validation_rows(num_rows: Tensor, validation_fraction: float) -> Tensor:
    """Rows of a group that go to validation: the fraction, but at least one on each side, and none of a single row."""
    wanted = (num_rows * validation_fraction).round().long()
    return torch.minimum(wanted.clamp(min=1), (num_rows - 1).clamp(min=0))


def _random_order(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Random permutations along the last dimension; as whole numbers, which every device has, and not waited for."""
    draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    return draws.argsort(-1).argsort(-1).to(device, non_blocking=True)


def _position(kept: Tensor) -> Tensor:
    """The number of each row among those kept, so that the draws of a row do not depend on ignored rows before it."""
    return (kept.cumsum(0) - 1).clamp(min=0)


def split_by_class(
    labels: Tensor,
    validation_fraction: float = 0.5,
    num_splits: int = 1,
    generator: torch.Generator | None = None,
    ignore_index: int = -100,
) -> Split:
    """
    Random splits that divide every class in the same proportion.

    A class with at least two rows has at least one on each side; a class with a single row goes to the train side, so
    that every class that is validated on was also trained on. Shapes do not depend on the labels and nothing is read
    back from the device.

    Args:
        labels (`torch.LongTensor` of shape `(n,)`): class ids; rows with `ignore_index` land on neither side.
        validation_fraction (`float`): share of each class that is validated on, in (0, 1).
        num_splits (`int`): how many independent splits to draw.
        generator (`torch.Generator`, *optional*): a CPU generator; the same one gives the same splits on every rank.

    Returns:
        [`Split`]: with masks of shape `(num_splits, n)` on the device of `labels`.
    """
    kept = labels != ignore_index
    order = _random_order((num_splits, labels.shape[0]), generator, labels.device)[:, _position(kept)]
    same_class = labels[:, None] == labels[None, :]
    rank_in_class = (same_class & (order[:, None, :] < order[:, :, None])).sum(-1)
    validation = kept & (rank_in_class < _num_validation_rows(same_class.sum(-1), validation_fraction))
    return Split(train=kept & ~validation, validation=validation)


def fold_by_class(
    labels: Tensor, num_folds: int, generator: torch.Generator | None = None, ignore_index: int = -100
) -> Split:
    """
    The folds of a cross-validation that shares out every class evenly: each row is validated on once.

    A row whose class has no other row outside its fold is left out of the validation, as its class was not trained on.

    Args:
        labels (`torch.LongTensor` of shape `(n,)`): class ids; rows with `ignore_index` land on neither side.
        num_folds (`int`): at least 2.
        generator (`torch.Generator`, *optional*): as in [`split_by_class`].

    Returns:
        [`Split`]: with masks of shape `(num_folds, n)`.
    """
    kept = labels != ignore_index
    order = _random_order((labels.shape[0],), generator, labels.device)[_position(kept)]
    same_class = labels[:, None] == labels[None, :]
    rank_in_class = (same_class & (order[None, :] < order[:, None])).sum(-1)
    in_fold = rank_in_class % num_folds == torch.arange(num_folds, device=labels.device)[:, None]
    train = kept & ~in_fold
    trained_on = (same_class & train[:, None, :]).any(-1)
    return Split(train=train, validation=kept & in_fold & trained_on)


def leave_one_out(labels: Tensor, ignore_index: int = -100) -> Split:
    """
    What leave-one-out trains on and judges by, over all its fits: every row, but for the judging those that are alone
    in their class.

    Args:
        labels (`torch.LongTensor` of shape `(n,)`): class ids; rows with `ignore_index` land on neither side.

    Returns:
        [`Split`]: with masks of shape `(1, n)`, which overlap.
    """
    kept = labels != ignore_index
    has_company = (labels[:, None] == labels[None, :]).sum(-1) > 1
    return Split(train=kept[None], validation=(kept & has_company)[None])
