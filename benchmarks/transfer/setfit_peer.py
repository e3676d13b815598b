"""
SetFit (Tunstall et al. 2022, arXiv 2209.11055) on the rows of `run.py`.

    python benchmarks/transfer/setfit_peer.py --pairs sst2-vader_nyt --rows 100 --seeds 0 1 2 3 4

Twice for each draw: with its defaults (one epoch of pairs), and with as many texts through the backbone as all
methods send. Two texts of a row are joined by the separator. Results that are there already are not computed again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from run import HERE, PAIRS, load_pair, sizes
from setfit import SetFitModel, Trainer, TrainingArguments

from merlin_hf.comparison.config import load_config
from merlin_hf.comparison.metrics import classification_metrics
from merlin_hf.comparison.pair import TaskPair
from merlin_hf.utils.files import write_text


TEXTS = [name for name in PAIRS if load_pair(name, 100).get("max_seq_length")]
SETTINGS = ("defaults", "same rows")
BATCH = 16  # pairs of texts, as by default


def texts_of(rows: Any, separator: str) -> Dataset:
    """The texts, two of them joined, and the numbers of the classes."""
    columns = [rows.dataset[column] for column in rows.task.columns]
    texts = [separator.join(parts) for parts in zip(*columns, strict=True)]
    return Dataset.from_dict({"text": texts, "label": rows.ids.tolist()})


def train(config: dict, train_rows: Dataset, test_rows: Dataset, setting: str, seed: int, output_dir: Path) -> dict:
    """Train one model, and return its metrics and seconds."""
    training = config["training"]
    rows = training["max_steps"] * 2 * training["per_device_train_batch_size"]
    budget = {"max_steps": rows // (2 * BATCH)} if setting == "same rows" else {}
    model = SetFitModel.from_pretrained(config["model"])
    model.model_body.max_seq_length = config["max_seq_length"]
    args = TrainingArguments(
        output_dir=str(output_dir), batch_size=BATCH, seed=seed, save_strategy="no", report_to="none", **budget
    )
    start = time.perf_counter()
    Trainer(model=model, args=args, train_dataset=train_rows).train()
    seconds = time.perf_counter() - start
    probabilities = np.asarray(model.predict_proba(test_rows["text"][:], as_numpy=True), dtype=np.float64)
    logits = np.full((len(test_rows), max(*train_rows["label"], *test_rows["label"]) + 1), np.log(1e-9))
    logits[:, np.unique(train_rows["label"][:])] = np.log(probabilities.clip(1e-9))  # a class may have no labelled row
    return {"metrics": classification_metrics(logits, np.asarray(test_rows["label"][:])), "train_seconds": seconds}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=TEXTS, choices=TEXTS, metavar="PAIR")
    parser.add_argument("--rows", nargs="+", type=int, default=[50, 100, 300, 1000], help="those that a pair has")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--max_steps", type=int, help="in place of the rows of the set-up")
    parser.add_argument("--results_dir", type=Path, default=HERE / "results")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/setfit"))
    args = parser.parse_args(argv)
    for name in args.pairs:
        for rows in (rows for rows in args.rows if rows in sizes(name)):
            config = load_pair(name, rows)
            if args.max_steps is not None:
                config["training"]["max_steps"] = args.max_steps
            pair = TaskPair(load_config({**config, "output_dir": str(args.work_dir)}))
            path = args.results_dir / name / str(rows) / "setfit.json"
            results = json.loads(path.read_text()) if path.is_file() else {}
            for setting in args.settings:
                for seed in args.seeds:
                    if str(seed) in results.setdefault(setting, {}):
                        continue
                    both = (texts_of(part, " [SEP] ") for part in (pair.train_rows(seed), pair.test))
                    results[setting][str(seed)] = train(config, *both, setting, seed, args.work_dir)
                    write_text(path, json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
