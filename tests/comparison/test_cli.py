"""`merlin-hf compare`: what is on stdout, and exit codes."""

import io
import json
import os
import subprocess
import sys

import pytest
import yaml
from transformers import Trainer

from merlin_hf import JointTrainer
from merlin_hf.cli import main as cli
from merlin_hf.comparison.progress import Bars, Progress, make_progress
from merlin_hf.comparison.store import Run
from tests.examples.conftest import ROOT


@pytest.fixture
def config_file(config, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config, "search": {"trials": 0}}))
    return path


def run(*arguments):
    """The exit status."""
    try:
        cli.main(["compare", *map(str, arguments)])
    except SystemExit as done:
        return done.code
    return 0


def test_one_number_of_seeds_is_how_many(config_file, capsys):
    assert run(config_file, "--methods", "linear_probe", "--seeds", 2) == 0
    assert "over 2 seeds (0, 1)" in capsys.readouterr().out
    assert (
        run(config_file, "--seeds", 0) == 2
        and "`seeds` must be a whole number from 1 to 1000" in capsys.readouterr().err
    )


def test_the_table_is_on_stdout_and_progress_on_stderr(config_file, capsys, tmp_path):
    assert (
        run(config_file, "--methods", "merlin", "linear_probe", "--seeds", 4, 5, "--output_dir", tmp_path / "mine")
        == 0
    )
    shown = capsys.readouterr()
    assert shown.out == (tmp_path / "mine" / "table.md").read_text() and shown.out.startswith("| method")
    assert "**Advice.** " in shown.out.splitlines()[-1] and "2 seeds are few: 5 or more" in shown.out
    assert "over 2 seeds (4, 5)" in shown.out and "linear_probe" in shown.out and "finetune" not in shown.out
    assert "4 runs\n[1/4] merlin, seed 4, test: accuracy" in shown.err and "[4/4] linear_probe, seed 5" in shown.err

    assert (
        run(
            config_file,
            "--methods",
            "merlin",
            "linear_probe",
            "--seeds",
            4,
            5,
            "--output_dir",
            tmp_path / "mine",
            "--json",
        )
        == 0
    )
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((tmp_path / "mine" / "results.json").read_text())
    assert "4 runs, 4 of them finished before" in shown.err and "[1/4]" not in shown.err


def test_a_dry_run(config_file, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(Trainer, "train", None)
    assert run(config_file, "--dry_run") == 0
    shown = capsys.readouterr().out
    assert "6 runs to do" in shown and "48 rows through the backbone" in shown and not (tmp_path / "out").exists()
    assert run(config_file, "--dry_run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(method["label"], method["runs"], method["finished"]) for method in plan["methods"]] == [
        ("finetune", 2, 0),
        ("joint", 2, 0),
        ("merlin", 2, 0),
    ]


def test_exit_status_of_a_failed_method(config_file, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Out of luck.")

    monkeypatch.setattr(JointTrainer, "compute_loss", fail)
    assert run(config_file, "--methods", "finetune", "joint", "--seeds", 1) == 1
    shown = capsys.readouterr()
    assert "joint failed: Out of luck." in shown.out and "joint failed: Out of luck." in shown.err
    assert run(config_file, "--methods", "joint", "--seeds", 1) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "No method could be run. joint: Out of luck." in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.yaml"], "merlin-hf compare: There is no configuration 'no.yaml'."),
        (["{}", "--methods", "merln"], "Did you mean 'merlin'?"),
        (["{}", "--seeds", "1", "1"], "`seeds` must be different seeds, got [1, 1]."),
        (["{}", "--model", "no/model"], "`model='no/model'` cannot be loaded"),
        (["{}", "--sedes", "1"], "unrecognized arguments: --sedes 1"),
        (["{}", "--seeds", "one"], "invalid int value: 'one'"),
    ],
)
def test_exit_status_of_a_bad_configuration(config_file, capsys, arguments, message):
    assert run(*(argument.format(config_file) for argument in arguments)) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and message in shown.err and "Traceback" not in shown.err


@pytest.mark.slow
def test_two_processes_do_the_runs_together(config_file, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--main_process_port", "0"]
    command += ["--num_processes", "2", "--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [
        "--module",
        "merlin_hf.cli.main",
        "compare",
        str(config_file),
        "--methods",
        "merlin",
        "l2_sp",
        "--seeds",
        "1",
    ]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("difference to merlin |") == 1 and done.stderr.count("[2/2]") == 1, "one process speaks"
    results = sorted((tmp_path / "out" / "runs").glob("*/*.json"))
    assert len(results) == 2 and json.loads(results[0].read_text())["environment"]["processes"] == 2


# Progress


RUN = Run("merlin", "trial", 3, {"rho": 0.3}, 10, {"rho": 0.3})
OTHER = Run("joint", "final", 4, {}, 20, {})


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_in_a_terminal_and_lines_in_a_pipe(monkeypatch):
    assert type(make_progress(True, Terminal())) is Bars
    assert type(make_progress(True, io.StringIO())) is Progress
    assert make_progress(False, Terminal()).stream is None
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert type(make_progress(True, Terminal())) is Progress


@pytest.mark.parametrize("stream_class", [Terminal, io.StringIO])
def test_what_is_said(stream_class, monkeypatch):
    stream = stream_class()
    monkeypatch.setattr("merlin_hf.comparison.progress.SECONDS_BETWEEN_LINES", -1)
    with make_progress(True, stream) as progress:
        progress.expect(3, 1)
        progress.start(RUN)
        progress.start(OTHER)
        progress.step(OTHER, 7, 20)
        progress.step(RUN, 5, 10)
        progress.finish(RUN, "accuracy [0.5]")
        progress.step(OTHER, 8, 20)
        progress.start(OTHER)  # again, in another worker
        progress.stop(OTHER)
        progress.say("Warning: [red]")
    said = stream.getvalue()
    assert "3 runs, 1 of them finished before" in said and "Warning: [red]" in said
    assert "[2/3] merlin, seed 3, trial of rho=0.3: accuracy [0.5]" in said
    assert (
        stream_class is Terminal or "trial of rho=0.3: step 5 of 10" in said and "joint, seed 4, test: step 8" in said
    )
