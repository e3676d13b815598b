"""`merlin-hf train`, here and in processes that accelerate starts."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from transformers import AutoModelForSequenceClassification

from merlin_hf.cli import main as cli
from merlin_hf.cli.accelerate_configs import NAMES, accelerate_config
from tests.examples.conftest import ROOT, model_path  # noqa: F401
from tests.examples.test_run_glue import files, options, surroundings  # noqa: F401


def test_trains_in_this_process(files, model_path, tmp_path):  # noqa: F811
    output = tmp_path / "out"
    cli.main(["train", *options(model_path, output, "--max_steps", "2"), *files, "--do_train"])
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert model.config.label2id == {"no": 0, "yes": 1} and model.classifier.weight.abs().sum() > 0


@pytest.mark.parametrize("given", ["name", "path"])
def test_trains_in_processes_of_a_configuration(given, files, model_path, tmp_path):  # noqa: F811
    output = tmp_path / "out"
    config = "ddp" if given == "name" else str(tmp_path / "config.yaml")
    if given == "path":
        with open(accelerate_config("ddp")) as file:
            (tmp_path / "config.yaml").write_text(file.read())
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "merlin_hf.cli.main", "train", "--accelerate_config", config]
    command += ["--main_process_port", "0", *options(model_path, output, "--max_steps", "2"), *files, "--do_train"]
    run = subprocess.run(
        command,
        env={**environment, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    AutoModelForSequenceClassification.from_pretrained(output)
    with open(output / "trainer_state.json") as file:
        history = json.load(file)["log_history"]
    assert [entry["validation_rows"] for entry in history if "loss" in entry] == [8, 8], "half of both processes' rows"


def test_help_has_the_options_of_the_launcher_and_of_the_program(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["train", "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "--accelerate_config" in shown and "--rho" in shown and "--source_task_name" in shown


def test_an_unknown_configuration_is_an_error_that_names_the_nearest():
    with pytest.raises(SystemExit, match="`--accelerate_config fsdp` is no file. Did you mean 'fsdp2'"):
        cli.main(["train", "--accelerate_config", "fsdp", "--task_name", "rte"])


@pytest.mark.parametrize("name", NAMES)
def test_the_configurations_are_ones_that_accelerate_reads(name):
    from accelerate.commands.config.config_args import load_config_from_file

    with open(accelerate_config(name)) as file:
        given = yaml.safe_load(file)
    read = load_config_from_file(accelerate_config(name)).to_dict()
    assert {key: read[key] for key in given} == given
