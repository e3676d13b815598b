"""
How methods fare as a signature of the source gives the labels away more and more easily: `python benchmarks/semisynthetic/run.py`.

What is finished is not run again: the runs are in `--work_dir`, the results beside this file. See README.md.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
import yaml
from data import probe_images, write
from figures import save_figures
from sklearn.linear_model import LogisticRegressionCV
from transformers import AutoModelForImageClassification

import merlin_hf
from merlin_hf.comparison.encoding import resize_and_scale
from merlin_hf.transfer.model import TransferModel


HERE = Path(__file__).parent
EASES = (0.0, 0.5, 1.0)


def compare_at(ease: float, work_dir: Path, **overrides) -> dict:
    """All methods with a source whose signature is so easy; returns what [`merlin_hf.compare`] found."""
    folder = work_dir / f"ease-{ease}"
    write(folder / "data", ease)
    config = yaml.safe_load((HERE / "compare.yaml").read_text())
    config["model"] = str(HERE / config["model"])
    for task in ("source", "target"):
        config[task]["path"] = str(folder / "data" / config[task]["path"])
    return merlin_hf.compare({**config, "output_dir": str(folder)}, **overrides).summary


@torch.no_grad()
def features(model_folder: Path, images) -> np.ndarray:
    """What enters a model's last layer, `(n, hidden_size)`."""
    model = TransferModel(AutoModelForImageClassification.from_pretrained(model_folder), num_source_labels=0)
    size = yaml.safe_load((HERE / "compare.yaml").read_text())["image_size"]
    pixel_values = torch.from_numpy(resize_and_scale(size, model.config.num_channels)(images))
    with model.eval().attached():
        return model.features({"pixel_values": pixel_values}).numpy()


def probe(model_folder: Path, ease: float) -> dict[str, float]:
    """
    How much of the digit, and of a signature that has nothing to do with it, a linear probe reads from a model's features.

    Returns:
        `dict[str, float]`: accuracies on the second half of the images; the probe is fit on the first.
    """
    dataset, signatures = probe_images(ease)
    x, half = features(model_folder, dataset["image"][:]), len(signatures) // 2
    x = (x - x[:half].mean(0)) / (x[:half].std(0) + 1e-6)
    accuracies = {}
    for name, y in (("digit", np.asarray(dataset["label"][:])), ("signature", signatures)):
        classifier = LogisticRegressionCV(
            Cs=[1e-3, 1e-2, 1e-1, 1.0], cv=3, max_iter=2000, l1_ratios=(0,), use_legacy_attributes=False
        )
        accuracies[name] = float(classifier.fit(x[:half], y[:half]).score(x[half:], y[half:]))
    return accuracies


def probes_at(ease: float, work_dir: Path, summary: dict) -> dict:
    """The probes of all final models."""
    models = work_dir / f"ease-{ease}" / "models"
    return {
        method["label"]: {seed: probe(models / method["label"] / f"seed-{seed}", ease) for seed in method["scores"]}
        for method in summary["methods"]
        if method["status"] == "ok"
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eases", nargs="+", type=float, default=list(EASES))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of compare.yaml")
    parser.add_argument("--methods", nargs="+", help="default: those of compare.yaml")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/semisynthetic"))
    parser.add_argument("--results_dir", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    args.results_dir.mkdir(parents=True, exist_ok=True)
    for ease in args.eases:
        path = args.results_dir / f"ease-{ease}.json"
        summary = compare_at(ease, args.work_dir, seeds=args.seeds, methods=args.methods)
        result = {"ease": ease, **kept(summary), "probes": probes_at(ease, args.work_dir, summary)}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1, sort_keys=True))
        os.replace(part, path)
    save_figures(args.results_dir)


def kept(summary: dict) -> dict:
    """What is worth keeping of a comparison: no paths of this machine."""
    methods = [{name: value for name, value in method.items() if name != "runs"} for method in summary["methods"]]
    for method, whole in zip(methods, summary["methods"], strict=True):
        method["train_seconds"] = [run["train_seconds"] for run in whole.get("runs", {}).values()]
    names = ("metric", "reference", "seeds", "budget", "environment", "warnings")
    return {**{name: summary[name] for name in names}, "methods": methods}


if __name__ == "__main__":
    main()
