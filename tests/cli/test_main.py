"""What all commands share: help, tables, exit statuses."""

import io
import sys

import pytest

from merlin_hf.cli import main as cli
from merlin_hf.utils.tables import plain_table, show_table


def test_help_lists_the_commands(run):
    status, shown, _ = run("--help")
    assert status == 0 and all(f"\n    {command} " in shown for command in cli.COMMANDS)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_fits_a_screen(command, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, shown, _ = run(command, "--help")
    assert status == 0 and shown.startswith(f"usage: merlin-hf {command}")
    assert len(shown.splitlines()) <= 60 and max(map(len, shown.splitlines())) <= 80


def test_version_and_no_command(run, capsys):
    from merlin_hf import __version__

    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == __version__
    status, shown, _ = run()
    assert status == 2 and "COMMAND" in shown
    status, _, said = run("trian")
    assert status == 2 and "invalid choice: 'trian'" in said and "train" in said


@pytest.mark.parametrize("command", ["evaluate out", "env", "report out", "publish a b", "compare c"])
def test_unknown_arguments_are_told(command, run):
    status, shown, said = run(*command.split(), "--colour", "red")
    assert status == 2 and shown == ""
    assert said == f"merlin-hf {command.split()[0]}: unrecognized arguments: --colour red\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


ROWS = [["[red]a[/red]", 0.123456], ["b", None]]


def test_tables_are_plain_in_a_pipe(monkeypatch):
    stream = io.StringIO()
    show_table(("metric", "value"), ROWS, stream, title="of a model")
    assert stream.getvalue() == "of a model\n" + plain_table(("metric", "value"), ROWS)
    lines = plain_table(("metric", "value"), ROWS).splitlines()
    assert lines == ["metric         value", "------------  ------", "[red]a[/red]  0.1235", "b                  -"]
    terminal = Terminal()
    monkeypatch.setitem(sys.modules, "rich.console", None)
    show_table(("metric", "value"), ROWS, terminal)
    assert terminal.getvalue() == plain_table(("metric", "value"), ROWS)


def test_tables_are_drawn_in_a_terminal():
    terminal = Terminal()
    show_table(("metric", "value"), ROWS, terminal, title="of a model")
    assert "┃" in terminal.getvalue() and "[red]a[/red]" in terminal.getvalue() and "0.1235" in terminal.getvalue()


# Errors


def raising(error):
    def command(arguments):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad\nvalue"), 2),
        (FileNotFoundError("no file"), 2),
        (ImportError("no peft"), 2),
        (NotImplementedError("not"), 2),
        (KeyError("a"), 1),
        (RecursionError("deep"), 1),
        (MemoryError(), 1),
        (type("PanicException", (BaseException,), {})("panic"), 1),
    ],
)
def test_errors_are_a_line_and_with_a_variable_a_traceback(error, status, run, monkeypatch):
    monkeypatch.setattr("merlin_hf.cli.env.env", raising(error))
    monkeypatch.delenv("MERLIN_DEBUG", raising=False)
    ended, shown, said = run("env")
    assert ended == status and shown == "" and said.startswith("merlin-hf env: ") and said.count("\n") == 1
    assert (type(error).__name__ in said and "MERLIN_DEBUG=1" in said) == (status == 1)
    monkeypatch.setenv("MERLIN_DEBUG", "1")
    ended, _, said = run("env")
    assert ended == status and "Traceback (most recent call last)" in said and "in command" in said


@pytest.mark.parametrize("command", ["evaluate out", "publish a b", "env"])
def test_a_token_where_it_does_not_belong_is_not_repeated(command, run, monkeypatch):
    token = "hf_QmVyLXNlY3JldC10b2tlbi0wMTIz"
    monkeypatch.setenv("MERLIN_DEBUG", "1")
    status, shown, said = run(*command.split(), "--token", token)
    assert status == 2 and "unrecognized arguments: --token <token>" in said and token not in shown + said
