import json
import os
import random
import socket
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from merlin_hf.scripts import text_classification as run_glue
from merlin_hf.scripts.arguments import parse_args
from tests.examples.conftest import ROOT, WORDS


def rows(count, labels, columns=("premise", "hypothesis"), seed=0):
    """Texts of different lengths; the first word of each tells its label. `labels=None` gives none."""
    draw = random.Random(seed)
    table = {name: [] for name in columns}
    for number in range(count):
        for name in columns:
            table[name].append(" ".join([f"w{number % 3}", *draw.choices(WORDS[5:], k=draw.randint(2, 8))]))
    if labels is not None:
        table["label"] = [labels[number % len(labels)] for number in range(count)]
    return datasets.Dataset.from_dict(table)


@pytest.fixture
def files(tmp_path):
    """Arguments for a target of two classes and a source of three, with other column names, in csv files."""
    tables = {
        "source_train_file": rows(40, ["entailment", "neutral", "contradiction"], seed=1),
        "train_file": rows(24, ["no", "yes"], columns=("text", "second"), seed=2),
        "validation_file": rows(11, ["no", "yes"], columns=("text", "second"), seed=3),
        "test_file": rows(7, None, columns=("text", "second"), seed=4),
    }
    arguments = []
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv")
        arguments += [f"--{name}", str(tmp_path / f"{name}.csv")]
    return [*arguments, "--text_columns", "text", "second"]


def options(model_path, output_dir, *more):
    return [
        *("--model_name_or_path", model_path, "--output_dir", str(output_dir), "--use_cpu", "--report_to", "none"),
        *("--per_device_train_batch_size", "8", "--max_steps", "3", "--logging_steps", "1", "--disable_tqdm", "True"),
        *("--max_seq_length", "24", "--pad_to_max_length", "False", *more),
    ]


DO_ALL = ("--do_train", "--do_eval", "--do_predict")


def results(output_dir, name="all"):
    return json.loads((output_dir / f"{name}_results.json").read_text())


def history(output_dir):
    return json.loads((output_dir / "trainer_state.json").read_text())["log_history"]


def predictions(output_dir, name="predict_results"):
    lines = (output_dir / f"{name}.txt").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    return [line.split("\t")[1] for line in lines[1:]]


@pytest.mark.parametrize("method", ["merlin", "joint", "finetune"])
def test_trains_evaluates_and_predicts(method, files, model_path, tmp_path, caplog):
    output = tmp_path / "out"
    run_glue.main([*options(model_path, output, "--method", method), *files, *DO_ALL])

    found = results(output)
    assert found["train_samples"] == 24 and found["eval_samples"] == 11 and found["predict_samples"] == 7
    assert found.get("source_samples") == (None if method == "finetune" else 40)
    assert 0 <= found["eval_accuracy"] <= 1
    assert "predict_accuracy" not in found
    logged = {name for entry in history(output) for name in entry}
    assert {name for name in logged if name in ("meta_loss", "target_loss", "source_loss")} == {
        "merlin": {"meta_loss", "source_loss"},
        "joint": {"target_loss", "source_loss"},
        "finetune": set(),
    }[method]
    assert ("the source is not used" in caplog.text) == (method == "finetune")
    assert (output / "README.md").exists()

    # What was saved is the model that wrote the predictions.
    model = AutoModelForSequenceClassification.from_pretrained(output).eval()
    assert model.config.label2id == {"no": 0, "yes": 1}
    texts = datasets.Dataset.from_csv(str(tmp_path / "test_file.csv"), cache_dir=str(tmp_path / "cache"))
    inputs = AutoTokenizer.from_pretrained(output)(
        texts["text"][:], texts["second"][:], padding=True, truncation=True, max_length=24, return_tensors="pt"
    )
    with torch.no_grad():
        ids = model(**inputs).logits.argmax(-1).tolist()
    assert predictions(output) == [model.config.id2label[id] for id in ids]


def test_learns_the_target_by_merlin(files, model_path, tmp_path):
    tmp = tmp_path / "learn.csv"
    rows(48, ["a", "b", "c"], columns=("text",), seed=5).to_csv(tmp)
    output = tmp_path / "out"
    more = (
        "--max_steps",
        "30",
        "--learning_rate",
        "5e-3",
        "--max_source_samples",
        "30",
        "--rho",
        "1",
        "--head_l2",
        "1",
    )
    source = files[:2]
    data = ("--train_file", str(tmp), "--validation_file", str(tmp))
    run_glue.main([*options(model_path, output, *more), *source, *data, "--do_train", "--do_eval"])
    assert results(output)["source_samples"] == 30
    assert results(output)["eval_accuracy"] > 0.9


def test_regression_target_with_a_classification_source(files, model_path, tmp_path):
    table = rows(20, [-1.0, 0.5, 2.0], columns=("sentence1", "sentence2"))
    for name in ("train", "validation", "test"):
        table.to_parquet(tmp_path / f"{name}.parquet")
    output = tmp_path / "out"
    data = [
        x for name in ("train", "validation", "test") for x in (f"--{name}_file", str(tmp_path / f"{name}.parquet"))
    ]
    run_glue.main([*options(model_path, output, *DO_ALL), *files[:2], *data])

    found = results(output)
    assert found["train_samples"] == 20, "a score of -1 is a score"
    assert {"eval_mse", "eval_pearson", "eval_spearmanr", "predict_mse"} <= set(found)
    assert found["eval_combined_score"] == pytest.approx((found["eval_pearson"] + found["eval_spearmanr"]) / 2)
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert model.config.problem_type == "regression" and model.config.num_labels == 1
    assert all(np.isfinite(float(value)) for value in predictions(output))


