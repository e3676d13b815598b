"""The target and the source of a comparison, and the rows that each run sees of them."""

from functools import cached_property

from ..data.rows import Rows, load_rows, load_splits_of, overlap
from ..data.sampling import draw_rows, split_off_validation
from ..utils.validation import ConfigError
from .config import CompareConfig
from .store import FINAL


class TaskPair:
    """
    The rows of both tasks, checked.

    Args:
        config ([`CompareConfig`]).

    Attributes:
        pool ([`Rows`]): the target's rows that labelled ones are drawn from.
        test ([`Rows`]): the rows that final runs are judged by, and no others.
        source ([`Rows`], *optional*).

    Raises:
        ConfigError: the data are not there, or do not fit together.
    """

    def __init__(self, config: CompareConfig):
        self.config = config
        target = load_splits_of(config.target, "target", {"train": "train_split", "test": "test_split"})
        pool, test = target["train"], target["test"]
        source = load_rows(config.source, "source", "split") if config.source is not None else None
        self._check_rows(pool, "target.rows", config.target.rows)
        self._check_rows(test, "target.test_rows", config.target.test_rows)
        if source is not None:
            self._check_rows(source, "source.rows", config.source.rows)
        self.pool = pool
        self.test = test.select(draw_rows(test.labels, config.target.test_rows, test.is_regression, "test"))
        if source is not None:
            source = source.select(draw_rows(source.labels, config.source.rows, source.is_regression, "source"))
        self.source = source
        self.labels = pool.task.labels
        self._rows: dict[tuple[str, int], tuple[Rows, Rows]] = {}
        self._check()

    def _check_rows(self, rows: Rows, key: str, given: int | None) -> None:
        classes = rows.task.labels.num_labels
        if given is not None and not rows.is_regression and given < classes:
            raise ConfigError(f"`{key}` must be at least {classes}, one for each class, got {given}.")

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
        """Return what makes the numbers say less than they seem to."""
        found = []
        for others, name in ((self.pool, "the target's train split"), (self.source, "the source")):
            shared = overlap(self.test, others) if others is not None else 0
            if shared:
                found.append(f"{shared} of {len(self.test)} test rows stand in {name} as well.")
        return found

    def train_rows(self, seed: int) -> Rows:
        """Return the labelled target rows of a seed."""
        rows = draw_rows(self.pool.labels, self.config.target.rows, self.pool.is_regression, "target", seed)
        return self.pool.select(rows)

    def rows_of(self, kind: str, seed: int) -> tuple[Rows, Rows]:
        """
        The rows that a run trains on, and those it is judged by: test rows in a final run, and only there.

        Raises:
            ConfigError: there are too few rows to set any aside for a search.
        """
        if (kind, seed) not in self._rows:
            self._rows[kind, seed] = self._draw(kind, seed)
        return self._rows[kind, seed]

    def _draw(self, kind: str, seed: int) -> tuple[Rows, Rows]:
        drawn = self.train_rows(seed)
        if kind == FINAL:
            return drawn, self.test
        fraction = self.config.search.validation_fraction
        try:
            train, validation = split_off_validation(drawn.labels, fraction, drawn.is_regression, seed)
        except ValueError as error:
            raise ConfigError(f"`target.rows` is too small for a search: {error} Give more, or `trials: 0`.") from None
        return drawn.select(train), drawn.select(validation)

    def describe(self) -> dict:
        """Rows, columns and classes, for people."""
        drawn = self.train_rows(self.config.seeds[0])
        described = {
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
        if self.source is not None:
            described["source"] = {
                "path": self.config.source.path,
                "name": self.config.source.name,
                "columns": self.source.task.columns,
                "classes": self.source.task.labels.names or None,
                "rows": len(self.source),
            }
        return described
