"""`merlin-hf predict`: what a saved model says of rows without labels."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..utils.files import FileError, check_output_dir, to_json, whole_file
from ..utils.row_files import FORMATS, write_rows
from ..utils.tables import show_table
from ..utils.validation import ConfigError, check_value, interval
from .evaluate import add_input_arguments, check_numbers


if TYPE_CHECKING:
    from .prediction import Predictor

STDOUT = "-"


def add_predict_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "predict",
        allow_abbrev=False,
        description="Write what a saved classifier of texts, images or recordings, or an adapter of PEFT, says of "
        "each row: the label, its probability, and the probability of every label; a number where labels are real "
        "numbers. Rows stay in their order. Exit status: 0; 1 where it failed; 2 for arguments or files that cannot "
        "be used.",
    )
    parser.add_argument("model", metavar="FOLDER", help="what `save_model` wrote, or a name on the Hub")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a csv, json, parquet or txt file, a folder of images or recordings, or a data set",
    )
    parser.add_argument("--base_model", metavar="MODEL", help="of an adapter, if it is not where the adapter says")
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_config_name", metavar="NAME", help="the configuration of a data set")
    data.add_argument("--split", help="of a data set, where it has several")
    add_input_arguments(data)
    data.add_argument("--skip_bad_rows", action="store_true", help="leave out rows that cannot be read, and say which")
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="give no label where the most probable one has less; of a model of several labels per row: give those "
        "that have as much (0.5)",
    )
    answers.add_argument("--label_names", nargs="+", metavar="NAME", help="of the outputs, in their order")
    answers.add_argument("--problem_type", metavar="TYPE", help="as in a model's configuration, where it has none")
    written = parser.add_argument_group("what is written")
    written.add_argument("--output", default=STDOUT, metavar="FILE", help="ends in .csv, .jsonl or .parquet; - prints")
    written.add_argument("--format", metavar="FORMAT", help="csv, jsonl or parquet, whatever the name ends in")
    written.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    written.add_argument("--id_column", metavar="COLUMN", help="keep it in place of the number of the row")
    written.add_argument("--keep_columns", action="store_true", help="keep all columns but media")
    written.add_argument("--json", action="store_true", help="print the counts as JSON, not as a table")
    return parser


def predict(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    stdout = sys.stdout
    # Whatever libraries print must not get between the rows and a program that reads them.
    try:
        with contextlib.redirect_stdout(sys.stderr):
            counts = _predictions(arguments, stdout)
        if arguments.output == STDOUT:
            stdout.flush()
            return 0
    except BrokenPipeError:
        if arguments.output != STDOUT:
            raise
        # Who reads the rows, such as `head`, has had enough. What is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return 0
    if arguments.json:
        print(to_json(counts, indent=2))
        return 0
    labels = counts.pop("labels")
    shown = ("predicted", "without_label", "skipped", "cut_rows")
    rows = [(name, counts[name]) for name in shown if counts[name] is not None]
    show_table(("rows", "count"), rows, sys.stdout, title=f"{arguments.model} on {counts['rows']} rows")
    if labels is not None:
        print()
        show_table(("label", "rows"), list(labels.items()), sys.stdout)
    print(f"Predictions in {arguments.output}", file=sys.stderr)
    return 0


def check_arguments(arguments: argparse.Namespace) -> str:
    """Check the arguments, and that the output can be written, before anything is loaded; return the format."""
    from ..data.labels import PROBLEM_TYPES
    from ..transfer.labels import MULTI_LABEL

    problem_types = (*PROBLEM_TYPES, MULTI_LABEL)
    check_numbers(arguments)
    check_value(arguments.threshold, Annotated[float, interval("[0, 1]")] | None, "threshold")
    check_value(arguments.format, Literal[FORMATS] | None, "format")
    check_value(arguments.problem_type, Literal[problem_types] | None, "problem_type")
    if arguments.output != STDOUT:
        return _check_output(arguments)
    if arguments.format == "parquet":
        raise ConfigError("`format='parquet'` is not printed: name a file by `--output`.")
    if arguments.json:
        raise ConfigError("`--json` prints counts, with an `--output`; `--format jsonl` prints rows as JSON.")
    return arguments.format or "csv"


def _check_output(arguments: argparse.Namespace) -> str:
    """Check the file that is to be written; return its format."""
    path, named = Path(arguments.output), f"`output={arguments.output!r}`"
    ending = path.suffix.lower().lstrip(".")
    if arguments.format is None and ending not in FORMATS:
        endings = ", ".join(f".{one}" for one in FORMATS)
        raise ConfigError(f"{named} must end in {endings}, which says how it is written.")
    if path.is_dir():
        raise FileError(f"{named} is a folder: give the name of a file.")
    if path.exists() and Path(arguments.data).is_file() and path.samefile(arguments.data):
        raise ConfigError(f"{named} is the file that is read: give another name.")
    if path.exists() and not arguments.overwrite:
        raise FileError(f"{named} exists: give another name, or `--overwrite` to replace it.")
    check_output_dir(path.parent, [path.name], "output")
    return arguments.format or ending


def _predictions(arguments: argparse.Namespace, stdout: Any) -> dict[str, Any]:
    """Write the predictions; return the counts of rows."""
    kind = check_arguments(arguments)
    from ..comparison.progress import quiet
    from .prediction import Predictor

    with quiet():
        predictor = Predictor(arguments)
        _write(predictor, kind, arguments.output, stdout)
    for line in predictor.warnings():
        print(f"merlin-hf predict: warning: {line}", file=sys.stderr)
    return predictor.counts()


def _write(predictor: "Predictor", kind: str, output: str, stdout: Any) -> None:
    tables = _with_bar(predictor)
    if output == STDOUT:
        return write_rows(tables, predictor.schema, kind, stdout)
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        if kind == "parquet":
            return write_rows(tables, predictor.schema, kind, part)
        with open(part, "w", encoding="utf-8", newline="") as file:
            write_rows(tables, predictor.schema, kind, file)


def _with_bar(predictor: "Predictor") -> Iterator[Any]:
    """Yield the tables of predictions, with a bar on stderr where that is a terminal."""
    from tqdm import tqdm

    with tqdm(total=len(predictor.rows), desc="predict", unit=" rows", file=sys.stderr, disable=None) as bar:
        for table, read in predictor.tables():
            yield table
            bar.update(read)
