"""
Kill trainings that save every step, fill their disk, and put pickles with code into their checkpoints.

    python -m tests.fuzz.kills --kills 200 --full_disks 20 --pickles 40 --seed 0

A killed training is resumed, and killed again, until it is done. Counted are checkpoints that are not whole, trainings
whose newest checkpoint is older than before, final weights that differ from those of a training that was left alone,
and code that was run. The exit status is 1 if anything was counted. Trainings are forks of this process, so that none
imports anything.
"""

import argparse
import collections
import contextlib
import os
import pickle
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path


os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

import torch
from transformers.trainer_utils import get_last_checkpoint

from merlin_hf.transfer.whole_checkpoints import missing_part
from merlin_hf.utils.manifest import MANIFEST_NAME, write_manifest
from tests.support import make_trainer
from tests.transfer.kill_script import Report, kill_at_file_event


STEPS = 24
NEEDED = (
    "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
    "transfer_state.safetensors", MANIFEST_NAME,
)  # fmt: skip
PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt", "pytorch_model.bin")
TIME_LIMIT = 120  # seconds of a training


def train(folder: Path, pipe: int | None = None) -> None:
    """Train to the end, from the newest checkpoint where there is one, and leave the weights in `final.pt`."""
    trainer = make_trainer(
        folder / "run", max_steps=STEPS, save_strategy="steps", save_steps=1, save_total_limit=2, logging_steps=STEPS
    )
    if pipe is not None:
        trainer.add_callback(Report(pipe))
    resume = (folder / "run").is_dir() and get_last_checkpoint(folder / "run") is not None
    trainer.train(resume_from_checkpoint=resume or None)
    torch.save(trainer.model.state_dict(), folder / "final.pt")


