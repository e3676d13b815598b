"""Sharded by DeepSpeed in real processes over gloo, in float32 as it has no float64 (`make test-deepspeed`)."""

import importlib.util

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from merlin_hf.cli.train import accelerate_config
from tests.distributed.launch import run
from tests.distributed.test_two_processes import assert_equal_runs


pytestmark = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")


def batches(processes):
    return {
        "dtype": "float32",
        "per_device_train_batch_size": 8 // processes,
        "per_device_source_batch_size": 4 // processes,
    }


@pytest.fixture
def config(request, tmp_path):
    """Our configuration; `all` divides every parameter, of which the default leaves those of tiny models whole."""
    name, divided = request.param
    if divided != "all":
        return accelerate_config(name)
    with open(accelerate_config(name)) as file:
        content = yaml.safe_load(file)
    (tmp_path / "zero3.json").write_text(
        '{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, '
        '"stage3_gather_16bit_weights_on_model_save": true}, "train_batch_size": "auto", '
        '"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "gradient_clipping": "auto"}'
    )
    content["deepspeed_config"] = {"deepspeed_config_file": str(tmp_path / "zero3.json"), "zero3_init_flag": False}
    content.pop("mixed_precision")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "config.yaml"


CONFIGS = pytest.mark.parametrize(
    "config",
    [("zero2", "default"), ("zero3", "default"), ("zero3", "all")],
    indirect=True,
    ids=["zero2", "zero3", "all"],
)


@CONFIGS
@pytest.mark.parametrize(
    "options",
    [
        {"rows": 17, "max_steps": 2, "per_device_eval_batch_size": 1},  # one rank has fewer rows for the final head
        {"method": "joint"},
        {"gradient_accumulation_steps": 2},
        {"target_chunk_size": 3},
        {"rows": 33, "source_phase_fraction": 0.25, "target_phase_fraction": 0.5},  # all three phases
    ],
    ids=["merlin", "joint", "accumulation", "chunks", "phases"],
)
def test_two_shards_are_one_process_with_twice_the_batch(tmp_path, config, options):
    one = run(1, tmp_path / "one", **batches(1), **options)
    two = run(2, tmp_path / "two", config_file=config, sharded="deepspeed", **batches(2), **options)
    keys = (
        ("loss",) if "target_phase_fraction" in options else ("loss", "source_loss")
    )  # the last steps have no source
    assert_equal_runs(one, two, keys=keys, tolerance=1e-5, relative=1e-4)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, two["weights"][f"model.{name}"]), name


@CONFIGS
def test_resuming_is_never_stopping(tmp_path, config):
    options = {"config_file": config, "sharded": "deepspeed", "optim": "adamw_torch", **batches(2)}
    straight = run(2, tmp_path / "a", save_strategy="steps", save_steps=2, **options)
    resumed = run(2, tmp_path / "b", resume=str(tmp_path / "a" / "checkpoint-2"), **options)
    for name, weight in straight["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name