def write_mnli(folder):
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
        }
    )
    folder.mkdir(parents=True)
    header = ["---", "configs:", "- config_name: default", "  data_files:"]
    sizes = {
        "train": 24,
        "validation_matched": 10,
        "validation_mismatched": 12,
        "test_matched": 5,
        "test_mismatched": 6,
    }
    for split, size in sizes.items():
        labels = [-1] if split.startswith("test") else [0, 1, 2]
        rows(size, labels).cast(features).to_parquet(folder / f"{split}.parquet")
        header += [f"  - split: {split}", f"    path: {split}.parquet"]
    (folder / "README.md").write_text("\n".join([*header, "---", ""]))


def test_mnli_has_two_evaluation_sets_and_hidden_test_labels(files, model_path, tmp_path, monkeypatch, caplog):
    write_mnli(tmp_path / "root" / "mnli")
    monkeypatch.setenv("MERLIN_DATA_ROOT", str(tmp_path / "root"))
    output = tmp_path / "out"
    run_glue.main(
        [*options(model_path, output, *DO_ALL), "--task_name", "MNLI", *files[:2], "--max_eval_samples", "11"]
    )

    found = results(output, "eval")
    assert found["eval_samples"] == 10 and found["eval_samples_mm"] == 11
    assert "eval_accuracy" in found and "eval_accuracy_mm" in found
    assert len(predictions(output, "predict_results_mnli")) == 5
    assert len(predictions(output, "predict_results_mnli-mm")) == 6
    assert set(predictions(output, "predict_results_mnli")) <= {"entailment", "neutral", "contradiction"}
    predicted = results(output, "predict")
    assert predicted["predict_samples"] == 5 and predicted["predict_samples_mm"] == 6
    assert not {name for name in predicted if "accuracy" in name}
    assert "test labels are not public" in caplog.text
    assert "GLUE MNLI" in (output / "README.md").read_text()


def test_resumes_from_the_last_checkpoint(files, model_path, tmp_path, caplog):
    output = tmp_path / "out"
    arguments = [*options(model_path, output, "--save_steps", "2", "--no_mix_weights"), *files, "--do_train"]
    run_glue.main([*arguments, "--max_steps", "2"])
    assert "Resuming" not in caplog.text
    run_glue.main([*arguments, "--max_steps", "4"])
    assert f"Resuming from {output / 'checkpoint-2'}" in caplog.text
    assert [entry["step"] for entry in history(output) if "loss" in entry] == [1, 2, 3, 4]


def test_runs_under_accelerate_launch(files, model_path, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    output = tmp_path / "out"
    # With --cpu and several processes `accelerate` starts only one; --multi_gpu is its word for torchrun.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--main_process_port", port, "--mixed_precision", "no", "--num_cpu_threads_per_process", "1"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": paths,
    }
    run = subprocess.run(
        [*launcher, str(ROOT / "examples" / "run_glue.py")]
        + [*options(model_path, output, "--max_steps", "2", "--no_mix_weights"), *files, *DO_ALL],
        env=environment,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    steps = [entry for entry in history(output) if "loss" in entry]
    assert [entry["validation_rows"] for entry in steps] == [8, 8], "half of the rows of both processes"
    assert results(output)["eval_samples"] == 11 and len(predictions(output)) == 7
    AutoModelForSequenceClassification.from_pretrained(output)


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_arguments_from_a_file(ending, tmp_path):
    path = tmp_path / f"run.{ending}"
    content = {
        "model_name_or_path": "m",
        "task_name": "rte",
        "source_task_name": "mnli",
        "output_dir": "o",
        "rho": 2.5,
    }
    path.write_text(yaml.dump(content) if ending == "yaml" else json.dumps(content))
    model_args, data_args, args = parse_args([str(path)], run_glue.ModelArguments, run_glue.TextDataArguments)
    assert (model_args.model_name_or_path, data_args.source_task_name, args.rho) == ("m", "mnli", 2.5)
    assert data_args.has_source and not model_args.trust_remote_code


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--task_name", "rta"], "`task_name` must be a GLUE task .*got 'rta'"),
        (["--task_name", "rte", "--dataset_name", "x"], "only one of `task_name`, `dataset_name`"),
        (["--source_task_name", "mnli"], "target is missing"),
        (["--task_name", "rte", "--method", "merlin", "--do_train"], "`method='merlin'` trains on a source"),
        (["--task_name", "rte", "--method", "merlim"], "unknown.*Did you mean 'merlin'"),
        (["--dataset_name", "nowhere"], "`dataset_name='nowhere'` is not a file or folder"),
    ],
)
def test_errors_name_the_argument(arguments, message, model_path, tmp_path, refused):
    refused(run_glue.main, [*options(model_path, tmp_path / "out"), *arguments], message)


def test_a_missing_split_is_told(files, model_path, tmp_path, refused):
    message = "`train_file` has no validation split, only train. Give `validation_file`"
    refused(run_glue.main, [*options(model_path, tmp_path / "out"), *files[2:4], "--do_eval"], message)
