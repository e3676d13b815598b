import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_hf.transfer.seeding import derived_generator
from merlin_hf.transfer.splits import (
    fold_by_class,
    fold_by_sentence,
    leave_one_out,
    split_by_class,
    split_by_sentence,
)


labels_of_batches = st.lists(st.sampled_from([-100, 0, 1, 2, 3, 90]), min_size=1, max_size=40).map(torch.tensor)


@settings(deadline=None, max_examples=200)
@given(labels=labels_of_batches, fraction=st.floats(0.05, 0.95), splits=st.integers(1, 4), seed=st.integers(0, 9))
def test_every_row_is_on_one_side_and_every_validated_class_is_trained_on(labels, fraction, splits, seed):
    split = split_by_class(labels, fraction, splits, derived_generator(seed))
    assert split.train.shape == split.validation.shape == (splits, len(labels))
    assert not (split.train & split.validation).any()
    assert torch.equal(split.train | split.validation, (labels != -100).expand(splits, -1))
    for train, validation in zip(split.train, split.validation, strict=True):
        for label in labels[labels != -100].unique():
            rows = labels == label
            size, validated = int(rows.sum()), int(validation[rows].sum())
            assert train[rows].any()
            assert validated >= min(1, size - 1)
            assert abs(validated - fraction * size) <= 1


def test_halves_of_a_balanced_batch_are_equal():
    labels = torch.arange(32) % 4
    split = split_by_class(labels, 0.5, 5, derived_generator(0))
    for validation in split.validation:
        assert labels[validation].bincount().tolist() == [4, 4, 4, 4]


def test_splits_are_drawn_anew_and_repeat_with_the_generator():
    labels = torch.zeros(30, dtype=torch.long)
    first = split_by_class(labels, 0.5, 3, derived_generator("split", 1, 5, 0)).validation
    assert torch.equal(first, split_by_class(labels, 0.5, 3, derived_generator("split", 1, 5, 0)).validation)
    assert not torch.equal(first, split_by_class(labels, 0.5, 3, derived_generator("split", 1, 6, 0)).validation)
    assert not torch.equal(first[0], first[1])


def test_each_row_is_validated_equally_often():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    share = split_by_class(labels, 0.5, 4000, derived_generator(0)).validation.float().mean(0)
    torch.testing.assert_close(share, torch.full((6,), 0.5), rtol=0, atol=0.04)


@settings(deadline=None, max_examples=200)
@given(labels=labels_of_batches, folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_folds_judge_each_row_once_by_heads_that_know_its_class(labels, folds, seed):
    split = fold_by_class(labels, folds, derived_generator(seed))
    assert split.train.shape == split.validation.shape == (folds, len(labels))
    assert not (split.train & split.validation).any()
    for row, label in enumerate(labels):
        size = int((labels == label).sum())
        assert int(split.validation[:, row].sum()) == (label != -100 and size > 1)
        assert int(split.train[:, row].sum()) == (0 if label == -100 else folds - 1)
    for train, validation in zip(split.train, split.validation, strict=True):
        assert set(labels[validation].tolist()) <= set(labels[train].tolist())


def test_leave_one_out_judges_rows_that_have_company():
    split = leave_one_out(torch.tensor([0, 1, 0, -100, 2, 2]))
    assert split.validation.tolist() == [[True, False, True, False, True, True]]
    assert split.train.tolist() == [[True, True, True, False, True, True]]


tokens_of_batches = st.lists(
    st.tuples(st.sampled_from([-100, 0, 1, 2, 7]), st.integers(0, 5)), min_size=1, max_size=40
).map(
    lambda tokens: (torch.tensor([label for label, _ in tokens]), torch.tensor([sentence for _, sentence in tokens]))
)


@settings(deadline=None, max_examples=200)
@given(batch=tokens_of_batches, fraction=st.floats(0.05, 0.95), folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_all_tokens_of_a_sentence_are_on_one_side(batch, fraction, folds, seed):
    labels, sentences = batch
    kept = labels != -100
    count = len(sentences[kept].unique())
    drawn = split_by_sentence(labels, sentences, 6, 8, fraction, 3, derived_generator(seed))
    for split in (drawn, fold_by_sentence(labels, sentences, 6, 8, folds, derived_generator(seed))):
        assert not (split.train & split.validation).any()
        assert not (split.train | split.validation)[:, ~kept].any()
        for train, validation in zip(split.train, split.validation, strict=True):
            assert not set(sentences[train].tolist()) & set(sentences[validation].tolist())
            left_out = kept & ~train & ~validation  # no token of the train side has their class
            assert set(labels[validation].tolist()) <= set(labels[train].tolist())
            assert not set(labels[left_out].tolist()) & set(labels[train].tolist())
    for train in drawn.train:
        held_out = count - len(sentences[train].unique())
        assert held_out == min(max(round(fraction * count), 1), max(count - 1, 0))


def test_sentences_that_are_numbered_with_gaps_are_divided_alike():
    """Those of several processes are, where a last batch is not full."""
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    one = split_by_sentence(labels, torch.tensor([0, 0, 1, 1, 2, 2]), 3, 2, 0.5, 1, derived_generator(0))
    two = split_by_sentence(labels, torch.tensor([0, 0, 1, 1, 4, 4]), 8, 2, 0.5, 1, derived_generator(0))
    assert torch.equal(one.validation, two.validation)
