"""`merlin-hf sources`: what is on stdout, and exit codes."""

import io
import json

import pytest

from merlin_hf.cli import main as cli
from merlin_hf.sources import ranking as ranking_module
from merlin_hf.sources.report import show
from merlin_hf.training_args import parse_mix


def run(*arguments):
    """The exit status."""
    try:
        cli.main(["sources", *map(str, arguments)])
    except SystemExit as done:
        return done.code or 0
    return 0


@pytest.fixture
def arguments(tasks, model_path, monkeypatch):
    root = tasks["target"].rpartition("/")[0]
    monkeypatch.setenv("MERLIN_DATA_ROOT", root)
    small = ["--target_rows", 24, "--source_rows", 40, "--num_splits", 2, "--max_seq_length", 16]
    return ["--target", "me/target", "--candidates", "random", "same@train", "--model", model_path, *small]


def test_the_table_is_on_stdout_and_progress_on_stderr(arguments, capsys, tmp_path):
    assert run(*arguments, "--seeds", 3, 5, "--output_dir", tmp_path / "out", "--mix") == 0
    shown = capsys.readouterr()
    assert shown.out == (tmp_path / "out" / "table.txt").read_text()
    lines = shown.out.splitlines()
    assert lines[0].split()[:3] == ["source", "mean", "rank"] and lines[2].startswith("same@train ")
    mix = parse_mix(lines[-1].removeprefix("source_mix: "))
    assert set(mix) <= {"same", "random"} and mix["same"] > mix.get("random", 0.0)
    assert "Target: me/target, 24 rows" in shown.out and "\x1b" not in shown.out
    assert "same@train, seed 3: alignment" in shown.err and "random, seed 5: alignment" in shown.err
    found = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert found["sources"][0]["name"] == "same@train" and found["settings"]["seeds"] == [3, 5]
    assert (tmp_path / "out" / "ranking.png").stat().st_size > 5000


def test_json_and_nothing_written(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = ["--text_columns", "random=text", "--label_column", "me/target=label", "same@train=label"]
    assert run(*arguments, "--layers", 1, "--seeds", 2, "--json", *columns) == 0
    found = json.loads(capsys.readouterr().out)
    assert {source["name"] for source in found["sources"]} == {"random", "same@train"}
    assert {source["source_name"] for source in found["sources"]} == {"random", "same"} and "same" in found["mix"]
    assert found["settings"]["layers"] == 1 and found["settings"]["seeds"] == [0, 1] and not list(tmp_path.iterdir())


def test_a_terminal_gets_a_table_of_rich(tasks, model_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    ranking = ranking_module.rank_sources(
        tasks["target"], {"same": tasks["same"]}, model_path, source_rows=20, target_rows=20, num_splits=1
    )
    stream = Terminal()
    show(ranking, stream)
    assert "┃" in stream.getvalue() and "same" in stream.getvalue()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--target_rows", "many"], "--target_rows: invalid int value"),
        (["--target_rows", 2], "`target_rows` must be a whole number of at least 4"),
        (["--nonsense", 1], "unrecognized arguments: --nonsense 1"),
        (["--label_column", "label"], "`--label_column` must be NAME=COLUMN"),
        (
            ["--label_column", "random=lable"],
            "`label_column='lable'` is not a column of `candidates`. Did you mean 'label'?",
        ),
        (["--text_columns", "other=text"], "Columns are given for 'other'"),
        (["--target", "me/nothing"], "`target='me/nothing'` is not a file or folder"),
        (["--candidates", "same@test"], "`split='test'` is not a split of `candidates="),
        (["--layers", 7], "`layers` must be from 1 to 2"),
    ],
)
def test_exit_status_of_arguments_that_cannot_be_used(arguments, more, message, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert run(*arguments, *more) == 2
    shown = capsys.readouterr()
    assert message in shown.err and not shown.out


def test_missing_arguments(capsys):
    assert run("--target", "a") == 2
    assert "--candidates" in capsys.readouterr().err


def test_exit_status_of_a_failure(arguments, capsys, monkeypatch):
    def fail(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ranking_module, "measure", fail)
    assert run(*arguments) == 1
    assert "RuntimeError: out of memory" in capsys.readouterr().err


def test_exit_status_of_an_interruption(arguments, capsys, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ranking_module, "measure", stop)
    assert run(*arguments) == 130


def test_an_output_dir_that_cannot_be_written_to_is_found_before_anything_is_read(capsys, tmp_path):
    (tmp_path / "out" / "ranking.json").mkdir(parents=True)
    assert run("--target", "nowhere", "--candidates", "nowhere", "--output_dir", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "`output_dir=" in said and "a folder has the name of a file" in said


def test_tagged_sentences_are_refused(tmp_path, model_path, capsys):
    rows = [{"tokens": ["Ada", "sings"], "tags": ["B-PER", "O"]}] * 4
    path = tmp_path / "tags.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    given = ["--target", path, "--candidates", path, "--label_column", f"{path}=tags", "--model", model_path]
    assert run(*given) == 2
    assert "`target` has tagged sentences, and rankings are for texts and images" in capsys.readouterr().err
