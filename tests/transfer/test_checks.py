"""What is refused before training starts, beside what tests/test_trainer.py has."""

from types import SimpleNamespace

import pytest
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import DistributedType

from merlin_hf.transfer.checks import check_parallelism, check_sharding
from tests.test_trainer import make_args


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
