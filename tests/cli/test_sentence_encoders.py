"""Every command on a sentence encoder: of single texts, and of pairs of texts."""

import json
import re
import sys

import pandas as pd
import pytest
import torch
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSequenceClassification

from merlin_hf import MerlinTrainer
from merlin_hf.data.sentence_encoders import SentenceEncoderForSequenceClassification
from merlin_hf.hub import PublishError
from merlin_hf.hub.publish import plan_of
from tests.support import make_args
from tests.tiny import tiny_sentence_encoder, tiny_texts, tokenized


KINDS = pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])


@pytest.fixture
def encoder(tmp_path):
    folder = tmp_path / "encoder"
    prompts = {"prompts": {"task": "w60 "}, "default_prompt_name": "task"}
    tiny_sentence_encoder(**prompts).save(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture
def files(tmp_path):
    """Files of single texts and of pairs, with the names of their labels."""
    for kind, pairs in (("texts", False), ("pairs", True)):
        for part, rows, seed in (("train", 24, 0), ("test", 9, 1)):
            table = tiny_texts(rows, seed=seed, pairs=pairs).to_pandas()
            table["label"] = [f"class{label}" for label in table["label"]]
            table.to_csv(tmp_path / f"{kind}-{part}.csv", index=False)
    return tmp_path


def train(run, files, encoder, pairs, output_dir, *more):
    kind, other = ("pairs", "texts") if pairs else ("texts", "pairs")
    columns = ("text", "second") if pairs else ("text",)
    others = ("text",) if pairs else ("text", "second")
    status, out, err = run(
        "train", "--model_name_or_path", encoder, "--output_dir", output_dir, "--do_train", "--do_eval",
        "--train_file", files / f"{kind}-train.csv", "--validation_file", files / f"{kind}-test.csv",
        "--text_columns", *columns, "--source_train_file", files / f"{other}-train.csv",
        "--source_text_columns", *others, "--max_steps", "2", "--per_device_train_batch_size", "8",
        "--max_seq_length", "6", "--use_cpu", "--report_to", "none", "--examples_per_label", "1", *more,
    )  # fmt: skip
    assert status == 0, err
    return json.loads((output_dir / "eval_results.json").read_text())


@KINDS
def test_train_evaluate_predict_and_publish(run, files, encoder, tmp_path, pairs):
    """The source is of the other kind. Texts are cut to 6 tokens, here and in sentence-transformers."""
    scored = train(run, files, encoder, pairs, tmp_path / "out")
    data = files / f"{'pairs' if pairs else 'texts'}-test.csv"
    columns = ["text", "second"] if pairs else ["text"]
    status, out, err = run(
        "evaluate", tmp_path / "out", "--validation_file", data, "--text_columns", *columns, "--json"
    )
    assert status == 0, err
    assert json.loads(out)["metrics"]["loss"] == pytest.approx(scored["eval_loss"], abs=1e-5)

    rows = tmp_path / "rows.csv"
    pd.read_csv(data).drop(columns="label").to_csv(rows, index=False)
    status, out, err = run(
        "predict", tmp_path / "out", rows, "--text_columns", *columns, "--output", tmp_path / "p.csv"
    )  # fmt: skip
    assert status == 0, err
    found = pd.read_csv(tmp_path / "p.csv")
    probabilities = torch.tensor(found[[f"probability_{name}" for name in ("class0", "class1", "class2")]].to_numpy())
    texts = pd.read_csv(data)
    logits = torch.stack(
        [run_card(tmp_path / "out", *row[: len(columns)]) for row in texts[columns].itertuples(index=False)]
    )
    torch.testing.assert_close(logits.double().softmax(-1), probabilities, atol=1e-5, rtol=0)

    plan = plan_of(tmp_path / "out", "user/model")
    head = ["pair_classifier/config.json", "pair_classifier/model.safetensors"]
    head = head if pairs else ["3_Dense/config.json", "3_Dense/model.safetensors"]
    assert sorted(plan.files) == sorted(
        ["1_Pooling/config.json", "2_Normalize/config.json", "README.md", "config.json", "model.safetensors",
         "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json", "tokenizer.json",
         "tokenizer_config.json", *head]
    )  # fmt: skip


def run_card(folder, *texts):
    """The logits by the lines of the card that load the model, for other texts."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: sentence-transformers" in card and "merlin_hf is not needed" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    code = code.replace(f'"{folder.name}"', repr(str(folder)))
    shown = re.search(r'encode\(\["(.*?)"\]|texts = \["(.*?)", "(.*?)"\]', code)
    for old, new in zip([text for text in shown.groups() if text], texts, strict=True):
        code = code.replace(f'"{old}"', repr(new))
    names = {}
    exec(code, names)
    return names["logits"]


@KINDS
def test_a_card_is_written_for_a_folder_without_one(run, files, encoder, tmp_path, pairs):
    train(run, files, encoder, pairs, tmp_path / "out")
    (tmp_path / "out" / "README.md").unlink()
    card = plan_of(tmp_path / "out", "user/model").card
    assert "pipeline_tag: text-classification" in card and 'SentenceTransformer("user/model")' in card
    assert ("pair_classifier" in card) == pairs
    (tmp_path / "out" / ("pair_classifier" if pairs else "3_Dense") / "model.safetensors").unlink()
    with pytest.raises(PublishError, match="no whole model: .*(pair_classifier|3_Dense)/model.safetensors missing"):
        plan_of(tmp_path / "out", "user/model")


@KINDS
def test_adapters_are_evaluated(run, files, encoder, tmp_path, pairs):
    model = SentenceTransformer(encoder, device="cpu")
    rows = tokenized(model, tiny_texts(pairs=pairs))
    trainer = MerlinTrainer(
        model=model,
        args=make_args(tmp_path / "run", max_steps=2),
        train_dataset=rows,
        source_dataset=tokenized(model, tiny_texts(num_labels=4)),
        eval_dataset=tokenized(model, tiny_texts(9, seed=1, pairs=pairs)),
        peft_config=LoraConfig(target_modules=["query"], init_lora_weights=False),
    )
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    columns = ["text", "second"] if pairs else ["text"]
    data = files / f"{'pairs' if pairs else 'texts'}-test.csv"
    given = ["--validation_file", data, "--text_columns", *columns, "--json", "--labels_by_number"]
    status, out, err = run("evaluate", tmp_path / "adapter", *given)
    assert status == 0, err
    assert json.loads(out)["metrics"]["loss"] == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-5)


def test_a_saved_head_of_another_kind_than_the_rows(run, files, encoder, tmp_path):
    train(run, files, encoder, False, tmp_path / "out")
    given = ["--validation_file", files / "pairs-test.csv", "--text_columns", "text", "second"]
    status, _, err = run("evaluate", tmp_path / "out", *given)
    assert status == 2 and "The head of this model reads single texts, and was given pairs of texts." in err


def test_an_encoder_without_a_head_is_no_classifier(run, files, encoder):
    status, _, err = run("evaluate", encoder, "--validation_file", files / "texts-test.csv")
    assert status == 2 and "is a sentence encoder without a classifier on top" in err


def test_an_encoder_can_be_read_as_a_plain_classifier(run, files, encoder, tmp_path, caplog):
    train(run, files, encoder, False, tmp_path / "out", "--sentence_encoder", "false")
    assert not (tmp_path / "out" / "modules.json").exists()
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert "whose own pooling was never trained" in caplog.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tokenizer_name", "elsewhere"], "`tokenizer_name` is not for a sentence encoder"),
        (["--trust_remote_code", "true"], "leave `trust_remote_code` out"),
    ],
)
def test_options_that_do_not_go_with_an_encoder(run, files, encoder, tmp_path, more, message):
    given = ["--train_file", files / "texts-train.csv", "--method", "finetune", "--use_cpu"]
    status, _, err = run(
        "train", "--model_name_or_path", encoder, "--output_dir", tmp_path / "out", "--do_train", *given, *more
    )
    assert status == 2 and message in err


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_without_the_library_the_commands_name_the_extra(run, files, encoder, tmp_path, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    given = {
        "train": ["--model_name_or_path", encoder, "--output_dir", tmp_path / "out", "--do_train", "--use_cpu",
                  "--train_file", files / "texts-train.csv", "--method", "finetune"],
        "evaluate": [encoder, "--validation_file", files / "texts-test.csv"],
        "predict": [encoder, files / "texts-test.csv"],
    }  # fmt: skip
    status, _, err = run(command, *given[command])
    assert status != 0 and '`pip install "merlin_hf[sentence]"`' in err and "Traceback" not in err


def test_the_class_that_loads_one_is_found_by_its_files(encoder):
    model = SentenceEncoderForSequenceClassification.from_pretrained(encoder)
    assert model.name_or_path == encoder
