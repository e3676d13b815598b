"""What is refused before training starts, beside what tests/test_trainer.py has."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import DistributedType

from merlin_hf import MerlinTrainer
from merlin_hf.transfer.checks import check_parallelism, check_sharding
from tests.support import make_args
from tests.tiny import tiny_bert, tiny_dataset


def test_several_devices_in_one_process(tmp_path, monkeypatch):
    args = make_args(tmp_path)
    check_parallelism(args, "MerlinTrainer")
    monkeypatch.setattr(type(args), "n_gpu", 2)
    with pytest.raises(
        ValueError, match="MerlinTrainer needs one process per device, and this one has 2.*accelerate launch"
    ):
        check_parallelism(args, "MerlinTrainer")


def test_parallelism_within_a_row(tmp_path):
    args = make_args(tmp_path)
    args.parallelism_config = ParallelismConfig(tp_size=2)
    with pytest.raises(
        ValueError, match="MerlinTrainer does not work with tensor, context or sequence parallelism.*'tp_size': 2"
    ):
        check_parallelism(args, "MerlinTrainer")


def test_the_first_version_of_fsdp():
    for version in (1, 2):
        accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=version == 2)
        if version == 2:
            check_sharding(accelerator, "MerlinTrainer")
        else:
            with pytest.raises(
                ValueError, match="MerlinTrainer needs the second version of FSDP: set `fsdp_version: 2`"
            ):
                check_sharding(accelerator, "MerlinTrainer")


def lists_of(labels, rows=12):
    data = tiny_dataset(rows=rows).remove_columns("label")
    return data.add_column("labels", [labels[row % len(labels)] for row in range(rows)])


def test_lists_of_integers_are_several_labels_of_the_source_and_refused_of_the_target(tmp_path):
    integers = lists_of([[0, 1, 1], [1, 0, 1], [0, 0, 1]])
    trainer = MerlinTrainer(
        model=tiny_bert(), args=make_args(tmp_path, max_steps=1), train_dataset=tiny_dataset(), source_dataset=integers
    )
    trainer.train()
    assert trainer.transfer_model.source_head.out_features == 3
    with pytest.raises(ValueError, match=r"`train_dataset` are lists of int64.*cast_column"):
        MerlinTrainer(
            model=tiny_bert(), args=make_args(tmp_path), train_dataset=integers, source_dataset=tiny_dataset()
        ).train()


@pytest.mark.parametrize("argument", ["train_dataset", "source_dataset"])
def test_lists_of_different_lengths_are_refused(tmp_path, argument):
    data = {"train_dataset": tiny_dataset(), "source_dataset": tiny_dataset(), argument: lists_of([[0], [1, 2]])}
    with pytest.raises(ValueError, match=f"`{argument}` are lists of different lengths.*zeros and ones"):
        MerlinTrainer(model=tiny_bert(), args=make_args(tmp_path), **data).train()


@pytest.mark.parametrize("argument", ["train_dataset", "source_dataset"])
def test_labels_may_be_made_by_a_transform(tmp_path, argument):
    def collate(rows):
        names = {"input_ids": "input_ids", "attention_mask": "attention_mask", "fine": "labels", "label": "labels"}
        return {names[name]: torch.tensor([row[name] for row in rows]) for name in rows[0]}

    data = {"train_dataset": tiny_dataset(), "source_dataset": tiny_dataset(num_labels=4)}
    data[argument] = data[argument].rename_column("label", "fine")
    args = make_args(tmp_path, max_steps=2, remove_unused_columns=False, num_source_labels=4)
    trainer = MerlinTrainer(model=tiny_bert(), args=args, data_collator=collate, **data)
    trainer.train()
    assert trainer.state.global_step == 2
