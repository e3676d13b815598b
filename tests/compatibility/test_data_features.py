"""Trainer's ways to read the data, for both data sets or for the target alone."""

import os
from functools import partial

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from merlin_hf import JointTrainer, MerlinTrainer
from merlin_hf.transfer.source import plain_dataloader
from tests.compatibility.test_training_features import BOTH
from tests.support import SOURCE_LABELS, losses, make_args, make_trainer, recording
from tests.tiny import NUM_LABELS, tiny_bert, tiny_dataset


def recorded(output_dir, trainer_class=MerlinTrainer, trainer_kwargs=None, **kwargs):
    """A trained trainer and the rows of each step's batches: `[(target, source), ...]`."""
    seen = []
    trainer_class = partial(recording(trainer_class, seen), **(trainer_kwargs or {}))
    trainer = make_trainer(output_dir, trainer_class=trainer_class, **kwargs)
    trainer.train()
    return trainer, seen


# Batch sizes


def out_of_memory(model, rows=8, calls=0):
    """Have a model fail in training on batches of at least so many rows, after so many that it let pass."""
    passed = []

    def fail(model, args, kwargs):
        if model.training and len(kwargs["input_ids"]) >= rows:
            passed.append(True)
            if len(passed) > calls:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(fail, with_kwargs=True)
    return model


@BOTH
@pytest.mark.parametrize("calls", [0, 1, 5], ids=["in the source", "in the target", "in a later step"])
@pytest.mark.slow
def test_auto_find_batch_size_starts_both_streams_anew(tmp_path, trainer_class, calls):
    model = out_of_memory(tiny_bert(dropout=0.0), calls=calls)
    found, batches = recorded(tmp_path, trainer_class, model=model, auto_find_batch_size=True, logging_steps=4)
    expected, same = recorded(
        tmp_path,
        trainer_class,
        model=tiny_bert(dropout=0.0),
        per_device_train_batch_size=found._train_batch_size,
        logging_steps=4,
    )
    assert 4 < found._train_batch_size < 8
    failed = calls // 2 + 1
    assert [len(target) for target, _ in batches[:failed]] == [8] * failed
    assert [source for _, source in batches[failed:]] == [source for _, source in same]
    assert found.state.global_step == expected.state.global_step == 4
    if calls < 2:  # else there were steps already
        assert batches[failed:] == same
        assert losses(found) == losses(expected)
    if trainer_class is JointTrainer:
        logs = found.state.log_history[0]
        assert logs["loss"] == pytest.approx(logs["source_loss"] + logs["target_loss"]), "of the same steps"


@pytest.mark.parametrize(
    "calls", [0, 2, 6], ids=["source", "both", "target"]
)  # a call for each batch that the model sees
@pytest.mark.slow
def test_auto_find_batch_size_begins_with_the_first_phase_again(tmp_path, calls):
    options = {"max_steps": 6, "logging_steps": 1, "source_phase_fraction": 1 / 3, "target_phase_fraction": 1 / 3}
    model = out_of_memory(tiny_bert(dropout=0.0), calls=calls)
    found, batches = recorded(tmp_path, model=model, auto_find_batch_size=True, **options)
    size = found._train_batch_size
    expected, same = recorded(tmp_path, model=tiny_bert(dropout=0.0), per_device_train_batch_size=size, **options)
    assert 4 < size < 8
    assert batches[-6:] == same
    assert [(step, "source_loss" in entry, "meta_loss" in entry) for step, entry in logged(found)[-6:]] == [
        (step, step < 5, step > 2) for step in range(1, 7)
    ]
    rates = [[entry["learning_rate"] for _, entry in logged(trainer)[-6:]] for trainer in (found, expected)]
    assert rates[0] == rates[1]
    if calls == 0:  # else there were steps already
        assert losses(found) == losses(expected)


def logged(trainer):
    """The entries of training steps, each with its step."""
    return [(entry["step"], entry) for entry in trainer.state.log_history if "grad_norm" in entry]


@pytest.mark.slow
def test_a_run_that_found_its_batch_size_late_can_be_resumed(tmp_path):
    options = {"auto_find_batch_size": True, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    found = make_trainer(tmp_path, out_of_memory(tiny_bert(dropout=0.0), calls=5), **options)
    found.train()
    resumed = make_trainer(tmp_path / "resumed", tiny_bert(dropout=0.0), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses(resumed) == losses(found)


def test_auto_find_batch_size_shrinks_a_source_batch_of_its_own_size(tmp_path):
    model = out_of_memory(tiny_bert(), rows=14)
    trainer = make_trainer(tmp_path, model, auto_find_batch_size=True, per_device_source_batch_size=16)
    trainer.train()
    assert trainer._train_batch_size < 8 and trainer.state.global_step == 4


def test_a_found_batch_size_too_small_to_split_is_an_error(tmp_path):
    trainer = make_trainer(tmp_path, out_of_memory(tiny_bert(), rows=3), auto_find_batch_size=True)
    with pytest.raises(ValueError, match=r"target batch of [1-3] rows is too small.*3 classes"):
        trainer.train()


@pytest.mark.parametrize("drop_last", [False, True])
def test_drop_last(tmp_path, drop_last):
    _, seen = recorded(tmp_path, target=tiny_dataset(rows=20), dataloader_drop_last=drop_last, max_steps=5)
    assert [len(target) for target, _ in seen] == ([8] * 5 if drop_last else [8, 8, 4, 8, 8])
    assert {len(source) for _, source in seen} == {8}


# Order


def pad(rows):
    """Rows of different lengths as one batch."""
    longest = max(len(row["input_ids"]) for row in rows)
    padded = {
        name: torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in rows])
        for name in ("input_ids", "attention_mask")
    }
    return {**padded, "labels": torch.tensor([row["label"] for row in rows])}


