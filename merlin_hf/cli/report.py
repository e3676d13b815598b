"""`merlin-hf report`."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .evaluate import add_data_arguments, check_names_data
from .exit_status import USAGE_ERROR, fail


ORIGINS = ("task_name", "dataset_name", "validation_file", "validation_dir")


def add_report_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "report",
        allow_abbrev=False,
        help="tables and figures of a training run, or of many comparisons",
        description="Of a run (a folder with trainer_state.json): its course; with data, its confusion matrix and features. Of "
        "comparisons (results.json in folders at any depth): scores, ranks, wins, learning curves, costs. Prints Markdown. "
        "Exit status: 0; 2 for files that cannot be used.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders or files")
    parser.add_argument("--output_dir", help="write results.md and its figures (PNG and SVG) there")
    add_data_arguments(parser)
    parser.add_argument(
        "--base_model", metavar="MODEL", help="what the run started from, to compare features; with data, of a run"
    )
    return parser


def report(arguments: argparse.Namespace, rest: Sequence[str] = ()) -> int:
    """
    Run the command.

    Returns:
        `int`: the exit status.
    """
    if rest:
        return fail("report", f"unrecognized arguments: {' '.join(rest)}", USAGE_ERROR)
    try:
        # Whatever libraries print must not get between the report and a program that reads it.
        with contextlib.redirect_stdout(sys.stderr):
            text = _report(arguments)
    except (ValueError, OSError, ImportError) as error:
        return fail("report", error)
    print(text, end="")
    if arguments.output_dir is not None:
        print(f"Report in {arguments.output_dir}", file=sys.stderr)
    return 0


def _report(arguments: argparse.Namespace) -> str:
    from ..comparison.values import ConfigError
    from ..report.canvas import check_can_draw
    from ..report.comparisons import read_comparisons
    from ..report.curves import find_state
    from ..report.write import write_report

    check_can_draw()
    paths = [Path(path) for path in arguments.paths]
    runs = [path for path in paths if path.name == "trainer_state.json" or (path.is_dir() and find_state(path))]
    others = [path for path in paths if path not in runs]
    has_data = any(getattr(arguments, name) is not None for name in ORIGINS)
    if not has_data and arguments.base_model is not None:
        raise ConfigError("`--base_model` needs rows to compare features on: give data, such as `--validation_file`.")
    if others and has_data:
        raise ConfigError(f"Data and `--base_model` are for runs, and {str(others[0])!r} is none.")
    texts = []
    if others:
        comparisons, skipped = read_comparisons(others)
        for name in skipped:
            print(f"Not of a comparison, left out: {name}", file=sys.stderr)
        texts.append(write_report(comparisons, arguments.output_dir))
    is_alone = len(paths) == 1
    for path in runs:
        texts.append(_report_run(path, arguments, has_data, is_alone))
    return "\n".join(texts)


def _report_run(path: Path, arguments: argparse.Namespace, has_data: bool, is_alone: bool) -> str:
    from ..report.run import write_run_report

    folder = arguments.output_dir
    if folder is not None and not is_alone:
        folder = Path(folder) / (path if path.is_dir() else path.parent).resolve().name
    known = _on_data(str(path), arguments) if has_data else {}
    return write_run_report(path, folder, **known)


def _on_data(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a run's model says of rows, and their features before and after."""
    check_names_data(arguments)
    import numpy as np
    import torch

    from ..comparison.quiet import quiet
    from . import evaluation
    from .scores import classes_of

    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.use_cpu else "cpu")
    size = arguments.batch_size
    with quiet():
        config = evaluation.read_config(model)
        kind = evaluation.kind_of(config, model)
        rows = evaluation.load_rows(kind, model, arguments)
        ids = classes_of(rows.labels, config)
        trained = evaluation.load_model(kind, model, device)
        logits, references = evaluation.answers(trained, rows, size)
        features = {"after training": evaluation.features(trained, rows, size)}
        if arguments.base_model is not None:
            options = {"num_labels": config.num_labels, "ignore_mismatched_sizes": True}
            base = evaluation.load_model(kind, arguments.base_model, device, **options)
            features = {"before training": evaluation.features(base, rows, size), **features}
    known: dict[str, Any] = {"features": features, "references": references}
    if ids is not None:
        names = [config.id2label[id] for id in range(config.num_labels)]
        known.update(references=np.asarray(ids)[references], predictions=logits.argmax(-1), names=names)
    return known
