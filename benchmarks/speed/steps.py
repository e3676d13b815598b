"""A training step of MerlinTrainer beside JointTrainer, transformers.Trainer and a loop without any trainer."""

from __future__ import annotations

import contextlib
import tempfile

import torch
import torch.nn.functional as F
import transformers
from cases import SOURCE_CLASSES, Case, Rows, build_model, make_batch
from measure import Turns
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from merlin_hf import JointTrainer, MerlinTrainer, MerlinTrainingArguments


LEARNING_RATE, CLIP = 1e-5, 1.0


class TurnCallback(TrainerCallback):
    """Lets a trainer do one step at each turn."""

    def __init__(self, turns: Turns):
        self.turns = turns

    def on_train_begin(self, args, state, control, **kwargs):
        self.turns.wait()

    def on_step_begin(self, args, state, control, **kwargs):
        self.turns.begin()

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        self.turns.end(optimizer)


# A mix of weights has steps of two kinds; whole runs of it are measured in `benchmarks/transfer/cost.py`.
EVERY_STEP = {"head": "ridge", "mix_weights": False}


def arguments(case: Case, device: str, arguments_class=MerlinTrainingArguments, rows: int | None = None, **kwargs):
    """Training arguments under which a step does nothing but train."""
    defaults = {
        "per_device_train_batch_size": rows or case.batch, "max_steps": 10_000, "learning_rate": LEARNING_RATE,
        "max_grad_norm": CLIP, "bf16": case.bf16, "use_cpu": device == "cpu", "logging_strategy": "no",
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    return arguments_class(tempfile.mkdtemp(), **{**defaults, **kwargs})


def transfer_trainer(trainer_class, case: Case, device: str, callbacks=(), **kwargs):
    """A trainer with a source."""
    return trainer_class(
        model=build_model(case),
        args=arguments(case, device, num_source_labels=SOURCE_CLASSES, **kwargs),
        train_dataset=Rows(make_batch(case, case.batch, case.classes)),
        source_dataset=Rows(make_batch(case, case.batch, SOURCE_CLASSES, seed=1)),
        data_collator=default_data_collator,
        callbacks=list(callbacks),
    )


def run_merlin(case: Case, device: str, connection) -> None:
    """MeRLin with both losses, as in its phases on halves of the target, with balanced gradients."""
    callbacks = [TurnCallback(Turns(device, connection))]
    transfer_trainer(MerlinTrainer, case, device, callbacks, **EVERY_STEP, balance_gradients=True).train()


def run_merlin_fixed(case: Case, device: str, connection) -> None:
    """MeRLin with the paper's fixed rho, which needs no gradient of its own to be measured."""
    callbacks = [TurnCallback(Turns(device, connection))]
    transfer_trainer(MerlinTrainer, case, device, callbacks, **EVERY_STEP).train()


def run_joint(case: Case, device: str, connection) -> None:
    """Both tasks with a head each, by the same trainer class as MeRLin."""
    transfer_trainer(JointTrainer, case, device, [TurnCallback(Turns(device, connection))]).train()


def run_trainer(case: Case, device: str, connection) -> None:
    """Build transformers' own Trainer, with the rows of both tasks as one batch of one task."""
    Trainer(
        model=build_model(case),
        args=arguments(case, device, TrainingArguments, rows=2 * case.batch),
        train_dataset=Rows(make_batch(case, 2 * case.batch, case.classes)),
        data_collator=default_data_collator,
        callbacks=[TurnCallback(Turns(device, connection))],
    ).train()


def autocast(case: Case, device: str):
    """The autocast that the trainers use, where they do."""
    return torch.autocast(device, dtype=torch.bfloat16) if case.bf16 else contextlib.nullcontext()


def run_bare(case: Case, device: str, connection) -> None:
    """The same rows as one batch through forward, backward, clipping and AdamW."""
    model = build_model(case).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    batch = {name: t.to(device) for name, t in make_batch(case, 2 * case.batch, case.classes).items()}
    labels = batch.pop("labels")
    turns = Turns(device, connection)
    turns.wait()
    while True:
        turns.begin()
        with autocast(case, device):
            logits = model(**batch).logits
        F.cross_entropy(logits.float(), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        turns.end(optimizer)


COMPETITORS = {
    "merlin": run_merlin,
    "merlin, fixed rho": run_merlin_fixed,
    "joint": run_joint,
    "joint, again": run_joint,  # against itself: how far the ratio of two equal things is from 1
    "Trainer": run_trainer,
    "bare loop": run_bare,
}

transformers.logging.set_verbosity_error()
