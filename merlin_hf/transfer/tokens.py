"""
Token classification: the rows that heads see are labelled tokens, and those of a sentence stay on one side of a split.

Tokens with the label -100, which are padding, special tokens and pieces of words, never become rows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from .distributed import gather, gather_rows, is_distributed, most_over_ranks, sum_over_ranks
from .labels import IGNORED, are_as_long_as_tokens, has_token_labels, label_column
from .layers import without_adapter


# The key of the labelled tokens, a mask `(batch, length)`, in the inputs of a batch; the model removes it.
TOKENS = "__tokens__"


class Sentences(NamedTuple):
    """The sentence of each token of a batch, `(n,)`, and a number above all of these."""

    ids: Tensor
    number: int


def is_token_classifier(model: Any) -> bool:
    """Return whether a model is an `AutoModelForTokenClassification`, also in an adapter of PEFT or sharded."""
    mro = type(without_adapter(model)).__mro__
    return any(parent.__name__.endswith("ForTokenClassification") for parent in mro)


def take_tokens(inputs: Mapping[str, Any], labels: Tensor) -> tuple[dict[str, Any], Tensor]:
    """
    Return the inputs of a batch with a mask of the labelled tokens under `TOKENS`, and the labels `(n,)` of these.

    Labels are `(batch, length)`, and -100 where a token has none. A batch without any keeps one token, which has the
    label -100, as there must be a row. Raises a `ValueError` where there is one label for each row, as in a stream,
    which is not checked before.
    """
    if labels.ndim != 2:
        raise no_token_labels_error("a batch")
    mask = labels != IGNORED
    mask[0, 0] |= ~mask.any()
    return {**inputs, TOKENS: mask}, labels[mask]


def features_of_tokens(features: Tensor, tokens: Tensor) -> Tensor:
    """
    Return the features `(n, hidden_size)` of labelled tokens out of those of all, `(batch, length, hidden_size)`.

    Raises a `ValueError` where the model gives features to other tokens than those with labels.
    """
    if features.shape[:-1] != tokens.shape:
        raise ValueError(
            f"A batch has labels of shape {tuple(tokens.shape)}, and the model gives features to tokens of shape "
            f"{tuple(features.shape[:-1])}: each token needs a label, -100 where it has none."
        )
    return features[tokens]


def sentences_of(inputs: Mapping[str, Any]) -> Sentences | None:
    """Return the sentences of the labelled tokens of a batch; `None` where rows are not tokens."""
    mask = inputs.get(TOKENS)
    return None if mask is None else Sentences(mask.nonzero()[:, 0], len(mask))


def rows_of_full_batch(inputs: Mapping[str, Any], features: Tensor, batch_size: int) -> int:
    """Return how many rows of features no rank has more of: `batch_size`, or of tokens by asking all, a collective."""
    return most_over_ranks(len(features), features.device) if TOKENS in inputs else batch_size


def gather_tokens(
    features: Tensor, labels: Tensor, sentences: Sentences, batch_size: int
) -> tuple[Tensor, Tensor, Tensor, Sentences]:
    """
    Gather the tokens of a batch of `batch_size` sentences over all ranks, each of which has another number of them.

    Returns features, labels and the mask as [`~merlin_hf.transfer.distributed.gather_rows`] gives them, and the
    sentences of all ranks.
    """
    size = most_over_ranks(len(features), features.device)
    per_rank = max(batch_size, sentences.number)
    own = nn.functional.pad(sentences.ids, (0, size - len(features)))
    rank = torch.distributed.get_rank() if is_distributed() else 0
    ids = gather(own + rank * per_rank)
    features, labels, present = gather_rows(features, labels, size)
    return features, labels, present, Sentences(ids, per_rank * (len(ids) // size))


def average_over_tokens(loss: Tensor, labels: Tensor) -> Tensor:
    """
    Return the mean loss of this rank's tokens, weighted such that the mean over ranks is that over all tokens.

    A collective without gradient; labels that are not -100 count.
    """
    if not is_distributed():
        return loss
    count = (labels != IGNORED).sum().to(loss.dtype)
    total = sum_over_ranks(count.clone())
    return loss * torch.distributed.get_world_size() * count / total.clamp(min=1)


# Checks; `argument` is the name by which the user passes a data set


def check_token_labels(dataset: Any, argument: str, first: Any, is_for_tokens: bool) -> None:
    """Raise a `ValueError` unless rows have a label for each token exactly where the model classifies tokens."""
    column = label_column(dataset)
    if isinstance(first, list) and first and isinstance(first[0], str):
        raise ValueError(
            f"The labels of `{argument}` are lists of text, such as {first[:5]}. Make class ids of them: "
            f"`dataset.cast_column({column!r}, datasets.Sequence(datasets.ClassLabel(names=[...])))`, before "
            "the words are tokenized."
        )
    if is_for_tokens and not isinstance(first, list):
        raise no_token_labels_error(argument)
    if not is_for_tokens and has_token_labels(dataset) and are_as_long_as_tokens(dataset):
        raise ValueError(
            f"`{argument}` has a list of class ids for each row, one for each token, such as {first[:5]}, and the "
            "model has one label for each row. Load it with `AutoModelForTokenClassification`, and label the tokens "
            "of source and target; or turn each list into zeros and ones, one for each label, if a row has several."
        )


def no_token_labels_error(argument: str) -> ValueError:
    """Return the error for rows with one label each, where the model classifies tokens."""
    shown = argument if argument == "a batch" else f"`{argument}`"
    return ValueError(
        f"The model classifies tokens, and {shown} has one label for each row. Source and target must both have "
        "a list of class ids for each row, one for each token (-100 where it has none): label the tokens, or load "
        "the model with `AutoModelForSequenceClassification`."
    )


def check_token_batch(batch: Mapping[str, Any], argument: str) -> None:
    """Raise a `ValueError` unless a batch, after collation, has a class id for each token."""
    labels, tokens = torch.as_tensor(batch["labels"]), batch.get("input_ids")
    if labels.ndim < 2 or labels.is_floating_point():
        raise no_token_labels_error(argument)
    shape = tuple(labels.shape) if tokens is None else tuple(torch.as_tensor(tokens).shape)
    if shape != tuple(labels.shape):
        raise ValueError(
            f"A batch of `{argument}` has tokens of shape {shape} and labels of shape {tuple(labels.shape)}: each "
            "token needs a label, -100 where it has none. Align labels with tokens by `tokenizer(..., "
            "is_split_into_words=True).word_ids()`, and pad both with `DataCollatorForTokenClassification`."
        )


def check_token_settings(args: TrainingArguments) -> None:
    """Raise a `ValueError` if each token would be judged by a head that is fit on the others of its sentence."""
    if getattr(args, "split", None) == "loo":
        raise ValueError(
            "`split='loo'` leaves one token out, and the head would be fit on the others of its sentence: use "
            "`split='half'` or `split='kfold'`, which divide sentences."
        )


def check_sentence_batch(dataset: Any, batch_size: int) -> None:
    """Raise a `ValueError` if a target batch of so many sentences, over all ranks, cannot be split by sentence."""
    sentences = min(batch_size, len(dataset)) if hasattr(dataset, "__len__") else batch_size
    if sentences < 2:
        raise ValueError(
            f"A target batch of {sentences} sentence is too small to split: it takes one to fit the head on and one "
            "to score it on. Raise `per_device_train_batch_size` (gradient accumulation does not help: each "
            "micro-batch is split by itself)."
        )
