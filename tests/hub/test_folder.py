"""Which files of a folder are sent, and which are left out or refused."""

import gzip
import io
import json
import os
import pickle
import re
import socket
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants, snapshot_download
from safetensors.torch import load_file, save_file

from merlin_hf.hub import PublishError, publish_folder
from merlin_hf.hub.folder import VOCABULARIES, ModelFolder, model_files
from tests.hub.conftest import TOKEN, tiny_tokenizer
from tests.tiny import tiny_bert


PLAIN = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    """A model with its tokenizer."""
    tiny_bert().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def zipped(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


# Names


def test_the_vocabularies_are_those_of_transformers():
    found = set()
    for path in Path(transformers.__file__).parent.rglob("tokenization_*.py"):
        for names in re.findall(r"VOCAB_FILES_NAMES\s*=\s*\{(.*?)\}", path.read_text(encoding="utf-8"), re.DOTALL):
            found |= set(re.findall(r':\s*"([^"]+)"', names))
    assert len(found) > 20 and found - {"tokenizer_config.json"} <= VOCABULARIES


@pytest.mark.parametrize(
    "name",
    [
        "vocab.pkl", "vocabulary.pt", "vocab.bin", "vocab.txt.bak", "my.model", "chat_template.py",
        "chat_template.env",
        "LICENSE_KEY.pem", "LICENSE.pem", ".hidden.model", ".env", ".gitattributes", "tokenizer_secrets.json",
        "my_preprocessor_config.json", "model-00001-of-00001.safetensors", "model.safetensors.bak", "optimizer.pt",
        "training_args.bin", "transfer_state.safetensors", "rng_state.pth", "notes.txt", "modeling_mine.py", "a\nb",
        "*",
    ],
)  # fmt: skip
def test_other_names_are_left_out(name, folder):
    (folder / name).write_text("{}")
    files = model_files(folder)
    assert files.sent == PLAIN and not files.refused and list(files.left_out) == [name]


@pytest.mark.parametrize(
    "name", ["vocab.txt", "LICENSE", "NOTICE.txt", "chat_template.jinja", "bpe.codes", "README.md"]
)
def test_names_of_a_model_are_sent(name, folder):
    (folder / name).write_text("Note. Words, and\nmore words.\n")
    assert model_files(folder).sent == sorted([*PLAIN, name])


def test_folders_are_left_out_but_chat_templates_and_modules(folder):
    for name in (
        "checkpoint-2/config.json",
        "runs/events.out",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "3_x/config.json",
    ):
        (folder / name).parent.mkdir()
        (folder / name).write_text("{}")
    save_file({"linear.weight": torch.ones(2, 2)}, folder / "2_Dense" / "model.safetensors")
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(zipped({}))
    (folder / "additional_chat_templates").mkdir()
    for name in ("tool.jinja", "tool.py", ".hidden.jinja"):
        (folder / "additional_chat_templates" / name).write_text("{{ messages }}")
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    files = model_files(folder)
    inner = [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "additional_chat_templates/tool.jinja",
    ]
    assert files.sent == sorted([*PLAIN, *inner, "modules.json"]) and not files.refused
    assert set(files.left_out) == {"checkpoint-2", "runs", "3_x"}
    for odd in ([{"path": "../private"}], [{"path": 1}], [3], 3, {"path": "1_Pooling"}, []):
        (folder / "modules.json").write_text(json.dumps(odd))
        assert "1_Pooling" in model_files(folder).refused["modules.json"]


# Links


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    (private / "key.jinja").write_text("secret")
    os.symlink(private, folder / "additional_chat_templates")
    os.symlink(private / "key.jinja", folder / "merges.txt")
    os.symlink(
        folder / "config.json", folder / "vocab.json"
    )  # another file of the folder under the name of a vocabulary
    os.symlink("nowhere", folder / "vocab.txt")
    os.link(private / "key.jinja", folder / "dict.txt")
    files = model_files(folder)
    assert files.sent == PLAIN
    assert set(files.refused) == {"additional_chat_templates", "merges.txt", "vocab.json", "vocab.txt", "dict.txt"}
    with pytest.raises(PublishError, match="merges.txt is a link to another file"):
        ModelFolder(folder)


def test_a_link_to_the_same_file_within_the_folder(folder):
    (folder / "checkpoint-2").mkdir()
    (folder / "model.safetensors").rename(folder / "checkpoint-2" / "model.safetensors")
    os.symlink("checkpoint-2/model.safetensors", folder / "model.safetensors")
    assert model_files(folder).sent == PLAIN


def test_the_links_of_the_hubs_cache(folder, online, tmp_path, monkeypatch):
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{online.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    publish_folder(folder, "ada/films", token=TOKEN)
    snapshot = Path(snapshot_download("ada/films", cache_dir=tmp_path / "cache"))
    assert (snapshot / "model.safetensors").is_symlink()
    assert model_files(snapshot).sent == sorted([*PLAIN, "README.md"])
    (folder / "secret").write_text("secret")
    os.symlink(folder / "secret", snapshot / "merges.txt")
    assert list(model_files(snapshot).refused) == ["merges.txt"]


def test_what_is_no_regular_file(folder):
    os.mkfifo(folder / "vocab.txt")
    (folder / "merges.txt").mkdir()
    os.symlink("/dev/zero", folder / "vocab.json")
    server = socket.socket(socket.AF_UNIX)
    at = os.getcwd()
    try:
        os.chdir(folder)  # the path of a socket must be short
        server.bind("dict.txt")
    finally:
        os.chdir(at)
        server.close()
    refused = model_files(folder).refused
    assert set(refused.values()) == {"is not a regular file"} and len(refused) == 4


def test_a_huge_file_is_not_read(folder):
    with (folder / "vocab.txt").open("wb") as file:
        file.truncate(1 << 40)
    assert "1,099,511,627,776 bytes" in model_files(folder).refused["vocab.txt"]


# Contents


@pytest.mark.parametrize(
    "name", ["vocab.txt", "spiece.model", "tokenizer.json", "chat_template.jinja", "LICENSE", "source.spm"]
)
@pytest.mark.parametrize(
    "content",
    [*(pickle.dumps(Harmful(), protocol) for protocol in range(6)), zipped({}), gzip.compress(b"a"), b"\x7fELF\x00"],
    ids=[*(f"protocol {protocol}" for protocol in range(6)), "torch.save", "gzip", "program"],
)
def test_pickles_and_archives_are_refused(name, content, folder):
    (folder / name).write_bytes(content)
    assert list(model_files(folder).refused) == [name]


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors"])
def test_weights_that_are_a_pickle(name, folder):
    torch.save({"a": torch.ones(1)}, folder / name)
    with pytest.raises(PublishError, match=f"{name} is not whole"):
        ModelFolder(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", f"Use it with\n{TOKEN}\n"),
        ("config.json", json.dumps({"note": "AKIAIOSFODNN7EXAMPLE"})),
        ("vocab.txt", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"),
        ("generation_config.json", json.dumps({"token": "ghp_abcdefghijklmnopqrstuvwxyz0123456789"})),
    ],
)
def test_secrets_are_refused_and_not_repeated(name, text, folder):
    (folder / name).write_text(text)
    with pytest.raises(PublishError, match=f"{name} has what looks like") as error:
        ModelFolder(folder)
    assert TOKEN not in str(error.value) and "AKIA" not in str(error.value)


def test_secrets_in_the_metadata_of_weights(folder):
    save_file({"a": torch.ones(1)}, folder / "model.safetensors", metadata={"note": TOKEN})
    assert "token" in model_files(folder).refused["model.safetensors"]


def test_a_placeholder_is_no_secret(folder):
    (folder / "README.md").write_text("login(token='hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx')")
    assert "README.md" in model_files(folder).sent


# Shards


@pytest.fixture
def shards(tmp_path):
    tiny_bert().save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    return tmp_path / "shards"


def test_shards_and_a_variant(shards):
    tiny_bert().save_pretrained(shards, variant="fp16")
    tiny_bert().save_pretrained(shards, variant="bf16", max_shard_size="20KB")
    save_file({"a": torch.ones(1)}, shards / "model-00009-of-00009.safetensors")
    files = ModelFolder(shards)
    assert "model.fp16.safetensors" in files.files and "model.safetensors.index.bf16.json" in files.files
    assert sum(name.startswith("model.bf16-0") for name in files.files) > 1
    assert files.left_out == {"model-00009-of-00009.safetensors": "weights that no index names"}


def test_whole_weights_go_before_shards(shards):
    tiny_bert().save_pretrained(shards / "whole")
    (shards / "whole" / "model.safetensors").rename(shards / "model.safetensors")
    assert [name for name in model_files(shards).sent if name.startswith("model")] == ["model.safetensors"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "{}", "[]", "1", "null", '{"weight_map": [1]}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../private/key"}}', '{"weight_map": {"a": ".env"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "model-00001-of-00009.safetensors"}}', '{"weight_map": {"a": "training_args.bin"}}',
        '{"weight_map": {"a": "model.fp16-00001-of-00001.safetensors"}}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_broken_index_is_named(text, shards):
    (shards / ".env").write_text("secret")
    (shards / INDEX).write_text(text)
    with pytest.raises(PublishError, match=re.escape(INDEX)):
        ModelFolder(shards)


def test_an_index_whose_shard_has_other_weights(shards):
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["extra"] = next(iter(index["weight_map"].values()))
    (shards / INDEX).write_text(json.dumps(index))
    with pytest.raises(PublishError, match=rf"{re.escape(INDEX)} expects 'extra'"):
        ModelFolder(shards)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_weights_that_are_not_finite_are_refused(value, dtype, folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    ModelFolder(folder)
    weights["classifier.weight"] = weights["classifier.weight"].index_fill(1, torch.tensor(2), value).to(dtype)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(PublishError, match="'classifier.weight' in model.safetensors has NaN or infinity"):
        ModelFolder(folder)


@pytest.mark.parametrize("log_history", [None, 1, {}, ["a"], [None], [{"step": "x"}], [{"step": 1, "loss": 10**400}]])
def test_a_log_that_is_none_is_named(log_history, folder):
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log_history}))
    with pytest.raises(PublishError, match=r"trainer_state.json cannot be used: .*log_history"):
        ModelFolder(folder).log_history  # noqa: B018
