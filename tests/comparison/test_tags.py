"""A comparison of taggers: rows are sentences, scores are F1 of spans."""

import random

import datasets
import pytest
from transformers import AutoModelForTokenClassification

from merlin_hf.comparison import compare, dry_run
from merlin_hf.utils.validation import ConfigError
from tests.comparison.conftest import read, save
from tests.examples.conftest import WORDS


TEXT = datasets.Sequence(datasets.Value("string"))


def tagged(rows, names, seed):
    """Words w0 ... w3 have the second tag, and so on; all others the first."""
    draw = random.Random(seed)
    places = [draw.choices(range(16), k=draw.randint(4, 9)) for _ in range(rows)]
    ids = [[place // 4 + 1 if place // 4 + 1 < len(names) else 0 for place in row] for row in places]
    return [[WORDS[place] for place in row] for row in places], ids


@pytest.fixture(scope="module")
def tags(tmp_path_factory):
    """A target whose tags are text, and a source whose tags are numbers with names."""
    root = tmp_path_factory.mktemp("tags")
    names = ["O", "B-PER", "B-LOC"]
    for split, rows, seed in (("train", 60, 1), ("test", 30, 2)):
        words, ids = tagged(rows, names, seed)
        columns = {"tokens": words, "tags": [[names[place] for place in row] for row in ids]}
        save(root / "target", split, columns, {"tokens": TEXT, "tags": TEXT})
    names = ["O", "B-A", "B-B", "B-C"]
    words, ids = tagged(80, names, seed=3)
    named = datasets.Sequence(datasets.ClassLabel(names=names))
    save(root / "source", "train", {"words": words, "ner_tags": ids}, {"words": TEXT, "ner_tags": named})
    target = {"path": str(root / "target"), "label_column": "tags", "rows": 32}
    return {"target": target, "source": {"path": str(root / "source")}}


def test_methods_are_compared_by_the_f1_of_spans(config, tags):
    training = {**config["training"], "max_steps": 20, "learning_rate": 5e-3}
    settings = {"methods": ["finetune", "merlin"], "seeds": 1, "search": {"trials": 0}, "save_models": True, **tags}
    result = compare(read(config, **settings, training=training))
    by_label = {method["label"]: method for method in result.summary["methods"]}
    assert {method["status"] for method in by_label.values()} == {"ok"}, result.table
    assert result.summary["metric"] == "f1" and result.summary["data"]["kind"] == "tagged sentence"
    assert by_label["merlin"]["mean"] > 0.8
    (run,) = by_label["merlin"]["runs"].values()
    assert set(run["metrics"]) == {"f1", "macro_f1", "accuracy"} and run["train_rows"] == 32
    model = AutoModelForTokenClassification.from_pretrained(result.output_dir / "models" / "merlin" / "seed-0")
    assert model.config.id2label == {0: "O", 1: "B-LOC", 2: "B-PER"}


def test_what_does_not_fit_is_said_before_training(config, tags, texts):
    with pytest.raises(ConfigError, match="`metric` must be one of f1, macro_f1, accuracy for labels that are tags"):
        dry_run(read(config, **tags, metric="log_loss"))
    with pytest.raises(ConfigError, match="source has texts and the target tagged sentences; .* needs one kind"):
        dry_run(read(config, **{**tags, "source": {"path": str(texts / "source"), "label_column": "topic"}}))
