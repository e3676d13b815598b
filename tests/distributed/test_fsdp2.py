"""Sharded by FSDP2 in real processes over gloo: the same objective, plain checkpoints."""

import os

import accelerate
import numpy as np
import pytest
import torch
from packaging import version
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import merlin_hf
from tests.distributed.launch import run
from tests.distributed.test_two_processes import assert_equal_runs
from tests.tiny import NUM_LABELS


CONFIG = os.path.join(os.path.dirname(merlin_hf.__file__), "accelerate_configs", "fsdp2.yaml")
SHARDED = {"sharded": "fsdp2", "config_file": CONFIG}
PHASES = {"rows": 33, "max_steps": 4, "source_phase_fraction": 0.25, "target_phase_fraction": 0.5}  # all three


def batches(processes):
    return {"per_device_train_batch_size": 8 // processes, "per_device_source_batch_size": 4 // processes}


@pytest.mark.parametrize(
    ("method", "chunk", "phases"),
    [("merlin", None, {}), ("merlin", 3, {}), ("joint", None, {}), ("merlin", None, PHASES)],
    ids=["merlin", "merlin, in chunks", "joint", "merlin, in phases"],
)
def test_two_shards_are_one_process_with_twice_the_batch(tmp_path, method, chunk, phases):
    """An odd number of target rows for the final head, one at a time: one rank is done first and waits."""
    options = {"method": method, "rows": 17, "per_device_eval_batch_size": 1, "max_steps": 2, **phases}
    one = run(1, tmp_path / "one", **batches(1), **options)
    two = run(2, tmp_path / "two", target_chunk_size=chunk, **batches(2), **SHARDED, **options)
    keys = ("loss", "grad_norm") if phases else ("loss", "grad_norm", "source_loss")  # the last steps have no source
    assert_equal_runs(one, two, keys=keys)
    saved = load_file(tmp_path / "two" / "model.safetensors")
    expected = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one", dtype="float64").state_dict()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two", dtype="float64").state_dict()
    assert set(saved) == set(loaded) == set(expected), "the classifier's own names"
    for name, weight in expected.items():
        torch.testing.assert_close(loaded[name], weight, rtol=1e-6, atol=1e-9)


def test_two_shards_mix_weights_as_one_process(tmp_path):
    """Labels of chance make a choice in which weights of the phases have a part."""
    labels = np.random.default_rng(0).integers(NUM_LABELS, size=17).tolist()
    options = {"mix_weights": True, "max_steps": 14, "rows": 17, "labels": labels}
    one = run(1, tmp_path / "one", **batches(1), **options)
    two = run(2, tmp_path / "two", **batches(2), **SHARDED, **options)
    assert_equal_runs(one, two, keys=("loss", "grad_norm", "source_loss"), tolerance=1e-6, relative=1e-5)
    assert one["mix"] == two["mix"] != (0.0, 0.0)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two", dtype="float64").state_dict()
    for name, weight in loaded.items():
        torch.testing.assert_close(weight, two["weights"][f"model.{name}"])


@pytest.mark.skipif(
    version.parse(accelerate.__version__) < version.parse("1.15"),
    reason="resumed exactly with accelerate 1.15, not with 1.10",
)
@pytest.mark.parametrize("kind", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_checkpoints_of_shards_go_on_in_one_process_and_back(tmp_path, kind):
    config = tmp_path / "config.yaml"
    with open(CONFIG) as file:
        config.write_text(file.read().replace("FULL_STATE_DICT", kind))
    sharded = {"sharded": "fsdp2", "config_file": config}
    straight = run(1, tmp_path / "straight", max_steps=6, optim="adamw_torch", **batches(1))
    saving = {"max_steps": 6, "optim": "adamw_torch", "save_strategy": "steps", "save_steps": 2}
    run(2, tmp_path / "a", **saving, **batches(2), **sharded)
    run(1, tmp_path / "b", **saving, **batches(1), **sharded, resume=str(tmp_path / "a" / "checkpoint-2"))
    back = run(2, tmp_path / "c", **saving, **batches(2), **sharded, resume=str(tmp_path / "b" / "checkpoint-4"))
    assert_equal_runs(straight, back, tolerance=2e-7)
    for folder in (tmp_path / "a" / "checkpoint-6", tmp_path / "c" / "checkpoint-6"):
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float64")
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(weight, straight["weights"][f"model.{name}"], rtol=1e-6, atol=2e-7)
