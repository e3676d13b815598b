"""Divisions of a target batch into rows that a head is fit on and rows that it is validated on."""

from typing import NamedTuple

import torch
from torch import Tensor

from .labels import IGNORED


class Split(NamedTuple):
    """
    `num_splits` ways to divide the same `n` rows.

    Attributes:
        train (`torch.BoolTensor` of shape `(num_splits, n)`): the rows that the head is fit on.
        validation (`torch.BoolTensor` of shape `(num_splits, n)`): the rows that it is validated on. Overlaps `train`
            for leave-one-out only; rows in neither are ignored (label -100) or left out.
    """

    train: Tensor
    validation: Tensor


def _num_validation_rows(num_rows: Tensor, validation_fraction: float) -> Tensor:
    """Return how many rows of a group to validate on: the fraction, with at least one row left to train on."""
    wanted = (num_rows * validation_fraction).round().long()
    return torch.minimum(wanted.clamp(min=1), (num_rows - 1).clamp(min=0))


def _random_order(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return random permutations along the last dimension, drawn on the CPU and alike on every device."""
    draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    return draws.argsort(-1).argsort(-1).to(device, non_blocking=True)


def _position(kept: Tensor) -> Tensor:
    """Return the number of each row among the kept ones, so that ignored rows do not change the draws of others."""
    return (kept.cumsum(0) - 1).clamp(min=0)


def split_by_class(
    labels: Tensor,
    validation_fraction: float = 0.5,
    num_splits: int = 1,
    generator: torch.Generator | None = None,
) -> Split:
    """
    Draw random splits that divide every class in the same proportion.

    A class with at least two rows has at least one on each side; a class with a single row goes to the train side, so
    that every class that is validated on was also trained on. Shapes do not depend on the labels and nothing is read
    back from the device.

    Args:
        labels (`torch.LongTensor` of shape `(n,)`): class ids; rows with -100 land on neither side.
        validation_fraction (`float`): share of each class that is validated on, in (0, 1).
        num_splits (`int`): how many independent splits to draw, masks of shape `(num_splits, n)`.
        generator (`torch.Generator`, *optional*): a CPU generator; the same one gives the same splits on every rank.
    """
    kept = labels != IGNORED
    order = _random_order((num_splits, labels.shape[0]), generator, labels.device)[:, _position(kept)]
    same_class = labels[:, None] == labels[None, :]
    rank_in_class = (same_class & (order[:, None, :] < order[:, :, None])).sum(-1)
    validation = kept & (rank_in_class < _num_validation_rows(same_class.sum(-1), validation_fraction))
    return Split(train=kept & ~validation, validation=validation)


def fold_by_class(labels: Tensor, num_folds: int, generator: torch.Generator | None = None) -> Split:
    """
    Draw the folds `(num_folds, n)` of a cross-validation, with every class shared out evenly: each row is judged once.

    A row is not validated on if no row outside its fold has its class, which is then not trained on. Arguments are as
    in [`split_by_class`], with at least 2 folds.
    """
    kept = labels != IGNORED
    order = _random_order((labels.shape[0],), generator, labels.device)[_position(kept)]
    same_class = labels[:, None] == labels[None, :]
    rank_in_class = (same_class & (order[None, :] < order[:, None])).sum(-1)
    in_fold = rank_in_class % num_folds == torch.arange(num_folds, device=labels.device)[:, None]
    train = kept & ~in_fold
    trained_on = (same_class & train[:, None, :]).any(-1)
    return Split(train=train, validation=kept & in_fold & trained_on)


def split_by_sentence(
    labels: Tensor,
    sentences: Tensor,
    num_sentences: int,
    num_labels: int,
    validation_fraction: float = 0.5,
    num_splits: int = 1,
    generator: torch.Generator | None = None,
) -> Split:
    """
    Draw random splits of tokens, `(num_splits, n)`, that have all tokens of a sentence on one side.

    A token is not validated on if no token of the train side has its class.

    Args:
        labels (`torch.LongTensor` of shape `(n,)`): class ids; tokens with -100 land on neither side.
        sentences (`torch.LongTensor` of shape `(n,)`): the sentence of each token, below `num_sentences`.
        num_sentences, num_labels (`int`): how many sentences and classes there are at most.
        validation_fraction (`float`): share of the sentences that is validated on, one at least, if there are two.
        num_splits, generator: as in [`split_by_class`].
    """
    present, rank = _order_of_sentences(labels != IGNORED, sentences, num_sentences, num_splits, generator)
    is_held_out = rank < _num_validation_rows(present.sum(), validation_fraction)
    return _hold_out(labels, is_held_out[:, sentences], num_labels)


def fold_by_sentence(
    labels: Tensor,
    sentences: Tensor,
    num_sentences: int,
    num_labels: int,
    num_folds: int,
    generator: torch.Generator | None = None,
) -> Split:
    """Draw the folds of a cross-validation over sentences, at least 2; see [`split_by_sentence`]."""
    _, rank = _order_of_sentences(labels != IGNORED, sentences, num_sentences, 1, generator)
    is_held_out = rank % num_folds == torch.arange(num_folds, device=labels.device)[:, None]
    return _hold_out(labels, is_held_out[:, sentences], num_labels)


def _order_of_sentences(
    kept: Tensor, sentences: Tensor, num_sentences: int, num_splits: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return which sentences have a token that counts `(count,)`, and their ranks in random orders of these."""
    is_of = sentences[:, None] == torch.arange(num_sentences, device=sentences.device)
    present = (is_of & kept[:, None]).any(0)
    order = _random_order((num_splits, num_sentences), generator, sentences.device)[:, _position(present)]
    return present, (present & (order[:, None, :] < order[:, :, None])).sum(-1)


def _hold_out(labels: Tensor, is_held_out: Tensor, num_labels: int) -> Split:
    """Return the split with these tokens `(num_splits, n)` held out, if a token of the train side has their class."""
    kept = labels != IGNORED
    train = kept & ~is_held_out
    is_of_class = labels[:, None] == torch.arange(num_labels, device=labels.device)
    trained_on = (train.float() @ is_of_class.float()) > 0
    return Split(train=train, validation=kept & is_held_out & trained_on[:, labels.clamp(min=0)])


def leave_one_out(labels: Tensor) -> Split:
    """
    Return the rows that leave-one-out trains on, over all its fits, and those it validates on, each of shape `(1, n)`.

    These are all rows whose label is not -100. A row that is alone in its class is not validated on.
    """
    kept = labels != IGNORED
    is_not_alone = (labels[:, None] == labels[None, :]).sum(-1) > 1
    return Split(train=kept[None], validation=(kept & is_not_alone)[None])
