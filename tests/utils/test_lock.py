"""One process at a time in a folder."""

import errno
import json
import os
import subprocess
import sys

import pytest

from merlin_hf.utils import lock as module
from merlin_hf.utils.files import FileError
from merlin_hf.utils.lock import host_name, is_running, locked, start_time


def test_a_second_process_is_refused_and_told_who_the_first_is(tmp_path):
    lock = tmp_path / "runs" / ".lock"
    hold = f"""
import pathlib, sys
from merlin_hf.utils.lock import locked
with locked(pathlib.Path({str(lock)!r}), "first", "merlin-hf compare"):
    print("held", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(FileError, match=f"`output_dir='mine'` is in use by .*`merlin-hf compare`.*{process.pid}"):
            with locked(lock, "mine", "merlin-hf compare"):
                pass
    finally:
        process.kill()
        process.communicate()
    with locked(lock, "mine", "merlin-hf compare"):
        with pytest.raises(FileError, match=f"process {os.getpid()}"):
            with locked(lock, "mine", "merlin-hf compare"):
                pass
    with locked(lock, "mine", "merlin-hf compare"):
        pass


def test_nothing_is_left_and_folders_are_made(tmp_path):
    with locked(tmp_path / "a" / "b" / ".lock", tmp_path, "training"):
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [".lock"]
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be locked"), locked(tmp_path / "file" / ".lock", "mine", "training"):
        pass


@pytest.fixture
def ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_holder(lock, **changes):
    holder = {"host": host_name(), "process": os.getppid(), "started": None, "command": "training", "since": "noon"}
    lock.write_text(json.dumps({**holder, **changes}))


def test_a_killed_process_leaves_no_lock_though_its_file_is_there(tmp_path, ended):
    lock = tmp_path / ".lock"
    write_holder(lock, process=ended)
    with locked(lock, "mine", "training"):
        assert json.loads(lock.read_text())["process"] == os.getpid()


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    lock = tmp_path / ".lock"
    hold = f"""
import os, pathlib, sys, time
from merlin_hf.utils.lock import locked
with locked(pathlib.Path({str(lock)!r}), "first", "training"):
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), 9)
"""
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.wait()
    try:
        assert is_running(child)
        with locked(lock, "mine", "training"), pytest.raises(FileError, match=f"process {os.getpid()}"):
            with locked(lock, "mine", "training"):
                pass
    finally:
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_a_file_system_has_no_locks_the_file_decides(tmp_path, monkeypatch, ended, code):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    lock = tmp_path / ".lock"
    write_holder(lock)
    with pytest.raises(FileError, match=f"in use by another `training`, process {os.getppid()} on .* since noon"):
        with locked(lock, "mine", "training"):
            pass
    for changes in ({"process": ended}, {"host": "elsewhere"}, {"started": "1", "process": os.getpid()}):
        write_holder(lock, **changes)
        with locked(lock, "mine", "training"):
            pass
    lock.write_text("[[[")
    with locked(lock, "mine", "training"):
        pass


def test_processes():
    assert is_running(os.getpid()) and is_running(os.getpid(), start_time(os.getpid()))
    assert not is_running(1 << 40)