def shorten(row, index):
    return {name: row[name][: 4 + index // NUM_LABELS % 4] for name in ("input_ids", "attention_mask")}


def test_grouping_by_length_is_for_the_target(tmp_path):
    padding, sources = {}, {}
    for strategy in ("random", "group_by_length"):
        _, seen = recorded(
            tmp_path,
            trainer_kwargs={"data_collator": pad},
            target=tiny_dataset(rows=64).map(shorten, with_indices=True),
            train_sampling_strategy=strategy,
            per_device_train_batch_size=4,
            max_steps=16,
        )
        padding[strategy] = sum(row.count(0) for batch, _ in seen for row in batch)
        sources[strategy] = [source for _, source in seen]
    assert padding["group_by_length"] < 0.6 * padding["random"]
    assert sources["group_by_length"] == sources["random"]


def test_data_seed_sets_the_order_of_both_tasks(tmp_path):
    seen = {}
    for seed, data_seed in ((1, 5), (2, 5), (1, 6)):
        _, seen[seed, data_seed] = recorded(tmp_path, seed=seed, data_seed=data_seed, max_steps=2)
    assert seen[1, 5] == seen[2, 5]
    for task in (0, 1):
        assert [step[task] for step in seen[1, 5]] != [step[task] for step in seen[1, 6]]


# Workers


@pytest.mark.parametrize(
    "options",
    [{}, {"dataloader_persistent_workers": True, "dataloader_prefetch_factor": 3}],
    ids=["workers", "persistent"],
)
def test_workers_change_nothing(tmp_path, options):
    # Persistent workers draw no new seed at the start of an epoch, so dropout would differ, as in Trainer.
    (alone, seen), (helped, seen_by_workers) = (
        recorded(tmp_path, model=tiny_bert(dropout=0.0), max_steps=7, per_device_train_batch_size=10, **workers)
        for workers in ({}, {"dataloader_num_workers": 2, **options})
    )
    assert seen_by_workers == seen
    assert losses(helped) == losses(alone)
    assert torch.equal(helped.model.classifier.weight, alone.model.classifier.weight)


@pytest.mark.parametrize("persistent", [False, True])
def test_persistent_workers_live_through_all_epochs(tmp_path, persistent):
    processes = {"target": tmp_path / "target", "source": tmp_path / "source"}
    for folder in processes.values():
        folder.mkdir()

    def collate(rows, task):
        (processes[task] / str(os.getpid())).touch()
        return pad(rows)

    workers = {}

    class Counting(MerlinTrainer):
        def refit_head(self):  # which has workers of its own
            for task, folder in processes.items():
                workers[task] = len({file.name for file in folder.iterdir()} - {str(os.getpid())})
            super().refit_head()

    make_trainer(
        tmp_path,
        trainer_class=partial(
            Counting, data_collator=partial(collate, task="target"), source_collator=partial(collate, task="source")
        ),
        per_device_train_batch_size=12,
        max_steps=6,
        dataloader_num_workers=2,
        dataloader_persistent_workers=persistent,
    ).train()
    assert workers == {"target": 2 if persistent else 2 * 3, "source": 2}


@pytest.mark.skipif(
    not hasattr(TrainingArguments, "dataloader_multiprocessing_context"), reason="an option of newer transformers"
)
def test_workers_of_the_source_are_started_as_told(tmp_path):
    args = make_args(tmp_path, dataloader_num_workers=1, dataloader_multiprocessing_context="forkserver")
    loader = plain_dataloader(tiny_dataset(), list, args, batch_size=2)
    assert loader.multiprocessing_context.get_start_method() == "forkserver"


# Transforms


@BOTH
def test_transforms_of_both_data_sets_make_the_inputs(tmp_path, trainer_class):
    def raw(rows, num_labels):
        return Dataset.from_dict({"number": list(range(rows)), "label": [i % num_labels for i in range(rows)]})

    def tokenize(batch, first):
        input_ids = torch.tensor(
            [[first, 4 + label, 16 + number] for number, label in zip(*batch.values(), strict=True)]
        )
        return {
            "input_ids": list(input_ids),
            "attention_mask": list(torch.ones_like(input_ids)),
            "labels": batch["label"],
        }

    target = raw(24, NUM_LABELS).with_transform(partial(tokenize, first=1))
    source = raw(40, SOURCE_LABELS).with_transform(partial(tokenize, first=2))
    trainer, seen = recorded(
        tmp_path, trainer_class, target=target, source=source, remove_unused_columns=False, max_steps=6
    )
    assert {row[0] for batch, _ in seen for row in batch} == {1}
    assert {row[0] for _, batch in seen for row in batch} == {2}
    assert len({tuple(row) for batch, _ in seen for row in batch}) == 24, "every row of the target was seen"
    predictions = trainer.predict(target)
    assert predictions.label_ids.tolist() == [i % NUM_LABELS for i in range(24)]
