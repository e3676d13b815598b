"""A saved model on rows without labels, piece by piece: from rows to tables of predictions."""

import argparse
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PretrainedConfig

from ..data.columns import ColumnOptions
from ..data.encoding import count_cut
from ..data.labels import REGRESSION, SINGLE_LABEL
from ..data.models import is_unnamed, model_names
from ..data.sentence_encoders import text_collator
from ..data.tasks import TEXT
from ..data.unlabelled import Damaged, Piece, load_unlabelled
from ..transfer.labels import MULTI_LABEL
from ..utils.errors import reading
from ..utils.probabilities import log_probabilities
from ..utils.validation import ConfigError
from .evaluation import (
    check_finite,
    check_no_flags,
    cut_warning,
    device_of,
    load_saved,
    logits_of,
    media_encoder,
    text_encoder,
    usual_problem_type,
)
from .saved_model import SavedModel


# Texts of so many batches are read together, and those of about a length are run together: less padding.
BATCHES_OF_TEXTS = 16
SKIP = "--skip_bad_rows"
PREDICTION, CONFIDENCE, PROBABILITY = "prediction", "confidence", "probability_"

logger = logging.getLogger("merlin_hf.cli")


def problem_type_of(saved: SavedModel, given: str | None) -> str:
    """Return what a model answers with: as given, else as in its configuration, else as its number of outputs says."""
    config = saved.config
    found = given or usual_problem_type(config)
    if found == SINGLE_LABEL and config.num_labels == 1 and given is None:
        found = REGRESSION
    if (found == REGRESSION and config.num_labels > 1) or (found == SINGLE_LABEL and config.num_labels == 1):
        raise ConfigError(
            f"The model has {config.num_labels} outputs, which does not fit {found}; see `--problem_type`."
        )
    if saved.adapter is not None and given is None and found == SINGLE_LABEL:
        logger.warning(
            "An adapter does not say whether a row may have several labels: taken as one label per row. "
            "`--problem_type multi_label_classification` says otherwise."
        )
    return found


def names_of_labels(config: PretrainedConfig, given: list[str] | None) -> list[str]:
    """Return the names of the outputs, as given or as in the configuration."""
    if given is not None and len(given) != config.num_labels:
        raise ConfigError(
            f"`label_names` has {len(given)} names, and the model {config.num_labels} outputs, called "
            f"{', '.join(model_names(config))}."
        )
    names = given or model_names(config)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two outputs of the model are called {twice!r}: name all by `--label_names`.")
    if given is None and is_unnamed(config):
        logger.warning(
            f"The model has no names for its labels: they are {', '.join(names)}. `--label_names` gives them."
        )
    return names


