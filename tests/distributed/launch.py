"""Starts `train_script.py` in one or several real processes over gloo."""

import gc
import json
import multiprocessing
import multiprocessing.connection
import os
import socket
import subprocess
import sys
import time
import traceback

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env


SCRIPT = os.path.join(os.path.dirname(__file__), "train_script.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(SCRIPT)))
# Processes are forks of one that has imported everything and run nothing: an import takes longer than what they do.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.distributed.train_script"])
LIMIT = 240  # seconds


def arguments(processes, config_file=None):
    """Return what `accelerate launch` is given."""
    given = ["--num_machines", "1", "--num_processes", str(processes), "--main_process_port", "0"]
    if config_file is not None:
        return [*given, "--config_file", str(config_file)]
    # With `--cpu` accelerate starts one process whatever `--num_processes` says; this starts them with torchrun, and
    # `use_cpu` in the training arguments makes them talk over gloo.
    return [*given, "--mixed_precision", "no", "--dynamo_backend", "no", *(["--multi_gpu"] if processes > 1 else [])]


def launch(processes, config_file=None, **options):
    """Return the finished `accelerate launch`; `options` are those of `train_script.main`."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *arguments(processes, config_file)]
    command += [SCRIPT, json.dumps(options, default=str)]
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)


def environment(processes, config_file=None):
    """Return the variables that `accelerate launch` and its torchrun set for each process."""
    parsed = launch_command_parser().parse_args([*arguments(processes, config_file), SCRIPT])
    parsed, *_ = _validate_launch_command(parsed)
    if processes == 1 and config_file is None:
        return [prepare_simple_launcher_cmd_env(parsed)[1]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**prepare_multi_gpu_env(parsed), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0"}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def child(variables, options, log):
    """Be one of the processes; what it says goes to a file."""
    from tests.distributed import train_script

    with open(log, "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ.clear()
    os.environ.update(variables, OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is no garbage
    status = 0
    try:
        train_script.main(**options)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)  # nothing of the parent is to be tidied up


def run(processes, output_dir, **options):
    """Train in forks as `accelerate launch` would, and return what `train_script.py` saved."""
    if options.get("sharded") == "deepspeed":  # has a launcher of its own, with an environment of its own
        done = launch(processes, output_dir=output_dir, **options)
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        fork(processes, output_dir, **options)
    return result(output_dir, processes)


def result(output_dir, processes):
    """Return what `train_script.py` saved in a folder."""
    saved = torch.load(os.path.join(output_dir, "result.pt"), weights_only=True)
    assert saved["world_size"] == processes
    return saved


def fork(processes, output_dir, config_file=None, **options):
    """Run `train_script.main` in forks, in the environment that `accelerate launch` gives."""
    os.makedirs(output_dir, exist_ok=True)
    options = json.loads(json.dumps({**options, "output_dir": output_dir}, default=str))
    logs = [os.path.join(output_dir, f"rank{rank}.log") for rank in range(processes)]
    started = [
        FORKS.Process(target=child, args=(variables, options, log), daemon=True)
        for variables, log in zip(environment(processes, config_file), logs, strict=True)
    ]
    for process in started:
        process.start()
    deadline = time.monotonic() + LIMIT
    while any(process.is_alive() for process in started) and not any(process.exitcode for process in started):
        multiprocessing.connection.wait([process.sentinel for process in started if process.is_alive()], 1)
        assert time.monotonic() < deadline, "the processes wait for each other"
    failed = [rank for rank, process in enumerate(started) if process.exitcode]
    for process in started:
        process.kill()
        process.join()
    for rank in failed:
        with open(logs[rank]) as said:
            raise AssertionError(f"rank {rank}: {said.read()[-3000:]}")
