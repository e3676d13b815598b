"""Fit the source head: a classifier of the source on features of the backbone as it is."""

from torch import Tensor

from ..heads import LinearHead, encode_targets, get_head
from ..transfer.labels import REGRESSION, SINGLE_LABEL
from ..transfer.seeding import derived_generator
from ..transfer.splits import split_by_class


def fit_source_head(features: Tensor, labels: Tensor, num_labels: int) -> LinearHead:
    """
    Fit logistic regression to frozen features `(n, hidden_size)`, for real labels `(n,)` ridge regression.

    The regulariser is chosen by cross-validation: a source whose labels the features do not tell gets one so large
    that it hardly says anything, rather than a confident fit of noise.
    """
    problem_type = REGRESSION if labels.is_floating_point() else SINGLE_LABEL
    if problem_type == REGRESSION:
        labels = labels.to(features.dtype)
    targets, sample_weight = encode_targets(labels, num_labels, problem_type)
    solver = get_head("ridge" if problem_type == REGRESSION else "logistic", problem_type=problem_type)
    return solver.fit_batches([(features.detach(), targets, sample_weight)], "auto").detach()


def held_out_accuracy(features: Tensor, labels: Tensor, num_labels: int) -> float:
    """Return how often heads, each fit on one half of the rows, are right on the other half."""
    split = split_by_class(labels, 0.5, 1, derived_generator("held_out_accuracy"))
    halves = split.train[0], split.validation[0]
    right = 0
    for fit_on, judged_by in (halves, halves[::-1]):
        head = fit_source_head(features[fit_on], labels[fit_on], num_labels)
        right += int((head(features[judged_by]).argmax(-1) == labels[judged_by]).sum())
    return right / len(labels)
