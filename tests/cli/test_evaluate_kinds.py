"""`merlin-hf evaluate` on rows with several labels, and on recordings."""

import json

import datasets
import numpy as np
import pytest
import torch
from sklearn import metrics
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Wav2Vec2FeatureExtractor,
)

from merlin_hf import MerlinTrainer
from merlin_hf.data.audio import EncodeAudio, read_audio
from tests.cli.test_evaluate import answers, spread_out, with_labels
from tests.examples.conftest import WORDS, model_path, surroundings  # noqa: F401
from tests.examples.test_run_audio_classification import RATE, TARGET, folders
from tests.support import make_args
from tests.tiny import TINY_CLASSIFIERS, tiny_bert


TOPICS = ["war", "art", "sport"]
FLAGS = datasets.Sequence(datasets.Value("float32"))


def save(model, path, model_path):  # noqa: F811
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(model_path).save_pretrained(path)
    return path


@pytest.fixture
def saved(model_path, tmp_path):  # noqa: F811
    """A classifier of texts into any number of topics."""
    model = spread_out(tiny_bert(num_labels=3, seed=1, problem_type="multi_label_classification"))
    return save(with_labels(model, TOPICS), tmp_path / "saved", model_path)


def topics(count=40, seed=0):
    """Texts, and zeros and ones for each topic."""
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(WORDS, 6)) for _ in range(count)]
    return texts, draw.integers(0, 2, (count, 3))


def ways_of_writing(flags):
    """The same labels as data sets have them: a column, with the type of it."""
    classes = ["art", "sport", "war"]  # numbered in another order than the model's
    names = [[name for name, flag in zip(TOPICS, row, strict=True) if flag] for row in flags]
    ids = [[classes.index(name) for name in row] for row in names]
    return {
        "names": (names, datasets.Sequence(datasets.Value("string"))),
        "classes": (ids, datasets.Sequence(datasets.ClassLabel(names=classes))),
        "zeros and ones": (flags.tolist(), datasets.Sequence(datasets.Value("int64"))),
        "reals": (flags.astype(float).tolist(), FLAGS),
        "ids": ([np.flatnonzero(row).tolist() for row in flags], datasets.Sequence(datasets.Value("int64"))),
    }


def expected(logits, flags):
    """Metrics of scikit-learn."""
    said = logits.numpy() > 0
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(flags).float()).item()
    return {
        "loss": loss,
        "log_loss": loss,
        "brier_score": ((torch.sigmoid(logits).numpy() - flags) ** 2).mean(),
        "accuracy": metrics.accuracy_score(flags, said),
        "micro_f1": metrics.f1_score(flags, said, average="micro"),
        "macro_f1": metrics.f1_score(flags, said, average="macro"),
    }


@pytest.mark.parametrize("way", ["names", "classes", "zeros and ones", "reals", "ids"])
def test_lists_of_labels(way, saved, tmp_path, run):
    texts, flags = topics()
    column, feature = ways_of_writing(flags)[way]
    features = datasets.Features({"text": datasets.Value("string"), "topics": feature})
    rows = datasets.Dataset.from_dict({"text": texts, "topics": column}, features=features)
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "test.parquet")
    arguments = ["--dataset_name", tmp_path / "data", "--label_column", "topics", "--batch_size", 7]
    status, shown, said = run("evaluate", saved, *arguments, "--json", "--output_dir", tmp_path / "out")
    assert status == 0, said
    result, logits = json.loads(shown), answers(saved, texts)
    assert 0 < (logits > 0).float().mean() < 1
    assert result["metrics"] == pytest.approx(expected(logits, flags), rel=1e-4)
    assert result["labels"] == TOPICS and result["confusion_matrix"] is None and result["split"] == "test"
    scores = metrics.precision_recall_fscore_support(flags, logits.numpy() > 0)
    for place, one in enumerate(result["classes"]):
        found = [one[name] for name in ("precision", "recall", "f1", "rows")]
        assert one["class"] == TOPICS[place] and found == pytest.approx([score[place] for score in scores])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", "table.txt"}


def test_a_column_for_each_label(saved, tmp_path, run):
    texts, flags = topics()
    columns = {name: flags[:, place].tolist() for place, name in enumerate(TOPICS)}
    datasets.Dataset.from_dict({"text": texts, **columns}).to_csv(tmp_path / "data.csv")
    status, shown, _ = run("evaluate", saved, "--validation_file", tmp_path / "data.csv", "--json")
    result = json.loads(shown)
    assert status == 0 and result["metrics"] == pytest.approx(expected(answers(saved, texts), flags), rel=1e-4)
    # A row of which one label is not known is left out.
    columns["art"][3] = None
    datasets.Dataset.from_dict({"text": texts, **columns}).to_csv(tmp_path / "data.csv")
    assert json.loads(run("evaluate", saved, "--validation_file", tmp_path / "data.csv", "--json")[1])["rows"] == 39
    status, shown, _ = run("evaluate", saved, "--validation_file", tmp_path / "data.csv")
    assert status == 0 and "micro_f1" in shown and "\nclass  precision" in shown


