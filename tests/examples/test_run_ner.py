"""The program for tags, on sentences whose words tell their tags, and a tiny BERT."""

import json
import random

import datasets
import pytest
import run_ner as program
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from tests.examples.conftest import WORDS


pytest.importorskip("seqeval")


def sentences(path, count, kinds, seed, words="tokens", tags="tags", as_text=True):
    """Words w0 ... w3 are spans of the first kind and so on; all others are outside."""
    draw, names = random.Random(seed), ["O", *(f"B-{kind}" for kind in kinds)]
    rows = {words: [], tags: []}
    for _ in range(count):
        chosen = draw.choices(range(16), k=draw.randint(4, 9))
        rows[words].append([WORDS[number] for number in chosen])
        ids = [number // 4 + 1 if number // 4 < len(kinds) else 0 for number in chosen]
        rows[tags].append([names[place] for place in ids] if as_text else ids)
    table = datasets.Dataset.from_dict(rows)
    if as_text:
        table.to_json(path)
    else:
        table.cast_column(tags, datasets.Sequence(datasets.ClassLabel(names=names))).to_parquet(path)
    return path


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    sentences(folder / "train.jsonl", 48, ["PER", "LOC"], seed=1)
    sentences(folder / "validation.jsonl", 30, ["PER", "LOC"], seed=2)
    source = sentences(tmp_path / "source.parquet", 60, ["A", "B", "C"], 3, "words", "ner_tags", as_text=False)
    named = ["--dataset_name", str(folder), "--source_dataset_name", str(source)]
    return [*named, "--source_words_column", "words", "--source_tags_column", "ner_tags"]


def options(model_path, output_dir):
    return [
        *("--model_name_or_path", model_path, "--output_dir", str(output_dir), "--use_cpu"),
        *("--per_device_train_batch_size", "12", "--learning_rate", "5e-3", "--logging_steps", "5"),
        *("--report_to", "none", "--disable_tqdm", "True", "--do_train", "--do_eval"),
    ]


def test_a_tagger_is_trained_and_saved_as_a_plain_model(model_path, data, tmp_path):
    output = tmp_path / "out"
    program.main([*options(model_path, output), *data, "--max_steps", "30"])
    found = json.loads((output / "all_results.json").read_text())
    assert (found["train_samples"], found["source_samples"], found["eval_samples"]) == (48, 60, 30)
    assert found["eval_f1"] > 0.8 and {"eval_f1_PER", "eval_f1_LOC", "eval_precision"} <= set(found)

    model = AutoModelForTokenClassification.from_pretrained(output).eval()
    assert model.config.id2label == {0: "O", 1: "B-LOC", 2: "B-PER"}
    tokenizer = AutoTokenizer.from_pretrained(output)
    with torch.no_grad():
        said = model(**tokenizer(["w1", "w12", "w6"], is_split_into_words=True, return_tensors="pt")).logits[0]
    assert [model.config.id2label[place] for place in said.argmax(-1).tolist()][1:-1] == ["B-PER", "O", "B-LOC"]
    card = (output / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card and 'pipeline("token-classification"' in card


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tags_column", "ner"], "`dataset_name` has no column 'ner', only tokens, tags"),
        (["--source_train_split_name", "test"], "has no split 'test', only train"),
        (["--do_predict"], "`do_predict` is not for tags"),
    ],
)
def test_what_is_wrong_is_said_before_training(model_path, data, tmp_path, refused, more, message):
    refused(program.main, [*options(model_path, tmp_path / "out"), *data, *more], message)
