"""The files of finished runs: what cannot be a run's result is not used, told, and done again."""

import json
import math
import os
import socket

import pytest

from merlin_hf.comparison import compare
from merlin_hf.comparison.store import Run, RunStore
from merlin_hf.utils.files import FileError
from merlin_hf.utils.lock import locked
from tests.comparison.conftest import read


RUN = Run(
    "merlin", "final", 3, {"rho": 0.3}, 10, {"seed": 3, "method": "merlin", "steps": 10, "options": {"rho": 0.3}}
)
RESULT = {
    "method": "merlin",
    "seed": 3,
    "steps": 10,
    "setting": {"rho": 0.3},
    "metrics": {"accuracy": 0.75, "f1": None, "matthews_correlation": -0.5},
    "train_rows": 24,
    "train_seconds": 1.5,
    "environment": {"torch": "2"},
    "log_history": [{"loss": 1.0}],
}


def changed(**values):
    return lambda run: run.update(values)


def scored(value):
    return lambda run: run["metrics"].update(accuracy=value)


def without(*names):
    def change(run):
        for name in names[:-1]:
            run = run[name]
        del run[names[-1]]

    return change


CHANGES = {
    **{f"no {name}": without(name) for name in ("kind", "metrics", "determined_by", "key", "checksum")},
    **{f"no {name}": without(name) for name in ("environment", "train_seconds", "steps", "log_history", "train_rows")},
    "no accuracy": without("metrics", "accuracy"),
    **{
        f"accuracy {value!r}": scored(value)
        for value in ("x", 5, -1, 1e308, 10**400, math.nan, math.inf, True, [], {})
    },
    "another accuracy": scored(0.8),
    "metrics in a list": changed(metrics=[0.75]),
    "seconds of text": changed(train_seconds="soon"),
    "negative seconds": changed(train_seconds=-1.0),
    "endless seconds": changed(train_seconds=math.inf),
    "steps of another run": changed(steps=11),
    "steps in text": changed(steps="10"),
    "a label in a list": changed(label=["merlin"]),
    "an environment of text": changed(environment="here"),
    "another method": changed(method="joint"),
    "determined by another run": lambda run: run["determined_by"].update(seed=77),
    "determined by a list": changed(determined_by=[1]),
    "the key of another run": changed(key="0" * 16),
    "something of another program": lambda run: (run.clear(), run.update(hello="world")),
}


@pytest.fixture
def kept(tmp_path):
    """A folder with one run, and the path of its file."""
    RunStore(tmp_path, metric="accuracy").put(RUN, RESULT)
    (path,) = tmp_path.glob("*/*.json")
    return tmp_path, path


def is_refused(folder, path, caplog) -> bool:
    """Whether the file is not used, and one line names it."""
    caplog.clear()
    is_used = RunStore(folder, metric="accuracy").get(RUN) is not None
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert is_used or (len(told) == 1 and path.name in told[0] and "\n" not in told[0])
    return not is_used


def test_a_whole_file_is_used(kept, caplog):
    assert not is_refused(*kept, caplog) and not caplog.records


@pytest.mark.parametrize("name", CHANGES)
def test_a_damaged_file_is_not_used(kept, caplog, name):
    folder, path = kept
    result = json.loads(path.read_text())
    CHANGES[name](result)
    path.write_text(json.dumps(result))
    assert is_refused(folder, path, caplog)
    RunStore(folder).put(RUN, RESULT)
    assert not is_refused(folder, path, caplog), "what is done again replaces it"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"3", b"\xff", b"[" * 10**5, b'{"determined_by": ' * 900 + b"0"]
)
def test_other_content_is_not_used(kept, caplog, content):
    folder, path = kept
    path.write_bytes(content)
    assert is_refused(folder, path, caplog)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


def bind(path):
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
    os.chdir(here)
    (path.parent / "s").rename(path)


def device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("damage", [cut_in_half, pipe, loop, bind, device])
def test_what_is_no_file_neither_hangs_nor_stays(kept, caplog, damage):
    folder, path = kept
    damage(path)
    assert is_refused(folder, path, caplog)
    RunStore(folder).put(RUN, RESULT)
    assert not is_refused(folder, path, caplog)


