"""Tagged sentences: rows of words and a tag for each, encoded as tokens with the label of their word."""

import itertools
from collections.abc import Sequence
from typing import Any

import datasets
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from ..utils.loading import load_processor
from ..utils.validation import ConfigError, did_you_mean
from .columns import is_text


IGNORED = -100
OUTSIDE = "O"
WORDS = ("tokens", "words")  # what the column of words is called
# Their byte-level tokenizers take words for the beginnings of texts unless a space is put before each.
NEED_SPACES = {"bloom", "deberta", "gpt2", "longformer", "modernbert", "roberta"}


def load_word_tokenizer(path: str, config: PretrainedConfig, called: str | None = None, **options: Any) -> Any:
    """Load a tokenizer of divided words; a ConfigError if it does not tell which word a token is of."""
    spaces = {"add_prefix_space": True} if config.model_type in NEED_SPACES else {}
    tokenizer = load_processor(AutoTokenizer, path, called, **spaces, **options)
    check_tells_words(tokenizer, called or repr(path))
    return tokenizer


def check_tells_words(tokenizer: PreTrainedTokenizerBase, called: str = "The tokenizer") -> None:
    """Raise a ConfigError unless a tokenizer, as those of the library, tells which word a token is of."""
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{called} has a {type(tokenizer).__name__}, which does not tell which word a token is of: a tokenizer "
            "with a `tokenizer.json` is needed."
        )


def tag_names(rows: datasets.Dataset, column: str, argument: str) -> list[str]:
    """
    Return the tags of a data set, in the order of their ids; of text, `O` first and the others sorted.

    Args:
        rows (`datasets.Dataset`): with a list of tags in each row.
        column (`str`): of the tags.
        argument (`str`): how the user calls the data set, for messages.

    Raises:
        ConfigError: there is no such column, or it has no lists of tags.
    """
    if column not in rows.column_names:
        raise ConfigError(
            f"`{argument}` has no column {column!r}, only {', '.join(rows.column_names)}."
            f"{did_you_mean(column, rows.column_names)}"
        )
    feature = getattr(rows.features[column], "feature", None)
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    found = sorted({tag for tags in rows[column] for tag in tags}) if feature is not None else []
    if not found or not all(isinstance(tag, str) for tag in found):
        raise ConfigError(
            f"The column {column!r} of `{argument}` has no tags with names but {rows.features[column]}: a list of "
            "text, or a `Sequence(ClassLabel)`, is needed in each row."
        )
    return sorted(found, key=lambda tag: (tag != OUTSIDE, tag))


def find_tag_columns(
    rows: datasets.Dataset, words: Sequence[str] | None = None, tags: str | None = None
) -> tuple[str, str] | None:
    """
    Return the columns of words and of tags; `None` where rows are not tagged sentences.

    If not given, the words are in `tokens` or `words`, and the tags in the only `Sequence(ClassLabel)`.
    """
    inner = {name: getattr(feature, "feature", None) for name, feature in rows.features.items()}
    if tags is None and "label" in inner and inner["label"] is None:
        return None  # a label of the row
    if tags is None:
        named = [name for name, feature in inner.items() if isinstance(feature, datasets.ClassLabel)]
        tags = named[0] if len(named) == 1 else None
    found = next((name for name in words or WORDS if is_text(inner.get(name))), None)
    if found is None or tags is None:
        return None
    return (found, tags) if isinstance(inner.get(tags), datasets.ClassLabel) or is_text(inner.get(tags)) else None


def encode_tags(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    words: str = "tokens",
    tags: str = "tags",
    max_length: int = 128,
    argument: str = "dataset",
) -> datasets.Dataset:
    """
    Tokenize sentences of words; the first token of a word has the label of its tag, and all others -100.

    Args:
        rows (`datasets.Dataset`): with a list of words and one of tags in each row.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): one that tells which word a token is of.
        names (`Sequence[str]`): the tags in the order of the model's outputs.
        words, tags (`str`): the columns.
        max_length (`int`): longer sentences are cut to so many tokens.
        argument (`str`): how the user calls the data set, for messages.

    Returns:
        `datasets.Dataset`: with the tokenizer's columns and `labels`, a `Sequence(ClassLabel)`.

    Raises:
        ConfigError: a column is missing, a row has another number of tags than of words, or a tag is unknown.
    """
    check_tells_words(tokenizer)
    missing = next((column for column in (words, tags) if column not in rows.column_names), None)
    if missing is not None:
        raise ConfigError(f"`{argument}` has no column {missing!r}, only {', '.join(rows.column_names)}.")
    own = getattr(getattr(rows.features[tags], "feature", None), "names", None)
    outputs = {name: place for place, name in enumerate(names)}

    def encode(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
        encoded = tokenizer(batch[words], is_split_into_words=True, truncation=True, max_length=max_length)
        labels = []
        for row, (sentence, given) in enumerate(zip(batch[words], batch[tags], strict=True)):
            if len(sentence) != len(given):
                raise ConfigError(
                    f"Row {numbers[row]} of `{argument}` has {len(sentence)} words and {len(given)} tags: each word "
                    "needs one."
                )
            named = given if own is None else [own[tag] for tag in given]
            unknown = next((tag for tag in named if tag not in outputs), None)
            if unknown is not None:
                raise ConfigError(
                    f"Row {numbers[row]} of `{argument}` has the tag {unknown!r}, which is none of {', '.join(names)}."
                )
            places = encoded.word_ids(row)
            pairs = itertools.pairwise([None, *places])  # the word of the token before, and that of the token
            labels.append([IGNORED if word in (None, last) else outputs[named[word]] for last, word in pairs])
        return {**encoded, "labels": labels}

    encoded = rows.map(encode, batched=True, with_indices=True, remove_columns=rows.column_names)
    return encoded.cast_column("labels", datasets.Sequence(datasets.ClassLabel(names=list(names))))
