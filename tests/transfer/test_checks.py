"""What is refused before training starts, beside what tests/test_trainer.py has."""

import pytest
from accelerate.parallelism_config import ParallelismConfig

from merlin_hf.transfer.checks import check_parallelism
from tests.test_trainer import make_args


def test_several_devices_in_one_process(tmp_path, monkeypatch):
    args = make_args(tmp_path)
    check_parallelism(args)
    monkeypatch.setattr(type(args), "n_gpu", 2)
    with pytest.raises(ValueError, match="needs one process per device, and this one has 2.*accelerate launch"):
        check_parallelism(args)


def test_parallelism_within_a_row(tmp_path):
    args = make_args(tmp_path)
    args.parallelism_config = ParallelismConfig(tp_size=2)
    with pytest.raises(ValueError, match="does not work with tensor, context or sequence parallelism.*'tp_size': 2"):
        check_parallelism(args)
