"""What only a GPU shows; see tests/heads for the solvers by themselves."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

from merlin_hf import JointTrainer, MerlinTrainer
from tests.distributed.launch import ROOT
from tests.support import make_trainer
from tests.tiny import tiny_bert


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def synchronisations(trainer):
    """How often the host waits for the device in the steps of a run, after the first."""
    counts = []

    class Counting(type(trainer)):
        def training_step(self, *args, **kwargs):
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                loss = super().training_step(*args, **kwargs)
            torch.cuda.set_sync_debug_mode("default")
            counts.append(sum("synchroniz" in str(warning.message) for warning in caught))
            return loss

    trainer.__class__ = Counting
    trainer.train()
    return counts[1:]


@pytest.mark.parametrize("head", ["ridge", "centroid"])
def test_a_step_waits_for_the_device_no_more_often_than_joint_training(tmp_path, head):
    options = {"use_cpu": False, "logging_steps": 100, "max_steps": 4}
    joint = synchronisations(make_trainer(tmp_path, tiny_bert(), trainer_class=JointTrainer, **options))
    merlin = synchronisations(make_trainer(tmp_path, tiny_bert(), trainer_class=MerlinTrainer, head=head, **options))
    assert len(merlin) == 3 and max(merlin) <= min(joint)


def test_one_process_over_nccl(tmp_path):
    script = (
        "import sys, torch; from tests.support import make_trainer; "
        "trainer = make_trainer(sys.argv[1], use_cpu=False); trainer.train(); "
        "assert torch.distributed.get_backend() == 'nccl'; trainer.save_model(); trainer.accelerator.end_training()"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1", "--master_port", "0"]
    (tmp_path / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": ROOT}
    run = subprocess.run([*launcher, str(tmp_path / "script.py"), str(tmp_path)], env=environment, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()[-3000:]
