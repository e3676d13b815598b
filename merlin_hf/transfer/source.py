"""The stream of source batches that runs beside the target's DataLoader, of one source or of several."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler
from transformers import TrainingArguments
from transformers.trainer_utils import seed_worker

from ..training_args import parse_mix
from .batches import SOURCE_NAME
from .label_checks import check_batch
from .seeding import derived_generator, isolated_rng


# A data set in memory, a stream, or any rows by number: `datasets` and `torch` have no type in common.
Rows = Any


class SourceBatchSampler(Sampler[tuple[int, list[int]]]):
    """
    Draw endless batches of shuffled rows: yield the number `k` of a batch and the indices of its rows.

    The source is an endless sequence of permutations, one for each pass `e` over the data, from a generator derived
    from `(seed, e)`. Row `j` of batch `k` is at its position `(k * world_size + rank) * batch_size + j`. So a batch
    depends on the arguments and on `k` alone: a resumed run only needs the first `k`, `start`, and no state in the
    checkpoint. Batches are always full, so every rank sees the same number of rows.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, start: int = 0):
        if num_rows < 1:
            raise ValueError("`source_dataset` has no rows.")
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self._epoch = -1
        self._permutation: list[int] = []

    def _row(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_rows)
        if epoch != self._epoch:
            self._epoch = epoch
            generator = derived_generator("source", self.seed, epoch)
            self._permutation = torch.randperm(self.num_rows, generator=generator).tolist()
        return self._permutation[offset]

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for batch in itertools.count(self.start):
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield batch, [self._row(first + offset) for offset in range(self.batch_size)]


@dataclass(eq=False)
class SeededBatches(torch.utils.data.Dataset[Any]):
    """
    Batches of a map-style data set, indexed by what [`SourceBatchSampler`] yields.

    Rows are read and collated under generators seeded by the number of the batch. Random transforms and collators give
    the same batch in a resumed run and in any worker.
    """

    dataset: Rows
    collate_fn: Callable[[list], Any]
    seed: int
    rank: int

    def __getitem__(self, numbered_rows: tuple[int, list[int]]) -> Any:
        number, indices = numbered_rows
        with isolated_rng("source_batch", self.seed, self.rank, number):
            if hasattr(self.dataset, "__getitems__"):
                rows = self.dataset.__getitems__(indices)
            else:
                rows = [self.dataset[index] for index in indices]
            return self.collate_fn(rows)


def _as_is(batch: Any) -> Any:
    return batch


@dataclass(eq=False)
class RankRows(IterableDataset[Any]):
    """
    Every `world_size`-th row of an iterable data set, which every rank reads.

    With `endless` it starts again after the last row; a data set with `set_epoch` is told the number of the pass. The
    first `start` rows of this rank are skipped. They are read, as an iterable data set has no other way. Random
    numbers drawn for them do not change the rows that follow; an order drawn at the start of a pass must come from
    `set_epoch`.
    """

    dataset: Rows
    rank: int = 0
    world_size: int = 1
    endless: bool = False
    start: int = 0

    def __iter__(self) -> Iterator[Any]:
        rows = self._passes() if self.endless else iter(self.dataset)
        first = self.rank
        if self.start:
            last_skipped = self.rank + (self.start - 1) * self.world_size
            with isolated_rng("skipped"):
                next(itertools.islice(rows, last_skipped, None), None)
            first = self.world_size - 1  # the other ranks' rows in the last round that was skipped
        return itertools.islice(rows, first, None, self.world_size)

    def _passes(self) -> Iterator[Any]:
        for epoch in itertools.count():
            if hasattr(self.dataset, "set_epoch"):
                self.dataset.set_epoch(epoch)
            empty = True
            for row in self.dataset:
                empty = False
                yield row
            if empty:
                raise ValueError("`source_dataset` has no rows.")


class SourceStream:
    """
    The source's batches of `batch_size` rows of this rank, one for each micro-step from `start` on.

    An iterable data set keeps its own order, and is read in this process; `check` is called with each of its batches.
    `args` have the seed, the rank and the workers.
    """

    def __init__(
        self,
        dataset: Rows,
        collate_fn: Callable[[list], Any],
        args: TrainingArguments,
        batch_size: int,
        start: int,
        check: Callable[[Any], None] | None = None,
    ):
        self.check = check
        self.seed = args.seed if args.data_seed is None else args.data_seed
        self.rank = args.process_index
        self.micro_step = start
        if is_iterable(dataset):
            rows = RankRows(dataset, self.rank, args.world_size, endless=True, start=start * batch_size)
            loader = plain_dataloader(rows, collate_fn, args, batch_size=batch_size)
        else:
            sampler = SourceBatchSampler(len(dataset), batch_size, self.seed, self.rank, args.world_size, start)
            batches = SeededBatches(dataset, collate_fn, self.seed, self.rank)
            loader = plain_dataloader(batches, _as_is, args, sampler=sampler, batch_size=None)
        self._iterator = iter(loader)

    def take(self, count: int) -> list[Any]:
        """Return the next `count` batches; what an iterable data set draws is seeded by the micro-step."""
        batches = []
        for _ in range(count):
            with isolated_rng("source_batch", self.seed, self.rank, self.micro_step):
                batches.append(next(self._iterator))
            self.micro_step += 1
            if self.check is not None:
                self.check(batches[-1])
        return batches


