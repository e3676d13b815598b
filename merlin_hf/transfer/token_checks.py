"""Check, before training, that a model has embeddings and positions for the tokens of a data set."""

from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedModel

from ..data.models import positions_in
from .checks import has_transform
from .labels import arrow_column, column_names


INPUT_IDS = "input_ids"
ROWS_AT_ONCE = 20_000


def check_tokens(dataset: Any, argument: str, model: Any) -> None:
    """
    Check the column `input_ids` of a data set; data sets without it, or that make it when they are read, pass.

    Args:
        argument (`str`): how the user calls the data set, for the message.
        model: a `PreTrainedModel`; others pass.

    Raises:
        ValueError: there is a token that the model has no embedding for, or a row of more tokens than it has
            positions.
    """
    if not isinstance(model, PreTrainedModel) or has_transform(dataset) or INPUT_IDS not in column_names(dataset):
        return
    embeddings = getattr(_input_embeddings(model), "num_embeddings", None)
    positions = positions_in(model)
    longest = too_long = rows = 0
    for column in _columns(dataset):
        if not hasattr(column.type, "value_type") or not pa.types.is_integer(column.type.value_type):
            return
        lengths = pc.list_value_length(column)
        rows += len(column)
        longest = max(longest, pc.max(lengths).as_py() or 0)
        if positions:
            too_long += pc.sum(pc.greater(lengths, positions)).as_py() or 0
        found = pc.min_max(pc.list_flatten(column)).as_py()
        if embeddings and found["max"] is not None and not 0 <= found["min"] <= found["max"] < embeddings:
            wrong = found["min"] if found["min"] < 0 else found["max"]
            raise ValueError(
                f"`{argument}` has the token id {wrong} in its column {INPUT_IDS!r}, and the model has embeddings for "
                f"0 ... {embeddings - 1}. Tokenize with the model's own tokenizer, or, where tokens were added, call "
                "`model.resize_token_embeddings(len(tokenizer))`."
            )
    if too_long:
        raise ValueError(
            f"`{argument}` has {too_long} of {rows} rows of more tokens (up to {longest}) than the model has "
            f"positions ({positions}). Tokenize with `truncation=True, max_length={positions}`."
        )


def _input_embeddings(model: PreTrainedModel) -> Any:
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # of a model that takes no tokens
        return None


def _columns(dataset: Any) -> Iterator[Any]:
    """Yield the column in parts, so that a large data set is not read into memory at once."""
    if isinstance(dataset, datasets.Dataset):
        for batch in dataset.select_columns([INPUT_IDS]).with_format("arrow").iter(ROWS_AT_ONCE):
            yield batch[INPUT_IDS]
    else:
        column = arrow_column(dataset, INPUT_IDS)
        if column is not None:
            yield column
