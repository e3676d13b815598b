import io
import json
import subprocess
import tarfile

import demo  # noqa: E402, I001
import editorials  # noqa: E402
import pytest
from transformers import AutoModelForSequenceClassification

from tests.examples.conftest import WORDS


def lines(count, groups=None):
    """Lines as in the package: number, mean rating, text; ratings of 0 and repeated texts among them."""
    rows = [
        f"{i // 3 if groups else i}_{i}\t{[1.5, -0.6][i % 2]}\tw{i % 2} {WORDS[i % 30]} {WORDS[i // 30]}"
        for i in range(count)
    ]
    return "\n".join([*rows, f"{count}_0\t0.0\tw9 neutral", rows[0]]).encode()


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The source distribution, small, where the demo keeps its download."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        add(tar, "hutto/" + editorials.FILES["films"], lines(60))
        add(tar, "hutto/" + editorials.FILES["editorials"], lines(90, groups=True))
    folder = tmp_path / "cache" / "merlin_hf"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "vadersentiment-3.3.2.tar.gz", "w:gz") as tar:
        add(tar, "vaderSentiment-3.3.2/" + editorials.ARCHIVE, inner.getvalue())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_sentences_are_read_without_neutral_and_repeated_ones(cache):
    sentences = editorials.load_sentences("editorials")
    assert len(sentences) == 90 and len(set(sentences["text"])) == 90
    assert sentences[:4]["label"] == [1, 0, 1, 0] and sentences[:4]["group"] == ["0", "0", "0", "1"]
    assert sentences.features["label"].names == ["negative", "positive"]


def test_no_article_is_on_both_sides_and_the_test_rows_are_always_the_same(cache):
    sentences = editorials.load_sentences("editorials")
    draws = [editorials.split_by_group(sentences, 10, seed) for seed in (0, 1)]
    for train, validation, test in draws:
        assert sorted(train["label"]) == [0] * 5 + [1] * 5
        assert not set(test["group"]) & (set(train["group"]) | set(validation["group"]))
        assert len(train) + len(validation) + len(test) == len(sentences)
        assert not set(train["text"]) & set(validation["text"])
    assert draws[0][2]["text"][:] == draws[1][2]["text"][:]
    assert set(draws[0][0]["text"]) != set(draws[1][0]["text"])


def test_the_download_is_asked_of_pip_once(tmp_path, monkeypatch):
    commands = []

    def run(command, check):
        commands.append(command)
        (tmp_path / "vadersentiment-3.3.2.tar.gz").touch()

    monkeypatch.setattr(subprocess, "run", run)
    assert editorials.fetch(tmp_path) == editorials.fetch(tmp_path)
    assert len(commands) == 1 and commands[0][-1] == editorials.PACKAGE and "--no-deps" in commands[0]


def test_the_demo_from_data_to_saved_model(cache, model_path, tmp_path, capsys):
    output_dir = tmp_path / "demo"
    flags = ["--model", model_path, "--output_dir", str(output_dir), "--target_rows", "16", "--max_steps", "3"]
    results = demo.main([*flags, "--batch_size", "8", "--freeze_layers", "1", "--seeds", "0", "1"])
    assert [(result["method"], result["seed"]) for result in results] == [
        (method, seed) for seed in (0, 1) for method in ("embeddings", "finetune", "joint", "merlin")
    ]
    assert all(0 <= result["accuracy"] <= 1 and result["log_loss"] > 0 for result in results)
    assert json.loads((output_dir / "results.json").read_text())["results"] == results
    assert (output_dir / "comparison.png").stat().st_size > 1000
    model = AutoModelForSequenceClassification.from_pretrained(output_dir / "merlin-1")
    assert model.config.id2label == {0: "negative", 1: "positive"}
    printed = " ".join(capsys.readouterr().out.split())
    assert "Accuracy on 45 held-out rows" in printed and "MeRLin" in printed and "merlin-1" in printed


def test_a_finished_run_is_not_run_again(cache, model_path, tmp_path):
    flags = ["--model", model_path, "--output_dir", str(tmp_path), "--target_rows", "16", "--max_steps", "3"]
    flags += ["--batch_size", "8", "--methods", "finetune"]
    first = demo.main(flags)
    again = demo.main([*flags, "--seeds", "1", "0"])
    assert [result["seed"] for result in again] == [1, 0] and again[1] == first[0]
    assert demo.main([*flags, "--max_steps", "4"]) != first
