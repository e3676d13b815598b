"""Two processes with batch b are one process with batch 2 b, in real processes over gloo."""

import os
import subprocess
import sys

import pytest
import torch


SCRIPT = os.path.join(os.path.dirname(__file__), "train_script.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(SCRIPT)))


def train(method, batch_size, output_dir, processes):
    launch = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--num_processes", str(processes)]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    # With `--cpu` accelerate starts one process whatever `--num_processes` says; this starts them with torchrun, and
    # `use_cpu` in the training arguments makes them talk over gloo.
    launch += ["--multi_gpu"] if processes > 1 else []
    command = [sys.executable, *launch, SCRIPT, method, str(batch_size), str(output_dir)]
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(os.path.join(output_dir, "result.pt"), weights_only=True)


@pytest.mark.parametrize("method", ["merlin", "joint"])
def test_two_processes_are_one_with_twice_the_batch(tmp_path, method):
    one = train(method, 8, tmp_path / "one", processes=1)
    two = train(method, 4, tmp_path / "two", processes=2)
    assert (one["world_size"], two["world_size"]) == (1, 2)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(
            two["weights"][name], weight, rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )
    for key in ("loss", "source_loss", "grad_norm"):
        assert [e[key] for e in one["history"]] == pytest.approx([e[key] for e in two["history"]], rel=1e-6)
    assert one["eval_loss"] == pytest.approx(two["eval_loss"], rel=1e-6)
