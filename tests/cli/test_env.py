"""`merlin-hf env`."""

import json

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub import constants

from merlin_hf.cli import env
from merlin_hf.utils import dtypes


def test_what_it_says(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MERLIN_DATA_ROOT", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "https://user:password@hub.example:8080/mirror")
    status, shown, _ = run("env")
    assert status == 0
    for line in (f"- torch: {torch.__version__}", f"- transformers: {transformers.__version__}", "- Hub token: set"):
        assert line in shown.splitlines()
    assert "- Hub endpoint: https://hub.example:8080/mirror" in shown and "MERLIN_DATA_ROOT" in shown
    assert "hf_secret" not in shown and "password" not in shown and str(tmp_path) not in shown

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    status, shown, _ = run("env", "--json")
    found = json.loads(shown)
    assert found["Settings"]["Hub token"] == "not set" and "float32" in found["Devices"]["CPU"]


def test_dtypes_are_tried(monkeypatch):
    assert {"float32", "float64"} <= set(env.supported_dtypes("cpu").split(", "))
    linear = torch.nn.Linear

    def without_half(*args, dtype, **kwargs):
        if dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'")
        return linear(*args, dtype=dtype, **kwargs)

    monkeypatch.setattr(torch.nn, "Linear", without_half)
    assert "float16" not in env.supported_dtypes("cpu").split(", ")


@pytest.mark.parametrize("fast", [True, False])
def test_slow_bfloat16_is_said(monkeypatch, fast):
    monkeypatch.setattr(dtypes, "bfloat16_is_fast", lambda device: fast)
    assert ("bfloat16 (slow)" in env.supported_dtypes("cpu").split(", ")) is not fast


@pytest.mark.parametrize("url", ["https://huggingface.co", "http://localhost:5000", "https://a.b/c"])
def test_other_addresses_stay(url):
    assert env.without_credentials(url) == url