def test_what_the_trainer_left(model_path, tmp_path, run):  # noqa: F811
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    texts, flags = topics(48, seed=2)
    rows = datasets.Dataset.from_dict({**tokenizer(texts), "labels": flags.astype(float).tolist()})
    trainer = MerlinTrainer(
        tiny_bert(num_labels=3),
        make_args(tmp_path / "out"),
        train_dataset=rows,
        source_dataset=rows.select(range(40)),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    features = datasets.Features({"text": datasets.Value("string"), "labels": FLAGS})
    table = datasets.Dataset.from_dict({"text": texts, "labels": flags.astype(float).tolist()}, features=features)
    table.to_parquet(tmp_path / "data.parquet")
    status, shown, said = run("evaluate", tmp_path / "out", "--validation_file", tmp_path / "data.parquet", "--json")
    assert status == 0, said
    assert json.loads(shown)["metrics"] == pytest.approx(expected(answers(tmp_path / "out", texts), flags), rel=1e-4)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["war", "art"], "The model answers with several labels per row, and the labels of the data are classes."),
        ([["war"], ["love"]], "The data has the labels ['love', 'war'], the model ['war', 'art', 'sport']"),
        ([[0.5, 0.0, 1.0], [1.0, 0.0, 0.0]], "has lists of labels such as [0.5, 0.0, 1.0]; give lists of names"),
        ([[0, 1], [3]], "The data has the labels ['0', '1', '3']"),
    ],
)
def test_labels_that_do_not_fit(column, message, saved, tmp_path, run):
    datasets.Dataset.from_dict({"text": ["w1 w2", "w3 w4"], "label": column}).to_parquet(tmp_path / "data.parquet")
    status, shown, said = run("evaluate", saved, "--validation_file", tmp_path / "data.parquet")
    assert status == 2 and shown == "" and message in said and "Traceback" not in said


def test_one_class_per_row_is_not_scored_on_lists(model_path, tmp_path, run):  # noqa: F811
    model = tiny_bert(num_labels=3, problem_type="single_label_classification")
    path = save(with_labels(model, TOPICS), tmp_path / "one", model_path)
    datasets.Dataset.from_dict({"text": ["w1"], "label": [["war"]]}).to_parquet(tmp_path / "data.parquet")
    status, _, said = run("evaluate", path, "--validation_file", tmp_path / "data.parquet")
    assert status == 2 and "needs a column of labels with one label per row" in said


def test_a_report_says_what_scores_several_labels(saved, tmp_path, run):
    (saved / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.0, "step": 1}]}))
    datasets.Dataset.from_dict({"text": ["w1"], "label": [["war"]]}).to_parquet(tmp_path / "data.parquet")
    status, _, said = run("report", saved, "--validation_file", tmp_path / "data.parquet")
    assert status == 2 and "several labels per row" in said and "`merlin-hf evaluate` scores it" in said


def test_recordings(tmp_path, run):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = with_labels(TINY_CLASSIFIERS["wav2vec2"](), sorted(TARGET))
    model.save_pretrained(tmp_path / "saved")
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(tmp_path / "saved")
    folders(tmp_path / "sounds", TARGET, 12, seed=2)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "saved")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "saved").eval()
    encode, collate = EncodeAudio(extractor, 20.0), DataCollatorWithPadding(extractor)
    files = [
        (place, path) for place, name in enumerate(sorted(TARGET)) for path in (tmp_path / "sounds" / name).iterdir()
    ]
    said = []
    for _, path in files:
        inputs = {name: value[0] for name, value in encode([read_audio({"bytes": None, "path": str(path)})]).items()}
        with torch.no_grad():
            said.append(model(**collate([inputs])).logits.argmax(-1).item())
    arguments = ["--validation_dir", tmp_path / "sounds", "--json", "--batch_size", 1]
    status, shown, errors = run("evaluate", tmp_path / "saved", *arguments)
    assert status == 0, errors
    result = json.loads(shown)
    assert result["task"] == "audio" and result["rows"] == 12 and result["labels"] == sorted(TARGET)
    matrix = metrics.confusion_matrix([place for place, _ in files], said, labels=range(3))
    assert result["confusion_matrix"] == matrix.tolist()
    status, _, errors = run("evaluate", tmp_path / "saved", "--validation_file", "x.csv")
    assert status == 2 and "`validation_file` is about texts, and the model is one of recordings." in errors
