"""The card of a trained model: what it says, and that the Hub takes it."""

import re

import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub import ModelCard
from transformers import Trainer, TrainingArguments

from merlin_hf.hub import PublishError
from merlin_hf.hub.card import (
    TEXT_CLASSIFICATION,
    CardContent,
    Example,
    MethodDescription,
    Origin,
    hub_name,
    task_of,
    write_card,
)
from merlin_hf.hub.content import DESCRIPTIONS, MERLIN_CITATION, describe_method
from merlin_hf.methods import METHODS, JointTrainer
from merlin_hf.transfer.trainer import TransferTrainer
from merlin_hf.utils.log_history import Evaluation
from tests.hub.card_rules import broken_rules
from tests.hub.conftest import ROOT, of_the_hub, text_dataset, text_trainer, tiny_tokenizer
from tests.tiny import TINY_CLASSIFIERS, tiny_bert, tiny_dataset


def card_of(trainer, **kwargs):
    trainer.create_model_card(**kwargs)
    path = f"{trainer.args.output_dir}/README.md"
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert broken_rules(text) == ([], [])
    return ModelCard.load(path), text


def test_a_whole_card(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_bert(id2label={0: "bad", 1: "good", 2: "plain"}, label2id={"bad": 0, "good": 1, "plain": 2})
    model.config._name_or_path = "google-bert/bert-base-uncased"
    trainer = text_trainer(
        tmp_path / "films", rho=2.0, num_splits=2, max_steps=4, eval_strategy="steps", eval_steps=2,
        trainer={
            "model": model,
            "train_dataset": of_the_hub(text_dataset(tokenizer), "rte", "train"),
            "eval_dataset": of_the_hub(text_dataset(tokenizer, rows=9), "rte", "validation"),
            "source_dataset": of_the_hub(text_dataset(tokenizer, rows=40, names=("w", "x", "y", "z")), "mnli",
            "train"),
        },
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    card, text = card_of(trainer, license="mit", language="en", tags="films", examples_per_label=1)

    data = card.data
    assert data.base_model == "google-bert/bert-base-uncased" and data.library_name == "transformers"
    assert data.datasets == ["nyu-mll/glue"] and data.license == "mit" and data.language == "en"
    assert data.pipeline_tag == "text-classification" and data.metrics == ["accuracy"]
    assert data.tags == ["films", "generated_from_trainer", "merlin_hf", "merlin"]
    assert [example["example_title"] for example in data.widget] == ["bad", "good", "plain"]
    results = {result.metric_type: result for result in data.eval_results}
    assert results.keys() == {"loss", "accuracy"} and results["accuracy"].metric_value == metrics["eval_accuracy"]
    result = results["accuracy"]
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("nyu-mll/glue", "rte", "validation")

    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert sections == [
        "How to use", "Labels", "Results", "Data", "Training", "Training log", "Framework versions", "Citation",
    ]  # fmt: skip
    assert "trained from [google-bert/bert-base-uncased]" in text and "with **MeRLin** on" in text
    assert "| `rho` | 2.0 |" in text and "| `num_splits` | 2 |" in text and "`head_l2`" not in text
    assert "| `max_steps` | 4 |" in text and "eval_strategy" not in text
    assert "| source | [nyu-mll/glue](https://huggingface.co/datasets/nyu-mll/glue) | mnli | train | 40 |" in text
    assert "9 rows, after step 4." in text
    log = text.split("## Training log")[1].split("##")[0].strip().splitlines()
    assert len(log) == 4 and log[0].count("|") == log[1].count("|") == log[2].count("|") and "Meta loss" in log[0]
    assert MERLIN_CITATION in text
    assert str(tmp_path) not in text and "/home/" not in text


def test_the_lines_that_load_it_run_without_this_package(tmp_path):
    trainer = text_trainer(tmp_path / "films")
    _, text = card_of(trainer)
    code = re.search(r"```python\n(.+?)\n```", text, re.DOTALL)[1]
    assert "merlin" not in code and len([line for line in code.splitlines() if line]) == 3
    trainer.save_model()
    names = {}
    exec(code.replace('model="films"', f"model={str(tmp_path / 'films')!r}"), names)
    assert names["classifier"]("the film is bad")[0]["label"] in ("bad", "good", "plain")


def pairs_of(rows, label):
    """Rows of two texts each, with a tokenizer's view of them."""
    texts = {
        "sentence1": [f"the film w{row}" for row in range(rows)],
        "sentence2": [f"is {label}" for _ in range(rows)],
    }
    names = ("bad", "good", "plain")
    features = Features({"sentence1": Value("string"), "sentence2": Value("string"), "label": ClassLabel(names=names)})
    table = Dataset.from_dict({**texts, "label": [row % 3 for row in range(rows)]}, features=features)
    tokenizer = tiny_tokenizer()
    return table.map(lambda row: tokenizer(row["sentence1"], row["sentence2"]))


def test_a_model_of_pairs_is_called_with_both_texts(tmp_path):
    trainer = text_trainer(
        tmp_path / "films", trainer={"train_dataset": pairs_of(9, "bad"), "eval_dataset": pairs_of(6, "good")}
    )
    card, text = card_of(trainer, examples_per_label=1)
    assert 'classifier({"text": "the film w0", "text_pair": "is good"})' in text, "of the evaluation set"
    assert "| label | text | text pair |" in text and "| plain | the film w2 | is good |" in text
    assert card.data.get("widget") is None, "the Hub's widget takes one text"
    trainer.save_model()
    code = re.search(r"```python\n(.+?)\n```", text, re.DOTALL)[1]
    names = {}
    exec(
        code.replace('model="films"', f"model={str(tmp_path / 'films')!r}") + "\nsaid = " + code.splitlines()[-1],
        names,
    )
    said = names["said"][0] if isinstance(names["said"], list) else names["said"]
    inputs = trainer.processing_class("the film w0", "is good", return_tensors="pt")
    with torch.no_grad():
        expected = trainer.model.eval().to("cpu")(**inputs).logits.softmax(-1).max().item()
    assert said["score"] == pytest.approx(expected, rel=1e-4)


def test_rows_are_not_shown_unless_they_are_asked_for(tmp_path):
    trainer = text_trainer(tmp_path, trainer={"train_dataset": pairs_of(9, "bad"), "eval_dataset": None})
    _, text = card_of(trainer)
    assert '"text_pair": "Replace this by' in text and "the film" not in text and "## Labels" not in text


def test_the_citation_in_the_readme_is_the_one_in_cards():
    assert MERLIN_CITATION in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_license_is_stated_only_where_it_is_given(tmp_path):
    card, text = card_of(text_trainer(tmp_path, trainer={"model": tiny_bert()}))
    assert card.data.license is None and "license:" not in text


def test_joint_training_has_no_options_and_no_citation_of_merlin(tmp_path):
    trainer = text_trainer(tmp_path, JointTrainer, rho=3.0, source_weight=0.5)
    _, text = card_of(trainer)
    assert "**joint training**" in text and "`source_weight`" in text
    assert "rho" not in text and "bibtex" not in text


def test_what_the_user_says_of_both_data_sets(tmp_path):
    trainer = text_trainer(tmp_path)
    trainer.model_card_arguments = {
        "license": "apache-2.0",
        "source_dataset_tags": "ada/books",
        "examples_per_label": 1,
    }
    card, text = card_of(trainer, dataset_tags=["ada/films"], dataset="Films", dataset_args="short", license="mit")
    assert card.data.datasets == ["ada/films", "ada/books"] and card.data.license == "mit"
    assert "on [Films](https://huggingface.co/datasets/ada/films), `short` (the target)" in text
    assert len(card.data.widget) == 3 and "## Labels" in text


def test_several_evaluation_sets(tmp_path):
    tokenizer = tiny_tokenizer()
    sets = {"easy": text_dataset(tokenizer, rows=6), "hard_ones": text_dataset(tokenizer, rows=9)}
    trainer = text_trainer(tmp_path, trainer={"eval_dataset": sets})
    trainer.evaluate()
    card, text = card_of(trainer)
    assert {result.dataset_name for result in card.data.eval_results} == {"easy", "hard_ones"}
    assert "## Results on easy" in text and "`hard_ones`, 9 rows" in text


def test_results_name_the_set_that_was_evaluated(tmp_path):
    trainer = text_trainer(tmp_path)
    trainer.evaluate(of_the_hub(text_dataset(tiny_tokenizer(), rows=12), "sst2", "test"))
    card, text = card_of(trainer, dataset_tags="ada/films")
    assert {(result.dataset_type, result.dataset_split) for result in card.data.eval_results} == {
        ("nyu-mll/glue", "test")
    }
    assert "12 rows" in text
    trainer.evaluate()
    assert {result.dataset_type for result in card_of(trainer, dataset_tags="ada/films")[0].data.eval_results} == {
        "ada/films"
    }


def test_a_model_that_was_never_trained_has_a_card(tmp_path):
    trainer = text_trainer(tmp_path, trainer={"eval_dataset": None, "model": tiny_bert()})
    card, text = card_of(trainer)
    assert card.data.eval_results is None and "## Results" not in text and "## Training log" not in text


def test_tokens_without_texts_and_without_a_tokenizer(tmp_path):
    trainer = text_trainer(
        tmp_path, trainer={"train_dataset": tiny_dataset(), "eval_dataset": None, "processing_class": None}
    )
    trainer.data_collator = None
    _, text = card_of(trainer)
    assert "AutoModelForSequenceClassification.from_pretrained(" in text and "## Labels" not in text


def test_an_adapter(tmp_path):
    from peft import LoraConfig

    trainer = text_trainer(tmp_path, trainer={"peft_config": LoraConfig(task_type="SEQ_CLS", r=2)})
    card, text = card_of(trainer)
    assert card.data.library_name == "peft" and "AutoPeftModelForSequenceClassification" in text and "- peft " in text
    assert card.data.pipeline_tag == "text-classification"


@pytest.mark.parametrize(
    ("name", "task", "given"),
    [("vit", "image-classification", "picture.png"), ("wav2vec2", "audio-classification", "recording.wav")],
)
def test_other_tasks(name, task, given):
    class_name = type(TINY_CLASSIFIERS[name]()).__name__
    content = CardContent("ada/x", class_name, "x", task=task_of([class_name]), has_processor=True)
    text = str(write_card(content))
    assert f'pipeline("{task}", model="ada/x")' in text and f'classifier("{given}")' in text


def test_odd_texts_break_nothing():
    odd = 'a | "b" ``` <script> \\ {{ card_data }} {% if %} é'
    evaluation = Evaluation("o|dd", {"accuracy": 0.5}, 3)
    content = CardContent(
        "ada/x", "BertForSequenceClassification", "x", has_processor=True, examples=[Example("l|1", odd)],
        options={"o": "a|b"}, evaluations=[evaluation], targets=[Origin(name="n|m")],
        method=DESCRIPTIONS["MerlinTrainer"],
    )  # fmt: skip
    text = str(write_card(content))
    assert broken_rules(text) == ([], [])
    assert yaml.safe_load(text.split("---")[1])["widget"][0]["text"] == odd
    assert "{{ card_data }}" in text and "| l\\|1 | a \\| " in text and "&lt;script>" in text
    assert len(re.findall("^```", text, re.MULTILINE)) == 4


HOSTILE = [
    "a\n\n# Forged\n<script>alert(1)</script>`",
    "![p](http://evil.example/p.gif)",
    "[c](javascript:alert(1)) | x",
    "---\nlicense: mit\n---",
    "-->\n<svg onload=alert(1)>",
    "\"quoted\" 'twice': {a: [b, *c, &d, !e]} #f",
    "```\n# Forged",
    "x" * 100_000,
    "\x1b[31m\u202e\x00\x85\u2028",
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_names_that_are_markup_are_shown_as_text(hostile):
    origin = Origin(hostile, hostile, hostile, hostile, hostile, 3, (hostile, "b"))
    content = CardContent(
        hostile, hostile, hostile, TEXT_CLASSIFICATION, None, [origin], [origin], {hostile: origin, None: origin},
        MethodDescription(hostile, "Trains."), {"o": hostile}, {"a": hostile},
        [Evaluation(name, {hostile: 0.5, "accuracy": 1.0}, 3) for name in (hostile, None)],
        [{"step": 1, "loss": 1.0, f"eval_{hostile}": 0.5}],
        [Example(hostile, hostile), Example("b", hostile)],
        language=[hostile], tags=[hostile], has_processor=True,
    )  # fmt: skip
    card = write_card(content)
    text = str(card)
    assert broken_rules(text) == ([], []) and len(text) < 1_500_000
    assert card.data.license is None and card.data.pipeline_tag == "text-classification"
    body = text.split("\n---\n", 1)[1]
    fences = re.findall(r"^```.*$", body, re.MULTILINE)
    assert fences == ["```python", "```"]
    outside = re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL)
    outside = re.sub(r"\\.", "", outside)  # escaped signs
    outside = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", outside)  # code
    assert re.findall(r"<(?!!--)", outside) == []
    assert re.findall(r"\]\((?!https://(?:huggingface.co|arxiv.org)/)", outside) == []
    headings = re.findall(r"^#+ (\w+)", outside, re.MULTILINE)
    assert "Forged" not in headings and headings.count("Results") == 2
    tables = re.findall(r"(?:^\|.*\n)+", outside, re.MULTILINE)
    assert len(tables) == 7 and all(len({row.count("|") for row in found.splitlines()}) == 1 for found in tables)


def test_a_trainer_with_hostile_names(tmp_path):
    trainer = text_trainer(
        tmp_path / "a <b> `c`", trainer={"eval_dataset": {HOSTILE[0]: text_dataset(tiny_tokenizer())}}
    )
    trainer.evaluate()
    _, text = card_of(trainer, dataset=HOSTILE[0], dataset_args=HOSTILE[2], source_dataset_tags=HOSTILE[3])
    assert "<script" not in re.sub(r"`+.+?`+", "", text.split("\n---\n", 1)[1]) and "\n# Forged" not in text


def test_metadata_that_cannot_be_is_an_error():
    evaluation = Evaluation(None, {"accuracy": object()}, 3)
    content = CardContent(
        "ada/x", "BertForSequenceClassification", "x", task=TEXT_CLASSIFICATION, evaluations=[evaluation]
    )
    with pytest.raises(PublishError, match="metadata"):
        write_card(content)


@pytest.mark.parametrize("name", ["google-bert/bert-base-uncased", "gpt2"])
def test_names_on_the_hub(name):
    assert hub_name(name) == name


@pytest.mark.parametrize("name", [None, "", "/models/bert", "../bert", "a/b/c", "runs\\x", "bert base", "."])
def test_folders_are_no_names_on_the_hub(name):
    assert hub_name(name) is None


def test_a_folder_that_is_there_is_no_base_model(tmp_path, monkeypatch):
    (tmp_path / "ada" / "bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_name("ada/bert") is None


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_description(name):
    found = describe_method(METHODS[name])
    assert found.name and len(found.summary) > 20 and "[`" not in found.summary
    assert (found.citation == MERLIN_CITATION) == name.startswith("merlin")


def test_methods_are_described_by_the_nearest_class():
    assert describe_method(type("Mine", (JointTrainer,), {})).name == "joint training"
    own = type("OwnTrainer", (TransferTrainer,), {"__doc__": "Trains [`~torch.nn.Linear`]\nlayers.\n\nMore."})
    own.__module__ = "merlin_hf.methods.own"
    found = describe_method(type("Mine", (own,), {"__module__": "elsewhere"}))
    assert found == ("Own", "Trains `Linear` layers.", None)
    own.__doc__ = "Own-SP (Nobody 2020, arXiv 1): trains."
    assert describe_method(own) == ("Own-SP", "Own-SP (Nobody 2020, arXiv 1): trains.", None)
    with_text = type("Mine", (own,), {"method_description": DESCRIPTIONS["FinetuneTrainer"]})
    assert describe_method(with_text).name == "fine-tuning"


def test_without_a_source_the_card_is_trainers(tmp_path):
    texts = []
    for trainer_class in (Trainer, None):
        kwargs = {} if trainer_class is None else {"trainer_class": trainer_class}
        trainer = text_trainer(tmp_path / "same", source=False, args_class=TrainingArguments, **kwargs)
        trainer.train()
        trainer.evaluate()
        trainer.create_model_card(license="mit", dataset_tags="ada/films")
        texts.append((tmp_path / "same" / "README.md").read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
