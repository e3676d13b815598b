"""`merlin-hf evaluate`: its numbers against scikit-learn, on answers that are computed apart."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn import metrics
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from merlin_hf.data.labels import Labels
from merlin_hf.data.models import outputs_of
from tests.examples.conftest import model_path, surroundings  # noqa: F401
from tests.examples.test_run_glue import rows
from tests.tiny import TEXT, VISION, tiny_bert
from tests.utils.test_probabilities import torchmetrics_error


NAMES = ["no", "yes", "maybe"]


def with_labels(model, names):
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: id for id, name in enumerate(names)}
    return model


def spread_out(model):
    """The model with answers of all classes: larger logits, less their mean over some rows."""
    with torch.no_grad():
        model.classifier.weight.mul_(500)
        inputs = torch.randint(4, 44, (40, 8), generator=torch.Generator().manual_seed(0))
        inputs[:, 0], inputs[:, -1] = 2, 3  # as the tokenizer begins and ends a text
        model.classifier.bias.sub_(model.eval()(input_ids=inputs).logits.mean(0))
    return model


@pytest.fixture
def saved(model_path, tmp_path):  # noqa: F811
    """A classifier of texts as `save_model` leaves it."""
    spread_out(with_labels(tiny_bert(num_labels=3, seed=1), NAMES)).save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(model_path).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def write(path, labels, columns=("text",), count=40, label="label"):
    table = rows(count, labels, columns=columns, seed=7)
    table = table if label == "label" else table.rename_column("label", label)
    table.to_csv(path)
    return table


def answers(folder, texts):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return answers_of(model, AutoTokenizer.from_pretrained(folder), texts)


@torch.no_grad()
def answers_of(model, tokenizer, texts):
    return torch.cat([model.eval()(**tokenizer(text, return_tensors="pt")).logits for text in texts])


def write_images(root, names, count=10):
    """Images in a folder for each class; returns them and their classes."""
    draw = np.random.default_rng(0)
    images, references = [], []
    for number in range(count):
        folder = root / names[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(draw.integers(0, 255, (20, 24), dtype=np.uint8))
        image.save(folder / f"{number}.png")
        images.append(image.convert("RGB"))
        references.append(number % 2)
    return images, references


def test_metrics_of_texts(saved, tmp_path, run):
    table = write(tmp_path / "data.csv", ["yes", "no"], label="stars")  # not all classes, and in another order
    logits = answers(saved, table["text"])
    references = [NAMES.index(name) for name in table["stars"]]
    flags = ["--validation_file", tmp_path / "data.csv", "--label_column", "stars", "--batch_size", 7]
    status, shown, _ = run("evaluate", saved, *flags, "--json", "--output_dir", tmp_path / "out")
    result = json.loads(shown)
    assert status == 0 and result == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    said = logits.argmax(-1).numpy()
    assert len(set(said)) > 1
    assert result["confusion_matrix"] == metrics.confusion_matrix(references, said, labels=range(3)).tolist()
    assert result["labels"] == NAMES and result["rows"] == 40
    occurring = sorted(set(said) | set(references))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(references)).item()
    probabilities = torch.softmax(logits.double(), -1).numpy()
    expected = {
        "loss": loss,
        "log_loss": loss,
        "brier_score": ((probabilities - np.eye(3)[references]) ** 2).sum(1).mean(),
        "ece": torchmetrics_error(probabilities, references, 15),
        "accuracy": metrics.accuracy_score(references, said),
        "macro_f1": metrics.f1_score(references, said, average="macro", labels=occurring, zero_division=0),
        "matthews_correlation": metrics.matthews_corrcoef(references, said),
    }
    assert result["metrics"] == pytest.approx(expected, rel=1e-4)
    by_class = metrics.precision_recall_fscore_support(references, said, labels=occurring, zero_division=0)
    for place, one in enumerate(result["classes"]):
        assert one["class"] == NAMES[occurring[place]]
        found = [one[name] for name in ("precision", "recall", "f1", "rows")]
        assert found == pytest.approx([scores[place] for scores in by_class])
    assert all((tmp_path / "out" / f"{name}.png").stat().st_size > 0 for name in ("confusion_matrix", "reliability"))
    bins = result["reliability"]
    assert sum(bins["counts"]) == 40 and np.dot(bins["counts"], bins["accuracy"]) / 40 == pytest.approx(
        expected["accuracy"]
    )

    status, shown, said = run("evaluate", saved, *flags, "--max_eval_samples", 5)
    assert (
        status == 0 and shown.startswith(f"{saved} on 5 rows of validation\nmetric") and "\nclass  precision" in shown
    )


def test_texts_that_are_cut_are_counted(saved, tmp_path, run):
    table = write(tmp_path / "data.csv", ["yes", "no"], columns=("text", "second"))
    tokenizer = AutoTokenizer.from_pretrained(saved)
    lengths = sorted(len(tokens) for tokens in tokenizer(table["text"][:], table["second"][:])["input_ids"])
    limit = lengths[len(lengths) // 2]
    cut = sum(length > limit for length in lengths)
    assert 0 < cut < 40 and limit in lengths, "some are cut, and one just fits"
    flags = ["--validation_file", tmp_path / "data.csv", "--text_columns", "text", "second"]
    status, shown, said = run("evaluate", saved, *flags, "--json", "--max_seq_length", limit)
    result = json.loads(shown)
    assert status == 0 and (result["cut_rows"], result["max_seq_length"]) == (cut, limit)
    warning = f"warning: {cut} of 40 rows were cut to {limit} tokens; `--max_seq_length` takes more"
    assert result["warning"] == warning and f"merlin-hf evaluate: {warning}\n" in said
    _, shown, said = run("evaluate", saved, *flags, "--json", "--max_seq_length", lengths[-1])
    result = json.loads(shown)
    assert result["cut_rows"] == 0 and result["warning"] is None and "cut to" not in said
    tokenizer.model_max_length = limit
    tokenizer.save_pretrained(saved)
    assert "tokens; which is all that the model takes\n" in run("evaluate", saved, *flags)[2]


def test_glue_metrics_and_splits(saved, tmp_path, run, monkeypatch):
    model = with_labels(tiny_bert(num_labels=2, seed=3), ["equivalent", "not_equivalent"])
    spread_out(model).save_pretrained(saved)
    names = datasets.ClassLabel(names=["not_equivalent", "equivalent"])
    for split, count in (("validation", 30), ("test", 8)):
        table = rows(count, [0, 1], columns=("sentence1", "sentence2"), seed=count).cast_column("label", names)
        table.to_parquet(tmp_path / "data" / "mrpc" / f"{split}.parquet")
    monkeypatch.setenv("MERLIN_DATA_ROOT", str(tmp_path / "data"))
    status, shown, said = run("evaluate", saved, "--task_name", "mrpc", "--json")
    result = json.loads(shown)
    (_, wrong), (missed, right) = np.array(result["confusion_matrix"])[::-1, ::-1]  # as the data numbers the classes
    assert result["split"] == "validation" and result["rows"] == 30
    assert result["metrics"]["f1"] == pytest.approx(2 * right / (2 * right + wrong + missed)), "of the data's class 1"
    status, shown, _ = run("evaluate", saved, "--task_name", "mrpc", "--json", "--split", "test")
    assert json.loads(shown)["rows"] == 8
    status, _, said = run("evaluate", saved, "--task_name", "mrpc", "--split", "tset")
    assert status == 2 and "`split='tset'` is not in `task_name`, only " in said and "Did you mean 'test'" in said


def test_real_labels(model_path, tmp_path, run):  # noqa: F811
    model = tiny_bert(num_labels=1, seed=2, problem_type="regression")
    model.save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(model_path).save_pretrained(tmp_path / "saved")
    table = write(tmp_path / "data.csv", [0.5, 1.5, 2.0])
    status, shown, _ = run("evaluate", tmp_path / "saved", "--validation_file", tmp_path / "data.csv", "--json")
    result = json.loads(shown)
    said = answers(tmp_path / "saved", table["text"]).numpy().reshape(-1)
    assert result["metrics"]["mse"] == pytest.approx(metrics.mean_squared_error(table["label"], said), rel=1e-4)
    assert result["metrics"]["pearson"] == pytest.approx(np.corrcoef(table["label"], said)[0, 1], rel=1e-3)
    assert result["classes"] is None
    write(tmp_path / "classes.csv", ["a", "b"])
    status, _, said = run("evaluate", tmp_path / "saved", "--validation_file", tmp_path / "classes.csv")
    assert status == 2 and "The model answers with real numbers, and the labels of the data are classes." in said


def test_images(image_processors, tmp_path, run):
    config = {name: value for name, value in TEXT.items() if name != "vocab_size"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = with_labels(ViTForImageClassification(ViTConfig(**config, **VISION, num_labels=2)), ["ant", "bee"])
    model.save_pretrained(tmp_path / "saved")
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "saved")
    images, references = write_images(tmp_path / "images", ["ant", "bee"])
    with torch.no_grad():
        said = [model.eval()(**processor([image], return_tensors="pt")).logits.argmax(-1).item() for image in images]
    status, shown, _ = run("evaluate", tmp_path / "saved", "--validation_dir", tmp_path / "images", "--json")
    result = json.loads(shown)
    assert status == 0 and result["task"] == "image"
    assert result["confusion_matrix"] == metrics.confusion_matrix(references, said, labels=[0, 1]).tolist()
    status, _, said = run("evaluate", tmp_path / "saved", "--validation_file", "x.csv")
    assert status == 2 and "`validation_file` is about texts, and the model is one of images" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            [],
            "Name the data by one of `--task_name`, `--dataset_name`, `--validation_file`, "
            "`--validation_dir`, got none",
        ),
        (["--task_name", "rte", "--validation_file", "x.csv"], "got task_name, validation_file"),
        (["--validation_file", "nowhere.csv"], "nowhere.csv"),
        (["--validation_file", "{data}", "--label_column", "strs"], "`label_column='strs'` is not a column"),
        (
            ["--validation_file", "{data}", "--batch_size", "0"],
            "`batch_size` must be a whole number of at least 1 or null, got 0",
        ),
        (["--validation_file", "{data}"], "The data has the labels ['a', 'b'], the model ['no', 'yes', 'maybe']"),
    ],
)
def test_what_cannot_be_used(flags, message, saved, tmp_path, run):
    write(tmp_path / "data.csv", ["a", "b"])
    status, shown, said = run("evaluate", saved, *(flag.format(data=tmp_path / "data.csv") for flag in flags))
    assert status == 2 and shown == "" and message in said and "Traceback" not in said


def test_a_folder_without_a_classifier(model_path, tmp_path, run):  # noqa: F811
    status, _, said = run("evaluate", model_path, "--validation_file", "x.csv")
    assert status == 2 and "BertModel" in said and "a classifier of texts, of images or of recordings" in said
    status, _, said = run("evaluate", tmp_path, "--validation_file", "x.csv")
    assert status == 2 and "cannot be loaded: Unrecognized model" in said


def test_what_is_taken_otherwise_than_it_stands_is_said(saved, tmp_path, run):
    write(tmp_path / "data.csv", ["Yes", "no ", ""], count=39)
    status, shown, said = run("evaluate", saved, "--validation_file", tmp_path / "data.csv", "--json")
    assert status == 0 and json.loads(shown)["rows"] == 26
    lines = [line for line in said.splitlines() if line.startswith("merlin-hf evaluate: warning: ")]
    for words in ("13 of 39 rows have no label", "taken without it: ['no ']", "'Yes' as 'yes'"):
        assert any(words in line for line in lines), said


@pytest.mark.parametrize("name", ["broken.csv", "broken.jsonl"])
def test_files_that_cannot_be_read_are_one_line(name, saved, tmp_path, run):
    (tmp_path / name).write_text("text,label\na,b,c\n" if name.endswith("csv") else '{"text": "a"}\n{"text":\n')
    status, shown, said = run("evaluate", saved, "--validation_file", tmp_path / name)
    assert status == 2 and shown == "" and len(said.strip().splitlines()) == 1
    assert said.startswith("merlin-hf evaluate: `validation_file=") and name in said and "line 2" in said


def test_labels_of_the_data_are_matched_with_the_models(caplog):
    config = with_labels(tiny_bert(num_labels=3), ["No", "Yes", "Maybe"]).config
    assert outputs_of(Labels(["Maybe", "No"]), config) == [2, 0]
    assert "lower case" not in caplog.text
    assert outputs_of(Labels(["maybe", "no"]), config) == [2, 0]
    assert "upper and lower case" in caplog.text and "'maybe' as 'Maybe'" in caplog.text
    strange = Labels(["x", "y"])
    assert outputs_of(strange, config, by_number=True) == [0, 1]
    assert outputs_of(strange, tiny_bert(num_labels=2).config) == [0, 1], "the model names none"
    unnamed = tiny_bert(num_labels=3).config
    # Of three sorted names that the model was trained with, two do not tell which.
    numbers = Labels(["0", "2"], numbers=[0, 2], has_names=False)
    out_of_range = Labels(["0", "3"], numbers=[0, 3], has_names=False)
    assert outputs_of(numbers, unnamed) == [0, 2] and outputs_of(numbers, config, by_number=True) == [0, 2]
    for labels, known in ((strange, config), (numbers, config), (out_of_range, unnamed), (strange, unnamed)):
        with pytest.raises(ValueError, match="--labels_by_number"):
            outputs_of(labels, known)
    # Some names are the model's: by number they would stand for others.
    partly = Labels(["0", "1"], has_names=False)
    with pytest.raises(ValueError, match=r"labels \['0', '1'\], the model \['1', '2', '3'\]"):
        outputs_of(partly, with_labels(tiny_bert(num_labels=3), ["1", "2", "3"]).config)
    twice = with_labels(tiny_bert(num_labels=3), ["May", "may", "no"]).config
    with pytest.raises(ValueError, match="labels"):
        outputs_of(Labels(["MAY"]), twice)


def test_an_output_dir_that_cannot_be_written_to_is_found_before_the_model_is_loaded(tmp_path, run):
    (tmp_path / "file").touch()
    flags = ["--validation_file", tmp_path / "nowhere.csv", "--output_dir", tmp_path / "file" / "out"]
    status, shown, said = run("evaluate", tmp_path / "no_model", *flags)
    assert status == 2 and shown == "" and "`output_dir=" in said and "cannot be written to" in said


# Models that cannot answer


def without_head(weights):
    return {name: tensor for name, tensor in weights.items() if "classifier" not in name}


def with_nan(weights):
    return {**weights, "classifier.bias": torch.full_like(weights["classifier.bias"], float("nan"))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_head, "is not a whole classifier: it has no weights for classifier.bias, classifier.weight"),
        (with_nan, "answers 40 of 40 rows with NaN or infinity"),
    ],
)
def test_a_model_without_a_head_and_one_of_nan_have_no_metrics(saved, run, tmp_path, change, message):
    path = saved / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    write(tmp_path / "rows.csv", NAMES)
    status, shown, said = run("evaluate", saved, "--validation_file", tmp_path / "rows.csv", "--use_cpu")
    assert (status, shown) == (2, "") and message in said and str(saved) in said


def test_an_output_without_a_name_is_said(saved, run, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    config["id2label"] = {"0": "no", "1": "yes", "5": "maybe"}
    (saved / "config.json").write_text(json.dumps(config))
    write(tmp_path / "rows.csv", NAMES)
    status, shown, said = run("evaluate", saved, "--validation_file", tmp_path / "rows.csv", "--use_cpu")
    assert (status, shown) == (
        2,
        "",
    ) and "`id2label` in the model's configuration has no name for the output 2" in said
