"""Every method in two real processes over gloo: N processes with batch b are one with batch N * b."""

import os

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from merlin_hf import METHODS
from tests.distributed.launch import fork, result
from tests.distributed.test_two_processes import assert_equal_runs
from tests.methods.support import NO_STEPS, REGULARIZED, TWO_PHASES, build


PHASES = {"first_phase_fraction": 0.5}  # two steps of each

# Options that make what a method adds large, and what it draws or chooses the same.
TEXT = {
    "finetune": {},
    "embeddings": {},
    "linear_probe": {"probe_l2": "0.1"},
    "lp_ft": {"probe_l2": "0.1"},
    "source_probe": {},
    "zero_shot": {},
    "pooled": {},
    "sequential": {},
    "l2_sp": {"regularization_weight": 1.0},
    "delta": {"regularization_weight": 1.0},
    "bss": {"regularization_weight": 100.0, "num_singular_values": 2},
    "lwf": {"regularization_weight": 1e4, "learning_rate": 0.05},
    "co_tuning": {},
    "bi_tuning": {"queue_size": 2, "key_momentum": 0.7, "projection_size": 8},
    "joint": {},
    "proportional": {"method": "joint", "batch_mix": "proportional"},
    "merlin_ft": {},
    "unequal classes": {"method": "merlin", "labels": [0] * 10 + [1] * 4 + [2] * 2},  # others on each rank
    "source_first": {"method": "merlin", "source_phase_fraction": 0.5},
    "target_last": {"method": "merlin", "source_phase_fraction": 0.25, "target_phase_fraction": 0.5},
    "source_first_ft": {"method": "merlin_ft", "source_phase_fraction": 0.25},
}
# Two processes are two accumulated micro-batches, each with BatchNorm of its own.
IMAGES = {
    "finetune": {},
    "sequential": {},
    "delta": {"source": False, "regularization_weight": 1.0, "channel_attention": "none"},
}
# What depends on noise, on statistics of one process, or on a regulariser that is chosen.
ONLY_RUN = {
    "wise_ft": {"images": True},
    "r3f": {"noise_scale": 0.1, "dropout": 0.1},
    "stochnorm": {"images": True},
    "delta": {"images": True},
    "lwf": {"images": True},
    "bi_tuning": {"images": True},
    "merlin": {"images": True, "learn_logit_scale": False, "head_l2": 0.1},
    "merlin_ft": {"images": True},
    **{
        f"images of {method}": {"method": method, "images": True}
        for method in ("linear_probe", "lp_ft", "l2_sp", "bss", "co_tuning", "r3f", "joint")
    },
}


# They need label names, or do on images what they do on texts.
ONLY_TEXT = {"embeddings", "source_probe", "zero_shot", "pooled"}


def runs(processes):
    listed = []
    for name, options in TEXT.items():
        batches = {"per_device_train_batch_size": 8 // processes, "per_device_source_batch_size": 4 // processes}
        listed.append({"method": name, **options, **batches, "name": f"text-{name}"})
    for name, options in IMAGES.items():
        accumulation = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2 // processes}
        listed.append({"method": name, **options, **accumulation, "images": True, "name": f"images-{name}"})
    for name, options in ONLY_RUN.items() if processes == 2 else ():
        listed.append({"method": name, **options, "per_device_train_batch_size": 8, "name": f"run-{name}"})
    return [{**run, **(PHASES if run["method"] in (*TWO_PHASES, "stochnorm") else {})} for run in listed]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """All runs in one process, and all in two; several workers of pytest share them."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    found = {processes: root / f"processes{processes}" for processes in (1, 2)}
    with FileLock(root / "processes.lock"):
        for processes, folder in found.items():
            if not folder.exists():
                fork(processes, folder, runs=runs(processes))
    return found


@pytest.mark.parametrize("name", [*(f"text-{name}" for name in TEXT), *(f"images-{name}" for name in IMAGES)])
def test_two_processes_are_one_with_twice_the_batch(folders, name):
    one, two = (result(folders[processes] / name, processes) for processes in (1, 2))
    assert two["disagreement"] == 0
    method = name.split("-")[1]
    keys = ["loss", "grad_norm"] if method not in NO_STEPS else []
    if name.startswith("images"):  # each process evaluates by the statistics of its own last batch, as in Trainer
        one["metrics"] = {}
    assert_equal_runs(one, two, keys=keys, tolerance=1e-8)
    assert len(one["history"]) == (0 if method in NO_STEPS else 4)
    if method in REGULARIZED:
        penalties = [[entry["penalty"] for entry in run["history"] if "penalty" in entry] for run in (one, two)]
        assert penalties[0] == pytest.approx(penalties[1], rel=1e-5, abs=1e-9) and max(penalties[0]) > 1e-4


@pytest.mark.parametrize("name", ONLY_RUN)
def test_it_trains_in_two_processes(folders, name):
    """The processes agree on all weights, and on what is kept of a start with statistics of their own."""
    run = result(folders[2] / f"run-{name}", 2)
    steps = 0 if name == "images of linear_probe" else 4
    assert len(run["history"]) == steps and run["disagreement"] == 0
    assert all(weight.isfinite().all() for weight in run["weights"].values())
    auto = AutoModelForSequenceClassification if "images" not in ONLY_RUN[name] else AutoModelForImageClassification
    loaded = auto.from_pretrained(folders[2] / f"run-{name}", dtype="float64")
    for parameter, weight in loaded.named_parameters():
        assert torch.equal(weight, run["weights"][f"model.{parameter}"])


def test_the_head_of_merlin_fits_the_features_of_the_model_that_is_saved(folders, tmp_path):
    """Not those by the statistics that the second process has of its last batch."""
    model = AutoModelForImageClassification.from_pretrained(folders[2] / "run-merlin", dtype="float64")
    head = model.classifier[1].weight.detach().clone()
    options = {"learn_logit_scale": False, "head_l2": 0.1}
    trainer = build("merlin", tmp_path, model=model, **options)
    trainer.train_dataset = trainer.train_dataset[:16]
    trainer.refit_head()
    torch.testing.assert_close(model.classifier[1].weight, head, rtol=1e-5, atol=1e-6)


def test_every_method_is_run():
    assert {run["method"] for run in runs(2)} == set(METHODS)
    assert {run["method"] for run in runs(2) if run.get("images")} == set(METHODS) - ONLY_TEXT, "on images too"
