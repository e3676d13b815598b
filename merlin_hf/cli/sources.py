"""`merlin-hf sources`."""

import argparse
import contextlib
import sys
from pathlib import Path

from ..utils.figures import check_can_draw
from ..utils.files import check_output_dir, to_json, write_text
from ..utils.markdown import visible
from ..utils.validation import ConfigError


DESCRIPTION = """\
Rank data sets by how much they promise as the source of a target, before any training. DATA is
path[:config][@split], as in nyu-mll/glue:rte@validation; the split is train if not given, and a path is a name on the
Hub, a file or a folder.
Exit status: 0; 1 where measuring failed; 2 for arguments that cannot be used."""
FILES = ("ranking.json", "table.txt", "ranking.png")
NUMBERS = {
    "target_rows": (200, "rows of the target in each draw"),
    "source_rows": (500, "rows of each source in each draw"),
    "batch_size": (16, "rows through the model at a time"),
    "num_splits": (4, "meta gradients, of 8 random halves each"),
    "max_seq_length": (128, "longer texts are cut to so many tokens"),
}
COLUMNS = {
    "text_columns": "one or two columns of texts, NAME=COLUMN or NAME=COLUMN,COLUMN with NAME as given above",
    "image_column": "the column of images",
    "label_column": "the column of labels",
    "problem_type": "single_label_classification or regression, where labels are numbers that could be either",
}


def add_sources_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = commands.add_parser("sources", allow_abbrev=False, description=DESCRIPTION)
    parser.add_argument("--target", required=True, metavar="DATA", help="the small target")
    parser.add_argument("--candidates", required=True, nargs="+", metavar="DATA", help="the sources to choose from")
    parser.add_argument(
        "--model",
        help="a name on the Hub or a folder; google-bert/bert-base-uncased for texts and "
        "google/vit-base-patch16-224-in21k for images if not given",
    )
    for option, (default, text) in NUMBERS.items():
        parser.add_argument(f"--{option}", type=int, default=default, metavar="N", help=f"{text} (%(default)s)")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[1],
        metavar="N",
        help="draws of rows: one number is how many, more are their seeds; two or more show the spread",
    )
    parser.add_argument(
        "--layers", type=int, metavar="N", help="compare gradients in the last so many layers only; all if not given"
    )
    parser.add_argument("--image_size", type=int, metavar="N", help="in pixels, for models without an image processor")
    parser.add_argument(
        "--sentence_encoder",
        choices=("true", "false"),
        help="whether the model is one of sentence-transformers, whose own pooling is used; if not given, whether it "
        "has a modules.json",
    )
    for option, text in COLUMNS.items():
        parser.add_argument(f"--{option}", nargs="+", default=[], metavar="NAME=COLUMN", help=text)
    parser.add_argument(
        "--mix", action="store_true", help="weights for training on several of them, as the option source_mix"
    )
    parser.add_argument("--output_dir", help="write ranking.json, table.txt and ranking.png there")
    parser.add_argument("--json", action="store_true", help="print ranking.json instead of the table")
    return parser


def sources(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    # Whatever libraries print must not get between the table and a program that reads it.
    with contextlib.redirect_stdout(sys.stderr):
        ranking = _rank(arguments)
    _write(ranking, arguments)
    return 0


def _rank(arguments: argparse.Namespace):
    from ..sources import rank_sources

    if arguments.output_dir is not None:
        check_can_draw("`--output_dir`")
        check_output_dir(arguments.output_dir, FILES)
    seeds = arguments.seeds[0] if len(arguments.seeds) == 1 else arguments.seeds
    return rank_sources(
        arguments.target,
        arguments.candidates,
        arguments.model,
        seeds=seeds,
        columns=_columns(arguments),
        sentence_encoder={"true": True, "false": False}.get(arguments.sentence_encoder),
        progress=lambda text: print(visible(text, keep_lines=True), file=sys.stderr, flush=True),
        **{name: getattr(arguments, name) for name in (*NUMBERS, "layers", "image_size")},
    )


def _columns(arguments: argparse.Namespace) -> dict[str, dict]:
    columns: dict[str, dict] = {}
    for option in COLUMNS:
        for given in getattr(arguments, option):
            name, sign, value = given.rpartition("=")
            if not (name and sign and value):
                raise ConfigError(f"`--{option}` must be NAME=COLUMN, with NAME a data set as given, got {given!r}.")
            columns.setdefault(name, {})[option] = value.split(",") if option == "text_columns" else value
    return columns


def _write(ranking, arguments: argparse.Namespace) -> None:
    from ..sources.figure import save_figure
    from ..sources.report import show, table

    text = to_json(ranking.to_dict(), indent=2) + "\n"
    if arguments.output_dir is not None:
        folder = Path(arguments.output_dir)
        write_text(folder / "ranking.json", text)
        write_text(folder / "table.txt", table(ranking, arguments.mix))
        save_figure(ranking, folder / "ranking.png")
        print(f"Results in {visible(folder)}", file=sys.stderr)
    if arguments.json:
        print(text, end="")
    else:
        show(ranking, sys.stdout, arguments.mix)
