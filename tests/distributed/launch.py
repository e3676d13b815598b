"""Starts `train_script.py` in one or several real processes over gloo."""

import json
import os
import subprocess
import sys

import torch


SCRIPT = os.path.join(os.path.dirname(__file__), "train_script.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(SCRIPT)))
PLAIN = ["--mixed_precision", "no", "--dynamo_backend", "no"]


def start(processes, config_file=None, **options):
    """The finished launcher; `options` are those of `train_script.train`."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--main_process_port", "0"]
    command += ["--num_processes", str(processes)]
    if config_file is not None:
        command += ["--config_file", str(config_file)]
    else:
        # With `--cpu` accelerate starts one process whatever `--num_processes` says; this starts them with torchrun, and
        # `use_cpu` in the training arguments makes them talk over gloo.
        command += [*PLAIN, *(["--multi_gpu"] if processes > 1 else [])]
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    options = {name: str(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
    command += [SCRIPT, json.dumps(options)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def run(processes, output_dir, **kwargs):
    """What `train_script.py` saved."""
    done = start(processes, output_dir=output_dir, **kwargs)
    assert done.returncode == 0, done.stderr[-3000:]
    result = torch.load(os.path.join(output_dir, "result.pt"), weights_only=False)
    assert result["world_size"] == processes
    return result
