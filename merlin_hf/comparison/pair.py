"""The target and the source of a comparison, and the rows that each run sees of them."""

from functools import cached_property
from typing import Any

from ..data.rows import Rows, load_rows, load_splits_of, overlap
from ..data.sampling import draw_rows, split_off_validation
from ..utils.validation import ConfigError
from .config import CompareConfig
from .store import FINAL


class TaskPair:
    """
    The rows of both tasks, checked; a ConfigError says what is missing or does not fit together.

    Attributes:
        pool ([`Rows`]): the target's rows that labelled ones are drawn from.
        test ([`Rows`]): the rows that final runs are judged by, and no others.
        sources (`dict[str | None, Rows]`): the rows of each source, the same in all runs; one that was given alone has
            no name.
    """

    def __init__(self, config: CompareConfig):
        self.config = config
        target = load_splits_of(config.target, "target", {"train": "train_split", "test": "test_split"})
        self.pool = target["train"]
        _check_rows(self.pool, "target.rows", config.target.rows)
        self.test = _draw(target["test"], "target.test_rows", config.target.test_rows, "test")
        self.sources: dict[str | None, Rows] = {}
        for name, section in config.sources.items():
            key = "source" if name is None else f"source.{name}"
            rows = load_rows(section, key, "split")
            self.sources[name] = _draw(rows, f"{key}.rows", section.rows, "source")
        self.labels = self.pool.task.labels
        self._rows: dict[tuple[str, int], tuple[Rows, Rows]] = {}
        self._check()

    def _check(self) -> None:
        target, config = self.pool, self.config.target
        if not target.is_regression and self.labels.num_labels < 2:
            raise ConfigError(f"`target.path` has one class, {self.labels.names}; at least two are needed.")
        for name, source in self.sources.items():
            if source.kind != target.kind:
                raise ConfigError(
                    f"The source{'' if name is None else f' {name}'} has {source.kind}s and the target "
                    f"{target.kind}s; a comparison needs one kind."
                )
        shared = overlap(self.test, self.pool)
        if shared and config.train_split.partition("[")[0] == config.test_split.partition("[")[0]:
            raise ConfigError(
                f"`target.test_split={config.test_split!r}` shares {shared} of its {len(self.test)} rows with "
                f"`train_split={config.train_split!r}`. Give slices that do not overlap, or drop rows that are there "
                "twice."
            )

    @cached_property
    def warnings(self) -> list[str]:
        """Return warnings about data that make scores less reliable than they look."""
        found = []
        sources = [(rows, _called(name)) for name, rows in self.sources.items()]
        for others, name in ((self.pool, "the target's train split"), *sources):
            shared = overlap(self.test, others)
            if shared:
                found.append(f"{shared} of {len(self.test)} test rows stand in {name} as well.")
        return found

    def train_rows(self, seed: int) -> Rows:
        """Return the labelled target rows of a seed."""
        rows = draw_rows(self.pool.labels, self.config.target.rows, self.pool.is_regression, "target", seed)
        return self.pool.select(rows)

    def rows_of(self, kind: str, seed: int) -> tuple[Rows, Rows]:
        """Return the rows that a run trains on, and those it is judged by: test rows in a final run alone."""
        if (kind, seed) not in self._rows:
            drawn = self.train_rows(seed)
            self._rows[kind, seed] = (drawn, self.test) if kind == FINAL else self._set_aside(drawn, seed)
        return self._rows[kind, seed]

    def _set_aside(self, drawn: Rows, seed: int) -> tuple[Rows, Rows]:
        """Return the rows that trials train on, and those they are judged by."""
        fraction = self.config.search.validation_fraction
        try:
            train, validation = split_off_validation(drawn.labels, fraction, drawn.is_regression, seed)
        except ValueError as error:
            raise ConfigError(f"`target.rows` is too small for a search: {error} Give more, or `trials: 0`.") from None
        return drawn.select(train), drawn.select(validation)

    def describe(self) -> dict[str, Any]:
        """Return the numbers of rows, the columns and the classes of all tasks as plain values; sources by name."""
        drawn = self.train_rows(self.config.seeds[0])
        described: dict[str, Any] = {
            "kind": self.pool.kind,
            "target": {
                "path": self.config.target.path,
                "name": self.config.target.name,
                "columns": self.pool.task.columns,
                "classes": self.labels.names or None,
                "pool_rows": len(self.pool),
                "train_rows": len(drawn),
                "test_rows": len(self.test),
            },
            "source": None,
        }
        sources = {
            name: {
                "path": section.path,
                "name": section.name,
                "columns": self.sources[name].task.columns,
                "classes": self.sources[name].task.labels.names or None,
                "rows": len(self.sources[name]),
            }
            for name, section in self.config.sources.items()
        }
        if sources:
            described["source"] = sources.get(None, sources)
        return described


def _called(name: str | None) -> str:
    return "the source" if name is None else f"the source {name}"


def _check_rows(rows: Rows, key: str, given: int | None) -> None:
    classes = rows.task.labels.num_labels
    if given is not None and not rows.is_regression and given < classes:
        raise ConfigError(f"`{key}` must be at least {classes}, one for each class, got {given}.")


def _draw(rows: Rows, key: str, given: int | None, stream: str) -> Rows:
    """Return `given` of the rows, the same in all runs; all if it is `None`."""
    _check_rows(rows, key, given)
    return rows.select(draw_rows(rows.labels, given, rows.is_regression, stream))
