"""
Rows per second of one or of two processes over gloo, with the same batch in each process.

Run as a script, by `accelerate launch`, it is one of those processes:
`python scaling.py '{"steps": 10, "file": ...}'`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cases import Case


def launch(processes: int, case: Case, steps: int) -> dict[str, float]:
    """Rows per second of each trainer."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "rows.json")
        command = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--num_machines",
            "1",
            "--main_process_port",
            "0",
        ]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes", str(processes)]
        # As in the project's tests: it starts processes with torchrun, and `use_cpu` makes them talk over gloo.
        command += ["--multi_gpu"] if processes > 1 else []
        command += [__file__, json.dumps({"case": case.__dict__, "steps": steps, "file": file})]
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{processes} processes failed:\n{done.stderr[-3000:]}")
        return json.loads(Path(file).read_text())


def main(case: dict, steps: int, file: str) -> None:
    import torch
    from steps import transfer_trainer
    from transformers import TrainerCallback

    from merlin_hf import JointTrainer, MerlinTrainer

    class StepEnds(TrainerCallback):
        def __init__(self):
            self.times = []

        def on_step_end(self, args, state, control, **kwargs):
            self.times.append(time.perf_counter())

    torch.set_num_threads(1)
    case, warmup, durations = Case(**case), 2, {"merlin": [], "joint": []}
    for _ in range(2):  # the trainers take turns
        for name, trainer_class in (("merlin", MerlinTrainer), ("joint", JointTrainer)):
            ends = StepEnds()
            options = {"mix_weights": False, "balance_gradients": True} if name == "merlin" else {}
            trainer = transfer_trainer(trainer_class, case, "cpu", [ends], max_steps=warmup + steps, **options)
            trainer.refit_head_if_stale = lambda: None  # training steps only; the data set of a benchmark does not end
            trainer.train()
            durations[name] += [b - a for a, b in zip(ends.times[warmup - 1 :], ends.times[warmup:], strict=False)]
    if trainer.is_world_process_zero():
        rows = 2 * case.batch * trainer.args.world_size
        found = {name: rows / statistics.median(seconds) for name, seconds in durations.items()}
        Path(file).write_text(json.dumps({**found, "processes": trainer.args.world_size}))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
