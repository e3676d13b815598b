import itertools
import random

import numpy as np
import pytest
import torch
from transformers import TrainingArguments, default_data_collator

from merlin_hf.transfer.seeding import derived_seed, isolated_rng
from merlin_hf.transfer.source import SourceBatchSampler, SourceStream, is_iterable
from tests.tiny import tiny_dataset


def first(sampler, count):
    """The rows of the first batches."""
    return [rows for _, rows in itertools.islice(sampler, count)]


def test_each_pass_over_the_source_sees_every_row_once_in_a_new_order():
    rows = list(itertools.chain(*first(SourceBatchSampler(12, 3, seed=0), 12)))
    passes = [rows[start : start + 12] for start in range(0, 36, 12)]
    assert all(sorted(one) == list(range(12)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("start", [0, 1, 7, 30])
def test_starting_later_is_skipping(start):
    whole = first(SourceBatchSampler(10, 4, seed=3), start + 5)
    assert first(SourceBatchSampler(10, 4, seed=3, start=start), 5) == whole[start:]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_out_the_batches_of_one_process(world_size):
    one = first(SourceBatchSampler(13, 2 * world_size, seed=1), 9)
    ranks = [first(SourceBatchSampler(13, 2, 1, rank, world_size), 9) for rank in range(world_size)]
    assert [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == one


def test_batches_are_full_when_the_source_is_smaller_than_a_batch():
    assert [len(batch) for batch in first(SourceBatchSampler(3, 8, seed=0), 4)] == [8] * 4


def test_seeds_differ():
    assert first(SourceBatchSampler(50, 50, seed=0), 1) != first(SourceBatchSampler(50, 50, seed=1), 1)
    assert derived_seed("a", 1) != derived_seed("a", 2) != derived_seed("b", 2)


def noisy_collator(rows):
    return {
        **default_data_collator(rows),
        "noise": torch.rand(2),
        "python": random.random(),
        "numpy": np.random.rand(),
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_draws_nothing_from_the_global_generators(tmp_path, workers):
    args = TrainingArguments(str(tmp_path), use_cpu=True, dataloader_num_workers=workers, report_to="none")
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    stream = SourceStream(tiny_dataset(), noisy_collator, args, batch_size=4, start=0)
    batches = stream.take(3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.random.get_state()[1].tolist() == states[2]
    assert batches[0]["noise"].tolist() != batches[1]["noise"].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_and_collation_are_the_same_after_a_resume_and_in_workers(tmp_path, workers):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    source = tiny_dataset().with_transform(lambda rows: {**rows, "position": [random.random() for _ in rows["label"]]})
    straight = SourceStream(source, noisy_collator, args, batch_size=4, start=0).take(5)
    torch.manual_seed(99)
    args.dataloader_num_workers = workers
    resumed = SourceStream(source, noisy_collator, args, batch_size=4, start=3).take(2)
    for one, other in zip(straight[3:], resumed, strict=True):
        assert torch.equal(one["noise"], other["noise"]) and one["python"] == other["python"]
        assert torch.equal(one["position"], other["position"])
        assert one["numpy"] == other["numpy"] and torch.equal(one["input_ids"], other["input_ids"])


def test_isolated_rng_restores_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), isolated_rng("x"):
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


def test_an_empty_source_is_an_error():
    with pytest.raises(ValueError, match="`source_dataset` has no rows"):
        SourceBatchSampler(0, 4, seed=0)


class Counting(torch.utils.data.IterableDataset):
    """Seven rows whose values tell the pass; `set_epoch` says which one it is."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield from ({"x": torch.tensor(10 * self.epoch + row)} for row in range(7))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_an_iterable_source_is_read_pass_after_pass_and_shared_out(tmp_path, world_size, workers):
    seen = []
    for rank in range(world_size):
        args = TrainingArguments(str(tmp_path), use_cpu=True, dataloader_num_workers=workers, report_to="none")
        for name, value in (("process_index", rank), ("world_size", world_size)):
            monkey = property(lambda self, value=value: value)
            args.__class__ = type("Args", (args.__class__,), {name: monkey})
        stream = SourceStream(Counting(), default_data_collator, args, batch_size=2, start=0)
        seen.append(torch.cat([batch["x"] for batch in stream.take(6)]).tolist())
        later = SourceStream(Counting(), default_data_collator, args, batch_size=2, start=4).take(2)
        assert torch.cat([batch["x"] for batch in later]).tolist() == seen[rank][8:]
    in_order = [10 * epoch + row for epoch in range(4) for row in range(7)]
    assert sorted(itertools.chain(*seen)) == in_order[: 12 * world_size]


def test_an_empty_iterable_source_is_an_error(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="`source_dataset` has no rows"):
        SourceStream(iter_nothing(), default_data_collator, args, batch_size=2, start=0).take(1)


def iter_nothing():
    class Nothing(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    return Nothing()


class Noisy(Counting):
    """The same with a number that is drawn for each row, and a length."""

    def __len__(self):
        return 7

    def __iter__(self):
        for row in super().__iter__():
            yield {**row, "noise": torch.rand(())}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("start", [1, 3])
def test_what_a_stream_draws_is_the_same_after_a_resume(tmp_path, rank, start):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    ranks = {"process_index": property(lambda self: rank), "world_size": property(lambda self: 2)}
    args.__class__ = type("Args", (args.__class__,), ranks)
    straight = SourceStream(Noisy(), default_data_collator, args, batch_size=2, start=0).take(5)
    resumed = SourceStream(Noisy(), default_data_collator, args, batch_size=2, start=start).take(5 - start)
    for one, other in zip(straight[start:], resumed, strict=True):
        assert torch.equal(one["x"], other["x"]) and torch.equal(one["noise"], other["noise"])


def test_a_stream_with_a_length_is_read_as_a_stream():
    assert is_iterable(Noisy()) and is_iterable(iter_nothing()) and not is_iterable(tiny_dataset())