class Child:
    """
    A function in a fork of this process.

    Args:
        function (`Callable`): called with the end of a pipe that it may write to.
        log (`Path`): what it prints.
    """

    def __init__(self, function: Callable[[int], None], log: Path):
        self.pipe, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self.pipe)
                for number in (1, 2):
                    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
                function(writing)
                status = 0
            except BaseException:
                with contextlib.suppress(OSError):
                    traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)

    def wait(self, seconds: float = TIME_LIMIT) -> int | None:
        """Return the exit status, minus the signal if one ended it; `None` if it hung until its time was over."""
        deadline, is_over = time.monotonic() + seconds, False
        while not is_over:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.pipe], [], [], left)[0]:
                os.kill(self.pid, signal.SIGKILL)
                break
            is_over = not os.read(self.pipe, 1 << 12)
        os.close(self.pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return status if is_over or seconds < TIME_LIMIT else None


def look(folder: Path, faults: collections.Counter, newest: int, log: Path) -> int:
    """Count what is wrong with the checkpoints of a training; return the step of the newest."""
    checkpoints = sorted((folder / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in checkpoints:
        problem = missing_part(str(checkpoint), [(name,) for name in NEEDED])
        if problem is not None:
            faults["checkpoints that are not whole"] += 1
            print(f"{checkpoint.name}: {problem}; see {log}", file=sys.stderr)
    step = int(checkpoints[-1].name.split("-")[1]) if checkpoints else 0
    if step < newest:
        faults["checkpoints that were lost"] += 1
    return step


def compare(folder: Path, reference: dict[str, torch.Tensor], faults: collections.Counter) -> None:
    """Count final weights that are not those of the training that was left alone."""
    final = torch.load(folder / "final.pt", weights_only=True)
    if not all(torch.equal(final[name], weight) for name, weight in reference.items()):
        faults["other final weights"] += 1


def run_kills(
    count: int, chance: random.Random, reference: dict[str, torch.Tensor], work: Path
) -> collections.Counter:
    """Kill trainings at random moments, half of them where they open, rename or delete a file."""
    found: collections.Counter = collections.Counter()
    number = 0
    while found["kills"] < count:
        folder, newest = work / f"killed-{number}", 0
        folder.mkdir()
        number += 1
        while not (folder / "final.pt").exists():
            if found["kills"] >= count:
                status = Child(lambda pipe, folder=folder: train(folder), folder / "log").wait()
            elif chance.random() < 0.5:
                at = chance.randint(1, 150)

                def run(pipe, folder=folder, at=at):
                    kill_at_file_event(str(folder / "run"), at)
                    train(folder)

                status = Child(run, folder / "log").wait()
            else:
                run = lambda pipe, folder=folder: train(folder, pipe)  # noqa: E731
                status = Child(run, folder / "log").wait(chance.uniform(0.05, 3.0))
            newest = look(folder, found, newest, folder / "log")
            if status == -signal.SIGKILL:
                found["kills"] += 1
            elif status != 0:
                found["trainings that did not go on"] += 1
                print((folder / "log").read_text()[-2000:], file=sys.stderr)
                break
        else:
            found["trainings"] += 1
            compare(folder, reference, found)
            shutil.rmtree(folder)
    return found


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[Path | None]:
    """A file system of so many bytes, `None` where this user may not make one."""
    place = Path(tempfile.mkdtemp())
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
    try:
        yield place if mount.returncode == 0 else None
    finally:
        if mount.returncode == 0:
            subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()


def run_full_disks(
    count: int, chance: random.Random, reference: dict[str, torch.Tensor], work: Path
) -> collections.Counter:
    """Let trainings find their disk full, or a file too large, and go on when there is room."""
    found: collections.Counter = collections.Counter()
    for number in range(count):
        folder = work / f"full-{number}"
        folder.mkdir()
        if number % 2:
            limit = chance.randint(500, 200_000)

            def run(pipe, folder=folder, limit=limit):
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                train(folder)

            status = Child(run, folder / "log").wait()
        else:
            with small_disk(chance.randint(10_000, 1_500_000)) as disk:
                if disk is None:
                    found["disks that could not be made"] += 1
                    continue
                status = Child(lambda pipe, disk=disk: train(disk), folder / "log").wait()
                if (disk / "run").is_dir():
                    shutil.copytree(disk / "run", folder / "run")
        found["full disks"] += status != 0
        look(folder, found, 0, folder / "log")
        if Child(lambda pipe, folder=folder: train(folder), folder / "log").wait() != 0:
            found["trainings that did not go on"] += 1
            print((folder / "log").read_text()[-2000:], file=sys.stderr)
            continue
        compare(folder, reference, found)
        shutil.rmtree(folder)
    return found


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def run_pickles(count: int, chance: random.Random, whole: Path, work: Path) -> collections.Counter:
    """Resume from checkpoints with code in them, raw pickles and torch's, with a manifest that agrees and without."""
    found: collections.Counter = collections.Counter()
    forms = ("pickle", "zip", "legacy", "nested")
    cases = [(name, form, manifest) for name in PICKLED for form in forms for manifest in (True, False)]
    chance.shuffle(cases)
    for number in range(count):
        name, form, has_manifest = cases[number % len(cases)]
        folder, marker = work / f"pickle-{number}", work / f"marker-{number}"
        checkpoint = folder / "run" / "checkpoint-12"
        shutil.copytree(whole, checkpoint)
        if name == "pytorch_model.bin":
            (checkpoint / "model.safetensors").unlink()
        payload = Payload(marker)
        if form == "pickle":
            (checkpoint / name).write_bytes(pickle.dumps(payload))
        else:
            content = {"state": {0: payload}, "param_groups": []} if form == "nested" else payload
            torch.save(content, checkpoint / name, _use_new_zipfile_serialization=form != "legacy")
        (checkpoint / MANIFEST_NAME).unlink()
        if has_manifest:
            write_manifest(str(checkpoint))
        status = Child(lambda pipe, folder=folder: train(folder), folder / "log").wait()
        found["pickles"] += 1
        found["trainings that hung"] += status is None
        found["pickles that were run"] += marker.exists()
        shutil.rmtree(folder)
    return found


def main(argv: list[str] | None = None) -> int:
    """Attack, print the counts, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--full_disks", type=int, default=20)
    parser.add_argument("--pickles", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    chance, started = random.Random(options.seed), time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        (work / "alone").mkdir()
        assert Child(lambda pipe: train(work / "alone"), work / "log").wait() == 0, (work / "log").read_text()
        reference = torch.load(work / "alone" / "final.pt", weights_only=True)
        whole = work / "checkpoint-12"
        half = Child(lambda pipe: _train_half(work / "half"), work / "log")
        assert half.wait() == 0, (work / "log").read_text()
        shutil.copytree(work / "half" / "run" / "checkpoint-12", whole)
        found = run_kills(options.kills, chance, reference, work)
        found += run_full_disks(options.full_disks, chance, reference, work)
        found += run_pickles(options.pickles, chance, whole, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    harmless = ("kills", "trainings", "full disks", "pickles", "disks that could not be made")
    faults = sum(count for name, count in found.items() if name not in harmless)
    for name in ("kills", "trainings", "full disks", "pickles"):
        print(f"{found[name]:6} {name}")
    for name, count in sorted(found.items()):
        if name not in harmless[:4] and count:
            print(f"{count:6} {name}")
    print(f"{faults:6} faults, in {time.monotonic() - started:.0f} s")
    return 1 if faults else 0


def _train_half(folder: Path) -> None:
    make_trainer(folder / "run", max_steps=12, save_strategy="steps", save_steps=12, logging_steps=STEPS).train()


if __name__ == "__main__":
    sys.exit(main())
