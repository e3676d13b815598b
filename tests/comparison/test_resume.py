"""A comparison that is interrupted and started again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from merlin_hf.comparison import compare
from merlin_hf.comparison.store import Run, RunStore
from merlin_hf.utils.files import to_json, whole_file, write_text
from tests.comparison.conftest import read
from tests.comparison.test_compare import files
from tests.examples.conftest import ROOT


pytestmark = pytest.mark.slow  # interrupts and kills processes


def start(config_file, *arguments):
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_DATASETS_CACHE": str(config_file.parent / "cache")}
    command = [sys.executable, "-m", "merlin_hf.cli.main", "compare", str(config_file), *arguments]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start what runs in the background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def interrupt(config_file, output_dir, finished, with_signal):
    """Start it, and send a signal when so many runs are finished."""
    process = start(config_file)
    deadline = time.monotonic() + 120
    while len(list((output_dir / "runs").glob("*/*.json"))) < finished:
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(with_signal)
    return process.returncode, *process.communicate(timeout=60), process.returncode


def without_times(summary):
    """What does not depend on when it ran."""
    text = json.loads(json.dumps(summary))
    for method in text["methods"]:
        for run in method.get("runs", {}).values():
            del run["train_seconds"]
    del text["config"], text["advice"]
    return text


def test_interrupted_and_killed_runs_go_on_to_the_same_table(config, tmp_path):
    settings = {"methods": ["finetune", "linear_probe", "merlin"], "seeds": 3, "search": {"trials": 2}}
    config = {**config, **settings, "training": {**config["training"], "max_steps": 8}}
    config_file, output_dir = tmp_path / "config.yaml", tmp_path / "out"
    config_file.write_text(yaml.safe_dump(config))

    _, _, told, status = interrupt(config_file, output_dir, 1, signal.SIGINT)
    assert status == 130 and "Interrupted. Finished runs are kept" in told and "Traceback" not in told
    first = files(output_dir)
    interrupt(config_file, output_dir, len(first) + 2, signal.SIGKILL)
    second = files(output_dir)
    assert first.items() <= second.items() and len(first) + 2 <= len(second) < 13
    assert not (output_dir / "table.md").exists()

    resumed = compare(read(config), show_progress=False)
    third = files(output_dir)
    assert second.items() < third.items() and len(third) == 13, "what was finished is not run again"
    never_stopped = compare(read(config, output_dir=str(tmp_path / "other")), show_progress=False)
    assert resumed.table == never_stopped.table
    assert without_times(resumed.summary) == without_times(never_stopped.summary)
    assert set(third) == set(files(tmp_path / "other")), "the same runs under the same names"


# The files


RUN = Run("merlin", "final", 3, {"rho": 0.3}, 10, {"seed": 3, "options": {"rho": 0.3}})


def test_a_result_is_found_by_what_determines_it(tmp_path):
    store = RunStore(tmp_path)
    kept = store.put(RUN, {"metrics": {"accuracy": 0.1 + 0.2, "f1": float("nan")}})
    assert RunStore(tmp_path).get(RUN) == kept and kept["metrics"] == {"accuracy": 0.1 + 0.2, "f1": None}
    other = Run("merlin", "final", 3, {"rho": 0.3}, 10, {"seed": 3, "options": {"rho": 0.4}})
    assert RunStore(tmp_path).get(other) is None
    assert RunStore(tmp_path).get(Run("renamed", "final", 3, {}, 10, RUN.fingerprint)) == kept


@pytest.mark.parametrize("content", ["", "{", "[]", '{"no": "key"}'])
def test_other_files_are_no_results(tmp_path, content):
    write_text(tmp_path / "merlin" / "final-seed3-x.json", content)
    assert RunStore(tmp_path).results == {}


def test_another_process_than_the_first_writes_nothing(tmp_path):
    RunStore(tmp_path / "runs", is_main=False).put(RUN, {})
    assert not (tmp_path / "runs").exists()


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "table.md"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt):
        with whole_file(path) as part:
            part.write_text("ne")
            raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_has_no_numbers_that_json_does_not_have():
    assert (
        to_json({"b": float("inf"), "a": [float("nan"), 1.5, True, None, (1,)]})
        == '{"a": [null, 1.5, true, null, [1]], "b": null}'
    )