class Predictor:
    """A model and the rows that it is run on, of the arguments of [`~merlin_hf.cli.predict.add_predict_parser`]."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.saved = saved = load_saved(arguments)
        check_no_flags(saved, arguments)
        self.problem_type = problem_type_of(saved, arguments.problem_type)
        self.names = [] if self.problem_type == REGRESSION else names_of_labels(saved.config, arguments.label_names)
        for option in ("threshold", "label_names"):
            if self.problem_type == REGRESSION and getattr(arguments, option) is not None:
                raise ConfigError(f"`{option}` is about labels, and the model answers with real numbers.")
        media_column = f"{saved.kind}_column"
        options = ColumnOptions(
            text_columns=arguments.text_columns,
            media_column=getattr(arguments, media_column, None),
            names={"media_column": media_column},
        )
        with reading("The data cannot be read", but=(ValueError, OSError)):
            self.rows = load_unlabelled(
                arguments.data,
                saved.kind,
                options,
                arguments.dataset_config_name,
                arguments.split,
                arguments.id_column,
                arguments.keep_columns,
            )
        self.schema = self._schema()
        self.rows.check()
        self.damaged: list[Damaged] = sorted(self.rows.damaged.values())
        if self.damaged and (not arguments.skip_bad_rows or len(self.damaged) == len(self.rows)):
            raise self.rows.refusal(self.damaged, SKIP)
        self.tokenizer: Any = None
        if saved.kind == TEXT:
            self.tokenizer, self.max_length = text_encoder(saved, arguments.max_seq_length)
            self.collator: Any = text_collator(self.tokenizer)
        else:
            self.encode, self.collator = media_encoder(saved, arguments.array_sampling_rate)
        self.model = saved.load(device_of(arguments))
        self.predicted = self.without_label = self.cut = 0
        self.given = Counter[str]()

    def _schema(self) -> pa.Schema:
        """Return the names and types of the columns that are written."""
        kind = {REGRESSION: pa.float64(), MULTI_LABEL: pa.list_(pa.string())}.get(self.problem_type, pa.string())
        fields = [pa.field(PREDICTION, kind)]
        if self.problem_type == SINGLE_LABEL:
            fields.append(pa.field(CONFIDENCE, pa.float64()))
        fields += [pa.field(f"{PROBABILITY}{name}", pa.float64()) for name in self.names]
        kept = self.rows.kept_schema
        both = set(kept.names) & {field.name for field in fields}
        twice = both or {name for name in kept.names if kept.names.count(name) > 1}
        if twice:
            raise ConfigError(
                f"{self.rows.origin} has the columns {', '.join(sorted(twice))}, as predictions are called: rename "
                "them, or leave out `--keep_columns`."
            )
        return pa.schema([*kept, *fields])

    def tables(self) -> Iterator[tuple[pa.Table, int]]:
        """Yield tables of predictions in the order of the rows, and how many rows were read for each."""
        size = self.arguments.batch_size * (BATCHES_OF_TEXTS if self.saved.kind == TEXT else 1)
        for piece in self.rows.pieces(size):
            if piece.damaged and not self.arguments.skip_bad_rows:
                raise self.rows.refusal(piece.damaged, SKIP)
            self.damaged += piece.damaged
            if len(piece.kept):
                with reading(f"{self.arguments.model!r} cannot be run on the data"):
                    logits = self._logits(piece)
                yield self._table(piece.kept, logits), piece.read
        if not self.predicted:
            raise self.rows.refusal(self.damaged, SKIP)

    def _logits(self, piece: Piece) -> np.ndarray:
        """Return the logits of rows, `(n, num_labels)` in double precision."""
        count = len(piece.kept)
        if self.tokenizer is not None:
            encoded = self.tokenizer(*piece.values, truncation=True, max_length=self.max_length)
            self.cut += count_cut(piece.values, encoded["input_ids"], self.tokenizer, self.max_length)
            order = sorted(range(count), key=lambda row: -len(encoded["input_ids"][row]))
        else:
            encoded, order = self.encode(piece.values[0]), list(range(count))
        size = self.arguments.batch_size
        batches = [order[start : start + size] for start in range(0, count, size)]
        found = []
        for rows in batches:
            batch = self.collator([{name: column[row] for name, column in encoded.items()} for row in rows])
            found.append(logits_of(self.model, batch))
        logits = np.concatenate(found)[np.argsort(order)]
        check_finite(logits, self.arguments.model)
        return logits

    def _table(self, kept: pa.Table, logits: np.ndarray) -> pa.Table:
        """Return the columns that are kept, with the predictions beside them, and count these."""
        threshold, names = self.arguments.threshold, self.names
        columns: list[Any]
        self.predicted += len(logits)
        if self.problem_type == REGRESSION:
            columns = [logits[:, 0]]
        elif self.problem_type == MULTI_LABEL:
            probabilities = np.exp(-np.logaddexp(0, -logits))
            taken = logits > 0 if threshold is None else probabilities >= threshold
            given = [[names[label] for label in np.flatnonzero(row)] for row in taken]
            self.given.update(label for labels in given for label in labels)
            self.without_label += sum(not labels for labels in given)
            columns = [given, *probabilities.T]
        else:
            probabilities = np.exp(log_probabilities(logits))
            confidence = probabilities.max(-1)
            is_sure = confidence >= (threshold or 0)
            labels = [names[label] if sure else None for label, sure in zip(logits.argmax(-1), is_sure, strict=True)]
            self.given.update(label for label in labels if label is not None)
            self.without_label += labels.count(None)
            columns = [labels, confidence, *probabilities.T]
        fields = [field for field in self.schema if field.name not in kept.column_names]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
        return pa.Table.from_arrays([*kept.columns, *arrays], schema=self.schema)

    def warnings(self) -> list[str]:
        """Return what is to be said of the rows in the end."""
        found = []
        if self.damaged:
            found.append(f"{self.rows.describe(self.damaged)}. They are left out; rows are counted from 0.")
        cut = self.cut and cut_warning(self.cut, self.predicted, self.max_length, self.arguments.max_seq_length)
        return [*found, cut] if cut else found

    def counts(self) -> dict[str, Any]:
        """Return the counts of rows, as `--json` prints them."""
        is_text, has_labels = self.tokenizer is not None, self.problem_type != REGRESSION
        return {
            "model": self.arguments.model,
            "task": self.saved.kind,
            "data": self.arguments.data,
            "output": self.arguments.output,
            "rows": len(self.rows),
            "predicted": self.predicted,
            "without_label": self.without_label if has_labels else None,
            "skipped": len(self.damaged),
            "bad_rows": [{"row": one.row, "name": one.name, "reason": one.reason} for one in self.damaged],
            "cut_rows": self.cut if is_text else None,
            "max_seq_length": self.max_length if is_text else None,
            "labels": {name: self.given[name] for name in self.names} if has_labels else None,
        }
