"""The target and the source of a comparison, and the rows that each run sees of them."""

from functools import cached_property
from typing import Any

from ..data.rows import Rows, load_rows, load_splits_of, overlap
from ..data.sampling import draw_rows, split_off_validation
from ..transfer.shared_labels import match_labels
from ..utils.validation import ConfigError
from .config import CompareConfig
from .store import FINAL


class TaskPair:
    """
    The rows of both tasks, checked.

    Args:
        config ([`CompareConfig`]): names the data.

    Attributes:
        pool ([`Rows`]): the target's rows that labelled ones are drawn from.
        test ([`Rows`]): the rows that final runs are judged by, and no others.
        source ([`Rows`], *optional*): the source's rows, the same in all runs.

    Raises:
        ConfigError: the data are not there, or do not fit together.
    """

    def __init__(self, config: CompareConfig):
        self.config = config
        target = load_splits_of(config.target, "target", {"train": "train_split", "test": "test_split"})
        self.pool = target["train"]
        _check_rows(self.pool, "target.rows", config.target.rows)
        self.test = _draw(target["test"], "target.test_rows", config.target.test_rows, "test")
        self.source: Rows | None = None
        if config.source is not None:
            rows = load_rows(config.source, "source", "split")
            self.source = _draw(rows, "source.rows", config.source.rows, "source")
        self.labels = self.pool.task.labels
        self._rows: dict[tuple[str, int], tuple[Rows, Rows]] = {}
        self._check()

    def _check(self) -> None:
        target, config = self.pool, self.config.target
        if not target.is_regression and self.labels.num_labels < 2:
            raise ConfigError(f"`target.path` has one class, {self.labels.names}; there is nothing to tell apart.")
        if self.source is not None and self.source.kind != target.kind:
            raise ConfigError(
                f"The source has {self.source.kind}s and the target {target.kind}s; a comparison needs one kind."
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
        for others, name in ((self.pool, "the target's train split"), (self.source, "the source")):
            shared = overlap(self.test, others) if others is not None else 0
            if shared:
                found.append(f"{shared} of {len(self.test)} test rows stand in {name} as well.")
        return found

    @cached_property
    def shared_labels(self) -> list[int] | None:
        """Return the target's class for each class of the source, where both name the same classes."""
        return None if self.source is None else match_labels(self.source.task.labels.names, self.labels.names)

    def train_rows(self, seed: int) -> Rows:
        """Return the labelled target rows of a seed."""
        rows = draw_rows(self.pool.labels, self.config.target.rows, self.pool.is_regression, "target", seed)
        return self.pool.select(rows)

    def rows_of(self, kind: str, seed: int) -> tuple[Rows, Rows]:
        """
        Return the rows that a run trains on, and those it is judged by: test rows in a final run, and only there.

        Raises:
            ConfigError: there are too few rows to set any aside for a search.
        """
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
        """Return the numbers of rows, the columns and the classes of both tasks as plain values."""
        drawn, source = self.train_rows(self.config.seeds[0]), self.config.source
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
        if self.source is not None and source is not None:
            described["source"] = {
                "path": source.path,
                "name": source.name,
                "columns": self.source.task.columns,
                "classes": self.source.task.labels.names or None,
                "rows": len(self.source),
            }
        return described


def _check_rows(rows: Rows, key: str, given: int | None) -> None:
    classes = rows.task.labels.num_labels
    if given is not None and not rows.is_regression and given < classes:
        raise ConfigError(f"`{key}` must be at least {classes}, one for each class, got {given}.")


def _draw(rows: Rows, key: str, given: int | None, stream: str) -> Rows:
    """Return `given` of the rows, the same in all runs; all if it is `None`."""
    _check_rows(rows, key, given)
    return rows.select(draw_rows(rows.labels, given, rows.is_regression, stream))
