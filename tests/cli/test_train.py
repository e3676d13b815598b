"""`merlin-hf train`, here and in processes that accelerate starts."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from accelerate.commands import launch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, Trainer

from merlin_hf import JointTrainer
from merlin_hf.cli.train import ACCELERATE_CONFIGS, accelerate_config
from merlin_hf.utils.manifest import MANIFEST_NAME
from tests.examples.conftest import ROOT, model_path, surroundings  # noqa: F401
from tests.examples.test_run_glue import files, options, rows  # noqa: F401
from tests.examples.test_run_image_classification import options as image_options
from tests.examples.test_run_image_classification import root as images  # noqa: F401


@pytest.fixture
def config(model_path, tmp_path):  # noqa: F811
    """A yaml file for a target and a source whose columns are called otherwise."""
    rows(40, ["e", "n", "c"], columns=("text",), seed=1).rename_column("label", "kind").to_csv(tmp_path / "source.csv")
    target = ("text", "second")
    for name, count in (("train", 24), ("validation", 11)):
        table = rows(count, ["no", "yes"], columns=target, seed=count).rename_column("label", "stars")
        table.to_csv(tmp_path / f"{name}.csv")
    values = {
        "model_name_or_path": model_path,
        "output_dir": str(tmp_path / "out"),
        "source_train_file": "source.csv",
        "source_label_column": "kind",
        "train_file": "train.csv",
        "validation_file": "validation.csv",
        "label_column": "stars",
        "text_columns": list(target),
        "max_seq_length": 24,
        "pad_to_max_length": False,
        "per_device_train_batch_size": 8,
        "max_steps": 3,
        "learning_rate": "1e-3",
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def history(output_dir):
    return json.loads((output_dir / "trainer_state.json").read_text())["log_history"]


# Training


def test_trains_by_flags(files, model_path, tmp_path, run, caplog):  # noqa: F811
    output = tmp_path / "out"
    status, shown, said = run("train", *options(model_path, output, "--max_steps", "2"), *files, "--do_train")
    assert status == 0 and said.endswith(f"Model in {output}\n")
    (told,) = (message for message in caplog.messages if message.startswith("Training arguments that differ"))
    told = [line.strip() for line in told.splitlines()[1:]]
    assert {"max_steps = 2", f"output_dir = {output}"} <= set(told) and len(told) < 15
    assert shown.startswith("metric") and "\ntrain_loss " in shown and shown.splitlines()[0].endswith(" merlin")
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert model.config.label2id == {"no": 0, "yes": 1} and model.classifier.weight.abs().sum() > 0


def test_trains_by_a_file_and_flags(config, tmp_path, run):
    status, shown, _ = run("train", config, "--max_steps", 2, "--do_train", "--do_eval", "--json", "--method", "l2_sp")
    result = json.loads(shown)
    assert status == 0 and (result["method"], result["task"]) == ("l2_sp", "text")
    assert result["metrics"] == json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert result["metrics"]["eval_samples"] == 11 and result["metrics"]["source_samples"] == 40
    assert [entry["step"] for entry in history(tmp_path / "out") if "loss" in entry] == [1, 2]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.label2id == {"no": 0, "yes": 1}


def several(config, **more):
    """Have the configuration name two sources, of single texts with three classes and of pairs with real labels."""
    values = yaml.safe_load(config.read_text())
    del values["source_train_file"], values["source_label_column"]
    table = rows(30, [0.5, 1.0, 3.5], columns=("left", "right"), seed=7).rename_column("label", "score")
    table.to_csv(config.parent / "pairs.csv")
    values["sources"] = {
        "topics": {"train_file": "source.csv", "label_column": "kind"},
        "scores": {"train_file": "pairs.csv", "label_column": "score", "max_samples": 20},
    }
    config.write_text(yaml.safe_dump({**values, **more}, sort_keys=False))


def test_trains_on_several_sources(config, tmp_path, run):
    several(config, source_mix="topics=1,scores=2")
    status, shown, said = run("train", config, "--dry_run", "--json")
    plan = json.loads(shown)
    assert status == 0 and plan["method"] == "merlin" and plan["source"] is None, said
    assert plan["sources"] == {
        "topics": {"rows": 40, "classes": ["c", "e", "n"]},
        "scores": {"rows": 20, "classes": None},
    }
    status, shown, said = run("train", config, "--dry_run")
    lines = ["source   topics: 40 rows, 3 classes (c, e, n)", "source   scores: 20 rows, real labels"]
    batch = "batch    8 target rows and 8 source rows (source_mix topics=1,scores=2), on each of 1 process"
    assert status == 0 and {*lines, batch} <= set(shown.splitlines())

    status, shown, said = run("train", config, "--do_train", "--do_eval", "--json", "--save_steps", 2)
    assert status == 0 and json.loads(shown)["metrics"]["source_samples"] == 60, said
    named = [name for entry in history(tmp_path / "out") for name in entry if name.startswith("source_loss_")]
    assert named == ["source_loss_scores", "source_loss_topics", "source_loss_scores"]
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.label2id == {"no": 0, "yes": 1}
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"\| source +\| topics +\|.*\| 40 +\| c, e, n", card) and re.search(
        r"\| source +\| scores ", card
    )
    assert "with the help of topics and scores (the source)" in card
    data = json.loads((tmp_path / "out" / "checkpoint-2" / MANIFEST_NAME).read_text())["run"]["data"]
    assert {name: described["rows"] for name, described in data.items() if name.startswith("source_dataset[")} == {
        "source_dataset['topics']": 40,
        "source_dataset['scores']": 20,
    }


def test_trains_on_several_sources_of_images(images, tmp_path, run):  # noqa: F811
    sources = {
        "letters": {"dataset_name": str(images / "source"), "image_column": "img", "label_column": "fine_label"},
        "animals": {"train_dir": str(images / "target" / "validation"), "max_samples": 9},
    }
    flags = ["--train_dir", images / "target" / "train", "--sources", json.dumps(sources), "--source_mix", "equal"]
    flags += ["--no_mix_weights"]  # the model has random weights
    status, shown, said = run("train", *image_options(images, tmp_path / "out"), *flags, "--max_steps", 2, "--json")
    assert status == 0 and json.loads(shown)["metrics"]["source_samples"] == 69, said
    named = [name for entry in history(tmp_path / "out") for name in entry if name.startswith("source_loss_")]
    assert named == ["source_loss_letters", "source_loss_animals"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "lwf"], "takes one source, and `source_dataset` has topics, scores"),
        (
            ["--source_mix", "topics=1", "--dry_run"],
            "`source_mix` has weights for topics, and the sources are scores, topics",
        ),
        (["--source_train_file", "source.csv"], "`source_train_file` is of a single source"),
        (["--sources", '{"topics": {"train_file": "no.csv"}}'], "`sources.topics.train_file='no.csv'` is not a file"),
    ],
)
def test_several_sources_that_cannot_be_used_are_2(flags, message, config, run):
    several(config)
    status, _, said = run("train", config, *flags)
    assert status == 2 and message in said.splitlines()[-1], said


def test_the_card_of_a_model_of_pairs_runs(config, tmp_path, run):
    status, _, _ = run("train", config, "--max_steps", 1, "--do_train", "--do_eval", "--examples_per_label", 1)
    card = (tmp_path / "out" / "README.md").read_text()
    shown = pd.read_csv(tmp_path / "validation.csv").drop_duplicates("stars").sort_values("stars")
    assert status == 0 and "| label | text | text pair |" in card and "widget" not in card
    assert all(f"| {row.stars} | {row.text} | {row.second} |" in card for row in shown.itertuples())
    code = re.search(r"```python\n(.+?)\n```", card, re.DOTALL)[1]
    first = shown.iloc[0]
    assert f'classifier({{"text": "{first.text}", "text_pair": "{first.second}"}})' in code
    names = {}
    exec(code.replace('model="out"', f"model={str(tmp_path / 'out')!r}"), names)
    assert names["classifier"].model.config.label2id == {"no": 0, "yes": 1}
    # Nobody asked for the rows of a file to be shown.
    status, _, _ = run("train", config, "--output_dir", tmp_path / "none", "--max_steps", 1)
    card = (tmp_path / "none" / "README.md").read_text()
    assert status == 0 and "## Labels" not in card and first.text not in card


def test_trains_on_images(images, tmp_path, run):  # noqa: F811
    output = tmp_path / "out"
    flags = [*image_options(images, output), "--max_steps", "2", "--method", "joint", "--do_train", "--do_eval"]
    data = ["--dataset_name", images / "target", "--source_dataset_name", images / "source"]
    status, shown, _ = run("train", *flags, *data, "--source_label_column", "fine_label", "--json")
    result = json.loads(shown)
    assert status == 0 and result["task"] == "image" and result["metrics"]["eval_samples"] == 45
    assert AutoModelForImageClassification.from_pretrained(output).config.label2id == {"ant": 0, "bee": 1, "cat": 2}


NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed; `make test-deepspeed` does"
)


@pytest.mark.parametrize(
    "name", ["ddp", "fsdp2", *(pytest.param(f"zero{stage}", marks=NEEDS_DEEPSPEED) for stage in (2, 3))]
)
@pytest.mark.slow
def test_trains_in_processes_of_a_configuration(name, config, tmp_path):
    output = tmp_path / "out"
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "merlin_hf.cli.main", "train", "--accelerate_config", name]
    command += ["--main_process_port", "0", "--max_steps", "2", "--no_mix_weights", "--config", str(config), "--json"]
    run = subprocess.run(
        command,
        env={**environment, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout)["metrics"]["train_samples"] == 24, "one process speaks"
    AutoModelForSequenceClassification.from_pretrained(output)
    steps = [entry["validation_rows"] for entry in history(output) if "loss" in entry]
    assert steps == [8, 8], "half of both processes' rows"


def test_what_accelerate_is_asked_for(config, tmp_path, run, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text(Path(accelerate_config("ddp")).read_text())
    started = []
    monkeypatch.setattr(launch, "launch_command", started.append)
    flags = ["--accelerate_config", path, "--num_processes", 3, "--rho", 2, "--dry_run"]
    assert run("train", config, *flags)[0] == 0
    (arguments,) = started
    assert (arguments.config_file, arguments.num_processes, arguments.module) == (str(path), 3, True)
    assert arguments.training_script == "merlin_hf.cli.main"
    assert arguments.training_script_args == ["train", str(config), "--rho", "2", "--task", "text", "--dry_run"]

    def fail(arguments):
        raise subprocess.CalledProcessError(2, "python")

    monkeypatch.setattr(launch, "launch_command", fail)
    assert run("train", config, *flags)[0] == 2


# Exit statuses


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rat", "1"], "`--learning_rat` is unknown. Did you mean 'learning_rate'"),
        (["--rho", "-1"], "`rho` must be a number of at least 0, got -1.0"),
        (["--label_column", "start"], "`label_column='start'` is not a column of `train_file`. Did you mean 'stars'"),
        (["--text_columns", "txt"], "`text_columns` must be one or two of the text columns"),
        (
            ["--accelerate_config", "fsdp"],
            "is neither a file nor a known name. Did you mean 'fsdp2'",
        ),
        (["--model_name_or_path", "no/model"], "`model_name_or_path='no/model'` cannot be loaded: "),
        (["--task", "image"], "is about texts, and the data are images; `--task text` says otherwise"),
    ],
)
def test_what_cannot_be_used_is_2(flags, message, config, run, tmp_path):
    status, shown, said = run("train", config, *flags)
    assert status == 2 and shown == "" and "merlin-hf train: " in said and message in said
    assert "Traceback" not in said


def test_a_missing_model_is_told(run):
    status, _, said = run("train", "--task_name", "rte")
    assert status == 2 and said == "merlin-hf train: `model_name_or_path` is missing: give `--model_name_or_path`.\n"


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (RuntimeError("Out of luck."), 1, "Out of luck."),
        (KeyboardInterrupt(), 130, "goes on from the last checkpoint"),
    ],
)
def test_a_run_that_ends_early(error, expected, message, config, run, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(JointTrainer, "compute_loss", fail)
    status, shown, said = run("train", config, "--method", "joint", "--json")
    assert status == expected and shown == "" and message in said


# Without training


def test_a_dry_run_says_what_would_run(config, tmp_path, run, monkeypatch):
    monkeypatch.setattr(Trainer, "train", None)
    flags = ["train", config, "--do_train", "--do_eval", "--gradient_accumulation_steps", 2, "--push_to_hub"]
    status, shown, _ = run(*flags, "--dry_run", "--max_steps", -1, "--num_train_epochs", 5)
    assert status == 0 and not (tmp_path / "out").exists()
    for line in (
        "target   24 rows, 2 classes (no, yes)",
        "source   40 rows, 3 classes (c, e, n)",
        "evaluate 11 rows",
        "steps    10 (5.0 epochs of the target)",
        "batch    8 target rows and 8 source rows, 2 times a step, on each of 1 process",
        "rate     0.001, float32 on cpu",
        f"output   {tmp_path / 'out'}, pushed to the Hub",
    ):
        assert line in shown.splitlines()

    status, shown, _ = run(*flags, "--dry_run", "--json")
    plan = json.loads(shown)
    assert plan["training"]["steps"] == 3 and plan["resumes_from"] is None and plan["target"]["rows"] == 24
    model = AutoModelForSequenceClassification.from_pretrained(plan["model"])
    count = sum(parameter.numel() for parameter in model.bert.parameters()) + 2 * model.config.hidden_size + 2
    assert plan["training"]["parameters"] == count and 0 < plan["training"]["trained_parameters"] <= count


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--method", "linear_probe"], "steps    none by gradient: the head is fit in closed form"),
        (["--method", "finetune"], "trained  33,"),
        (["--method", "linear_probe"], "trained  0 of 33,"),
        (["--max_train_samples", "10"], "target   10 rows, 2 classes (no, yes)"),
    ],
)
def test_a_dry_run_of_other_methods(flags, line, config, run):
    status, shown, said = run("train", config, *flags, "--dry_run")
    assert status == 0 and line in shown, said


def test_a_dry_run_says_that_labels_are_shared(config, run):
    flags = ["--source_train_file", config.parent / "train.csv", "--source_label_column", "stars"]
    line = "labels   The source and the target have the same labels, no, yes: "
    for method, used in (("zero_shot", "ZeroShotTrainer uses this."), ("merlin", "no method here uses this.")):
        assert line + used in run("train", config, *flags, "--method", method, "--dry_run")[1]
    assert "labels   " not in run("train", config, "--dry_run")[1]
    status, shown, said = run("train", config, "--method", "pooled", "--dry_run")
    assert status == 2 and shown == "" and "the source has ['c', 'e', 'n'], the target ['no', 'yes']" in said


def test_a_dry_run_checks_what_training_checks(config, run, tmp_path):
    status, shown, said = run("train", config, "--dry_run", "--per_device_train_batch_size", 1)
    assert status == 2 and shown == "" and "per_device_train_batch_size" in said


def test_a_folder_with_the_checkpoint_of_another_run_is_refused(config, run, tmp_path, caplog):
    assert run("train", config, "--save_steps", 2)[0] == 0
    for flags, named in (
        (("--learning_rate", "2e-3"), "`learning_rate` (0.001 in the checkpoint, 0.002 now)"),
        (("--max_train_samples", 20), "`train_dataset` (24 in the checkpoint, 20 now)"),
        (("--method", "joint"), "`JointTrainer` now"),
    ):
        for more in ((), ("--dry_run",)):
            status, shown, said = run("train", config, *flags, *more)
            assert (status, shown) == (2, "") and named in said and "`output_dir=" in said, said
            assert "Traceback" not in said
    status, _, said = run(
        "train", config, "--learning_rate", "2e-3", "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-2"
    )
    assert status == 0 and "neither run" in caplog.text, said
    assert run("train", config, "--method", "joint", "--overwrite_output_dir")[0] == 0
    assert not (tmp_path / "out" / "checkpoint-2").exists()


def test_a_finished_command_leaves_the_model_as_it_is(config, run, tmp_path, caplog):
    found = []
    for _ in range(3):
        status, shown, said = run("train", config, "--no_mix_weights", "--do_train", "--do_eval", "--json")
        assert status == 0, said
        model = (tmp_path / "out" / "model.safetensors").read_bytes()
        metrics = json.loads(shown)["metrics"]
        found.append((model, {name: metrics[name] for name in ("train_loss", "eval_loss", "eval_accuracy")}))
    assert found[0] == found[1] == found[2] and "is finished" in caplog.text
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-3"]
    assert (
        run("train", config, "--no_mix_weights", "--max_steps", 4)[0] == 0
        and (tmp_path / "out" / "checkpoint-4").exists()
    )


@pytest.mark.parametrize("method", ["joint", "finetune"])
def test_a_training_that_diverges_ends_in_one_line_and_no_model(config, run, tmp_path, method):
    flags = ["--learning_rate", "1e6", "--weight_decay", 1, "--optim", "sgd", "--max_steps", 20]
    status, shown, said = run("train", config, "--method", method, *flags)
    last = said.strip().splitlines()[-1]
    assert (status, shown) == (1, "") and last.startswith("merlin-hf train: Training has diverged"), said
    assert "Traceback" not in said and not (tmp_path / "out" / "model.safetensors").exists()


def test_errors_before_the_first_step_are_one_line(config, run, tmp_path):
    flags = ["--dataloader_drop_last", "true", "--per_device_train_batch_size", 25]
    status, shown, said = run("train", config, *flags)
    assert (status, shown) == (2, "") and "Traceback" not in said
    assert "merlin-hf train: `train_dataset` gives no batch" in said and "`dataloader_drop_last`" in said


def test_a_metric_that_is_not_computed_is_no_measure_of_the_best_model(config, run, tmp_path):
    flags = [
        "--do_train",
        "--do_eval",
        "--eval_strategy",
        "steps",
        "--eval_steps",
        1,
        "--save_steps",
        1,
        "--max_steps",
        2,
    ]
    flags += ["--load_best_model_at_end", "true", "--metric_for_best_model"]
    status, shown, said = run("train", config, *flags, "eval_acuracy")
    assert (status, shown) == (2, "") and not list((tmp_path / "out").glob("checkpoint-*"))
    assert "`metric_for_best_model='eval_acuracy'` is not computed here" in said and "Did you mean 'accuracy'" in said
    assert run("train", config, *flags, "accuracy")[0] == 0


def test_fewer_steps_than_a_finished_run_has_leave_it_as_it_is(config, run, tmp_path, caplog):
    assert run("train", config, "--save_steps", 5, "--max_steps", 5)[0] == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert run("train", config, "--max_steps", 4)[0] == 0 and "no further step is trained" in caplog.text
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_a_checkpoint_of_plain_trainer_is_no_checkpoint_of_a_method(config, run, tmp_path):
    assert run("train", config, "--save_steps", 1, "--max_steps", 1)[0] == 0
    for name in ("transfer_state.safetensors", MANIFEST_NAME):
        (tmp_path / "out" / "checkpoint-1" / name).unlink()
    status, shown, said = run("train", config, "--max_steps", 2)
    assert (status, shown) == (2, "") and "Traceback" not in said
    assert "checkpoint-1 has no transfer_state.safetensors" in said and "`overwrite_output_dir`" in said


def test_a_source_that_a_method_does_not_take_is_said(config, run, caplog):
    assert run("train", config, "--method", "finetune", "--max_steps", 1)[0] == 0
    assert "`method='finetune'` trains on the target alone: the source is not used" in caplog.text


@pytest.mark.parametrize("name", ["file", "file/out", "o" * 300])
def test_an_output_dir_that_cannot_be_is_found_before_data_are_read(config, run, tmp_path, name):
    (tmp_path / "file").touch()
    status, shown, said = run("train", config, "--output_dir", tmp_path / name, "--train_file", "nowhere.csv")
    assert (status, shown) == (2, "") and "`output_dir=" in said and "nowhere" not in said


def test_a_dry_run_says_where_training_would_go_on(config, run, tmp_path):
    assert run("train", config, "--save_steps", 2, "--max_steps", 2)[0] == 0
    shown = run("train", config, "--dry_run")[1]
    assert f"resumes  from {tmp_path / 'out' / 'checkpoint-2'}" in shown


# Help


def test_help_has_the_options_of_the_launcher_and_of_the_program(run):
    status, shown, _ = run("train", "--help")
    assert status == 0 and all(flag in shown for flag in ("--accelerate_config", "--rho", "--source_task_name"))
    assert "--probe_head" not in shown and "--adam_beta1" not in shown
    status, shown, _ = run("train", "--help", "--method", "linear_probe")
    assert "--probe_head" in shown and "--rho" not in shown
    status, shown, _ = run("train", "--help_all", "--method", "bss", "--task", "image")
    every = shown.partition("all flags")[2]
    assert "--adam_beta1" in every and "--image_column_name" in every and "--text_columns" not in every
    status, _, said = run("train", "--help", "--method", "merln")
    assert status == 2 and "Did you mean 'merlin'" in said


@pytest.mark.parametrize("name", ACCELERATE_CONFIGS)
def test_the_configurations_are_ones_that_accelerate_reads(name):
    from accelerate.commands.config.config_args import load_config_from_file

    with open(accelerate_config(name)) as file:
        given = yaml.safe_load(file)
    read = load_config_from_file(accelerate_config(name)).to_dict()
    assert {key: read[key] for key in given} == given
