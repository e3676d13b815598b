"""
Trains, is killed (SIGKILL), resumes, many times: `python kill_script.py OUTPUT_DIR KILLS`.

Each attempt is a fork of this process, which has imported everything and run nothing. Half of the attempts kill
themselves at the n-th time a file of the output folder is opened, renamed or deleted, so most often inside a save; the
others are killed from outside, when they report the n-th event, wherever they have got to by then. The last one runs
to the end.
"""

import gc
import json
import os
import random
import signal
import sys

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from tests.support import make_trainer


MAX_STEPS = 40
WATCHED = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


class Report(TrainerCallback):
    """Writes a byte at each event."""

    def __init__(self, pipe):
        self.pipe = pipe

    def on_step_begin(self, *args, **kwargs):
        os.write(self.pipe, b".")

    on_substep_end = on_step_end = on_save = on_step_begin


def kill_at_file_event(output_dir, number):
    count = 0

    def hook(event, arguments):
        nonlocal count
        if event in WATCHED and isinstance(arguments[0], str) and arguments[0].startswith(output_dir):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def train(output_dir, pipe=None):
    trainer = make_trainer(
        output_dir,
        max_steps=MAX_STEPS,
        gradient_accumulation_steps=2,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
    )
    if pipe is not None:
        trainer.add_callback(Report(pipe))
    resume = os.path.isdir(output_dir) and get_last_checkpoint(output_dir) is not None
    trainer.train(resume_from_checkpoint=resume or None)
    torch.save(trainer.model.state_dict(), os.path.join(output_dir, "final.pt"))


def attempt(output_dir, file_event=None, reports=None):
    """Runs training in a fork and returns whether it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        if file_event is not None:
            kill_at_file_event(output_dir, file_event)
        train(output_dir, writing)
        os._exit(0)
    os.close(writing)
    received = 0
    while chunk := os.read(reading, 1):
        received += len(chunk)
        if received == reports:
            os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def look(output_dir):
    """The files of each checkpoint folder, all of which must be readable."""
    folders = [name for name in os.listdir(output_dir) if name.startswith("checkpoint-")]
    found = {}
    for name in folders:
        folder = os.path.join(output_dir, name)
        found[name] = sorted(os.listdir(folder))
        with open(os.path.join(folder, "trainer_state.json")) as file:
            assert json.load(file)["global_step"] == int(name.split("-")[1])
    return found


def main(output_dir, kills):
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is no garbage
    rng = random.Random(0)
    log = []
    for number in range(kills):
        inside = number % 2 == 0
        chance = {"file_event": rng.randint(1, 60)} if inside else {"reports": rng.randint(1, 10)}
        killed = attempt(output_dir, **chance)
        log.append({"killed": killed, "checkpoints": look(output_dir)})
    finished = attempt(output_dir)
    assert not finished
    with open(os.path.join(output_dir, "log.json"), "w") as file:
        json.dump(log, file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
