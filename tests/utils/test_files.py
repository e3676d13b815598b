"""Files that may be damaged, folders that cannot be written to, names and paths."""

import concurrent.futures
import os
import socket

import pytest

from merlin_hf.utils.files import (
    FileError,
    check_output_dir,
    file_name,
    file_names,
    read_json,
    short_path,
    short_paths,
    to_json,
)


# Reading


@pytest.fixture
def places(tmp_path):
    """Things that are no files of JSON, by what an error calls them."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # the name of a socket must be short
    listening.bind("socket")
    os.chdir(here)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "through").symlink_to("pipe")
    yield {
        "a named pipe": tmp_path / "pipe",
        "a folder": tmp_path / "folder",
        "a socket": tmp_path / "socket",
        "symbolic links": tmp_path / "loop",
        "named pipe": tmp_path / "through",
        "a device": "/dev/zero",
    }
    listening.close()


def test_only_regular_files_are_read(places):
    for said, path in places.items():
        with pytest.raises(FileError, match=said):
            read_json(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"\xff\xfe{", "UTF-8, at byte 0"),
        (b"1" * 5000, "not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "too many brackets"),
        (b"[" * 300 + b"]" * 300, "too many brackets"),
        (b" " * 2000, "more than 1,000 bytes"),
    ],
)
def test_what_is_no_json(tmp_path, content, said):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FileError, match=said):
        read_json(tmp_path / "file", most_bytes=1000 if b" " in content else 10**6)


def test_links_and_files_are_read(tmp_path):
    (tmp_path / "file").write_text('{"a": [1, NaN]}')
    (tmp_path / "link").symlink_to("file")
    assert str(read_json(tmp_path / "link")) == "{'a': [1, nan]}"
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing")


# Writing


def in_the_way(tmp_path, name):
    """A folder to write `runs/a/b.json` into."""
    root = tmp_path / "root"
    if name == "under a file":
        (tmp_path / "file").touch()
        return tmp_path / "file" / "o"
    if name == "a link to itself":
        root.symlink_to("root")
    elif name == "a link to nothing":
        root.symlink_to("nothing")
    elif name == "a pipe":
        os.mkfifo(root)
    elif name == "a long name":
        return tmp_path / ("x" * 300)
    elif name == "a null":
        return f"{tmp_path}/a\0b"
    elif name in ("", "  "):
        return name
    else:
        root.mkdir()
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            place.mkdir()
        else:
            place.touch()
    return root


@pytest.mark.parametrize(
    "name",
    [
        *("under a file", "a link to itself", "a link to nothing", "a pipe", "a long name", "a null", "", "  "),
        *("runs", "runs/a", "runs/a/b.json"),
    ],
)
def test_a_folder_that_cannot_be_written_to(tmp_path, name):
    folder = in_the_way(tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileError, match="^`output_dir") as error:
        check_output_dir(folder, ["runs/a/b.json"])
    assert "\0" not in str(error.value) and sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_too_long_is_found(tmp_path):
    with pytest.raises(FileError, match="File name too long"):
        check_output_dir(tmp_path, [f"runs/{'m' * 260}/file"])


def test_nothing_is_left_where_all_can_be_written(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("old")
    for folder in ("here", "new/and/newer"):
        check_output_dir(tmp_path / folder, ["file", "runs/a/b"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "here"]
    assert (tmp_path / "here" / "file").read_text() == "old"


def test_json_has_no_numbers_that_json_does_not_have():
    assert (
        to_json({"b": float("inf"), "a": [float("nan"), 1.5, True, None, (1,)]})
        == '{"a": [null, 1.5, true, null, [1]], "b": null}'
    )


# Names


@pytest.mark.parametrize("name", ["merlin", "L2-SP", "lr_1e-3", "a.b", "x" * 100])
def test_usual_names_are_kept(name):
    assert file_name(name) == name


ODD = [
    *("..", ".", "", "/", "../../etc", "a/b", "a_b/", "a\\b", "a\0b", "con", "CON.txt", "nul", "a.", "a "),
    *("m" * 260, "m" * 261, "é", "e\u0301", "\ud800"),
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_become_files_in_their_folder(tmp_path, name):
    found = file_name(name)
    (tmp_path / found).write_text("here")
    assert [path.name for path in tmp_path.iterdir()] == [found] and len(found) < 120
    assert found.partition(".")[0].lower() not in ("con", "nul") and found[-1] not in ". "


def test_names_do_not_collide():
    given = [*ODD, "Merlin", "merlin", "MERLIN", "a_b"]
    found = file_names(given)
    assert list(found) == given and len({one.casefold() for one in found.values()}) == len(given)
    assert found["a_b"] == "a_b" and file_names(["Merlin", "x"]) == {"Merlin": "Merlin", "x": "x"}


def test_no_folder_of_this_machine_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "a" / "b.csv") == os.path.join("a", "b.csv")
    assert short_path("/somewhere/else.csv") == "else.csv" and short_path("owner/name") == "owner/name"
    assert short_path("C:\\Users\\me\\data.csv") == "data.csv"
    told = "No '/home/my name/a.csv', /home/me/b.csv or https://hub.example/a/b; and/or 1/2"
    assert short_paths(told) == "No 'a.csv', b.csv or https://hub.example/a/b; and/or 1/2"


def test_processes_that_check_the_same_folder_do_not_disturb_each_other(tmp_path):
    """As those of a distributed training do, each of which makes it and removes it again."""

    def check(_):
        for _ in range(50):
            check_output_dir(tmp_path / "a" / "out", ["x/y.json"])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(4)))
