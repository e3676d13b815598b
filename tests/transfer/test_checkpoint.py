"""Which run may write to a folder and resume from a checkpoint, and which files a training leaves that fails."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from datasets import ClassLabel
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from merlin_hf import METHODS, get_method
from merlin_hf.transfer.checkpoint import NotFiniteError
from merlin_hf.transfer.whole_checkpoints import LOCK_NAME, STAGING_PREFIX, staging_name
from merlin_hf.utils.files import FileError
from merlin_hf.utils.manifest import MANIFEST_NAME, read_manifest
from tests.methods.support import NO_STEPS, build, tiny_resnet
from tests.support import make_trainer
from tests.tiny import tiny_bert, tiny_dataset


TOKEN = "hf_NotATokenOfAnybody0123456789"
WITH_TOKEN = ["merlin", "finetune", "l2_sp"]


@pytest.fixture
def warnings(caplog):
    """What transformers' loggers said at WARNING."""
    logging.enable_propagation()
    yield lambda: [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "merlin_hf" in r.name]
    logging.disable_propagation()


def saving(folder, **kwargs):
    return make_trainer(folder, **{"save_strategy": "steps", "save_steps": 2, **kwargs})


def steps(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("checkpoint-"))


def weights(trainer):
    found = hashlib.sha256()
    for name, tensor in sorted(trainer.model.state_dict().items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def relabelled(dataset):
    """The same rows with the classes of the first two names exchanged."""
    names = dataset.features["label"].names
    labels = [{0: 1, 1: 0}.get(label, label) for label in dataset["label"]]
    feature = ClassLabel(names=names)
    return dataset.remove_columns("label").add_column("label", labels, feature=feature)


# The record of a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    trainer = saving(folder)
    trainer.train()
    return folder, weights(trainer)


@pytest.fixture
def copied(trained, tmp_path):
    """The first checkpoint of a run, of step 2 of 4, in a folder of its own."""
    shutil.copytree(trained[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    return tmp_path


def test_the_same_run_goes_on_and_nothing_is_said(copied, trained, warnings):
    trainer = saving(copied, logging_steps=3, save_steps=50, eval_strategy="steps", eval_steps=4)
    assert trainer.checkpoints.to_continue() == str(copied / "checkpoint-2")
    trainer.train(resume_from_checkpoint=True)
    assert weights(trainer) == trained[1] and warnings() == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 2e-3}, ["`learning_rate` (0.001 in the checkpoint, 0.002 now)"]),
        ({"rho": 0.5, "seed": 1}, ["`rho`", "`seed` (42 in the checkpoint, 1 now)"]),
        ({"target": tiny_dataset(seed=5)}, ["the rows of `train_dataset`"]),
        ({"target": relabelled(tiny_dataset())}, ["the rows of `train_dataset`"]),
        ({"target": tiny_dataset(rows=30)}, ["the number of rows of `train_dataset` (24 in the checkpoint, 30 now)"]),
        ({"source": tiny_dataset(rows=40, num_labels=4, seed=2)}, ["the rows of `source_dataset`"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_what_differs_is_refused_where_nobody_asked_to_resume_and_said_where_somebody_did(
    copied, change, named, warnings
):
    trainer = saving(copied, max_steps=3, **change)
    with pytest.raises(FileError) as refused:
        trainer.checkpoints.to_continue()
    assert all(part in str(refused.value) for part in [*named, "`output_dir=", "overwrite_output_dir"])
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3
    assert any(all(part in said for part in [*named, "neither run"]) for said in warnings())


FOUR_CLASSES = tiny_dataset(rows=32, num_labels=4)


def no_source(folder):
    return make_trainer(folder, trainer_class=get_method("merlin"), without_source=True)


@pytest.mark.parametrize(
    ("make_other", "named"),
    [
        (no_source, "`source_dataset` (the checkpoint has one, this run has none)"),
        (lambda folder: make_trainer(folder, trainer_class=get_method("joint")), "`MerlinTrainer` in the checkpoint"),
        (
            lambda folder: make_trainer(
                folder, model=tiny_bert(num_labels=4), target=FOUR_CLASSES, evaluation=FOUR_CLASSES
            ),
            "the number of classes (3 in the checkpoint, 4 now)",
        ),
        (
            lambda folder: make_trainer(folder, model=tiny_bert(id2label={0: "a", 1: "b", 2: "c"})),
            "the classes (['LABEL_0', 'LABEL_1', 'LABEL_2'] in the checkpoint, ['a', 'b', 'c'] now)",
        ),
    ],
    ids=["no source", "method", "number of classes", "names of classes"],
)
def test_a_checkpoint_of_another_kind_of_run_is_refused_however_it_is_asked_for(copied, make_other, named):
    for given in (True, str(copied / "checkpoint-2")):
        with pytest.raises(ValueError) as refused:
            make_other(copied).train(resume_from_checkpoint=given)
        assert named in str(refused.value) and "checkpoint" in str(refused.value)


def test_a_checkpoint_without_a_source_does_not_go_on_with_one(tmp_path):
    saving(tmp_path, without_source=True, max_steps=2).train()
    with pytest.raises(ValueError, match="`source_dataset` .this run has one, the checkpoint has none"):
        make_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_trainer_goes_on_where_it_is_whole(tmp_path, warnings):
    saving(tmp_path / "plain", trainer_class=Trainer, without_source=True).train()
    shutil.copytree(tmp_path / "plain" / "checkpoint-2", tmp_path / "ours" / "checkpoint-2")
    assert not (tmp_path / "ours" / "checkpoint-2" / MANIFEST_NAME).exists()
    trainer = saving(tmp_path / "ours", trainer_class=get_method("finetune"), without_source=True)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4 and any("does not say which run wrote it" in said for said in warnings())
    other = make_trainer(
        tmp_path / "plain",
        model=tiny_bert(num_labels=4),
        target=tiny_dataset(rows=32, num_labels=4),
        trainer_class=get_method("finetune"),
        without_source=True,
    )
    with pytest.raises(FileError, match="the number of classes .3 in the checkpoint, 4 now"):
        other.checkpoints.to_continue()


def test_overwrite_output_dir_begins_anew(copied, trained, warnings):
    (copied / "notes.txt").write_text("mine")
    trainer = saving(copied, overwrite_output_dir=True, max_steps=1, save_steps=1, learning_rate=5e-4)
    trainer.train()
    assert steps(copied) == ["checkpoint-1"] and (copied / "notes.txt").exists()
    assert any("deleting checkpoint-2" in said for said in warnings())


@pytest.mark.parametrize("how", ["steps", "epochs"])
def test_a_finished_run_is_left_as_it_is(tmp_path, how, warnings):
    # 24 rows in batches of 8: the end of 5 steps is not the end of an epoch.
    length = {"max_steps": 5} if how == "steps" else {"max_steps": -1, "num_train_epochs": 1.4}
    first = saving(tmp_path, save_steps=100, lr_scheduler_type="constant", **length)
    first.train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = saving(tmp_path, save_steps=100, lr_scheduler_type="constant", **length)
    output = again.train(resume_from_checkpoint=True)
    assert again.checkpoints.is_finished and output.global_step == 5 and weights(again) == weights(first)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any("is finished" in said for said in warnings())
    longer = saving(tmp_path, save_steps=100, lr_scheduler_type="constant", max_steps=6)
    assert longer.train(resume_from_checkpoint=True).global_step == 6 and not longer.checkpoints.is_finished


# One run in a folder


class Meanwhile(TrainerCallback):
    """Calls a function at the end of the first step."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.function()


def test_a_second_run_in_the_folder_is_refused_before_it_trains(tmp_path):
    refused = []

    def second():
        with pytest.raises(FileError) as error:
            saving(tmp_path).train()
        refused.append(str(error.value))

    first = saving(tmp_path)
    first.add_callback(Meanwhile(second))
    first.train()
    assert f"`output_dir={str(tmp_path)!r}` is in use by" in refused[0] and f"process {os.getpid()}" in refused[0]
    assert steps(tmp_path) == ["checkpoint-2", "checkpoint-4"] == sorted(os.listdir(tmp_path)), "no lock is left"


def test_runs_without_checkpoints_may_share_a_folder(tmp_path):
    first = make_trainer(tmp_path)
    first.add_callback(Meanwhile(lambda: make_trainer(tmp_path).train()))
    assert first.train().global_step == 4


def test_a_checkpoint_that_lost_files_while_it_was_written_is_not_published(tmp_path, monkeypatch):
    trainer = saving(tmp_path)
    save_rng_state = trainer._save_rng_state

    def lose(folder):
        if trainer.state.global_step == 4:
            shutil.rmtree(os.path.dirname(folder))
        save_rng_state(folder)

    monkeypatch.setattr(trainer, "_save_rng_state", lose)
    with pytest.raises(RuntimeError, match="is not published as a checkpoint: it has no model.safetensors"):
        trainer.train()
    assert steps(tmp_path) == ["checkpoint-2"]


def test_what_a_killed_run_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = staging_name()
    dead = own.replace(str(os.getpid()), str(ended.pid))
    alive = own.replace(str(os.getpid()), str(os.getppid()))
    for name in (own, dead, alive, STAGING_PREFIX, "_deleting-checkpoint-9", "_mine"):
        (tmp_path / name / "checkpoint-7").mkdir(parents=True)
    (tmp_path / LOCK_NAME).write_text(json.dumps({"host": "here", "process": ended.pid}))
    saving(tmp_path, max_steps=2).train()
    assert sorted(os.listdir(tmp_path)) == sorted([alive, "_mine", "checkpoint-2"])


@pytest.mark.parametrize("kind", ["file", "under a file", "long", "null", "no place"])
def test_an_output_dir_that_cannot_be_written_to_is_found_before_training(tmp_path, kind):
    (tmp_path / "file").touch()
    folder = {
        "file": tmp_path / "file",
        "under a file": tmp_path / "file" / "out",
        "long": tmp_path / ("o" * 300),
        "null": f"{tmp_path}/a\0b",
        "no place": "/proc/out",
    }[kind]
    with pytest.raises(FileError, match="`output_dir=.*. cannot be made"):
        saving(folder)
    trainer = saving(tmp_path / "fine")
    trainer.args.output_dir = str(folder)
    with pytest.raises(FileError, match="`output_dir"):
        trainer.train()
    assert trainer.state.global_step == 0


# Weights that are not finite


class Poison(TrainerCallback):
    """Makes a weight NaN after a step."""

    def __init__(self, step, value):
        self.step, self.value = step, value

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step - 1:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).view(-1)[0] = self.value


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NO_STEPS])
def test_weights_that_are_not_finite_end_training_and_replace_no_checkpoint(tmp_path, method):
    model = tiny_resnet() if method == "stochnorm" else None
    trainer = build(method, tmp_path, model, max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=1)
    trainer.add_callback(Poison(4, float("nan")))
    with pytest.raises(NotFiniteError, match=r"at step 4 .*is not finite.*`learning_rate`"):
        trainer.train()
    assert steps(tmp_path) == ["checkpoint-3"]


def test_a_head_is_not_fit_to_features_that_are_not_finite(tmp_path):
    trainer = build("linear_probe", tmp_path)
    with torch.no_grad():
        trainer.model.bert.embeddings.word_embeddings.weight[:] = float("nan")
    with pytest.raises(NotFiniteError, match="word_embeddings"):
        trainer.train()


@pytest.mark.parametrize("method", ["merlin", "linear_probe"])
def test_features_that_overflow_before_a_weight_does_are_a_training_that_has_diverged(tmp_path, method):
    trainer = build(method, tmp_path)
    with torch.no_grad():  # finite, and its product with what comes before is not
        trainer.model.bert.pooler.dense.weight.fill_(3e38)
        trainer.model.bert.pooler.activation = torch.nn.Identity()
    with pytest.raises(NotFiniteError, match=r"`features` is not finite.*`learning_rate`"):
        trainer.train()


@pytest.mark.parametrize("method", ["finetune", "joint", "merlin"])
def test_training_without_checkpoints_ends_in_the_error_too(tmp_path, method):
    trainer = build(method, tmp_path, max_steps=2)
    trainer.add_callback(Poison(2, float("inf")))
    with pytest.raises(NotFiniteError, match="is not finite"):
        trainer.train()


# The token


@pytest.mark.parametrize("method", WITH_TOKEN)
@pytest.mark.parametrize("late", [False, True], ids=["given", "set later"])
def test_the_token_is_in_no_file(tmp_path, method, late):
    trainer = make_trainer(
        tmp_path,
        trainer_class=get_method(method),
        without_source=True,
        save_strategy="steps",
        save_steps=1,
        max_steps=1,
        hub_token=None if late else TOKEN,
        report_to="tensorboard",
    )
    trainer.args.hub_token = TOKEN if late else trainer.args.hub_token
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"training_args.bin", MANIFEST_NAME} <= {path.name for path in files}
    assert any("tfevents" in path.name for path in files)
    assert [str(path) for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert trainer.args.hub_token == TOKEN, "and pushing still has it"
    assert "hub_token" not in read_manifest(str(tmp_path / "checkpoint-1"))["run"]["arguments"]
