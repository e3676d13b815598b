"""A comparison from beginning to end, on tiny models."""

import csv
import json
import shutil

import datasets
import numpy as np
import pytest
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer

import merlin_hf.comparison.experiment as experiment_module
from merlin_hf import JointTrainer
from merlin_hf.comparison import ComparisonError, ConfigError, compare, dry_run
from merlin_hf.comparison.experiment import Experiment
from merlin_hf.comparison.metrics import CLASSIFICATION
from merlin_hf.data.encoding import TextEncoder
from tests.comparison.conftest import SOURCE_WORDS, TEST_WORDS, TRAIN_WORDS, read, save
from tests.examples.conftest import SPECIAL


def tokens(words):
    return {len(SPECIAL) + word for word in words}


def files(folder):
    """When each run's file was written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted((folder / "runs").glob("*/*.json"))}


@pytest.fixture
def spied(monkeypatch):
    """What each run trains on and is judged by, and how many rows pass the backbone in training."""
    runs, build_model, train_and_score = [], experiment_module.build_model, Experiment.train_and_score
    evaluate = Trainer.evaluate

    def counted_model(*args, **kwargs):
        model = build_model(*args, **kwargs)

        def count(module, arguments):
            if module.training and runs and runs[-1]["training"]:
                runs[-1]["rows"] += len(arguments[0])

        model.base_model.embeddings.word_embeddings.register_forward_pre_hook(count)
        return model

    def spy(self, method, run, progress):
        runs.append(
            {"label": run.label, "kind": run.kind, "seed": run.seed, "rows": 0, "training": True, "judged": []}
        )
        runs[-1]["setting"] = run.setting
        train, _ = self.pair.rows_of(run.kind, run.seed)
        runs[-1]["train"] = self.encode(train)
        return train_and_score(self, method, run, progress)

    def judge(self, eval_dataset=None, *args, **kwargs):
        runs[-1]["training"] = False
        runs[-1]["judged"].append(eval_dataset)
        return evaluate(self, eval_dataset, *args, **kwargs)

    monkeypatch.setattr(experiment_module, "build_model", counted_model)
    monkeypatch.setattr(Experiment, "train_and_score", spy)
    monkeypatch.setattr(Trainer, "evaluate", judge)
    return runs


def words_of(dataset):
    return {token for row in dataset["input_ids"][:] for token in row}


def test_the_search_never_sees_test_rows_and_every_method_gets_the_same(config, spied):
    verbosity = transformers.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()
    result = compare(read(config), show_progress=False)
    trials = [run for run in spied if run["kind"] == "trial"]
    finals = [run for run in spied if run["kind"] == "final"]
    assert all(len(run["judged"]) == 1 for run in spied), "a model is evaluated once"

    for run in trials:
        train, judged = run["train"], run["judged"][0]
        assert not words_of(judged) & tokens(TEST_WORDS) and not words_of(train) & tokens(TEST_WORDS)
        assert words_of(judged) & tokens(TRAIN_WORDS) and not words_of(judged) & tokens(SOURCE_WORDS)
        assert (len(train), len(judged)) == (18, 6) and sorted(judged["labels"]) == [0] * 3 + [1] * 3
        texts = {tuple(row) for row in train["input_ids"]}
        assert not texts & {tuple(row) for row in judged["input_ids"]}
    for run in finals:
        assert len(run["train"]) == 24 and words_of(run["judged"][0]) & tokens(TEST_WORDS)
        assert not words_of(run["train"]) & tokens(TEST_WORDS)

    by_method = {label: [run for run in spied if run["label"] == label] for label in config["methods"]}
    rows = {
        (run["kind"], run["seed"], label): (run["train"]["input_ids"][:], run["judged"][0]["input_ids"][:])
        for label, runs in by_method.items()
        for run in runs
    }
    for (kind, seed, _), seen in rows.items():
        assert seen == rows[kind, seed, "finetune"], "the same rows for all"
    assert rows["final", 0, "merlin"][0] != rows["final", 1, "merlin"][0], "another draw for another seed"
    assert rows["final", 0, "merlin"][1] == rows["final", 1, "merlin"][1], "the same test rows"
    for runs in by_method.values():
        assert [run["kind"] for run in runs] == ["trial", "trial", "final", "final"]
        assert runs[0]["setting"]["learning_rate"] == 1e-3, "the defaults are tried"
    # 3 steps of 8 + 8 rows, or 6 of 8; the last batch of an epoch of 18 has 2.
    # MeRLin's phases take a step at least: 2 of 16 rows and 3 of 8.
    assert [run["rows"] for run in finals] == [48] * 4 + [56] * 2
    assert [method["steps"] for method in sorted(result.summary["methods"], key=lambda one: one["label"])] == [6, 3, 5]
    assert (transformers.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()) == verbosity


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        ({"mix_weights": False, "target_phase_fraction": 0.5}, 4),
        ({"mix_weights": False, "source_phase_fraction": 0.5, "target_phase_fraction": 0.5}, 6),
    ],
)
def test_phases_take_as_many_rows_as_the_others(config, spied, method, steps):
    methods = {"joint": None, "phases": {"method": "merlin", "mix_weights": False, **method}}
    summary = compare(read(config, methods=methods, seeds=1, search={"trials": 0}), show_progress=False).summary
    assert [run["rows"] for run in spied] == [48, 48]
    assert next(one["steps"] for one in summary["methods"] if one["label"] == "phases") == steps


def test_rows_are_encoded_once(config, monkeypatch):
    encoded, encode = [], TextEncoder.__call__

    def counted(self, rows):
        encoded.append(rows.identity)
        return encode(self, rows)

    monkeypatch.setattr(TextEncoder, "__call__", counted)
    compare(read(config), show_progress=False)
    # The test rows and the source; all labelled rows of two seeds, and both parts of one seed's.
    assert len(encoded) == len(set(encoded)) == 6


def test_files_and_table(config):
    methods = {"finetune": None, "linear_probe": None, "merlin": {"search": {"rho": [0.1]}}, "stochnorm": None}
    methods["merlin_rho0"] = {"method": "merlin", "rho": 0.0, "learning_rate": 1e-3}
    result = compare(read(config, methods=methods), show_progress=False)
    folder = result.output_dir
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.png",
        "results.csv",
        "results.json",
        "runs",
        "table.md",
    ]
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG") and (
        folder / "table.md"
    ).read_text() == result.text
    assert result.text.startswith(result.table) and "Advice" not in result.table
    summary = json.loads((folder / "results.json").read_text())
    by_label = {method["label"]: method for method in summary["methods"]}
    assert list(by_label)[-1] == "stochnorm" and by_label["stochnorm"]["status"] == "not applicable"
    assert "StochNormTrainer changes BatchNorm, and BertForSequenceClassification has none." in result.table
    means = [method["mean"] for method in summary["methods"][:-1]]
    assert means == sorted(means, reverse=True)
    assert summary["advice"] == result.summary["advice"] and summary["advice"][0] in result.text
    assert [by_label[label]["use_source"] for label in ("linear_probe", "merlin")] == [False, True]
    assert summary["reference"] == "merlin" and "p_value" not in by_label["merlin"]
    assert {"p_value", "p_value_holm", "difference", "confidence_interval"} <= set(by_label["finetune"])

    assert by_label["linear_probe"]["steps"] == 0 and by_label["linear_probe"]["trials"] == []
    assert by_label["merlin_rho0"]["trials"] == [] and by_label["merlin_rho0"]["setting"] == {}, "all is given"
    assert [trial["setting"] for trial in by_label["merlin"]["trials"]] == [
        {"learning_rate": 1e-3, "rho": 1.0},
        by_label["merlin"]["trials"][1]["setting"],
    ]
    assert by_label["merlin"]["trials"][1]["setting"]["rho"] == 0.1, "what `search` says, beside the defaults"

    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert len(rows) == 8 and {row["seed"] for row in rows} == {"0", "1"}
    for row in rows:
        assert float(row["score"]) == by_label[row["label"]]["scores"][row["seed"]]
    run = json.loads(next((folder / "runs" / "merlin").glob("final-seed1-*.json")).read_text())
    assert run["steps"] == 5 and run["train_seconds"] > 0 and run["environment"]["device"] == "cpu"
    assert run["config"]["seeds"] == [0, 1] and run["determined_by"]["options"]["rho"] in (0.1, 1.0)
    assert set(run["metrics"]) == set(CLASSIFICATION)
    others = result.table.split("Other metrics, means over seeds; log_loss")[1]
    runs = by_label["merlin"]["runs"].values()
    mean = np.mean([run["metrics"]["brier_score"] for run in runs])
    line = next(line for line in others.splitlines() if line.startswith("| merlin "))
    assert f"{mean:.4f}" in line and "matthews_correlation" in others and "accuracy" not in others


def test_only_what_is_missing_is_run(config, monkeypatch):
    first = compare(read(config, methods=["finetune", "merlin"], seeds=1), show_progress=False)
    before = files(first.output_dir)
    more = compare(read(config, methods=["finetune", "merlin"], seeds=2), show_progress=False)
    after = files(more.output_dir)
    assert before.items() < after.items() and len(after) == len(before) + 2, "one more seed of each method"
    monkeypatch.setattr(Experiment, "train_and_score", None)
    again = compare(read(config, methods=["finetune", "merlin"], seeds=2), show_progress=False)
    assert again.table == more.table and files(again.output_dir) == after
    monkeypatch.undo()
    other = compare(
        read(config, methods=["finetune"], seeds=1, training={**config["training"], "weight_decay": 0.1}),
        show_progress=False,
    )
    assert len(files(other.output_dir)) == len(after) + 3, "other options are other runs"


def test_other_rows_are_other_runs(config, texts, tmp_path):
    """A file that was changed is noticed, though its name is the same."""
    path, test = tmp_path / "mine.csv", tmp_path / "out"
    frame = datasets.load_dataset("parquet", data_dir=str(texts / "target" / "data"), split="train").to_pandas()
    frame.to_csv(path, index=False)
    target = {"path": str(path), "train_split": "train[:60]", "test_split": "train[60:]"}
    settings = {"methods": ["linear_probe"], "seeds": 1, "source": None, "target": target}
    compare(read(config, **settings), show_progress=False)
    compare(read(config, **settings), show_progress=False)
    assert len(files(test)) == 1
    frame.loc[0, "text"] = "w1 w11 w12"
    frame.to_csv(path, index=False)
    compare(read(config, **settings), show_progress=False)
    assert len(files(test)) == 2


def test_a_method_that_fails_is_reported_and_the_others_go_on(config, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Out of luck. And more")

    config = read(config, seeds=1, search={"trials": 1})
    with monkeypatch.context() as patch:
        patch.setattr(JointTrainer, "compute_loss", fail)
        result = compare(config, show_progress=False)
        assert result.failed == ["joint"] and "joint failed: Out of luck." in result.table
        assert "in fail" in (result.output_dir / "errors" / "joint.txt").read_text()
        with pytest.raises(ComparisonError, match=r"No method could be run\. joint: Out of luck\."):
            compare(config, methods=["joint"], show_progress=False)
    before = files(result.output_dir)
    result = compare(config, show_progress=False)
    assert result.failed == [] and before.items() < files(result.output_dir).items()
    assert len(before) == 2 and len(files(result.output_dir)) == 3


def test_images_from_random_weights(images, config):
    changes = {
        "model": str(images / "resnet"),
        "from_scratch": True,
        "image_size": 16,
        "target": {"path": str(images / "target")},
        "source": {"path": str(images / "source"), "rows": 30},
        "methods": ["finetune", "stochnorm", "merlin"],
        "search": {"trials": 1},
    }
    result = compare(read(config, **changes), show_progress=False)
    methods = {method["label"]: method for method in result.summary["methods"]}
    assert [method["status"] for method in methods.values()] == ["ok"] * 3
    assert result.summary["data"]["kind"] == "image" and result.summary["data"]["source"]["rows"] == 30
    assert methods["stochnorm"]["steps"] == 6, "half of its steps are the source's"
    with pytest.raises(ConfigError, match="has neither an image processor nor an image size: give `image_size`"):
        compare(read(config, **{**changes, "image_size": None}), show_progress=False)


def test_regression(config, texts):
    target = {"path": str(texts / "scores"), "rows": 24, "test_rows": 30}
    result = compare(read(config, target=target, methods=["finetune", "merlin"], seeds=1), show_progress=False)
    assert result.summary["metric"] == "pearson" and result.summary["data"]["target"]["test_rows"] == 30
    assert all(-1 <= method["mean"] <= 1 for method in result.summary["methods"])
    lower = compare(read(config, target=target, methods=["linear_probe"], seeds=1, metric="mse"), show_progress=False)
    assert "the lower the better" in lower.table
    with pytest.raises(ConfigError, match="`metric` must be one of pearson, spearmanr, mse for labels that are real"):
        compare(read(config, target=target, metric="f1"), show_progress=False)


def test_settings_are_chosen_by_the_least_log_loss(config):
    summary = compare(read(config, methods=["finetune", "merlin"], seeds=1, metric="log_loss"), show_progress=False)
    summary = summary.summary
    assert summary["metric"] == "log_loss" and summary["lower_is_better"] is True
    means = [method["mean"] for method in summary["methods"]]
    assert means == sorted(means), "best first"
    for method in summary["methods"]:
        scores = [trial["score"] for trial in method["trials"]]
        assert len(set(scores)) > 1
        assert method["setting"] == method["trials"][scores.index(min(scores))]["setting"]
        assert method["scores"] == {0: method["runs"][0]["metrics"]["log_loss"]}


def test_the_budget_may_be_steps(config):
    plan = dry_run(read(config, budget="steps", methods=["finetune", "joint", "r3f", "linear_probe"]))
    assert [set(method["steps"]) for method in plan.summary["methods"]] == [{3}, {3}, {3}, {0}]
    rows = dry_run(
        read(config, training={**config["training"], "max_steps": 30}, methods=["finetune", "joint", "r3f", "l2_sp"])
    )
    # 480 rows: 8 a step; 16; half of the steps 8 of the source and half 16, as it runs forward twice; 8.
    assert [set(method["steps"]) for method in rows.summary["methods"]] == [{60}, {30}, {40}, {60}]


def test_a_dry_run_trains_nothing_and_leaves_nothing(config, monkeypatch, tmp_path):
    monkeypatch.setattr(Trainer, "train", None)
    plan = dry_run(read(config, methods=["finetune", "merlin", "stochnorm"]))
    assert not (tmp_path / "out").exists()
    assert "24 labelled rows of 80 for each seed, 40 test rows, 2 classes (no, yes)" in plan.text
    assert "90 rows, 3 classes (a, b, c)" in plan.text and "8 runs to do" in plan.text
    assert "stochnorm is not applicable: StochNormTrainer changes BatchNorm" in plan.text


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"target": {"path": "no/such"}}, "`target.path='no/such'` is not a file or folder here"),
        (
            {"target": {"train_split": "trian"}},
            r"`target\.train_split='trian'` is not a split of `target\.path=.*`, which has train, test",
        ),
        (
            {"target": {"label_column": "lable"}},
            r"`target\.label_column='lable'` is not a column of `target\.path`\. Did you mean 'label'",
        ),
        (
            {"target": {"text_columns": ["txt"]}},
            r"`target\.text_columns` must be one or two of the text columns \['text'\]",
        ),
        ({"target": {"image_column": "text"}}, r"`target\.image_column` must be one of the columns of images \[\]"),
        ({"target": {"train_split": "train[:30]", "test_split": "train[20:]"}}, "shares 10 of its 60 rows with"),
        ({"model": "no/model"}, "`model='no/model'` cannot be loaded"),
        ({"freeze_layers": 9}, "`freeze_layers` must be at most 2"),
        ({"metric": "mse"}, "`metric` must be one of accuracy, f1, .*, ece for labels that are classes"),
        ({"methods": {"merlin": {"search": {"head": ["rigde"]}}}}, r"`methods\.merlin` .*rigde"),
        (
            {"methods": {"bss": {"regularization_weight": -1.0}}},
            r"`methods\.bss\.regularization_weight` must be a number of at least 0",
        ),
    ],
)
def test_what_the_data_and_the_model_do_not_allow(config, section, message, texts):
    merged = {
        name: {**config[name], **value} if isinstance(config.get(name), dict) and name != "methods" else value
        for name, value in section.items()
    }
    with pytest.raises(ConfigError, match=message):
        dry_run(read(config, **merged))


def test_a_test_split_without_labels(config, tmp_path):
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    for split, labels in (("train", [0, 1] * 8), ("test", [-1] * 16)):
        save(tmp_path / "hidden", split, {"text": [f"w{row}" for row in range(16)], "label": labels}, features)
    with pytest.raises(
        ConfigError, match=r"`target\.path=.*`, split 'test', has 0 rows with a label\. .* such as `validation`"
    ):
        dry_run(read(config, target={"path": str(tmp_path / "hidden")}))


def test_images_against_texts(config, images):
    with pytest.raises(ConfigError, match="The source has images and the target texts"):
        dry_run(read(config, source={"path": str(images / "source")}))


def test_a_source_that_holds_the_test_rows_is_told(config, texts):
    plan = dry_run(read(config, source={"path": str(texts / "target"), "split": "test"}, methods=["joint"]))
    assert "Warning: 40 of 40 test rows stand in the source as well." in plan.text


def test_no_figure_no_runs(config, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="A comparison needs matplotlib.*pip install matplotlib"):
        compare(read(config), show_progress=False)
    assert not (tmp_path / "out").exists()


def test_models_of_final_runs_are_kept(config, tmp_path):
    config = {**config, "methods": ["finetune", "merlin"], "seeds": 1, "search": {"trials": 0}, "save_models": True}
    summary = compare(config, show_progress=False).summary
    folders = sorted(path for path in (tmp_path / "out" / "models").glob("*/*") if path.is_dir())
    assert [str(folder.relative_to(tmp_path / "out" / "models")) for folder in folders] == [
        "finetune/seed-0",
        "merlin/seed-0",
    ]
    for folder in folders:
        AutoModelForSequenceClassification.from_pretrained(folder)
        AutoTokenizer.from_pretrained(folder)

    shutil.rmtree(folders[0])
    again = compare(config, show_progress=False).summary
    assert folders[0].is_dir()
    assert [m["scores"] for m in again["methods"]] == [m["scores"] for m in summary["methods"]]
