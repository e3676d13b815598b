"""`merlin-hf report`."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from ..utils.errors import reading
from ..utils.exit_status import FAILURE, fail
from ..utils.figures import check_can_draw
from ..utils.files import check_output_dir, file_name, short_path, to_json, write_text
from ..utils.markdown import visible
from ..utils.validation import ConfigError
from .evaluate import ORIGINS, add_data_arguments, check_names_data


SUMMARY = "report.json"


def add_report_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "report",
        allow_abbrev=False,
        description="Of a run (a folder with trainer_state.json): its score and course; with data, its confusion "
        "matrix and features. Of comparisons (results.json in folders at any depth): scores, ranks, wins, learning "
        "curves, costs. Prints Markdown. Exit status: 0; 1 where some of what was given could not be used and is left "
        "out; 2 where nothing could.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders or files")
    parser.add_argument("--output_dir", help="write results.md, its figures (PNG and SVG) and report.json there")
    parser.add_argument("--html", metavar="FILE", help="write one HTML file, with figures and tables that sort, there")
    parser.add_argument("--json", action="store_true", help="print report.json instead of results.md")
    add_data_arguments(parser)
    parser.add_argument(
        "--base_model", metavar="MODEL", help="what the run started from, to compare features; with data, of a run"
    )
    return parser


def report(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    # Whatever libraries print must not get between the report and a program that reads it.
    with contextlib.redirect_stdout(sys.stderr):
        text, summary, damaged = _report(arguments)
    print(summary if arguments.json else text, end="")
    for written in filter(None, (arguments.output_dir, arguments.html)):
        print(f"Report in {visible(written)}", file=sys.stderr)
    if not damaged:
        return 0
    for name, problem in damaged.items():
        fail("report", f"{name} is left out: {problem}", FAILURE)
    return fail("report", f"{len(damaged)} of what was given could not be used; the report has the rest", FAILURE)


def _report(arguments: argparse.Namespace) -> tuple[str, str, dict[str, str]]:
    """Return the report as Markdown, what it says as JSON, and why something was left out, by name."""
    from ..report import run, write
    from ..report.blocks import RESULTS, to_markdown, write_blocks
    from ..report.curves import read_log_history
    from ..report.html import to_html

    check_can_draw("A report")
    runs, others = _sorted_paths([Path(path) for path in arguments.paths], arguments)
    is_alone = len(runs) + len(others) == 1
    # Beside other reports, each run has a folder of its own.
    folders = {path: "" if is_alone else file_name(run.name_of(path)) for path in runs}
    root = None if arguments.output_dir is None else Path(arguments.output_dir)
    if root is not None:
        names = [f"{folder}/{RESULTS}" if folder else RESULTS for folder in folders.values()]
        check_output_dir(arguments.output_dir, [SUMMARY, *([RESULTS] if others else []), *names])
    if arguments.html is not None:
        check_output_dir(Path(arguments.html).parent, [Path(arguments.html).name], option="html")
    has_output = root is not None or arguments.html is not None
    found: dict[str, Any] = {"comparisons": [], "ranks": None, "left_out": [], "runs": [], "damaged": {}}
    damaged = found["damaged"]
    reports: list[tuple[str, list[Any], str]] = []  # the folder, the blocks and the comment of each
    problems: list[Exception] = []
    has_data = any(getattr(arguments, name) is not None for name in ORIGINS)
    if others:
        try:
            reports.append(("", _of_comparisons(others, found, has_output), write.COMMENT))
        except ValueError as error:
            if not runs or not damaged:
                raise
            problems.append(error)
    for path, name in folders.items():
        try:
            read_log_history(path)  # a damaged one is told of before a model is loaded
            answers = _on_data(str(path if path.is_dir() else path.parent), arguments) if has_data else None
            blocks, summary = run.run_report(path, answers)
            reports.append((name, blocks, run.COMMENT))
            found["runs"].append(summary)
        except (ValueError, OSError, RuntimeError) as error:
            problems.append(error)
            damaged[str(path)] = str(error)
    if not reports:
        raise problems[0] if isinstance(problems[0], ValueError | OSError) else ValueError(str(problems[0]))
    files: list[str] = []
    if root is not None:
        for name, blocks, comment in reports:
            files += [str(Path(name, file)) for file in write_blocks(blocks, root / name, comment)]
    texts = [to_markdown(blocks, comment, with_pictures=root is not None) for _, blocks, comment in reports]
    rest = write.left_out({short_path(name): problem for name, problem in damaged.items()}) if runs and damaged else []
    if rest:
        texts.append(to_markdown(rest))
    if arguments.html is not None:
        write_text(Path(arguments.html), to_html([*(block for _, blocks, _ in reports for block in blocks), *rest]))
    as_json = to_json({**found, "files": [*files, SUMMARY] if files else []}, indent=2) + "\n"
    if root is not None:
        write_text(root / SUMMARY, as_json)
    return "\n".join(texts), as_json, damaged


def _sorted_paths(paths: list[Path], arguments: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """Return the runs among the paths, and the others; raise a ConfigError if what is asked for is not for all."""
    from ..report.curves import find_state
    from ..report.run import name_of

    paths = list(dict.fromkeys(paths))
    runs = [path for path in paths if path.name == "trainer_state.json" or (path.is_dir() and find_state(path))]
    others = [path for path in paths if path not in runs]
    has_data = any(getattr(arguments, name) is not None for name in ORIGINS)
    if not has_data and arguments.base_model is not None:
        raise ConfigError("`--base_model` needs rows to compare features on: give data, such as `--validation_file`.")
    if others and has_data:
        raise ConfigError(f"Data and `--base_model` are for runs, and {str(others[0])!r} is none.")
    names = [name_of(path).casefold() for path in runs]
    twice = next((name_of(path) for path in runs if names.count(name_of(path).casefold()) > 1), None)
    if twice is not None and arguments.output_dir is not None:
        raise ConfigError(
            f"Two runs are called {twice!r}: report them one by one, each with an `--output_dir` of its own."
        )
    return runs, others


def _of_comparisons(paths: list[Path], found: dict[str, Any], with_figures: bool) -> list[Any]:
    """Return a report on comparisons, and note in `found` what they are, and which files were left out."""
    from ..report.comparisons import read_result_files
    from ..report.write import comparison_blocks, comparison_summary, ranks_summary

    read = read_result_files(paths)
    for name in read.others:
        print(f"Not of a comparison, left out: {visible(name)}", file=sys.stderr)
    found["damaged"].update(read.damaged)
    found["comparisons"] = [comparison_summary(comparison) for comparison in read.comparisons]
    found.update(ranks_summary(read.comparisons), left_out=read.others)
    return comparison_blocks(read.comparisons, read.damaged, with_figures)


def _on_data(model: str, arguments: argparse.Namespace) -> Any:
    """Return what a run's model says of the rows, with their features before and after training."""
    check_names_data(arguments)
    import numpy as np

    from ..comparison.progress import quiet
    from ..report.run import Answers
    from ..utils.loading import load_config
    from . import evaluation
    from .saved_model import load_plain, read_saved
    from .scores import classes_of, names_of

    device = evaluation.device_of(arguments)
    size = arguments.batch_size
    with quiet():
        saved = read_saved(model, arguments.base_model)
        with reading("The data cannot be read", but=(ValueError, OSError)):
            rows = evaluation.load_rows(saved, arguments)
        if rows.warning is not None:
            print(f"merlin-hf report: warning: {rows.warning}", file=sys.stderr)
        if rows.labels.is_multi_label:
            raise ConfigError(
                f"{model!r} gives several labels per row, which a confusion matrix does not show: "
                "`merlin-hf evaluate` scores it."
            )
        ids = classes_of(rows.labels, saved.config, arguments.labels_by_number)
        trained = saved.load(device)
        with reading(f"{model!r} cannot be run on the data"):
            logits, references = evaluation.predict_logits(trained, rows, size)
            features = {"after training": evaluation.features(trained, rows, size)}
        if arguments.base_model is not None:
            config = load_config(arguments.base_model, num_labels=saved.config.num_labels)
            base = load_plain(
                saved.model_class, arguments.base_model, device, config=config, ignore_mismatched_sizes=True
            )
            with reading(f"{arguments.base_model!r} cannot be run on the data"):
                features = {"before training": evaluation.features(base, rows, size), **features}
    if ids is None:
        return Answers(references, features)
    return Answers(np.asarray(ids)[references], features, logits, names_of(rows.labels, ids, saved.config))
