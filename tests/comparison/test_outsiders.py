"""The baselines of a comparison, and labels that source and target share by name."""

import datasets
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from merlin_hf.comparison import ComparisonError, compare, dry_run
from tests.comparison.conftest import NAMES, SOURCE_WORDS, read, save, sentences


OUTSIDERS = ["embeddings", "zero_shot", "source_probe", "sequential", "wise_ft", "pooled"]
LINE = "The source and the target have the same labels, no, yes: "


@pytest.fixture(scope="module")
def same_labels(tmp_path_factory):
    """A source with the target's labels, in another order and written otherwise."""
    folder = tmp_path_factory.mktemp("same_labels")
    texts, labels = sentences(90, SOURCE_WORDS, seed=4)
    features = {"sentence": datasets.Value("string"), "topic": datasets.ClassLabel(names=["YES", "no"])}
    save(folder, "train", {"sentence": texts, "topic": [1 - label for label in labels]}, features)
    return {"path": str(folder), "label_column": "topic"}


def test_all_outsiders_run_and_leave_plain_models(config, same_labels, capfd, caplog):
    training = {**config["training"], "max_steps": 10, "learning_rate": 1e-3}
    settings = {"methods": OUTSIDERS, "source": same_labels, "seeds": 1, "search": {"trials": 0}}
    result = compare(read(config, **settings, training=training, save_models=True))
    by_label = {method["label"]: method for method in result.summary["methods"]}
    assert {method["status"] for method in by_label.values()} == {"ok"}, result.table
    line = f"{LINE}zero_shot, sequential, wise_ft, pooled use this."
    assert line in capfd.readouterr().err and line in result.table and result.summary["shared_labels"] == line
    assert sum("upper and lower case" in record.message for record in caplog.records) <= 1

    # 10 steps of 8 rows of each task: 160 rows.
    steps = {label: method["steps"] for label, method in by_label.items()}
    assert steps == {**dict.fromkeys(OUTSIDERS, 20), "embeddings": 0}
    assert {run["train_rows"] for method in by_label.values() for run in method["runs"].values()} == {24}
    rows = datasets.load_dataset("parquet", data_dir=f"{config['target']['path']}/data", split="test")
    for label in OUTSIDERS:
        folder = result.output_dir / "models" / label / "seed-0"
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        assert [model.config.id2label[id] for id in range(2)] == NAMES
        tokenizer = AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer(rows["text"][:], truncation=True, max_length=16, padding=True, return_tensors="pt")
        with torch.no_grad():
            answers = model(**inputs).logits.argmax(-1)
        accuracy = (answers == torch.tensor(rows["label"][:])).float().mean().item()
        assert accuracy == pytest.approx(by_label[label]["mean"], abs=1e-6), label


def test_methods_that_need_shared_labels_are_left_out_elsewhere(config):
    settings = {"methods": ["finetune", "zero_shot", "pooled"], "seeds": 1, "search": {"trials": 0}}
    result = compare(read(config, **settings), show_progress=False)
    statuses = {method["label"]: method["status"] for method in result.summary["methods"]}
    assert statuses == {"finetune": "ok", "zero_shot": "not applicable", "pooled": "not applicable"}
    assert result.summary["shared_labels"] is None and LINE not in result.table and not result.failed
    told = "ZeroShotTrainer needs a source whose labels have the names of the target's; the source has ['a', 'b', 'c']"
    assert told in result.table.replace("\\", "")
    with pytest.raises(ComparisonError, match="No method could be run. zero_shot: ZeroShotTrainer needs a source"):
        compare(read(config, **{**settings, "methods": ["zero_shot"]}), show_progress=False)


def test_a_dry_run_says_which_methods_use_shared_labels(config, same_labels):
    methods = {"finetune": None, "sequential": {"start_from_source_head": False}, "l2_sp": None}
    plan = dry_run(read(config, methods=methods, source=same_labels))
    assert f"labels  {LINE}l2_sp uses this.\n" in plan.text
    plan = dry_run(read(config, methods=["finetune"], source=same_labels))
    assert f"labels  {LINE}no method here uses this.\n" in plan.text
    assert "labels  " not in dry_run(read(config, methods=["finetune"])).text


def test_the_mix_is_searched_on_validation_rows(config):
    search = {"trials": 4, "learning_rates": [1e-3]}
    methods = {"wise_ft": {"use_source": False}}
    result = compare(read(config, methods=methods, seeds=1, search=search), show_progress=False)
    (method,) = result.summary["methods"]
    mixes = [trial["setting"]["mix"] for trial in method["trials"]]
    assert mixes[0] == "auto" and sorted(mixes[1:]) == [0.25, 0.5, 0.75] and method["setting"]["mix"] in mixes
