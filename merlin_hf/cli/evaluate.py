"""`merlin-hf evaluate`: metrics of a saved model on labelled rows."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

from ..utils.errors import reading
from ..utils.figures import check_can_draw
from ..utils.files import check_output_dir, to_json, write_text
from ..utils.tables import plain_table, show_table
from ..utils.validation import ConfigError, check_value, interval


ORIGINS = ("task_name", "dataset_name", "validation_file", "validation_dir")
FILES = ("evaluation.json", "table.txt", "confusion_matrix.png", "reliability.png")
CLASS_HEADINGS = ("class", "precision", "recall", "f1", "rows")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name labelled rows."""
    data = parser.add_argument_group("data")
    data.add_argument("--task_name", metavar="TASK", help="a GLUE task")
    data.add_argument("--dataset_name", metavar="DATA", help="a name on the Hub, or a folder")
    data.add_argument("--dataset_config_name", metavar="NAME", help="its configuration")
    data.add_argument("--validation_file", metavar="FILE", help="a csv, json or parquet file of texts")
    data.add_argument(
        "--validation_dir", metavar="FOLDER", help="a folder of images, or of recordings, for each class"
    )
    data.add_argument("--split", help="validation, else test, else the only one if not given")
    data.add_argument("--label_column", metavar="COLUMN", help="may have lists, for a model of several labels per row")
    data.add_argument(
        "--labels_by_number", action="store_true", help="match classes by number where their names differ"
    )
    data.add_argument("--max_eval_samples", type=int, metavar="N", help="use so many rows")
    add_input_arguments(data)


def add_input_arguments(data: argparse._ArgumentGroup) -> None:
    """Add the arguments of how much of the rows a model is shown, and how it is run on them."""
    data.add_argument("--text_columns", nargs="+", metavar="COLUMN", help="one or two")
    data.add_argument("--image_column", metavar="COLUMN")
    data.add_argument("--audio_column", metavar="COLUMN")
    data.add_argument("--array_sampling_rate", type=int, metavar="HZ", help="of recordings that are raw arrays")
    data.add_argument("--max_seq_length", type=int, default=128, metavar="N", help="tokens of a text (%(default)s)")
    data.add_argument("--batch_size", type=int, default=32, metavar="N", help="rows at a time (%(default)s)")
    data.add_argument("--use_cpu", action="store_true", help="also where there is a GPU")


def add_evaluate_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "evaluate",
        allow_abbrev=False,
        description="Compute metrics of a saved classifier of texts, images or recordings, or of an adapter of PEFT, "
        "on labelled rows: over all rows and by class. Exit status: 0; 1 where it failed; 2 for arguments or files "
        "that cannot be used.",
    )
    parser.add_argument("model", metavar="FOLDER", help="what `save_model` wrote, or a name on the Hub")
    parser.add_argument("--base_model", metavar="MODEL", help="of an adapter, if it is not where the adapter says")
    add_data_arguments(parser)
    parser.add_argument("--output_dir", help="write evaluation.json, table.txt and the confusion matrix there")
    parser.add_argument("--json", action="store_true", help="print evaluation.json instead of the tables")
    return parser


def evaluate(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    # Whatever libraries print must not get between the table and a program that reads it.
    with contextlib.redirect_stdout(sys.stderr):
        result = evaluation_of(arguments)
        if result["warning"] is not None:
            print(f"merlin-hf evaluate: {result['warning']}", file=sys.stderr)
        if arguments.output_dir is not None:
            _write(result, Path(arguments.output_dir))
    if arguments.json:
        print(to_json(result, indent=2))
        return 0
    title: str | None = f"{result['model']} on {result['rows']} rows of {result['split']}"
    for headings, rows in _tables_of(result):
        if title is None:
            print()
        show_table(headings, rows, sys.stdout, title)
        title = None
    if arguments.output_dir is not None:
        print(f"Results in {arguments.output_dir}", file=sys.stderr)
    return 0


def check_names_data(arguments: argparse.Namespace) -> None:
    """Raise a ConfigError unless one data set is named, and no more."""
    given = [name for name in ORIGINS if getattr(arguments, name) is not None]
    if len(given) != 1:
        listed = ", ".join(f"`--{name}`" for name in ORIGINS)
        raise ConfigError(f"Name the data by one of {listed}, got {', '.join(given) or 'none'}.")
    check_numbers(arguments, "max_eval_samples")


def check_numbers(arguments: argparse.Namespace, *others: str) -> None:
    """Raise a ConfigError if a number of [`add_input_arguments`], or of `others`, is out of range."""
    for name in ("batch_size", "array_sampling_rate", *others):
        check_value(getattr(arguments, name), Annotated[int, interval("[1, inf)")] | None, name)
    check_value(arguments.max_seq_length, Annotated[int, interval("[1, 1_000_000]")], "max_seq_length")


def evaluation_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Compute the metrics of a model on rows.

    Returns:
        `dict`: `cut_rows`, how many texts were cut to `max_seq_length` tokens, both `None` for others than texts, with
            a `warning` where some were; and what [`~merlin_hf.cli.scores.metrics_of`] returns.
    """
    check_names_data(arguments)
    if arguments.output_dir is not None:
        check_can_draw("A report")
        check_output_dir(arguments.output_dir, FILES)
    from ..comparison.progress import quiet
    from . import evaluation
    from .scores import classes_of, metrics_of, names_of

    with quiet():
        saved = evaluation.load_saved(arguments)
        with reading("The data cannot be read", but=(ValueError, OSError)):
            rows = evaluation.load_rows(saved, arguments)
        ids = classes_of(rows.labels, saved.config, arguments.labels_by_number)
        model = saved.load(evaluation.device_of(arguments))
        with reading(f"{arguments.model!r} cannot be run on the data"):
            logits, references = evaluation.predict_logits(model, rows, arguments.batch_size)
    evaluation.check_finite(logits, arguments.model)
    result = {
        "model": arguments.model,
        "task": saved.kind,
        "split": rows.split,
        "rows": len(references),
        "cut_rows": rows.cut,
        "max_seq_length": rows.max_length,
        "warning": rows.warning and f"warning: {rows.warning}",
    }
    names = names_of(rows.labels, ids, saved.config)
    return {**result, **metrics_of(logits, references, ids, names, arguments.task_name)}


def _tables_of(result: dict[str, Any]) -> list[tuple[tuple[str, ...], list]]:
    """Return the headings and rows of the tables: of all rows, and by class."""
    tables: list[tuple[tuple[str, ...], list]] = [(("metric", "value"), list(result["metrics"].items()))]
    if result["classes"] is not None:
        tables.append((CLASS_HEADINGS, [list(one.values()) for one in result["classes"]]))
    return tables


def _write(result: dict[str, Any], folder: Path) -> None:
    write_text(folder / "evaluation.json", to_json(result, indent=2) + "\n")
    if result["confusion_matrix"] is not None:
        import numpy as np

        from ..report.confusion import confusion_figure
        from ..report.plotting import save
        from ..report.reliability import reliability_figure
        from ..utils.probabilities import Reliability

        figure = confusion_figure(np.array(result["confusion_matrix"]), result["labels"])
        save(figure, folder, "confusion_matrix", formats=("png",))
        bins = Reliability(**{name: np.array(values) for name, values in result["reliability"].items()})
        save(reliability_figure(bins), folder, "reliability", formats=("png",))
    write_text(folder / "table.txt", "\n".join(plain_table(*table) for table in _tables_of(result)))