def test_a_folder_in_the_place_of_a_run_is_refused(kept, caplog):
    folder, path = kept
    path.unlink()
    path.mkdir()
    with pytest.raises(FileError, match=f"`output_dir` has a folder with the name of a run's file, .*{path.name}"):
        RunStore(folder)
    path.rename(folder / "merlin" / "notes.json")
    assert RunStore(folder).results == {} and "it is a folder" in caplog.text


def test_a_file_under_another_name_is_not_used(kept, caplog):
    folder, path = kept
    path.rename(path.with_name("final-seed3-0123456789abcdef.json"))
    assert RunStore(folder).results == {} and "it has the name of another run's file" in caplog.text


def test_two_files_of_one_run(kept, caplog):
    folder, path = kept
    again = folder / "other" / path.name
    again.parent.mkdir()
    again.write_text(path.read_text())
    assert not is_refused(folder, again, caplog) and not caplog.records, "the same twice"
    RunStore(folder / "elsewhere").put(RUN, {**RESULT, "metrics": {"accuracy": 0.25}})
    (folder / "elsewhere" / "merlin" / path.name).rename(again)
    assert RunStore(folder).get(RUN)["metrics"]["accuracy"] == 0.75
    assert f"other/{path.name} is not used" in caplog.text and "another result of the same run" in caplog.text


def test_the_table_is_the_same_after_a_file_was_damaged(config, caplog):
    config = read(config, methods=["linear_probe"], seeds=2, search={"trials": 0})
    first = compare(config, show_progress=False)
    one, other = sorted((first.output_dir / "runs").glob("*/*.json"))
    result = json.loads(one.read_text())
    one.write_text(json.dumps({**result, "metrics": {"accuracy": 0.999}}))
    pipe(other)
    (first.output_dir / "results.json").write_text("{")
    pipe(first.output_dir / "table.md")
    again = compare(config, show_progress=False)
    assert again.table == first.table and again.text == (first.output_dir / "table.md").read_text()
    assert one.name in caplog.text and other.name in caplog.text
    assert (
        json.loads((first.output_dir / "results.json").read_text())["methods"][0]["mean"]
        == again.summary["methods"][0]["mean"]
    )


def test_a_second_comparison_in_a_folder_is_refused(config, tmp_path):
    config = read(config, methods=["linear_probe"], seeds=1)
    with locked(tmp_path / "out" / "runs" / ".lock", "first", "merlin-hf compare"):
        with pytest.raises(FileError, match=f"`output_dir=.*in use by .*process {os.getpid()}"):
            compare(config, show_progress=False)
    assert compare(config, show_progress=False).summary["methods"][0]["status"] == "ok"


@pytest.mark.parametrize(
    "name", ["under a file", "runs", "runs/merlin", "errors", "results.json", "table.md", "models"]
)
def test_an_output_dir_that_cannot_be_written_to_is_found_before_training(config, tmp_path, monkeypatch, name):
    from transformers import Trainer

    monkeypatch.setattr(Trainer, "train", None)
    folder = tmp_path / "out"
    if name == "under a file":
        folder.touch()
        folder = folder / "o"
    elif name.endswith((".json", ".md")):
        (folder / name).mkdir(parents=True)
    else:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    config = read(config, methods=["merlin"], seeds=1, output_dir=str(folder), save_models=True)
    with pytest.raises(FileError, match="`output_dir=.*cannot be written to"):
        compare(config, show_progress=False)


def test_labels_that_are_no_file_names(config):
    labels = {"m" * 260: {"method": "linear_probe"}, "con": {"method": "linear_probe"}}
    result = compare(
        read(config, methods=labels, seeds=1, search={"trials": 0}, save_models=True), show_progress=False
    )
    assert [method["label"] for method in result.summary["methods"]] == list(labels)
    for kind in ("runs", "models"):
        names = [path.name for path in (result.output_dir / kind).iterdir() if not path.name.startswith(".")]
        assert all(len(name) < 100 and name != "con" for name in names) and names
