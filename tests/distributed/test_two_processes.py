"""N processes with batch b are one process with batch N * b, in real processes over gloo."""

import pytest
import torch
import transformers
from packaging import version
from transformers import AutoModelForSequenceClassification

from tests.distributed.launch import launch, run


def assert_equal_runs(one, other, keys=("loss", "source_loss", "grad_norm"), tolerance=1e-10, relative=1e-7):
    for name, weight in one["weights"].items():
        torch.testing.assert_close(
            other["weights"][name].to(weight.dtype),
            weight,
            rtol=relative,
            atol=tolerance,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    for key in keys:
        values = [[entry[key] for entry in run["history"]] for run in (one, other)]
        assert values[0] == pytest.approx(values[1], rel=max(relative, 1e-6)), key
    measured = [name for name in one["metrics"] if not name.endswith(("runtime", "per_second"))]
    for key in measured:
        assert one["metrics"][key] == pytest.approx(other["metrics"][key], rel=max(relative, 1e-6)), key
    if measured:
        predictions = other["predictions"].to(one["predictions"].dtype)
        torch.testing.assert_close(
            predictions, one["predictions"], rtol=max(relative, 1e-6), atol=max(tolerance, 1e-8)
        )


@pytest.mark.parametrize(("method", "chunk"), [("merlin", None), ("merlin", 3), ("joint", None)])
def test_two_processes_are_one_with_twice_the_batch(tmp_path, method, chunk):
    """13 evaluation rows in batches of 4: the last ones are filled up, and counted once."""
    batches = {"per_device_train_batch_size": 8, "per_device_source_batch_size": 4}
    one = run(1, tmp_path / "one", method=method, **batches)
    halves = {name: size // 2 for name, size in batches.items()}
    two = run(2, tmp_path / "two", method=method, target_chunk_size=chunk, **halves)
    assert_equal_runs(one, two)


@pytest.mark.parametrize("method", ["merlin", "joint", "bi_tuning"])
def test_two_processes_on_tokens(tmp_path, method):
    """Each has another number of labelled tokens: sentences are split, and means taken, as by one process."""
    options = {"method": method, "tokens": True, "per_device_source_batch_size": 4}
    one = run(1, tmp_path / "one", per_device_train_batch_size=8, **options)
    options["per_device_source_batch_size"] = 2
    two = run(2, tmp_path / "two", per_device_train_batch_size=4, **options)
    assert_equal_runs(one, two, keys=("loss", "grad_norm"))


def test_two_processes_mix_weights_as_one(tmp_path):
    options = {"mix_weights": True, "max_steps": 14, "evaluate": False}
    one = run(1, tmp_path / "one", per_device_train_batch_size=8, **options)
    two = run(2, tmp_path / "two", per_device_train_batch_size=4, **options)
    assert_equal_runs(one, two, keys=("loss", "grad_norm"), tolerance=1e-6, relative=1e-5)


@pytest.mark.parametrize("method", ["merlin", "sequential"])
def test_two_processes_with_several_sources(tmp_path, method):
    """Each head has a gradient on each process in every step, also where no batch is of its source."""
    options = {"method": method, "several": True, "gradient_accumulation_steps": 2}
    one = run(1, tmp_path / "one", per_device_train_batch_size=8, **options)
    two = run(2, tmp_path / "two", per_device_train_batch_size=4, **options)
    assert_equal_runs(one, two, keys=("loss", "grad_norm"))


@pytest.mark.parametrize("sentences", [False, True])
def test_two_processes_with_a_sentence_encoder(tmp_path, sentences):
    """Single texts with a source of pairs, and the reverse; no parameter waits for a gradient that does not come."""
    options = {"sentences": sentences, "target_chunk_size": 3 if sentences else None}
    one = run(1, tmp_path / "one", per_device_train_batch_size=8, **options)
    two = run(2, tmp_path / "two", per_device_train_batch_size=4, **options)
    assert_equal_runs(one, two)


def test_three_processes_with_uneven_batches_and_a_class_absent_on_one(tmp_path):
    """10 rows are 4, 4 and 2; the third class is on one process only."""
    options = {"rows": 10, "labels": [0, 1, 0, 1, 0, 1, 0, 1, 2, 2], "num_splits": 1, "evaluate": False}
    one = run(1, tmp_path / "one", per_device_train_batch_size=12, per_device_source_batch_size=6, **options)
    three = run(
        3,
        tmp_path / "three",
        per_device_train_batch_size=4,
        per_device_source_batch_size=2,
        accelerator_config={"even_batches": False},
        **options,
    )
    assert_equal_runs(one, three)


def test_local_heads_are_those_of_micro_batches(tmp_path):
    """Leave-one-out draws no split, so that two processes by themselves are two accumulated micro-batches."""
    batches = {
        "per_device_train_batch_size": 4,
        "per_device_source_batch_size": 2,
        "split": "loo",
        "balance_gradients": False,
    }
    accumulated = run(1, tmp_path / "one", gradient_accumulation_steps=2, **batches)
    local = run(2, tmp_path / "two", head_scope="local", **batches)
    assert_equal_runs(accumulated, local)
    together = run(2, tmp_path / "global", head_scope="global", **batches)
    assert together["history"][0]["meta_loss"] != pytest.approx(local["history"][0]["meta_loss"], rel=1e-3)


@pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.23"),
    reason="Trainer 5.10 asks torch for the optimizer's state on 'cpu:0', which there is none of",
)
def test_a_checkpoint_of_two_processes_goes_on_in_one_and_back(tmp_path):
    def batches(processes):
        return {"per_device_train_batch_size": 8 // processes, "per_device_source_batch_size": 4 // processes}

    straight = run(1, tmp_path / "straight", max_steps=6, optim="adamw_torch", **batches(1))
    saving = {"max_steps": 6, "optim": "adamw_torch", "save_strategy": "steps", "save_steps": 2}
    run(2, tmp_path / "a", **saving, **batches(2))
    run(1, tmp_path / "b", **saving, **batches(1), resume=str(tmp_path / "a" / "checkpoint-2"))
    back = run(2, tmp_path / "c", **saving, **batches(2), resume=str(tmp_path / "b" / "checkpoint-4"))
    assert_equal_runs(straight, back, tolerance=2e-7)
    one, two = (AutoModelForSequenceClassification.from_pretrained(tmp_path / folder) for folder in ("straight", "c"))
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], weight, rtol=1e-6, atol=1e-7)


def test_a_rank_that_fails_ends_the_job_with_its_own_error(tmp_path):
    done = launch(2, output_dir=tmp_path, per_device_train_batch_size=4, fail={"rank": 1, "batches": 4})
    assert done.returncode != 0
    assert "RuntimeError: the collator of rank 1 fails" in done.stderr
