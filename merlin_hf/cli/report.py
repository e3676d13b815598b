"""`merlin-hf report`."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .evaluate import add_data_arguments, check_names_data
from .exit_status import fail


ORIGINS = ("task_name", "dataset_name", "validation_file", "validation_dir")
SUMMARY = "report.json"


def add_report_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "report",
        allow_abbrev=False,
        help="tables and figures of a training run, or of many comparisons",
        description="Of a run (a folder with trainer_state.json): its score and course; with data, its confusion matrix and features. Of "
        "comparisons (results.json in folders at any depth): scores, ranks, wins, learning curves, costs. Prints Markdown. "
        "Exit status: 0; 2 for files that cannot be used.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders or files")
    parser.add_argument("--output_dir", help="write results.md, its figures (PNG and SVG) and report.json there")
    parser.add_argument("--json", action="store_true", help="print report.json instead of results.md")
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
        return fail("report", f"unrecognized arguments: {' '.join(rest)}")
    # Whatever libraries print must not get between the report and a program that reads it.
    with contextlib.redirect_stdout(sys.stderr):
        text, summary = _report(arguments)
    print(summary if arguments.json else text, end="")
    if arguments.output_dir is not None:
        print(f"Report in {arguments.output_dir}", file=sys.stderr)
    return 0


def _report(arguments: argparse.Namespace) -> tuple[str, str]:
    """The report as Markdown, and what it says as JSON."""
    from ..comparison.runs import to_json, write_text
    from ..report.canvas import check_can_draw

    check_can_draw()
    runs, others = _sorted_paths([Path(path) for path in arguments.paths], arguments)
    texts, files = [], []
    found: dict[str, Any] = {"comparisons": [], "ranks": None, "left_out": [], "runs": []}
    if others:
        written = _report_comparisons(others, arguments.output_dir, found)
        texts.append(written.text)
        files += written.files
    is_alone = len(runs) + len(others) == 1
    for path in runs:
        # Beside other reports, each has a folder of its own.
        name = "" if is_alone else _name_of(path)
        written = _report_run(path, name, arguments, found)
        texts.append(written.text)
        files += [f"{name}/{file}" if name else file for file in written.files]
    summary = to_json({**found, "files": [*files, SUMMARY] if files else []}, indent=2) + "\n"
    if arguments.output_dir is not None:
        write_text(Path(arguments.output_dir) / SUMMARY, summary)
    return "\n".join(texts), summary


def _sorted_paths(paths: list[Path], arguments: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """
    The runs among the paths, and the others.

    Raises:
        ConfigError: what is asked for is not for all of them, or would be written to one place.
    """
    from ..comparison.values import ConfigError
    from ..report.curves import find_state

    runs = [path for path in paths if path.name == "trainer_state.json" or (path.is_dir() and find_state(path))]
    others = [path for path in paths if path not in runs]
    has_data = any(getattr(arguments, name) is not None for name in ORIGINS)
    if not has_data and arguments.base_model is not None:
        raise ConfigError("`--base_model` needs rows to compare features on: give data, such as `--validation_file`.")
    if others and has_data:
        raise ConfigError(f"Data and `--base_model` are for runs, and {str(others[0])!r} is none.")
    names = [_name_of(path) for path in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None and arguments.output_dir is not None:
        raise ConfigError(
            f"Two runs are called {twice!r}: report them one by one, each with an `--output_dir` of its own."
        )
    return runs, others


def _name_of(run: Path) -> str:
    return (run if run.is_dir() else run.parent).resolve().name


def _report_comparisons(paths: list[Path], output_dir: str | None, found: dict[str, Any]) -> Any:
    """Report on comparisons, and note in `found` what they are."""
    from ..report.comparisons import read_comparisons
    from ..report.summary import comparison_summary, ranked, ranks_summary
    from ..report.write import make_report

    comparisons, skipped = read_comparisons(paths)
    for name in skipped:
        print(f"Not of a comparison, left out: {name}", file=sys.stderr)
    found["comparisons"] = [comparison_summary(comparison) for comparison in comparisons]
    found["ranks"], found["ranked"] = ranks_summary(comparisons), ranked(comparisons)
    found["left_out"] = skipped
    return make_report(comparisons, output_dir)


def _report_run(path: Path, name: str, arguments: argparse.Namespace, found: dict[str, Any]) -> Any:
    """Report on a run, in the folder `name` of `output_dir`, and note in `found` what it is."""
    from ..report.curves import read_log_history
    from ..report.final import final_score
    from ..report.run import make_run_report
    from ..report.summary import run_summary

    has_data = any(getattr(arguments, origin) is not None for origin in ORIGINS)
    known = _on_data(str(path if path.is_dir() else path.parent), arguments) if has_data else {}
    folder = None if arguments.output_dir is None else Path(arguments.output_dir) / name
    written = make_run_report(path, folder, **known)
    labelled = {key: value for key, value in known.items() if key != "features"}
    history = read_log_history(path)
    found["runs"].append(run_summary(_name_of(path), history, **labelled, score=final_score(path, history)))
    return written


def _on_data(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a run's model says of rows, and their features before and after."""
    check_names_data(arguments)
    import numpy as np
    import torch

    from ..comparison.quiet import quiet
    from ..comparison.values import ConfigError
    from ..utils.errors import reading
    from ..utils.loading import load_config
    from . import evaluation
    from .saved_model import load_plain, read_saved
    from .scores import classes_of, names_of

    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.use_cpu else "cpu")
    size = arguments.batch_size
    with quiet():
        saved = read_saved(model, arguments.base_model)
        with reading("The data cannot be read", but=(ValueError, OSError)):
            rows = evaluation.load_rows(saved, arguments)
        if rows.warning is not None:
            print(f"merlin-hf report: {rows.warning}", file=sys.stderr)
        if rows.labels.is_multi_label:
            raise ConfigError(
                f"{model!r} gives several labels per row, which a confusion matrix does not show: `merlin-hf evaluate` scores it."
            )
        ids = classes_of(rows.labels, saved.config)
        trained = saved.load(device)
        with reading(f"{model!r} cannot be run on the data"):
            logits, references = evaluation.answers(trained, rows, size)
            features = {"after training": evaluation.features(trained, rows, size)}
        if arguments.base_model is not None:
            config = load_config(arguments.base_model, num_labels=saved.config.num_labels)
            base = load_plain(saved.kind, arguments.base_model, device, config=config, ignore_mismatched_sizes=True)
            with reading(f"{arguments.base_model!r} cannot be run on the data"):
                features = {"before training": evaluation.features(base, rows, size), **features}
    known: dict[str, Any] = {"features": features, "references": references}
    if ids is not None:
        names = names_of(rows.labels, ids, saved.config)
        known.update(references=np.asarray(ids)[references], predictions=logits.argmax(-1), names=names)
    return known
