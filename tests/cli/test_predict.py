"""`merlin-hf predict`: what it writes, against transformers' own pipelines and Trainer."""

import csv
import io
import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from merlin_hf.cli import predict as command
from merlin_hf.data import unlabelled
from merlin_hf.data.audio import EncodeAudio, read_audio
from tests.cli.test_evaluate import NAMES, answers, saved, spread_out, with_labels, write_images  # noqa: F401
from tests.cli.test_evaluate_adapters import adapter  # noqa: F401
from tests.cli.test_evaluate_kinds import TOPICS, save
from tests.examples.conftest import WORDS, model_path, surroundings  # noqa: F401
from tests.examples.test_run_audio_classification import RATE, TARGET, folders
from tests.tiny import TEXT, TINY_CLASSIFIERS, VISION, tiny_bert


def texts(count=50, seed=3):
    """Texts of many lengths, in no order of them."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 24))) for _ in range(count)]


def write(path, columns):
    table = datasets.Dataset.from_dict(columns)
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[path.suffix[1:]](path)
    return path


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return list(csv.DictReader(io.StringIO(path.read_text())))


def probabilities(row, names):
    return [float(row[f"probability_{name}"]) for name in names]


@pytest.fixture
def predict(run, tmp_path):
    """Runs the command on a model and data; returns the rows that it wrote, and what it printed."""

    def predict(model, data, *flags, name="out.jsonl"):
        output = tmp_path / name
        status, shown, said = run("predict", model, data, "--output", output, "--overwrite", "--use_cpu", *flags)
        assert status == 0, said
        assert not list(tmp_path.glob(".*.part"))
        return read(output), shown, said

    return predict


# Texts


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_texts_as_the_pipeline_has_them_in_order(saved, tmp_path, predict, ending, monkeypatch):  # noqa: F811
    given = texts()
    ids = [f"{number:03}" for number in range(50)]  # which must not be taken for numbers
    data = write(tmp_path / f"data.{ending}", {"key": ids, "text": given})
    monkeypatch.setattr("merlin_hf.cli.prediction.BATCHES_OF_TEXTS", 3)  # several pieces, the last one short
    flags = ["--batch_size", 7, "--id_column", "key"]
    rows, shown, _ = predict(saved, data, *flags, name=f"out.{ending}")
    expected = pipeline("text-classification", str(saved), top_k=None, device="cpu")(given)
    assert [row["key"] for row in rows] == ids and list(rows[0])[:3] == ["key", "prediction", "confidence"]
    for row, answer in zip(rows, expected, strict=True):
        scores = {one["label"]: one["score"] for one in answer}
        assert row["prediction"] == answer[0]["label"]
        assert float(row["confidence"]) == pytest.approx(answer[0]["score"], rel=1e-5)
        assert probabilities(row, NAMES) == pytest.approx([scores[name] for name in NAMES], rel=1e-5)
    assert len({row["prediction"] for row in rows}) > 1 and "predicted" in shown


def test_logits_are_those_of_trainer(saved, tmp_path, predict):  # noqa: F811
    first, second = texts(seed=1), texts(seed=2)
    data = write(tmp_path / "data.csv", {"sentence1": first, "sentence2": second, "label": [0] * 50})
    rows, _, said = predict(saved, data)
    assert "the labels in label are not looked at" in said
    tokenizer = AutoTokenizer.from_pretrained(saved)
    encoded = datasets.Dataset.from_dict(tokenizer(first, second, truncation=True, max_length=32))
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(saved),
        TrainingArguments(str(tmp_path / "trainer"), report_to="none", use_cpu=True),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    logits = trainer.predict(encoded).predictions
    found = np.log([probabilities(row, NAMES) for row in rows])
    expected = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    assert np.abs(found - expected).max() < 1e-5
    assert [row["row"] for row in rows] == list(range(50))


def test_a_threshold_leaves_the_label_empty(saved, tmp_path, predict):  # noqa: F811
    data = write(tmp_path / "data.csv", {"text": texts()})
    all_rows = predict(saved, data)[0]
    limit = sorted(row["confidence"] for row in all_rows)[20]
    for name, nothing in (("out.jsonl", None), ("out.csv", "")):
        rows, shown, _ = predict(saved, data, "--threshold", limit, "--json", name=name)
        labels = [row["prediction"] if row["confidence"] >= limit else nothing for row in all_rows]
        assert [row["prediction"] for row in rows] == labels and labels.count(nothing) == 20
        counts = json.loads(shown)
        assert counts["without_label"] == 20 and sum(counts["labels"].values()) == 30
    assert [float(row["confidence"]) for row in rows] == pytest.approx([row["confidence"] for row in all_rows])


def test_lines_of_a_text_file_and_printed_rows(saved, tmp_path, run):  # noqa: F811
    given = texts(5)
    (tmp_path / "data.txt").write_text("\n".join(given) + "\n")
    expected = [NAMES[label] for label in answers(saved, given).argmax(-1)]
    status, shown, said = run("predict", saved, tmp_path / "data.txt", "--format", "jsonl")
    assert status == 0 and [json.loads(line)["prediction"] for line in shown.splitlines()] == expected
    assert "%|" not in said, "no bar where stderr is no terminal"
    status, shown, _ = run("predict", saved, tmp_path / "data.txt")
    assert shown.startswith("row,prediction,confidence,probability_no,") and len(shown.splitlines()) == 6


def test_a_reader_that_has_had_enough_is_no_error(saved, tmp_path, run, monkeypatch):  # noqa: F811
    data = write(tmp_path / "data.csv", {"text": texts(5)})
    monkeypatch.setattr(command, "write_rows", closed)
    with open(tmp_path / "stdout", "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(command.sys, "stdout", stdout)
        assert run("predict", saved, data)[0] == 0
    assert run("predict", saved, data, "--output", tmp_path / "out.csv")[0] == 2, "a file is written whole"


def closed(tables, schema, kind, file):
    raise BrokenPipeError(32, "Broken pipe")


def test_columns_are_kept_with_their_types(saved, tmp_path, predict):  # noqa: F811
    columns = {
        "text": texts(4),
        "stars": [1, None, 3, 4],
        "tags": [["a"], [], ["b", "c"], None],
        "when": [0.5, 1.5, 2.5, None],
        "label": ["x", "y", "y", "x"],
    }
    data = write(tmp_path / "data.parquet", columns)
    flags = ["--keep_columns", "--text_columns", "text"]
    kept = [{name: values[row] for name, values in columns.items()} for row in range(4)]
    for name in ("out.parquet", "out.jsonl"):
        rows, _, _ = predict(saved, data, *flags, name=name)
        assert [{name: row[name] for name in columns} for row in rows] == kept
    assert pq.read_schema(tmp_path / "out.parquet").field("stars").type == "int64"
    rows, _, _ = predict(saved, data, *flags, "--id_column", "stars", name="out.csv")
    assert list(rows[0])[:5] == ["stars", "text", "tags", "when", "label"]
    assert [row["tags"] for row in rows] == ['["a"]', "[]", '["b", "c"]', ""] and rows[1]["stars"] == ""


def test_a_large_file_is_read_piece_by_piece(saved, tmp_path, predict, monkeypatch):  # noqa: F811
    """No more rows are held than a piece has, whatever the file has."""
    data = write(tmp_path / "data.csv", {"text": ["w1 w2"] * 3000})
    monkeypatch.setattr("merlin_hf.cli.prediction.BATCHES_OF_TEXTS", 2)
    sizes = []
    pieces = unlabelled.UnlabelledRows.pieces

    def spied(rows, size):
        for piece in pieces(rows, size):
            sizes.append(len(piece.values[0]))
            yield piece

    monkeypatch.setattr(unlabelled.UnlabelledRows, "pieces", spied)
    rows, _, _ = predict(saved, data, "--batch_size", 100, name="out.parquet")
    assert len(rows) == 3000 and set(sizes) == {200}


def test_several_labels(model_path, tmp_path, predict):  # noqa: F811
    model = spread_out(tiny_bert(num_labels=3, seed=1, problem_type="multi_label_classification"))
    path = save(with_labels(model, TOPICS), tmp_path / "saved", model_path)
    given = texts()
    data = write(tmp_path / "data.csv", {"text": given})
    expected = torch.sigmoid(answers(path, given).double()).numpy()
    rows, shown, _ = predict(path, data, "--json")
    assert np.array([probabilities(row, TOPICS) for row in rows]) == pytest.approx(expected, rel=1e-4)
    assert [row["prediction"] for row in rows] == labels_above(expected, 0.5)
    assert "confidence" not in rows[0]
    limit = float(np.median(expected)) + 0.01
    rows, shown, _ = predict(path, data, "--json", "--threshold", limit)
    found = labels_above(expected, limit)
    assert [row["prediction"] for row in rows] == found and json.loads(shown)["without_label"] == found.count([])
    rows, _, _ = predict(path, data, name="out.csv")
    assert [json.loads(row["prediction"]) for row in rows] == labels_above(expected, 0.5)


def labels_above(probabilities, limit):
    return [[TOPICS[label] for label in np.flatnonzero(row >= limit)] for row in probabilities]


def test_real_numbers(model_path, tmp_path, predict, run):  # noqa: F811
    path = save(tiny_bert(num_labels=1, seed=2, problem_type="regression"), tmp_path / "saved", model_path)
    given = texts()
    data = write(tmp_path / "data.csv", {"text": given})
    rows, shown, _ = predict(path, data)
    assert list(rows[0]) == ["row", "prediction"]
    assert [row["prediction"] for row in rows] == pytest.approx(answers(path, given)[:, 0].tolist(), rel=1e-4)
    status, _, said = run("predict", path, data, "--threshold", 0.5)
    assert status == 2 and "`threshold` is about labels, and the model answers with real numbers" in said


def test_an_adapter(adapter, tmp_path, predict, run):  # noqa: F811
    from peft import AutoPeftModelForSequenceClassification

    given = texts()
    data = write(tmp_path / "data.csv", {"text": given})
    rows, _, said = predict(adapter, data)
    assert "`--label_names` gives them" in said and "An adapter does not say" in said
    model = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=3).eval()
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in given]).double()
    named, _, said = predict(adapter, data, "--label_names", *NAMES, "--problem_type", "single_label_classification")
    assert "--label_names" not in said and "--problem_type" not in said
    assert np.array([probabilities(row, NAMES) for row in named]) == pytest.approx(
        torch.softmax(logits, -1).numpy(), rel=1e-4
    )
    assert [row["prediction"] for row in rows] == [f"LABEL_{label}" for label in logits.argmax(-1)]
    rows, _, _ = predict(adapter, data, "--problem_type", "multi_label_classification")
    assert isinstance(rows[0]["prediction"], list)
    (tmp_path / "base").rename(tmp_path / "moved")
    status, _, said = run("predict", adapter, data)
    assert status == 2 and "give `--base_model`" in said
    assert len(predict(adapter, data, "--base_model", tmp_path / "moved")[0]) == 50


# Images and recordings


@pytest.fixture
def image_model(tmp_path, image_processors):
    config = {name: value for name, value in TEXT.items() if name != "vocab_size"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = with_labels(ViTForImageClassification(ViTConfig(**config, **VISION, num_labels=2)), ["ant", "bee"])
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def of_images(path, images):
    processor = ViTImageProcessorPil.from_pretrained(path)
    with torch.no_grad():
        logits = ViTForImageClassification.from_pretrained(path)(**processor(images, return_tensors="pt")).logits
    return torch.softmax(logits.double(), -1).numpy()


def test_a_folder_of_images_of_any_depth(image_model, tmp_path, predict):
    images, _ = write_images(tmp_path / "images", ["a", "b"])  # their folders are not classes of the model
    images[0].save(tmp_path / "images" / "first.png")
    rows, _, _ = predict(image_model, tmp_path / "images", "--batch_size", 4)
    files = sorted(f"{'ab'[number % 2]}/{number}.png" for number in range(10)) + ["first.png"]
    assert [row["file"] for row in rows] == files and list(rows[0])[:2] == ["file", "prediction"]
    order = [images[int(name[2:-4])] for name in files[:-1]] + [images[0]]
    expected = of_images(image_model, order)
    assert np.array([probabilities(row, ["ant", "bee"]) for row in rows]) == pytest.approx(expected, rel=1e-5)
    rows, _, _ = predict(image_model, tmp_path / "images" / "first.png")
    assert len(rows) == 1 and rows[0]["file"] == "first.png"


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_column_of_images_or_of_their_paths(image_model, tmp_path, predict, ending):
    images, _ = write_images(tmp_path, ["a", "b"])
    paths = [f"{'ab'[number % 2]}/{number}.png" for number in range(10)]
    expected = of_images(image_model, images)
    if ending == "csv":
        data = write(tmp_path / "data.csv", {"file_name": paths, "key": range(10)})
    else:
        features = datasets.Features({"picture": datasets.Image(), "key": datasets.Value("int64")})
        table = datasets.Dataset.from_dict({"picture": images, "key": range(10)}, features=features)
        table.to_parquet(tmp_path / "data.parquet")
        data = tmp_path / "data.parquet"
    rows, _, _ = predict(image_model, data, "--keep_columns")
    kept = ["row", "file_name", "key"] if ending == "csv" else ["row", "key"]
    assert list(rows[0])[: len(kept) + 1] == [*kept, "prediction"]
    assert [row["key"] for row in rows] == list(range(10))
    assert np.array([probabilities(row, ["ant", "bee"]) for row in rows]) == pytest.approx(expected, rel=1e-5)


def test_recordings(tmp_path, predict):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = with_labels(TINY_CLASSIFIERS["wav2vec2"](), sorted(TARGET))
    model.save_pretrained(tmp_path / "saved")
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(tmp_path / "saved")
    folders(tmp_path / "sounds", TARGET, 6, seed=2)
    rows, _, _ = predict(tmp_path / "saved", tmp_path / "sounds", "--batch_size", 1)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "saved")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "saved").eval()
    for row in rows:
        recording = read_audio({"bytes": None, "path": str(tmp_path / "sounds" / row["file"])})
        inputs = {name: value[0] for name, value in EncodeAudio(extractor, 20.0)([recording]).items()}
        with torch.no_grad():
            logits = model(**DataCollatorWithPadding(extractor)([inputs])).logits.double()
        expected = torch.softmax(logits, -1)[0].tolist()
        assert probabilities(row, sorted(TARGET)) == pytest.approx(expected, rel=1e-4)
    assert len(rows) == 6


# Damaged rows


def test_empty_texts_are_named_and_skipped_if_asked(saved, tmp_path, predict, run):  # noqa: F811
    given = texts(20)
    broken = [*given[:3], "", *given[3:10], None, "  ", *given[10:]]
    data = write(tmp_path / "data.jsonl", {"text": broken})
    status, shown, said = run("predict", saved, data, "--output", tmp_path / "out.csv")
    assert status == 2 and shown == "" and not (tmp_path / "out.csv").exists()
    for words in (
        "3 of 23 rows cannot be predicted",
        "row 3 (an empty text in 'text')",
        "row 11 (no value in 'text')",
    ):
        assert words in said
    assert "row 12 (an empty text" in said and "`--skip_bad_rows`" in said and len(said.strip().splitlines()) == 1
    rows, shown, said = predict(saved, data, "--skip_bad_rows", "--json")
    assert [row["row"] for row in rows] == [row for row in range(23) if row not in (3, 11, 12)]
    assert [row["prediction"] for row in rows] == [NAMES[label] for label in answers(saved, given).argmax(-1)]
    counts = json.loads(shown)
    assert (counts["rows"], counts["predicted"], counts["skipped"]) == (23, 20, 3)
    assert [one["row"] for one in counts["bad_rows"]] == [3, 11, 12] and "row 11 (no value" in said
    for row in (3, 11):
        only = write(tmp_path / "only.jsonl", {"text": ["w1", broken[row]], "second": [broken[row], "w1"]})
        flags = ["--text_columns", "text", "second", "--skip_bad_rows"]
        status, _, said = run("predict", saved, only, *flags)
        assert status == 2 and "2 of 2 rows" in said and "There is nothing to predict" in said


@pytest.mark.parametrize("is_found_late", [False, True])
def test_unreadable_images(image_model, tmp_path, predict, run, monkeypatch, is_found_late):
    """Of many images the headers are read first, so that what is behind these is found on the way."""
    images, _ = write_images(tmp_path / "images", ["a", "b"])
    path = tmp_path / "images" / "b" / "5.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    if is_found_late:
        monkeypatch.setattr("merlin_hf.data.media.CHECKED_ROWS", 3)
    output = tmp_path / "out.csv"
    status, _, said = run("predict", image_model, tmp_path / "images", "--output", output, "--batch_size", 2)
    assert status == 2 and f"row 7, {path} (" in said and "1 of 10 rows cannot be predicted" in said
    assert not output.exists() and not list(tmp_path.glob(".*.part"))
    rows, _, said = predict(image_model, tmp_path / "images", "--skip_bad_rows", "--batch_size", 2)
    assert [row["file"] for row in rows] == sorted(
        f"{'ab'[number % 2]}/{number}.png" for number in range(10) if number != 5
    )
    assert "b/5.png (" in said and "They are left out" in said
    order = [images[int(row["file"][2:-4])] for row in rows]
    expected = of_images(image_model, order)
    assert np.array([probabilities(row, ["ant", "bee"]) for row in rows]) == pytest.approx(expected, rel=1e-5)


def test_a_path_that_is_not_there(image_model, tmp_path, run):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    data = write(tmp_path / "data.csv", {"image": ["a.png", "nowhere.png", None]})
    status, _, said = run("predict", image_model, data)
    assert status == 2 and "2 of 3 rows" in said and "row 1 (" in said and "row 2 (there is no image" in said


def test_a_model_of_nan_writes_nothing(saved, tmp_path, run):  # noqa: F811
    weights = load_file(saved / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    data, output = write(tmp_path / "data.csv", {"text": texts(9)}), tmp_path / "out.csv"
    status, _, said = run("predict", saved, data, "--output", output)
    assert status == 2 and "answers 9 of 9 rows with NaN or infinity" in said and not output.exists()


def test_what_was_there_is_kept_where_writing_fails(saved, tmp_path, run, monkeypatch):  # noqa: F811
    data, output = write(tmp_path / "data.csv", {"text": texts(9)}), tmp_path / "out.csv"
    output.write_text("before")

    def interrupted(predictor):
        yield next(predictor.tables())[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_with_bar", interrupted)
    status, _, said = run("predict", saved, data, "--output", output, "--overwrite")
    assert status == 130 and output.read_text() == "before" and not list(tmp_path.glob(".*.part"))


# Arguments


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "out.txt"], "`output='out.txt'` must end in .csv, .jsonl, .parquet"),
        (["--output", "."], "`output='.'` must end in"),
        (["--format", "xml"], "`format` must be one of csv, jsonl, parquet"),
        (["--format", "parquet"], "`format='parquet'` is not printed"),
        (["--json"], "`--json` prints counts"),
        (["--output", "there.csv"], "`output='there.csv'` exists: give another name, or `--overwrite`"),
        (["--output", "data.csv", "--overwrite"], "`output='data.csv'` is the file that is read"),
        (["--threshold", "1.5"], "`threshold` must be"),
        (["--batch_size", "0"], "`batch_size` must be"),
        (["--problem_type", "single"], "`problem_type` must be"),
        (["--problem_type", "regression"], "The model has 3 outputs, which does not fit regression"),
        (["--label_names", "a", "b"], "`label_names` has 2 names, and the model 3 outputs, called no, yes, maybe."),
        (["--label_names", "a", "b", "a"], "Two outputs of the model are called 'a'"),
        (["--id_column", "kez"], "`id_column='kez'` is not a column of `data='data.csv'`, which has key, text."),
        (["--text_columns", "texts"], "`text_columns` must be one or two of the text columns ['key', 'text']"),
        (["--image_column", "text"], "`image_column` is about images, and the model is one of texts."),
        (["--split", "test"], "`split` is of a data set, and `data='data.csv'` is a file."),
        (["--base_model", "x"], "`--base_model` is for adapters"),
        (["--labels"], "unrecognized arguments: --labels"),
    ],
)
def test_arguments_that_cannot_be_used(saved, tmp_path, run, monkeypatch, flags, message):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data.csv", {"key": ["a b", "c d"], "text": ["w1 w2", "w3 w4"]})
    (tmp_path / "there.csv").write_text("mine")
    status, shown, said = run("predict", saved, "data.csv", *flags)
    assert status == 2 and shown == "" and message in said and "Traceback" not in said
    assert (tmp_path / "there.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("key,text\na,b,c\n", "line 2"),
        ("number\n1\n2\n", "has no column of texts"),
        ("", "is empty"),
        ("prediction,text\na b,w1 w2\n", "has the columns prediction, as predictions are called"),
    ],
)
def test_files_that_cannot_be_used(saved, tmp_path, run, content, message):  # noqa: F811
    (tmp_path / "data.csv").write_text(content)
    flags = ["--keep_columns", "--text_columns", "text"] if "prediction" in content else []
    status, shown, said = run("predict", saved, tmp_path / "data.csv", *flags)
    assert status == 2 and shown == "" and message in said and len(said.strip().splitlines()) == 1


def test_a_data_set_of_several_splits_needs_one(saved, tmp_path, predict, run):  # noqa: F811
    for split in ("train", "test"):
        write_to = tmp_path / "data" / f"{split}.csv"
        write_to.parent.mkdir(exist_ok=True)
        write(write_to, {"text": texts(3 if split == "test" else 5)})
    status, _, said = run("predict", saved, tmp_path / "data")
    assert status == 2 and "has the splits train, test: name one by `--split`." in said
    assert len(predict(saved, tmp_path / "data", "--split", "test")[0]) == 3
    status, _, said = run("predict", saved, tmp_path / "data", "--split", "tst")
    assert status == 2 and "Did you mean 'test'?" in said
    status, _, said = run("predict", saved, tmp_path / "nowhere.csv")
    assert status == 2 and "`data=" in said and "is not a file or folder here" in said