class Source(NamedTuple):
    """One source task; `name` is its key in `source_dataset`, `None` for the only one."""

    name: str | None
    dataset: Rows
    collator: Callable[[list], Any] | None = None
    compute_loss_func: Callable[..., torch.Tensor] | None = None

    @property
    def argument(self) -> str:
        """How the user calls its data set, for messages."""
        return "source_dataset" if self.name is None else f"source_dataset[{self.name!r}]"


def shares(mix: str | Mapping[str, float], datasets: Mapping[str, Rows]) -> dict[str, float]:
    """
    Return the share of the batches that each source gets by the option `source_mix`; they add up to 1.

    Raises:
        ValueError: the weights are not those of these sources, or the size of one is not known.
    """
    mix = parse_mix(mix)
    if isinstance(mix, dict):
        if set(mix) != set(datasets):
            raise ValueError(
                f"`source_mix` has weights for {', '.join(sorted(mix))}, and the sources are "
                f"{', '.join(sorted(datasets))}. Give a weight for each."
            )
        weights = {name: mix[name] for name in datasets}
    elif mix == "equal":
        weights = dict.fromkeys(datasets, 1.0)
    else:
        streams = [name for name, dataset in datasets.items() if is_iterable(dataset)]
        if streams:
            raise ValueError(
                "`source_mix='proportional'` mixes by numbers of rows, and the stream "
                f"`source_dataset[{streams[0]!r}]` has none. Use `source_mix='equal'`, or weights such as "
                "'mnli=0.7,snli=0.3'."
            )
        weights = {name: float(len(dataset)) for name, dataset in datasets.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


class SourceMix:
    """
    Which source each micro-batch is of: always the one that is furthest behind its share, the first of those alike.

    The counts never differ from the shares by more than one batch for each source, and are a function of the number of
    micro-batches before, `start`, so that every rank and a resumed run agree.
    """

    def __init__(self, shares: Mapping[str, float], start: int = 0):
        self.shares = dict(shares)
        self.counts = dict.fromkeys(shares, 0)
        for _ in range(start):
            self.next()

    def next(self) -> str:
        """Return the name of the next micro-batch's source."""
        after = sum(self.counts.values()) + 1
        name = max(self.shares, key=lambda name: self.shares[name] * after - self.counts[name])
        self.counts[name] += 1
        return name


class MixedSourceStream:
    """The batches of several sources, each batch of one of them, with its name under `SOURCE_NAME`."""

    def __init__(self, shares: Mapping[str, float], make_stream: Callable[[str, int], SourceStream], start: int):
        self.mix = SourceMix(shares, start)
        self.streams = {name: make_stream(name, count) for name, count in self.mix.counts.items()}

    def take(self, count: int) -> list[Any]:
        """Return the next `count` batches."""
        names = [self.mix.next() for _ in range(count)]
        return [{**self.streams[name].take(1)[0], SOURCE_NAME: name} for name in names]


def make_source_stream(trainer: Any, start: int) -> SourceStream | MixedSourceStream:
    """Return the batches of a trainer's source, or of several, from the micro-step `start` on."""
    sources = {source.name: source for source in trainer.sources}

    def make_stream(name: str | None, start: int) -> SourceStream:
        source = sources[name]
        rows, collate_fn = trainer._with_collator(source.dataset, source.collator, "source")
        labels = {"argument": source.argument, "num_labels": trainer.transfer_model.num_source_labels(name)}
        check = partial(check_batch, trainer, **labels) if is_iterable(rows) else None
        return SourceStream(rows, collate_fn, trainer.args, trainer.source_batch_size, start, check)

    if None in sources:
        return make_stream(None, start)
    by_name = {name: source.dataset for name, source in sources.items() if name is not None}
    return MixedSourceStream(shares(trainer.args.source_mix, by_name), make_stream, start)


def is_iterable(dataset: Rows) -> bool:
    """Return whether rows of a data set can only be read one after the other."""
    if isinstance(dataset, IterableDataset):  # it has a `__getitem__` that raises, and perhaps a length
        return True
    return not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"))


def plain_dataloader(
    dataset: Rows, collate_fn: Callable[[list], Any], args: TrainingArguments, **kwargs: Any
) -> DataLoader:
    """
    Return a DataLoader with the user's settings for workers, outside of `accelerate` and of the global generators.

    A second prepared DataLoader would be reseeded as the target's is, `gather_for_metrics` would truncate by it, and
    an iterable one would be broadcast from rank 0.
    """
    # Rows that are shared out by counting them must all be counted in one place.
    in_workers = not isinstance(dataset, IterableDataset)
    if in_workers and args.dataloader_num_workers > 0:
        # An option of newer releases of transformers.
        kwargs["multiprocessing_context"] = getattr(args, "dataloader_multiprocessing_context", None)
    return DataLoader(
        dataset,
        collate_fn=collate_fn,
        num_workers=args.dataloader_num_workers if in_workers else 0,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        persistent_workers=args.dataloader_persistent_workers and in_workers,
        prefetch_factor=args.dataloader_prefetch_factor if in_workers else None,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        generator=derived_generator("workers", args.seed),
        **kwargs,
    )
