"""From stored rows to what a model takes."""

from collections.abc import Sequence
from typing import Any

import datasets

from .labels import Labels


def tokenize(
    split: datasets.Dataset,
    columns: Sequence[str],
    labels: Labels,
    tokenizer: Any,
    max_length: int,
    pad: bool = False,
    keep_texts: bool = False,
    load_from_cache_file: bool = True,
    desc: str | None = None,
) -> datasets.Dataset:
    """
    Make the model's inputs and `labels`, and no other column.

    Args:
        split (`datasets.Dataset`): its `label` is one of `labels.values`, a real number, or zeros and ones.
        columns (`Sequence[str]`): one or two columns of texts.
        labels ([`~merlin_hf.data.labels.Labels`]).
        tokenizer: of transformers.
        max_length (`int`): longer texts are cut to so many tokens.
        pad (`bool`): pad all to it.
        keep_texts (`bool`): keep the texts as well, as `text` and `text_pair`; a model card shows some of them.
        load_from_cache_file (`bool`): take what has been tokenized before.
        desc (`str`, *optional*): beside the progress bar.
    """
    ids = dict(zip(labels.values, labels.ids, strict=True))
    options = {"padding": "max_length" if pad else False, "max_length": max_length, "truncation": True}
    is_multi_label, is_regression = labels.is_multi_label, labels.is_regression

    def encode(rows: dict[str, list]) -> dict[str, Any]:
        texts = [[text or "" for text in rows[name]] for name in columns]  # an empty cell of a csv file is None
        batch = tokenizer(*texts, **options)
        if keep_texts:
            batch.update(zip(("text", "text_pair"), texts, strict=False))
        if "label" in rows and is_multi_label:
            batch["labels"] = rows["label"]
        elif "label" in rows:
            batch["labels"] = [float(label) if is_regression else ids[label] for label in rows["label"]]
        return batch

    return split.map(
        encode,
        batched=True,
        remove_columns=split.column_names,
        load_from_cache_file=load_from_cache_file,
        desc=desc,
    )


def count_cut(
    texts: Sequence[Sequence[str | None]], encoded: Sequence[list[int]], tokenizer: Any, max_length: int
) -> int:
    """
    Count the rows that have more than `max_length` tokens.

    Args:
        texts (`Sequence[Sequence[str]]`): one or two columns.
        encoded (`Sequence[list[int]]`): the tokens of the rows, cut and not padded.
    """
    # Only a row that fills the length may have been cut; the others are not tokenized again.
    full = [row for row, tokens in enumerate(encoded) if len(tokens) >= max_length]
    if not full:
        return 0
    whole = tokenizer(*([column[row] or "" for row in full] for column in texts))["input_ids"]
    return sum(len(tokens) > max_length for tokens in whole)
