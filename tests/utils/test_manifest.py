"""Which files make a checkpoint, and how it is found that one is missing or damaged."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from merlin_hf.utils.manifest import (
    CHECKSUM_LIMIT,
    MANIFEST_NAME,
    WEIGHTS,
    damage,
    has_weights,
    lacking,
    read_manifest,
    write_manifest,
)


PARTS = [WEIGHTS, ("optimizer.pt", "optimizer.bin"), ("rng_state*.pth",), ("trainer_state.json",)]


@pytest.fixture
def checkpoint(tmp_path):
    save_file({"weight": torch.ones(3, 4)}, tmp_path / "model.safetensors")
    torch.save({"state": torch.ones(CHECKSUM_LIMIT // 4 + 9)}, tmp_path / "optimizer.pt")
    torch.save({"cpu": torch.ones(3)}, tmp_path / "rng_state_0.pth")
    (tmp_path / "trainer_state.json").write_text('{"global_step": 3}')
    (tmp_path / "global_step3").mkdir()
    (tmp_path / "global_step3" / "shard").write_bytes(b"abc")
    return tmp_path


def test_a_manifest_has_all_files_and_finds_what_changed(checkpoint):
    write_manifest(str(checkpoint), {"method": "MerlinTrainer"})
    manifest = read_manifest(str(checkpoint))
    assert manifest["run"] == {"method": "MerlinTrainer"}
    assert set(manifest["files"]) == {
        "model.safetensors", "optimizer.pt", "rng_state_0.pth", "trainer_state.json", "global_step3/shard",
    }  # fmt: skip
    assert damage(str(checkpoint), manifest["files"]) is None
    (checkpoint / "notes.txt").write_text("mine")
    assert damage(str(checkpoint), manifest["files"]) is None, "more files do no harm"
    for name in manifest["files"]:
        path, content = checkpoint / name, (checkpoint / name).read_bytes()
        path.unlink()
        assert damage(str(checkpoint), manifest["files"]) == f"it has no {name}"
        for other in (b"", content + b"x"):
            path.write_bytes(other)
            assert name in damage(str(checkpoint), manifest["files"])
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        is_small = len(content) <= CHECKSUM_LIMIT
        assert (damage(str(checkpoint), manifest["files"]) is not None) == is_small
        path.write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "3", '{"files": []}', '{"files": {"a": 3}}', '{"files": {"a": {"size": "1"}}}'),
        *('{"files": {"../a": {"size": 1}}}', '{"files": {"/etc/passwd": {"size": 1}}}', '{"files": {}, "run": 3}'),
        "[" * 100_000,
    ],
)
def test_a_manifest_that_is_none_is_said_to_be(tmp_path, content):
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(ValueError, match=f"its {MANIFEST_NAME} "):
        read_manifest(str(tmp_path))


def test_a_pipe_in_place_of_a_file_is_not_waited_for(checkpoint):
    os.mkfifo(checkpoint / MANIFEST_NAME)
    with pytest.raises(ValueError, match="named pipe"):
        read_manifest(str(checkpoint))
    (checkpoint / "optimizer.pt").unlink()
    os.mkfifo(checkpoint / "optimizer.pt")
    assert lacking(str(checkpoint), PARTS) == "it has no optimizer.pt"


def test_without_a_manifest_the_files_themselves_tell(checkpoint):
    assert read_manifest(str(checkpoint)) is None and lacking(str(checkpoint), PARTS) is None
    for name in ("model.safetensors", "optimizer.pt", "rng_state_0.pth", "trainer_state.json"):
        path, content = checkpoint / name, (checkpoint / name).read_bytes()
        for part in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:part])
            assert lacking(str(checkpoint), PARTS) == f"its {name} is empty or ends early"
        path.unlink()
        assert lacking(str(checkpoint), PARTS).startswith(f"it has no {name.split('_0')[0]}")
        path.write_bytes(content)


def test_shards_are_those_of_the_index(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    index.write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    )
    assert "model-00002-of-00002.safetensors" in lacking(str(tmp_path), [WEIGHTS]) and not has_weights(str(tmp_path))
    save_file({"b": torch.ones(2)}, tmp_path / "model-00002-of-00002.safetensors")
    assert has_weights(str(tmp_path))
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    assert not has_weights(str(tmp_path))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "second/adapter_model.safetensors"])
def test_adapters_are_weights(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_file({"a": torch.ones(2)}, tmp_path / name)
    assert has_weights(str(tmp_path))
