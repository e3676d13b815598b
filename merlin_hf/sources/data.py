"""Read the data sets of a ranking, and draw rows of them."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from ..comparison.config import SourceConfig
from ..comparison.progress import quiet
from ..data.rows import Rows, load_rows
from ..data.sampling import draw_rows
from ..data.tasks import TAGGED
from ..transfer.named_sources import names_of_sources
from ..utils.validation import ConfigError, check_fields


def parse_data_set(given: str) -> dict[str, str]:
    """
    Read a data set as it is named in one word, `path[:config][@split]`.

    What exists as a file or folder is a path, colons and all.
    """
    if os.path.exists(given):
        return {"path": given}
    split: str | None
    name: str | None = None
    path, at, split = given.rpartition("@")
    path, split = (path, split) if at else (given, None)
    if not os.path.exists(path):
        path, colon, name = path.partition(":")
        name = name if colon else None
    if not path or split == "" or name == "":
        raise ConfigError(f"{given!r} must be `path`, `path:config`, `path@split` or `path:config@split`.")
    return {"path": path, **({"name": name} if name else {}), **({"split": split} if split else {})}


def read_data_set(given: Any, argument: str, **columns: Any) -> SourceConfig:
    """Return a data set with its split and columns; `argument` is what the user calls it, for messages."""
    if isinstance(given, SourceConfig):
        return dataclasses.replace(given, **columns)
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if isinstance(given, str):
        try:
            given = parse_data_set(given)
        except ConfigError as error:
            raise ConfigError(f"`{argument}`: {error}") from None
    if not isinstance(given, Mapping):
        raise ConfigError(f"`{argument}` must be the name of a data set or a mapping, got {given!r}.")
    return SourceConfig(**check_fields({**given, **columns}, SourceConfig, argument))


def read_data_sets(
    target: Any, candidates: Any, columns: Mapping[str, Mapping[str, Any]]
) -> tuple[str, SourceConfig, dict[str, SourceConfig]]:
    """Return the target's name and data set, and those of the candidates, of which one may stand by itself."""
    if isinstance(candidates, str | os.PathLike | SourceConfig):
        candidates = [candidates]
    named = (
        dict(candidates) if isinstance(candidates, Mapping) else {_name_of(given): given for given in candidates or ()}
    )
    if not named:
        raise ConfigError("`candidates` must be at least one data set.")
    if len(named) < len(candidates):
        raise ConfigError("`candidates` has a data set twice. Give them as a mapping of names to data sets.")
    target_name = _name_of(target)
    unknown = set(columns) - {target_name, *named}
    if unknown:
        raise ConfigError(
            f"Columns are given for {sorted(unknown)[0]!r}, which is none of {target_name}, {', '.join(named)}."
        )
    target_section = read_data_set(target, "target", **columns.get(target_name, {}))
    sections = {name: read_data_set(given, "candidates", **columns.get(name, {})) for name, given in named.items()}
    return target_name, target_section, sections


def source_names(candidates: Any, sections: Mapping[str, SourceConfig]) -> list[str]:
    """Return what to call the candidates among several sources: as in their mapping, else short names of the data."""
    if isinstance(candidates, Mapping):
        return names_of_sources((name, None) for name in sections)
    return names_of_sources((section.path, section.name) for section in sections.values())


def _name_of(given: Any) -> str:
    if isinstance(given, str | os.PathLike):
        return os.fspath(given)
    path = given.get("path") if isinstance(given, Mapping) else getattr(given, "path", None)
    name = given.get("name") if isinstance(given, Mapping) else getattr(given, "name", None)
    return f"{path}:{name}" if name else str(path)


def load(section: SourceConfig, argument: str) -> Rows:
    """Load all labelled rows of a data set; raise a `ConfigError` that names `argument` if none can be used."""
    with quiet():
        return load_rows(section, argument, "split", as_flags=True)


def draw(rows: Rows, count: int | None, argument: str, *seed: int | str) -> Rows:
    """Draw rows, of each class in proportion and at least one; all where there are not more."""
    classes = len(set(rows.labels.tolist())) if not rows.is_regression else 1
    if count is not None and count < max(2, classes):
        raise ConfigError(f"`{argument}` must be at least {max(2, classes)}, one for each class, got {count}.")
    return rows.select(draw_rows(rows.labels, count, rows.is_regression, *seed))


def check_fit(target: Rows, pools: Mapping[str, Rows]) -> None:
    """Raise a `ConfigError` if the target and the candidates are not of one kind, or have one class."""
    if target.kind == TAGGED:
        raise ConfigError("`target` has tagged sentences, and rankings are for texts and images with one label a row.")
    if not target.is_regression and len(set(target.labels.tolist())) < 2:
        raise ConfigError("`target` has rows of one class; at least two are needed.")
    for name, pool in pools.items():
        if pool.kind != target.kind:
            raise ConfigError(f"`candidates`: {name!r} has {pool.kind}s and the target {target.kind}s; give one kind.")
        if len(set(pool.labels.tolist())) < 2:
            raise ConfigError(f"`candidates`: all labels of {name!r} are the same; there is nothing to learn from it.")


def check_halves(target: Rows) -> None:
    """Raise a `ConfigError` if no class has two rows, so that a head fit on some cannot be judged by others."""
    labels = [0] * len(target) if target.is_regression else target.labels.tolist()
    if max(map(labels.count, set(labels))) < 2:
        raise ConfigError(
            f"`target_rows`: no class has two rows among the {len(target)} that were drawn, so a head cannot be "
            "fitted on one and scored on the other. Give more."
        )
