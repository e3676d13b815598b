"""
MeRLin with one option changed at a time: `python benchmarks/ablations/run.py`.

The pairs are those of `benchmarks/transfer`, but all rows come from the target's train split, half to train on and
half to be judged by (or from its validation split), so that defaults which are set from this have not seen the test
rows of the other benchmarks. What is finished is not run again; with `--restore` what the result files hold counts as
finished too, so that a line is added without the others' runs. See README.md.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

import merlin_hf
from merlin_hf.comparison.config import load_config
from merlin_hf.utils.files import write_text


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import table  # noqa: E402
from stored import files, repacked  # noqa: E402
from transfer.run import kept, load_pair  # noqa: E402


PAIRS = (
    "mnist-usps",
    "fashion_mnist-usps",
    "sst2-vader_nyt",
    "qqp-mrpc",
    "amazon_books-amazon_kitchen",
    "tweet_sentiment-tweet_emotion",
)
# Said explicitly, so that the rows of the table stay what they are whatever the package's defaults are.
# Both losses in every step; the ridge head, no class frequencies and no phase on the source alone.
EVERY_STEP = {"mix_weights": False, "rho": 0.3, "balance_gradients": True}
BASE = {"method": "merlin", "head": "ridge", "class_frequencies": False, "source_phase_fraction": 0.0, **EVERY_STEP}
HALVES = {"train_split": "train[:50%]", "test_split": "train[50%:]", "test_rows": 1000}
# Some rows are in both halves.
SPLITS = {"tweet_sentiment-tweet_emotion": {"train_split": "train", "test_split": "validation", "test_rows": 374}}
ROWS = 100


def load_variants() -> dict[str, dict]:
    """The options of each line of the table, what they are changes of first."""
    groups = yaml.safe_load((HERE / "variants.yaml").read_text())["groups"]
    variants = {label: options for group in groups.values() for label, options in group.items()}
    return {"merlin": BASE, **{label: complete(options) for label, options in variants.items()}}


def removed_variants() -> set[str]:
    """Return the lines of an option that has been removed."""
    return set(yaml.safe_load((HERE / "variants.yaml").read_text())["removed"])


def complete(options: dict) -> dict:
    """The options of a variant, with those that it shares with the others."""
    return {**BASE, **options} if options.get("method", "merlin").startswith("merlin") else options


def run(name: str, args: argparse.Namespace) -> None:
    """All variants on one pair."""
    config = load_pair(name, args.rows)
    config["target"] |= SPLITS.get(name, HALVES)
    config |= {"methods": load_variants(), "search": {"trials": 0}, "reference": "merlin"}
    config["output_dir"] = str(args.work_dir / name)
    path, variants, removed = args.results_dir / f"{name}.json", args.variants, []
    kept_before = files(args.results_dir).get(path.name)
    if args.restore and kept_before is not None:
        removed = [method for method in kept_before["methods"] if method["label"] in removed_variants()]
        variants = restored(config, kept_before, variants)
    summary = merlin_hf.compare(config, seeds=args.seeds, methods=variants).summary
    summary["methods"] += removed
    write_text(path, json.dumps(kept(summary, name), indent=1, sort_keys=True))


def restored(config: dict, results: dict, variants: list[str] | None) -> list[str] | None:
    """Write the runs that `results` tells of into the output folder; `variants` with those that it has."""
    from transfer.restore import restore

    wanted = {*(variants or []), *(method["label"] for method in results["methods"])} - removed_variants()
    unknown = sorted(wanted - set(config["methods"]))
    if unknown:
        raise SystemExit(f"Not in variants.yaml: {', '.join(unknown)}.")
    print(f"{restore(load_config(config), results)} runs restored; what was run with other options is run again")
    return None if variants is None else [label for label in config["methods"] if label in wanted]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS, metavar="PAIR")
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument(
        "--rows",
        type=int,
        default=ROWS,
        help="labelled rows; results with another number than 100 go to a folder of that name",
    )
    parser.add_argument(
        "--restore", action="store_true", help="take what the result files hold for finished, and keep their variants"
    )
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--results_dir", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    if args.restore and args.seeds:
        parser.error("--restore keeps all seeds of the result files: leave out --seeds.")
    if args.rows != ROWS:
        args.work_dir, args.results_dir = args.work_dir / str(args.rows), args.results_dir / str(args.rows)
    with repacked(args.results_dir):
        for name in args.pairs:
            run(name, args)
            table.main(args.results_dir)


if __name__ == "__main__":
    main()
