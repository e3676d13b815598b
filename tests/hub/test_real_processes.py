"""From a training process to the Hub to a process that knows nothing of this package, by `HF_ENDPOINT` alone."""

import json
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from tests.hub.conftest import ROOT, TOKEN, environment


pytestmark = pytest.mark.slow  # processes of their own


def run(*arguments, **env):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=240, cwd=ROOT, **env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def load(hub, tmp_path, repo_id, texts):
    result = tmp_path / f"{repo_id.replace('/', '-')}.json"
    env = environment(hub, tmp_path / "their-home")
    run(ROOT / "tests" / "hub" / "load_from_hub.py", repo_id, json.dumps(texts), result, env=env)
    return json.loads(result.read_text())


def test_trained_pushed_and_loaded_without_this_package(hub, tmp_path):
    env = environment(hub, tmp_path / "home", MY_TOKEN=TOKEN, HF_HUB_VERBOSITY="debug", TRANSFORMERS_VERBOSITY="debug")
    output = run("-m", "tests.hub.train_and_push", tmp_path / "out", "ada/films", tmp_path / "here.json", env=env)
    here = json.loads((tmp_path / "here.json").read_text())
    there = load(hub, tmp_path, "ada/films", here["texts"])
    assert there["class"] == "BertForSequenceClassification"
    for ours, theirs in zip(here["answers"], there["answers"], strict=True):
        assert [answer["label"] for answer in ours] == [answer["label"] for answer in theirs]
        assert [answer["score"] for answer in ours] == pytest.approx([answer["score"] for answer in theirs], rel=1e-5)
    for ours, theirs in zip(here["logits"], there["logits"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    card = ModelCard(hub.repositories["ada/films"].files["README.md"].decode())
    assert "**MeRLin**" in card.text and {result.metric_type for result in card.data.eval_results} == {
        "accuracy",
        "loss",
    }
    assert not hub.requested("xet")

    # The secret is nowhere: in what was printed, with all logs on, in any file, in what was sent, in any address.
    assert TOKEN not in output and not any(TOKEN in request for request in hub.requests)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10 and [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    sent = [content for commit in hub.repositories["ada/films"].commits for content in commit.files.values()]
    assert not any(TOKEN.encode() in content for content in sent)

    # The same folder once more, by the command line: only what a model needs.
    arguments = ["publish", tmp_path / "out", "ada/again", "--token_env", "MY_TOKEN"]
    assert TOKEN not in run("-m", "merlin_hf.cli.main", *arguments, env=env)
    files = hub.repositories["ada/again"].files
    assert (
        "training_args.bin" not in files
        and files["model.safetensors"] == (tmp_path / "out/model.safetensors").read_bytes()
    )
