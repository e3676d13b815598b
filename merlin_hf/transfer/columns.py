"""Columns of a data set under the names that the collator and the model expect."""

import difflib
from collections.abc import Mapping
from typing import Any

from .checks import check_source_keys, is_several


def rename_source_columns(source: Any, mapping: Any) -> Any:
    """
    Return `source_dataset` with its columns renamed by `source_column_mapping`.

    Args:
        source: a data set, or several by name.
        mapping (`Mapping`, *optional*): for [`rename_columns`]; of several sources for each of them, or by name.

    Raises:
        ValueError: as in [`rename_columns`], or a name is not that of a source.
    """
    argument, mapping_argument = "source_dataset", "source_column_mapping"
    if not mapping or source is None:
        return source
    if not is_several(source):
        return rename_columns(source, mapping, argument, mapping_argument)
    is_by_name = any(isinstance(value, Mapping) for value in mapping.values())
    if is_by_name:
        check_source_keys(mapping_argument, mapping, source)
    mappings = mapping if is_by_name else dict.fromkeys(source, mapping)
    return {
        name: rename_columns(dataset, mappings[name], f"{argument}[{name!r}]", mapping_argument)
        if mappings.get(name)
        else dataset
        for name, dataset in source.items()
    }


def rename_columns(dataset: Any, mapping: Mapping[str, str], argument: str, mapping_argument: str) -> Any:
    """
    A data set with its columns renamed.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): it is left as it is.
        mapping (`Mapping[str, str]`): from the names in the data set to those that are expected.
        argument, mapping_argument (`str`): how the user calls both, for the messages.

    Raises:
        ValueError: a column is missing, a new name is taken, or the data set has no columns.
    """
    if not hasattr(dataset, "rename_columns"):
        raise ValueError(
            f"`{mapping_argument}` needs a `datasets.Dataset` or `datasets.IterableDataset`; `{argument}` is a "
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
                    f"`{mapping_argument}` renames {name!r}, which `{argument}` does not have.{hint} Its columns are "
                    f"{listed}; the mapping goes from these names to the expected ones, for example "
                    f"{{{columns[0]!r}: 'label'}}."
                )
        kept = [name for name in columns if name not in mapping]
        after = [*kept, *mapping.values()]
        for name in mapping.values():
            if after.count(name) > 1:
                raise ValueError(
                    f"`{mapping_argument}` gives two columns of `{argument}` the name {name!r}. Its columns are "
                    f"{listed}; drop or rename the other one, for example with `dataset.remove_columns({name!r})`."
                )
    return dataset.rename_columns(dict(mapping))
