"""
Compare methods as a signature of the source gives the labels away more and more easily.

    python benchmarks/semisynthetic/run.py --images mnist

What is finished is not run again: the runs are in `--work_dir`, the results beside this file. See README.md.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
import yaml
from data import IMAGE_SETS, probe_images, write
from figures import save_figures
from sklearn.linear_model import LogisticRegressionCV
from stored import repacked
from transformers import AutoModelForImageClassification

import merlin_hf
from merlin_hf.data.encoding import resize_and_scale
from merlin_hf.transfer.model import TransferModel
from merlin_hf.utils.files import write_text


HERE = Path(__file__).parent
EASES = (0.0, 0.25, 0.5, 1.0)


def load_config(images: str) -> dict:
    """The comparison on some images, without the paths of its data: their own file over what all share."""
    config = yaml.safe_load((HERE / "compare.yaml").read_text())
    own = yaml.safe_load((HERE / f"{images}.yaml").read_text())
    for name, value in own.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    return {**config, "model": str(HERE / config["model"])}


def compare_at(images: str, ease: float, work_dir: Path, **overrides) -> dict:
    """All methods with a source whose signature is so easy; returns what [`merlin_hf.compare`] found."""
    folder = work_dir / images / f"ease-{ease}"
    write(folder / "data", IMAGE_SETS[images], ease)
    config = load_config(images)
    for task in ("source", "target"):
        config[task]["path"] = str(folder / "data" / config[task]["path"])
    return merlin_hf.compare({**config, "output_dir": str(folder)}, **overrides).summary


@torch.no_grad()
def features(model_folder: Path, pictures: list, size: int) -> np.ndarray:
    """What enters a model's last layer, `(n, hidden_size)`."""
    model = TransferModel(AutoModelForImageClassification.from_pretrained(model_folder), num_source_labels=0)
    pixel_values = torch.from_numpy(resize_and_scale(size, model.config.num_channels)(pictures))
    with model.eval().feature_mode():
        return torch.cat([model.features({"pixel_values": part}) for part in pixel_values.split(256)]).numpy()


def probe(x: np.ndarray, labels: np.ndarray, signatures: np.ndarray) -> dict[str, float]:
    """
    How much of the label, and of a signature that has nothing to do with it, a linear probe reads from features.

    Args:
        x (`np.ndarray` of shape `(n, hidden_size)`).
        labels, signatures (`np.ndarray` of shape `(n,)`).

    Returns:
        `dict[str, float]`: accuracies on the second half of the images; the probe is fit on the first.
    """
    half = len(x) // 2
    x = (x - x[:half].mean(0)) / (x[:half].std(0) + 1e-6)
    accuracies = {}
    for name, y in (("label", labels), ("signature", signatures)):
        classifier = LogisticRegressionCV(
            Cs=[1e-3, 1e-2, 1e-1, 1.0],
            cv=3,
            scoring="accuracy",
            max_iter=2000,
            l1_ratios=(0,),
            use_legacy_attributes=False,
        )
        accuracies[name] = float(classifier.fit(x[:half], y[:half]).score(x[half:], y[half:]))
    return accuracies


def probes_at(images: str, ease: float, work_dir: Path, summary: dict) -> dict:
    """The probes of all final models, by method and seed."""
    models = work_dir / images / f"ease-{ease}" / "models"
    dataset, signatures = probe_images(IMAGE_SETS[images], ease)
    pictures, labels = dataset["image"][:], np.asarray(dataset["label"][:])
    size = load_config(images)["image_size"]
    return {
        method["label"]: {
            seed: probe(features(models / method["label"] / f"seed-{seed}", pictures, size), labels, signatures)
            for seed in method["scores"]
        }
        for method in summary["methods"]
        if method["status"] == "ok"
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", choices=list(IMAGE_SETS), default=list(IMAGE_SETS))
    parser.add_argument("--eases", nargs="+", type=float, default=list(EASES))
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="default: those of compare.yaml; others need --results_dir"
    )
    parser.add_argument("--methods", nargs="+", help="default: those of compare.yaml; others need --results_dir")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/semisynthetic"))
    parser.add_argument("--results_dir", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    partial = args.seeds or args.methods or set(args.eases) - set(EASES)
    if partial and args.results_dir.resolve() == (HERE / "results").resolve():
        parser.error(
            "--seeds, --methods and other --eases need a --results_dir of their own: these results are whole."
        )
    with repacked(args.results_dir):
        for images, ease in itertools.product(args.images, args.eases):
            path = args.results_dir / images / f"ease-{ease}.json"
            summary = compare_at(images, ease, args.work_dir, seeds=args.seeds, methods=args.methods)
            result = {"ease": ease, **kept(summary), "probes": probes_at(images, ease, args.work_dir, summary)}
            write_text(path, json.dumps(result, indent=1, sort_keys=True))
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
