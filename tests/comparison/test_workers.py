"""Several runs at a time: with the results of one after another, whatever happens to a worker."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter

import psutil
import pytest
import torch
import yaml

from merlin_hf.comparison import ComparisonError, ConfigError, compare, dry_run
from merlin_hf.comparison.experiment import Experiment
from merlin_hf.comparison.progress import Progress
from merlin_hf.comparison.store import Run, RunStore
from merlin_hf.comparison.workers import (
    ATTEMPTS,
    Failure,
    Place,
    SideBySide,
    Worker,
    WorkerLost,
    check_can_work,
    local_places,
    pack,
    visible_gpus,
)
from merlin_hf.methods import METHODS, FinetuneTrainer
from tests.comparison.conftest import read
from tests.comparison.own_methods import LucklessTrainer, MortalTrainer
from tests.comparison.test_compare import files
from tests.comparison.test_resume import interrupt, without_times
from tests.examples.conftest import ROOT


slow = pytest.mark.slow  # several processes


@pytest.fixture
def cache_of_workers(tmp_path, monkeypatch):
    """What the fixture `cache` is for this process."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def own(monkeypatch, tmp_path):
    """Methods that kill their process, or fail."""
    monkeypatch.setitem(METHODS, "mortal", MortalTrainer)
    monkeypatch.setitem(METHODS, "luckless", LucklessTrainer)
    monkeypatch.setenv("MORTAL_MARK", str(tmp_path / "mark"))
    return tmp_path / "mark"


# In other processes


@slow
def test_two_workers_one_of_which_is_killed_end_with_the_results_of_one(
    config, own, tmp_path, cache_of_workers, capsys
):
    methods = {"finetune": None, "linear_probe": None, "merlin": None, "mortal": None, "luckless": None}
    methods["finetune_again"] = {"method": "finetune"}  # the very runs of `finetune`
    config = {**config, "methods": methods}
    two = compare(config, workers=2, output_dir=str(tmp_path / "two"))
    told = capsys.readouterr().err
    assert own.exists(), "a worker was killed"
    assert (
        "Warning: The worker of mortal, seed 1, test was lost: it was ended by SIGKILL. The run is done again." in told
    )
    assert "2 workers, 1 thread each" in told and told.count("was lost") == 1
    assert "luckless failed: Out of luck." in told
    assert "in compute_loss" in (tmp_path / "two" / "errors" / "luckless.txt").read_text()

    one = compare(config, output_dir=str(tmp_path / "one"), show_progress=False)
    assert two.table == one.table and two.failed == one.failed == ["luckless"]
    assert without_times(two.summary) == without_times(one.summary)
    assert set(files(tmp_path / "two")) == set(files(tmp_path / "one")), "every run once, under the same name"
    for name in files(tmp_path / "one"):
        results = [json.loads(next((tmp_path / folder).rglob(name)).read_text()) for folder in ("one", "two")]
        losses = [[step.get("loss") for step in result["log_history"]] for result in results]
        assert losses[0] == losses[1] and results[0]["metrics"] == results[1]["metrics"]
    again = compare(config, workers=2, output_dir=str(tmp_path / "one"), show_progress=False)
    assert again.table == one.table, "another number of workers is no other comparison"


@slow
def test_ctrl_c_ends_all_workers_and_keeps_what_is_finished(config, tmp_path):
    training = {**config["training"], "max_steps": 20}
    config = {**config, "methods": ["finetune", "merlin"], "seeds": 3, "workers": 2, "training": training}
    config_file, output_dir = tmp_path / "config.yaml", tmp_path / "out"
    config_file.write_text(yaml.safe_dump(config))
    before = {process.pid for process in psutil.process_iter()}
    _, _, told, status = interrupt(config_file, output_dir, 2, signal.SIGINT)
    assert status == 130 and "Interrupted. Finished runs are kept" in told and "Traceback" not in told
    left = [process for process in psutil.process_iter() if process.pid not in before and is_worker(process)]
    assert not left
    finished = RunStore(output_dir / "runs").results
    assert 2 <= len(finished) == len(files(output_dir)) < 10


def is_worker(process):
    try:
        return any("merlin_hf.comparison.workers" in word for word in process.cmdline())
    except psutil.Error:
        return False


@slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_workers_train_on_gpus(config, tmp_path, cache_of_workers):
    config["training"].pop("use_cpu")
    result = compare({**config, "workers": 2, "search": {"trials": 0}}, show_progress=False)
    assert not result.failed
    for path in (tmp_path / "out" / "runs").glob("*/*.json"):
        run = json.loads(path.read_text())
        assert run["environment"]["device"] == torch.cuda.get_device_name() and run["environment"]["processes"] == 1
        assert run["peak_memory_bytes"] > 0


