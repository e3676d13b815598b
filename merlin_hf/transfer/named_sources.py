"""The argument `source_dataset`: one source, or several by name, with their columns, collators and losses."""

import difflib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import datasets
from torch import nn

from ..utils.validation import shown
from .checks import check_is_one_data_set, is_data_set
from .source import Source


SOURCE_NAMES = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
FILE_ENDINGS = {".csv", ".tsv", ".json", ".jsonl", ".parquet"}
SPLIT_NAMES = {"train", "validation", "test", "dev", "eval"}


def check_source_dataset(dataset: Any, trainer: Any) -> None:
    """
    Check the argument `source_dataset` of a trainer class: one data set, or several by name.

    Raises:
        ValueError: it is neither, it has the names of splits, a name cannot be that of a module, the method takes one
            source only or none, or needs one.
    """
    if dataset is None and trainer.needs_source:
        raise ValueError(f"{trainer.__name__} trains on a source: give it a `source_dataset`, with labels of its own.")
    if dataset is not None and not trainer.takes_source:
        raise ValueError(
            f"{trainer.__name__} trains on the target alone, and a `source_dataset` was given. Leave it out, or use "
            "SequentialTrainer (the source first, then the target) or MerlinTrainer."
        )
    if not is_several(dataset):
        check_is_one_data_set(dataset, "source_dataset")
        return
    for name, part in dataset.items():
        check_source_name(name, "source_dataset")
        check_is_one_data_set(part, f"source_dataset[{name!r}]")
        if part is None:
            raise ValueError(f"`source_dataset[{name!r}]` is None. Leave it out, or give a data set.")
    if not trainer.takes_several_sources:
        raise ValueError(
            f"{trainer.__name__} takes one source, and `source_dataset` has {', '.join(dataset)}. Choose one of them, "
            "or put sources with the same labels together with `datasets.concatenate_datasets`."
        )


def check_source_name(name: Any, argument: str) -> None:
    """Raise a `ValueError` if a name in `argument` cannot be that of a source, as it becomes that of a module."""
    if not isinstance(name, str) or not SOURCE_NAMES.fullmatch(name) or hasattr(nn.ModuleDict, name):
        raise ValueError(
            f"`{argument}` has the name {shown(name)}. Use up to 64 letters, digits, `_` and `-`, with a letter "
            "first, and no name of a method of dictionaries: it becomes part of the names of weights and of losses."
        )


def names_of_sources(data_sets: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return different names for sources without: the configuration, else the last part of the path, both given."""
    names: list[str] = []
    for path, configuration in data_sets:
        last = PurePath(path)
        name = configuration or (last.stem if last.suffix in FILE_ENDINGS else last.name)
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:50]
        if not SOURCE_NAMES.fullmatch(name) or hasattr(nn.ModuleDict, name):
            name = f"source_{name}"
        same = (f"{name}_{number}" if number > 1 else name for number in itertools.count(1))
        names.append(next(one for one in same if one not in names))
    return names


def is_several(source_dataset: Any) -> bool:
    """Return whether `source_dataset` holds several sources by name, and not the splits of one."""
    if not isinstance(source_dataset, Mapping) or isinstance(
        source_dataset, datasets.DatasetDict | datasets.IterableDatasetDict
    ):
        return False
    return any(map(is_data_set, source_dataset.values())) and not set(source_dataset) <= SPLIT_NAMES


def check_source_keys(argument: str, value: Any, sources: Collection[str | None]) -> None:
    """Raise a `ValueError` if an argument that is given by the names of sources has others."""
    unknown = [name for name in value if name not in sources] if isinstance(value, Mapping) else []
    if unknown:
        raise ValueError(
            f"`{argument}` has {', '.join(map(repr, unknown))}, and the sources are {', '.join(map(repr, sources))}."
        )


def list_sources(source_dataset: Any, collator: Any, compute_loss_func: Any) -> list[Source]:
    """
    Return the sources with their collators and losses, which are each for all or by name; a single source has no name.

    Raises a `ValueError` where a name is not that of a source.
    """
    if source_dataset is None:
        return []
    named = source_dataset if is_several(source_dataset) else {None: source_dataset}
    by_name = []
    for argument, value in (("source_collator", collator), ("source_compute_loss_func", compute_loss_func)):
        check_source_keys(argument, value, named)
        by_name.append(value if isinstance(value, Mapping) else dict.fromkeys(named, value))
    return [Source(name, dataset, *(values.get(name) for values in by_name)) for name, dataset in named.items()]


def rename_source_columns(source: Any, mapping: Any) -> Any:
    """
    Return `source_dataset` with columns renamed by `source_column_mapping`, of several for each of them or by name.

    Raises:
        ValueError: as in [`rename_columns`], or a name is not that of a source.
    """
    if not mapping or source is None:
        return source
    if not is_several(source):
        return rename_columns(source, mapping, "source_dataset")
    is_by_name = any(isinstance(value, Mapping) for value in mapping.values())
    if is_by_name:
        check_source_keys("source_column_mapping", mapping, source)
    mappings = mapping if is_by_name else dict.fromkeys(source, mapping)
    return {
        name: rename_columns(dataset, mappings[name], f"source_dataset[{name!r}]") if mappings.get(name) else dataset
        for name, dataset in source.items()
    }


def rename_columns(dataset: Any, mapping: Mapping[str, str], argument: str) -> Any:
    """
    Return a data set, called `argument` by the user, with its columns renamed from the names in it to those expected.

    Raises:
        ValueError: a column is missing, a new name is taken, or the data set has no columns.
    """
    if not hasattr(dataset, "rename_columns"):
        raise ValueError(
            f"`source_column_mapping` needs a `datasets.Dataset` or `datasets.IterableDataset`; `{argument}` is a "
            f"{type(dataset).__name__}. Rename in its rows, or in a collator of its own."
        )
    columns = dataset.column_names
    if columns is not None:  # a stream may not know
        listed = ", ".join(map(repr, columns))
        for name in mapping:
            if name not in columns:
                close = difflib.get_close_matches(name, columns, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"`source_column_mapping` renames {name!r}, which `{argument}` does not have.{hint} Its columns "
                    f"are {listed}; the mapping goes from these names to the expected ones, for example "
                    f"{{{columns[0]!r}: 'label'}}."
                )
        kept = [name for name in columns if name not in mapping]
        after = [*kept, *mapping.values()]
        for name in mapping.values():
            if after.count(name) > 1:
                raise ValueError(
                    f"`source_column_mapping` gives two columns of `{argument}` the name {name!r}. Its columns are "
                    f"{listed}; drop or rename the other one, for example with `dataset.remove_columns({name!r})`."
                )
    return dataset.rename_columns(dict(mapping))
