"""What damaged and forged folders of models come to: one kind of error that names them, and no code of theirs runs."""

import ast
import json
import os
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import (
    CONFIG_MAPPING,
    AutoImageProcessor,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ViTImageProcessorPil,
)

from merlin_hf.utils.errors import reading, reason
from merlin_hf.utils.files import FileError
from merlin_hf.utils.loading import FEWEST_LAYERS, check_adapter, check_sizes, load_config, load_model, load_processor
from tests.hub.conftest import ROOT, tiny_tokenizer
from tests.tiny import tiny_bert


@pytest.fixture
def folder(tmp_path):
    tiny_bert().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def load(folder):
    return load_model(AutoModelForSequenceClassification, str(folder))


def test_a_whole_model_is_loaded_and_the_generator_is_not_moved(folder):
    torch.manual_seed(0)
    expected = AutoModelForSequenceClassification.from_pretrained(folder), torch.rand(3)
    torch.manual_seed(0)
    found = load(folder), torch.rand(3)
    assert torch.equal(expected[1], found[1])
    for name, tensor in expected[0].state_dict().items():
        assert torch.equal(tensor, found[0].state_dict()[name]), name


@pytest.mark.parametrize("path", ["./foo", "runs/x", "a/b/c", "/nowhere", "~/model", "../x", "my model", "C:\\x"])
@pytest.mark.parametrize("load", [load_config, load, partial(load_processor, AutoTokenizer)])
def test_a_missing_folder_is_no_repository_of_the_hub(path, load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileError, match="there is no such folder[.]$") as error:
        load(path)
    assert repr(path) in str(error.value)


def test_a_name_of_the_hub_may_have_been_meant_as_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        FileError, match="`model='runs/x'` cannot be loaded: there is no such folder here, and the Hub"
    ):
        load_config("runs/x", "`model='runs/x'`")


# Sizes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_labels", 10**9), ("num_hidden_layers", 10**7), ("hidden_size", 10**9), ("hidden_size", 10**6),
        ("vocab_size", 10**9),
        ("intermediate_size", 10**7), ("max_position_embeddings", 10**12), ("num_hidden_layers", 10**400),
        ("type_vocab_size", 10**8),
        ("num_attention_heads", 0), ("hidden_size", -1), ("hidden_size", 2.5), ("hidden_size", float("nan")),
        ("vocab_size", None),
         ("model_type", "../.."), ("model_type", None), ("id2label", {"0": None}), ("label2id", float("nan")),
         ("label2id", {"a": -1}), ("id2label", {"a": "b"}), ("label2id", {"a": [0]}),
        ("dtype", "float7"),

    ],
)  # fmt: skip
def test_configurations_that_cannot_be(name, value, folder):
    change(folder / "config.json", **{name: value})
    with pytest.raises(FileError, match="model"):
        load(folder)


def test_a_configuration_without_weights_beside_it_is_checked_as_well(folder):
    change(folder / "config.json", num_hidden_layers=10**7)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileError, match="num_hidden_layers=10,000,000, and at most 4,096"):
        load_config(str(folder))


@pytest.mark.parametrize(
    "config", [{"num_hidden_layers": 3}, {"vocab_size": 100}, {"max_position_embeddings": 4000}, {"rope_theta": 10**9}]
)
def test_configurations_that_can_be(config, folder):
    change(folder / "config.json", **config)
    load_config(str(folder))


def test_the_configurations_of_transformers_can_be():
    checked = 0
    for model_type in ["wav2vec2", "swin", "doge", "modernbert", *list(CONFIG_MAPPING)[::12]]:
        try:
            content = json.loads(CONFIG_MAPPING[model_type]().to_json_string(use_diff=False))
        except Exception:  # some need another library, or parts that are given
            continue
        check_sizes(content, FEWEST_LAYERS, model_type)
        checked += 1
    assert checked > 20


@pytest.mark.parametrize("value", [10**9, 10**30])
def test_a_token_with_an_absurd_id(value, folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["film"] = value
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(FileError, match="tokenizer.json has a token with the id"):
        load_processor(AutoTokenizer, str(folder))


@pytest.mark.parametrize("value", [["a"], "x", 0, -1, float("nan")])
def test_a_length_that_is_none(value, folder):
    change(folder / "tokenizer_config.json", model_max_length=value)
    with pytest.raises(FileError, match="tokenizer"):
        load_processor(AutoTokenizer, str(folder))


@pytest.mark.parametrize("size", [{"height": 10**9, "width": 2}, {"shortest_edge": 10**6}, 10**9])
def test_images_of_an_absurd_size(size, tmp_path):
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert load_processor(AutoImageProcessor, str(tmp_path), backend="pil")
    change(tmp_path / "preprocessor_config.json", size=size)
    with pytest.raises(FileError, match="preprocessor_config.json has"):
        load_processor(AutoImageProcessor, str(tmp_path), backend="pil")


@pytest.mark.parametrize("name", ["model-00002-of-00005.safetensors", "model.safetensors.index.json", "config.json"])
def test_a_pipe_is_not_waited_for(name, tmp_path):
    tiny_bert().save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    (tmp_path / "shards" / name).unlink()
    os.mkfifo(tmp_path / "shards" / name)
    with pytest.raises(FileError, match="shards"):
        load(tmp_path / "shards")


# Adapters


@pytest.fixture
def adapter(tmp_path):
    model = get_peft_model(tiny_bert(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def checked(adapter):
    check_adapter(str(adapter), str(adapter / "adapter_model.safetensors"), tiny_bert())


@pytest.mark.parametrize(
    "pattern", ["query", "all-linear", r".*\.(query|key)", ["query", "value"], r".*layer\.\d+\.attention.*query"]
)
def test_patterns_of_adapters(pattern, adapter):
    change(adapter / "adapter_config.json", target_modules=pattern)
    checked(adapter)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", "(([a-z.0-9]+)+)+Z"), ("exclude_modules", "(.*)*(.*)*(.*)*Z"), ("rank_pattern",
        {"((.*)*)*Z": 2}),
        ("target_modules", "("), ("layers_pattern", ["(([a-z.0-9]+)+)+Z"]),
    ],
)  # fmt: skip
def test_patterns_that_never_end_or_are_none(field, value, adapter, monkeypatch):
    monkeypatch.setattr("merlin_hf.utils.loading.REGEX_SECONDS", 0.5)
    change(adapter / "adapter_config.json", **{field: value})
    with pytest.raises(FileError, match=f"regular expression of `{field}` in .*adapter_config.json"):
        checked(adapter)