SCRIPT = """
import dataclasses, sys, yaml
import merlin_hf
from merlin_hf.methods import METHODS, FinetuneTrainer

print("The script is run.")

@merlin_hf.register_head("mine")
class MyHead(merlin_hf.heads.RidgeHead):
    pass

@dataclasses.dataclass
class Arguments(FinetuneTrainer.training_args_class):
    scale: float = 1.0

class ScaledTrainer(FinetuneTrainer):
    training_args_class = Arguments

    def training_step(self, *args, **kwargs):
        print("From a step.", file=sys.stderr)
        return super().training_step(*args, **kwargs) * self.args.scale

METHODS["scaled"] = ScaledTrainer
config = yaml.safe_load(open("config.yaml"))
one = merlin_hf.compare(config, output_dir="one", show_progress=False)
two = merlin_hf.compare(config, output_dir="two", workers=2, show_progress=False)
assert one.table == two.table and not two.failed, two.table
"""


@slow
def test_a_script_whose_classes_no_module_has(config, tmp_path):
    """Its top level is not run again by the workers, and needs no `if __name__ == "__main__"`."""
    methods = {"scaled": {"scale": 0.5}, "merlin": {"head": "mine"}}
    config = {**config, "methods": methods, "seeds": 1, "search": {"trials": 0}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("The script is run.") == 1
    assert done.stderr.count("From a step.") == 2 * 6, "what a worker says is told"


# Who does what, with threads for workers


class Crew:
    """
    Workers that are threads.

    Args:
        deaths: how often the worker of a run dies, by the label of the run.
        starts: what becomes of each start; those that are not named succeed.
    """

    def __init__(self, deaths=(), starts=()):
        self.deaths, self.starts = Counter(deaths), list(starts)
        self.started, self.stopped, self.doing, self.at_once = 0, 0, set(), 0
        self.lock = threading.Lock()

    def __call__(self, place, events, progress):
        crew = self

        class OfTheCrew(Worker):
            def open(self):
                with crew.lock:
                    crew.started += 1
                    outcome = crew.starts.pop(0) if crew.starts else None
                if isinstance(outcome, WorkerLost):
                    raise outcome
                return outcome

            def do(self, run):
                with crew.lock:
                    assert run.key not in crew.doing
                    crew.doing.add(run.key)
                    crew.at_once = max(crew.at_once, len(crew.doing))
                    dies = crew.deaths[run.label] > 0
                    crew.deaths[run.label] -= dies
                with crew.lock:
                    crew.doing.remove(run.key)
                if dies:
                    raise WorkerLost("it was ended by SIGKILL")
                return {"label": run.label}

            def stop(self):
                self.jobs.put(None)
                crew.stopped += 1

        return OfTheCrew(place, events, progress)


def runs(number):
    return [Run(f"method{n}", "final", 0, {}, 1, {"number": n}) for n in range(number)]


def work(crew, number, workers=2, progress=None):
    """All answers, by label."""
    left = runs(number)
    side_by_side = SideBySide([Place(1)] * workers, crew, progress or Progress())
    answers = list(side_by_side.do(lambda: left.pop(0) if left else None))
    assert len({run.key for run, _ in answers}) == len(answers) == number, "every run is answered once"
    assert not side_by_side.workers and crew.stopped == crew.started, "no worker is left"
    return {run.label: answer for run, answer in answers}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_run_is_done_once(workers):
    crew = Crew()
    assert work(crew, 7, workers) == {f"method{n}": {"label": f"method{n}"} for n in range(7)}
    assert crew.started == workers


@pytest.mark.parametrize("deaths", range(ATTEMPTS + 1))
def test_a_run_whose_worker_dies_is_done_again(deaths, capsys):
    crew = Crew({"method1": deaths})
    answers = work(crew, 4, progress=Progress(sys.stderr))
    lost = answers.pop("method1")
    assert answers == {name: {"label": name} for name in ("method0", "method2", "method3")}
    told = capsys.readouterr().err
    assert told.count("The run is done again.") == min(deaths, ATTEMPTS - 1)
    if deaths < ATTEMPTS:
        assert lost == {"label": "method1"}
    else:
        assert isinstance(lost, Failure) and "method1, seed 0, test was lost" in lost.reason
        assert lost.reason.endswith("ended by SIGKILL, 3 times in a row.")
    assert crew.started == 2 + min(deaths, ATTEMPTS)


DIED, BROKEN = WorkerLost("it was ended by SIGKILL"), Failure("No such file.", "Traceback ...")


@pytest.mark.parametrize(
    ("starts", "left"),
    [([BROKEN], True), ([DIED], True), ([DIED, BROKEN, None], True), ([BROKEN, BROKEN], False), ([DIED] * 6, False)],
)
def test_a_worker_that_cannot_start(starts, left, capsys):
    """A death is tried again, an error is not; the others do the work, if there are any."""
    crew = Crew(starts=starts)
    if left:
        assert len(work(crew, 3, progress=Progress(sys.stderr))) == 3
    else:
        with pytest.raises(ComparisonError, match=r"No worker could start: (No such file\.|it was ended by SIGKILL)"):
            work(crew, 3, progress=Progress(sys.stderr))
    errors = capsys.readouterr().err.count("Warning: A worker could not start")
    assert errors == (2 if not left else starts.count(BROKEN))
    assert crew.stopped == crew.started


def test_an_interruption_ends_the_workers():
    crew = Crew()
    left = runs(5)
    side_by_side = SideBySide([Place(1)] * 2, crew, Progress())
    with pytest.raises(KeyboardInterrupt), contextlib.closing(side_by_side.do(lambda: left.pop(0))) as answers:
        for _ in answers:
            raise KeyboardInterrupt
    assert crew.stopped == crew.started == 2 and not side_by_side.workers


# What cannot be had


@pytest.mark.parametrize(
    "given", [0, -1, 1001, 1.5, True, "two", "ray:", "ray://", "ray://host", "http://host:1", [2]]
)
def test_what_workers_cannot_be(config, given):
    with pytest.raises(ConfigError, match="`workers` must be"):
        read(config, workers=given)


@pytest.mark.parametrize("given", [1, 2, "ray", "ray://head-node.local:10001"])
def test_what_workers_can_be(config, given):
    assert read(config, workers=given).workers == given
    assert read(config, workers=str(given)).workers == given, "as from a command line"


def test_workers_are_no_part_of_a_run(config):
    keys = set()
    for workers in (1, 2):
        experiment = Experiment(read(config, workers=workers, methods=["finetune"]))
        keys.add(experiment.make_run(experiment.config.methods[0], "final", 0, {}).key)
    assert len(keys) == 1


class Locked(FinetuneTrainer):
    """Holds what no other process can have."""

    lock = threading.Lock()


def test_a_class_that_cannot_be_sent(config, monkeypatch, tmp_path):
    class Local(FinetuneTrainer):
        lock = threading.Lock()

    monkeypatch.setitem(METHODS, "local", Local)
    message = r"`workers=2` cannot send local to other processes: TypeError: .*lock.* Put the class into a module"
    for call in (compare, dry_run):
        with pytest.raises(ConfigError, match=message):
            call(read(config, methods=["local"], workers=2))
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(METHODS, "local", Locked)
    assert pack(Experiment(read(config, methods=["local"], workers=2))), "a module's class is imported there"


def test_several_processes_have_no_workers(config, monkeypatch):
    experiment = Experiment(read(config, workers=2))
    monkeypatch.setitem(experiment.processes.__dict__, "num_processes", 2)
    with pytest.raises(ConfigError, match=r"`workers=2` cannot be had by 2 processes\..* without `accelerate launch`"):
        check_can_work(experiment)
    experiment.config.workers = 1
    check_can_work(experiment)


def test_ray_that_is_not_installed(config, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(ConfigError, match=r"`workers='ray'` needs Ray: pip install \"merlin-hf\[ray\]\"\."):
        dry_run(read(config, workers="ray"))


# Places


def test_threads_are_divided(monkeypatch, capsys):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    lines = Progress(sys.stderr)
    assert local_places(3, "cpu", lines) == [Place(2)] * 3
    assert capsys.readouterr().err == "3 workers, 2 threads each\n"
    assert local_places(9, "cpu", lines) == [Place(1)] * 9
    assert "Warning: 9 workers share 8 CPUs" in capsys.readouterr().err


def test_gpus_are_divided(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-ab")
    assert visible_gpus() == ["5", "GPU-ab"]
    assert [place.gpu for place in local_places(3, "cuda", Progress(sys.stderr))] == ["5", "GPU-ab", "5"]
    assert "Warning: 3 workers share 2 GPUs" in capsys.readouterr().err
    assert local_places(2, "cpu", Progress()) == [Place(4)] * 2, "`use_cpu`"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
