"""
MeRLin's default with one thing changed at a time: `python benchmarks/ablations/run.py`.

The pairs are texts of `benchmarks/transfer`, in its set-up, but all rows come from the target's train split, half to
train on and half to be judged by (or from its validation split). Defaults that are set from this have not seen the
test rows of the other benchmark. What is finished is not run again. See README.md.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

import merlin_hf
from merlin_hf.comparison import dry_run
from merlin_hf.utils.files import write_text


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import table  # noqa: E402
from transfer.run import kept, load_pair  # noqa: E402


PAIRS = (
    "sst2-vader_nyt",
    "qqp-mrpc",
    "amazon_books-amazon_kitchen",
    "tweet_sentiment-tweet_emotion",
    "nli_mix-scitail",
    "sst2-tweet_sentiment",
)
HALVES = {"train_split": "train[:50%]", "test_split": "train[50%:]", "test_rows": 1000}
# Some rows are in both halves.
SPLITS = {"tweet_sentiment-tweet_emotion": {"train_split": "train", "test_split": "validation", "test_rows": 374}}


def load_variants() -> dict[str, dict]:
    """The options of each line of the table, the recipe first."""
    groups = yaml.safe_load((HERE / "variants.yaml").read_text())
    lines = {label: options for group in groups.values() for label, options in group.items()}
    return {table.RECIPE: {"method": "merlin"}, **{label: {"method": "merlin", **own} for label, own in lines.items()}}


def load(name: str, rows: int) -> dict:
    """The configuration of all variants on one pair; each has the same learning rate, nothing is searched."""
    config = load_pair(name, rows)
    config["target"] |= SPLITS.get(name, HALVES)
    return config | {"methods": load_variants(), "search": {"trials": 0}, "reference": table.RECIPE}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS, metavar="PAIR")
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument("--rows", type=int, default=100, help="labelled rows")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--dry_run", action="store_true", help="check data, models and options; train nothing")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--results_dir", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    for name in args.pairs:
        config = load(name, args.rows) | {"output_dir": str(args.work_dir / name / str(args.rows))}
        overrides = {"seeds": args.seeds, "methods": args.variants}
        if args.dry_run:
            runs = sum(method["runs"] for method in dry_run(config, **overrides).summary["methods"])
            print(f"{name}: {runs} runs", flush=True)
            continue
        summary = merlin_hf.compare(config, **overrides).summary
        path = args.results_dir / f"{name}.json"
        write_text(path, json.dumps(kept(summary, name), indent=1, sort_keys=True))
        table.main(args.results_dir)


if __name__ == "__main__":
    main()
