"""Checkpoints are whole or not there, whatever kills the process."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from merlin_hf import get_method
from merlin_hf.transfer.whole_checkpoints import JIT_SENTINEL, discard_old_checkpoints, last_whole_checkpoint
from tests.support import make_trainer
from tests.transfer import kill_script


pytestmark = pytest.mark.slow  # kills processes


ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
KILLS = 24


def test_killed_at_any_moment_and_resumed_is_never_stopped(tmp_path):
    output_dir = str(tmp_path / "killed")
    command = [sys.executable, kill_script.__file__, output_dir, str(KILLS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(
        command, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        kill_script.train(str(tmp_path / "straight"))
    finally:
        torch.set_num_threads(threads)
    straight, killed = (torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("straight", "killed"))
    for name, weight in straight.items():
        assert torch.equal(killed[name], weight), name

    files = sorted(os.listdir(get_last_checkpoint(tmp_path / "straight")))
    assert {"trainer_state.json", "optimizer.pt", "rng_state.pth", "transfer_state.safetensors"} <= set(files)
    log = json.loads((tmp_path / "killed" / "log.json").read_text())
    assert sum(entry["killed"] for entry in log) >= 20
    steps = [max(int(name.split("-")[1]) for name in entry["checkpoints"]) for entry in log if entry["checkpoints"]]
    assert steps == sorted(steps), "no checkpoint is lost"
    for entry in log:
        for folder, found in entry["checkpoints"].items():
            assert found == files, folder
    assert sorted(os.listdir(output_dir)) == ["checkpoint-39", "checkpoint-40", "final.pt", "log.json"]


class SeenSaves(TrainerCallback):
    """What is in the checkpoint of each step when callbacks hear of it."""

    def __init__(self):
        self.seen = []

    def on_save(self, args, state, control, **kwargs):
        folder = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        self.seen.append((state.global_step, sorted(os.listdir(folder))))


@pytest.mark.parametrize("method", ["merlin", "finetune"])
def test_an_error_while_saving_leaves_the_older_checkpoints_alone(tmp_path, monkeypatch, method):
    trainer = make_trainer(
        tmp_path,
        trainer_class=get_method(method),
        without_source=method == "finetune",
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
    )
    save_rng_state = trainer._save_rng_state

    def fail_later(output_dir):
        if trainer.state.global_step == 4:
            raise OSError("no space left on device")
        save_rng_state(output_dir)

    monkeypatch.setattr(trainer, "_save_rng_state", fail_later)
    with pytest.raises(OSError, match="no space left"):
        trainer.train()
    assert get_last_checkpoint(tmp_path) == last_whole_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")

    monkeypatch.undo()
    seen = SeenSaves()
    trainer.add_callback(seen)
    trainer.train(resume_from_checkpoint=True)
    assert [step for step, _ in seen.seen] == [4] and "trainer_state.json" in seen.seen[0][1]
    assert os.listdir(tmp_path) == ["checkpoint-4"]


def best_paths(folder, **kwargs):
    trainer = make_trainer(
        folder,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=1,
        eval_steps=1,
        metric_for_best_model="loss",
        **kwargs,
    )
    trainer.train()
    states = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name, "trainer_state.json")) as file:
            states[name] = json.load(file)
    return trainer, states


@pytest.mark.parametrize("load_best", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_the_best_checkpoint_is_noted_by_its_final_name_and_kept(tmp_path, limit, load_best):
    trainer, states = best_paths(
        tmp_path,
        save_total_limit=limit,
        load_best_model_at_end=load_best,
        learning_rate=3e-2,
        lr_scheduler_type="constant",
    )
    best = trainer.state.best_model_checkpoint
    assert best == str(tmp_path / f"checkpoint-{trainer.state.best_global_step}") and os.path.isdir(best)
    losses = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    assert trainer.state.best_global_step == min(losses, key=losses.get)
    for name, state in states.items():
        so_far = {step: loss for step, loss in losses.items() if step <= int(name.split("-")[1])}
        assert state["best_model_checkpoint"] == str(tmp_path / f"checkpoint-{min(so_far, key=so_far.get)}")
    assert len(states) <= {None: 4, 1: 1, 2: 2}[limit]


@pytest.mark.parametrize("limit", [None, 0, 1, 2, 3, 9])
@pytest.mark.parametrize("best", [None, 1, 3, 5])
def test_old_checkpoints_go_as_in_transformers(tmp_path, limit, best):
    from transformers.trainer_utils import rotate_checkpoints

    kept = []
    for name, rotate in (("ours", discard_old_checkpoints), ("theirs", rotate_checkpoints)):
        for step in range(1, 6):
            (tmp_path / name / f"checkpoint-{step}").mkdir(parents=True)
            os.utime(tmp_path / name / f"checkpoint-{step}", (1000 * step, 1000 * step))
        path = None if best is None else str(tmp_path / name / f"checkpoint-{best}")
        kwargs = {"use_mtime": True} if rotate is rotate_checkpoints else {}
        rotate(str(tmp_path / name), save_total_limit=limit, best_model_checkpoint=path, **kwargs)
        kept.append(sorted(os.listdir(tmp_path / name)))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("damage", ["no state", "cut state", "jit"])
def test_what_other_tools_left_incomplete_is_not_resumed_from(tmp_path, damage):
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    newest = tmp_path / "checkpoint-4"
    if damage == "no state":
        (newest / "trainer_state.json").unlink()
    elif damage == "cut state":
        state = (newest / "trainer_state.json").read_text()
        (newest / "trainer_state.json").write_text(state[: len(state) // 2])
    else:
        (newest / JIT_SENTINEL).write_text("in progress")
    assert last_whole_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")
    with pytest.raises(
        ValueError, match=r"Can't find a valid checkpoint at .*checkpoint-4.*newest whole .*checkpoint-2"
    ):
        trainer.train(resume_from_checkpoint=str(newest))
    seen = SeenSaves()
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=3)
    trainer.add_callback(seen)
    trainer.train(resume_from_checkpoint=True)
    assert [step for step, _ in seen.seen] == [3], "it went on from step 2"


def test_nothing_to_resume_from(tmp_path):
    trainer = make_trainer(tmp_path / "empty")
    with pytest.raises(ValueError, match="No valid checkpoint found in output directory"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="no such folder"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_file_system_that_renames_no_folders(tmp_path, monkeypatch):
    def refuse(source, *args):
        raise OSError("operation not permitted") if os.path.isdir(source) else AssertionError(source)

    straight = make_trainer(tmp_path / "straight")
    straight.train()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        trainer = make_trainer(tmp_path / "copied", save_strategy="steps", save_steps=1, save_total_limit=2)
        trainer.train()
    assert sorted(os.listdir(tmp_path / "copied")) == ["checkpoint-3", "checkpoint-4"]
    resumed = make_trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=last_whole_checkpoint(str(tmp_path / "copied")))
    resumed = make_trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "copied" / "checkpoint-3"))
    assert resumed.state.log_history[3]["loss"] == straight.state.log_history[3]["loss"]