@pytest.mark.parametrize(
    ("field", "value"), [("r", 10**9), ("rank_pattern", {"query": 10**9}), ("layer_replication", [[0, 10**9]])]
)
def test_adapters_of_absurd_sizes(field, value, adapter):
    change(adapter / "adapter_config.json", **{field: value})
    with pytest.raises(FileError, match="adapter_config.json has"):
        checked(adapter)


# Code


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_pickled_weights_are_not_read(save, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    save({"a": Payload(tmp_path / "marker")}, folder / "pytorch_model.bin")
    with pytest.raises(FileError, match="safetensors"):
        load(folder)
    assert not (tmp_path / "marker").exists()


LOAD = """
import sys
from transformers import AutoImageProcessor, AutoModelForSequenceClassification, AutoTokenizer
from merlin_hf.utils.loading import load_config, load_model, load_processor

for call in (
    lambda: load_config(sys.argv[1]),
    lambda: load_model(AutoModelForSequenceClassification, sys.argv[1]),
    lambda: load_processor(AutoTokenizer, sys.argv[1]),
    lambda: load_processor(AutoImageProcessor, sys.argv[1], backend="pil"),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="a terminal that answers needs a pseudo-terminal")
@pytest.mark.slow
def test_code_of_a_folder_is_not_run_even_where_somebody_would_answer(folder, tmp_path):
    """At a terminal, transformers asks whether code may run, unless it is told; here all is answered with yes."""
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nclass Evil: pass\n")
    names = ("AutoConfig", "AutoModelForSequenceClassification", "AutoTokenizer", "AutoImageProcessor")
    auto_map = dict.fromkeys(names, "evil.Evil")
    change(folder / "config.json", model_type="evil", auto_map=auto_map)
    change(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Evil", "auto_map": auto_map})
    )
    answers, terminal = os.openpty()
    os.write(answers, b"y\n" * 20)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)], stdin=terminal, capture_output=True, text=True, timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    os.close(terminal)
    os.close(answers)
    assert done.returncode == 0, done.stderr
    assert "custom code" in done.stdout and not (tmp_path / "marker").exists()


def calls(path):
    """The calls of methods that may run code of a repository, with the text of what they are called on."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("from_pretrained", "from_config"):
                yield ast.unparse(node.func.value), {keyword.arg for keyword in node.keywords}


# Classes of a known model, which run no code of others; quickstart.py is the README's quickstart.
KNOWN_CLASSES = {"PeftModel", "PeftConfig", "type(model)", "SentenceEncoderForSequenceClassification"}


@pytest.mark.parametrize("folder", ["merlin_hf", "examples"])
def test_every_call_says_whether_code_may_run(folder):
    found = 0
    for path in sorted((ROOT / folder).rglob("*.py")):
        for owner, keywords in calls(path):
            found += 1
            known = owner in KNOWN_CLASSES or path.name == "quickstart.py"
            # `**hub` has the user's own flag.
            assert known or keywords & {"trust_remote_code", None}, f"{path}: {owner}"
    assert found > 3


def test_models_of_others_are_loaded_in_one_place():
    for path in sorted((ROOT / "merlin_hf").rglob("*.py")):
        owners = {owner for owner, keywords in calls(path) if "trust_remote_code" not in keywords}
        if path.name != "loading.py":
            assert owners <= KNOWN_CLASSES, f"{path}: take `merlin_hf.utils.loading`"


# Errors


class Panic(BaseException):
    """As libraries in Rust raise them."""


@pytest.mark.parametrize(
    "error",
    [KeyError("a"), RecursionError(), MemoryError(), Panic("no\nway"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")],
)
def test_whatever_is_raised_is_one_error_that_names_the_file(error):
    with (
        pytest.raises(FileError, match=f"^'out' is damaged: {type(error).__name__}") as raised,
        reading("'out' is damaged"),
    ):
        raise error
    assert raised.value.__cause__ is error and "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ImportError, FileError])
def test_what_is_not_about_the_file_passes(error):
    with pytest.raises(error), reading("'out' is damaged"):
        raise error("as it is")
    with pytest.raises(TypeError), reading("'out' is damaged", but=(TypeError,)):
        raise TypeError("as it is")


def test_a_reason_is_a_sentence():
    assert reason(ValueError("It is bad. More words.")) == "It is bad."
    assert reason(ValueError()) == "ValueError" and reason(KeyError("a")) == "KeyError: 'a'"
    assert len(reason(ValueError("x" * 10**6))) == 500


# No tokenizer


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    with pytest.raises(FileError, match="has no tokenizer that can be read: it knows no words, only special tokens"):
        load_processor(AutoTokenizer, str(tmp_path))
