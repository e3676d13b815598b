"""`merlin-hf evaluate` on adapters that the trainers left, against PEFT's own loading."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from sklearn import metrics
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ViTImageProcessorPil,
)

from merlin_hf import MerlinTrainer
from tests.cli.test_evaluate import answers_of, write, write_images
from tests.examples.conftest import model_path, surroundings  # noqa: F401
from tests.report.test_run_report import HISTORY, write_state
from tests.support import make_args
from tests.tiny import TINY_CLASSIFIERS, tiny_dataset


LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}


@pytest.fixture
def adapter(model_path, tmp_path):  # noqa: F811
    """What `MerlinTrainer` leaves of an adapter on a base model without a classifier."""
    shutil.copytree(model_path, tmp_path / "base")
    trainer = MerlinTrainer(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3),
        make_args(tmp_path / "adapter", learning_rate=1e-2),
        peft_config=LoraConfig(task_type="SEQ_CLS", **LORA),
        train_dataset=tiny_dataset(),
        source_dataset=tiny_dataset(rows=40, num_labels=4, seed=1),
        processing_class=AutoTokenizer.from_pretrained(model_path),
    )
    trainer.train()
    trainer.save_model()
    return tmp_path / "adapter"


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_an_adapter_is_scored_as_peft_loads_it(adapter, has_tokenizer, tmp_path, run):
    table = write(tmp_path / "data.csv", [0, 1, 2])
    named = table.cast_column("label", datasets.ClassLabel(names=["no", "yes", "maybe"]))
    named.to_parquet(tmp_path / "data.parquet")
    model = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=3)
    logits = answers_of(model, AutoTokenizer.from_pretrained(adapter), table["text"])
    if not has_tokenizer:  # then it is that of the base model
        for path in adapter.glob("*token*"):
            path.unlink()
    status, shown, _ = run("evaluate", adapter, "--validation_file", tmp_path / "data.csv", "--json")
    result = json.loads(shown)
    assert status == 0 and result["task"] == "text" and result["rows"] == 40
    said = logits.argmax(-1).numpy()
    assert result["confusion_matrix"] == metrics.confusion_matrix(table["label"], said, labels=range(3)).tolist()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(table["label"])).item()
    assert result["metrics"]["loss"] == pytest.approx(expected, rel=1e-4)
    # An adapter has no names for its labels.
    named = json.loads(run("evaluate", adapter, "--validation_file", tmp_path / "data.parquet", "--json")[1])
    assert named["labels"] == ["no", "yes", "maybe"] and named["metrics"] == result["metrics"]


def test_the_base_model_may_be_a_classifier_of_other_labels(adapter, tmp_path, run):
    table = write(tmp_path / "data.csv", [0, 1, 2])
    before = run("evaluate", adapter, "--validation_file", tmp_path / "data.csv", "--json")[1]
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=5)
    other.config.problem_type = "multi_label_classification"
    other.save_pretrained(tmp_path / "base")
    assert json.loads(before)["rows"] == len(table)
    assert run("evaluate", adapter, "--validation_file", tmp_path / "data.csv", "--json")[1] == before


def test_a_base_model_that_was_moved(adapter, tmp_path, run):
    write(tmp_path / "data.csv", [0, 1, 2])
    flags = ["--validation_file", tmp_path / "data.csv", "--json"]
    before = run("evaluate", adapter, *flags)[1]
    (tmp_path / "base").rename(tmp_path / "moved")
    status, shown, said = run("evaluate", adapter, *flags)
    assert status == 2 and shown == "" and "the base model of the adapter" in said and "give `--base_model`" in said
    status, shown, _ = run("evaluate", adapter, "--base_model", tmp_path / "moved", *flags)
    assert status == 0 and shown == before


def test_a_pickle_is_not_read(adapter, tmp_path, run):
    write(tmp_path / "data.csv", [0, 1, 2])
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    status, shown, said = run("evaluate", adapter, "--validation_file", tmp_path / "data.csv")
    assert status == 2 and shown == "" and "is an adapter without adapter_model.safetensors" in said


def test_an_adapter_without_a_head(adapter, tmp_path, run):
    write(tmp_path / "data.csv", [0, 1, 2])
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    get_peft_model(base, LoraConfig(**LORA)).save_pretrained(tmp_path / "bare")
    flags = ["--validation_file", tmp_path / "data.csv", "--json"]
    status, _, said = run("evaluate", tmp_path / "bare", *flags)
    assert status == 2 and "has no head" in said and "there is nothing to evaluate" in said
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    base.save_pretrained(tmp_path / "base")  # a classifier, whose head the adapter uses
    before = run("evaluate", tmp_path / "base", *flags)[1]
    found = json.loads(run("evaluate", tmp_path / "bare", *flags)[1])
    assert found["metrics"] == pytest.approx(json.loads(before)["metrics"], rel=1e-5), "LoRA starts at zero"
    status, _, said = run("evaluate", tmp_path / "base", "--base_model", tmp_path / "base", *flags)
    assert status == 2 and "`--base_model` is for adapters" in said


def test_a_report_has_the_features_of_an_adapter(adapter, tmp_path, run):
    write(tmp_path / "data.csv", [0, 1, 2])
    flags = ["--validation_file", tmp_path / "data.csv", "--base_model", tmp_path / "base"]
    write_state(adapter, HISTORY)
    status, _, _ = run("report", adapter, *flags, "--output_dir", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert status == 0 and {"confusion_matrix.png", "features.png"} <= names


def test_a_decoder_pads_with_the_tokenizers_token(model_path, tmp_path, run):  # noqa: F811
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = TINY_CLASSIFIERS["gpt2"]()
    base.config.pad_token_id = None  # as GPT-2 has none
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(model_path).save_pretrained(tmp_path / "adapter")
    table = write(tmp_path / "data.csv", [0, 1, 2])
    logits = answers_of(model, AutoTokenizer.from_pretrained(tmp_path / "adapter"), table["text"])
    flags = ["--validation_file", tmp_path / "data.csv", "--json", "--batch_size", 7]
    status, shown, said = run("evaluate", tmp_path / "adapter", *flags)
    assert status == 0, said
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(table["label"])).item()
    assert json.loads(shown)["metrics"]["loss"] == pytest.approx(expected, rel=1e-4)


def test_an_adapter_for_images(image_processors, tmp_path, run):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        TINY_CLASSIFIERS["vit"]().save_pretrained(tmp_path / "base")
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "base")
    base = AutoModelForImageClassification.from_pretrained(
        tmp_path / "base", num_labels=2, ignore_mismatched_sizes=True
    )
    # Versions of transformers call the layers of ViT differently.
    layers = [
        name for name, layer in base.named_modules() if isinstance(layer, torch.nn.Linear) and "attention" in name
    ]
    config = LoraConfig(target_modules=layers, modules_to_save=["classifier"], init_lora_weights=False)
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path / "adapter")  # without a tokenizer, a processor and a task
    images, references = write_images(tmp_path / "images", ["0", "1"])
    with torch.no_grad():
        said = [model.eval()(**processor([image], return_tensors="pt")).logits.argmax(-1).item() for image in images]
    status, shown, _ = run("evaluate", tmp_path / "adapter", "--validation_dir", tmp_path / "images", "--json")
    result = json.loads(shown)
    assert status == 0 and result["task"] == "image"
    assert result["confusion_matrix"] == metrics.confusion_matrix(references, said, labels=[0, 1]).tolist()
    assert np.sum(result["confusion_matrix"]) == len(images)
