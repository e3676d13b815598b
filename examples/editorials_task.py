"""
A small real task, its source, MiniLM and arguments, for peft_lora.py, custom_head.py and custom_method.py.

Target: sentiment of newspaper editorials, a few labelled sentences. Source: sentiment of film reviews. See
editorials.py.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from demo import compute_metrics, model_path, tokenize
from editorials import load_sentences, split_by_group
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from merlin_hf import TransferTrainingArguments


@dataclass
class Task:
    """Tokenized rows, and the model that they are for."""

    train: Dataset
    test: Dataset
    source: Dataset
    tokenizer: Any
    model: Any

    @property
    def for_trainer(self) -> dict[str, Any]:
        """The arguments of a trainer that say what is trained on what."""
        return {
            "model": self.model,
            "train_dataset": self.train,
            "eval_dataset": self.test,
            "source_dataset": self.source,
            "processing_class": self.tokenizer,
            "compute_metrics": compute_metrics,
        }


def parse_args(description: str, output_dir: str, argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of an example."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a model of the Hub or a folder; default: MiniLM from its wheel")
    parser.add_argument("--data_dir", default=None, help="where the sentences are kept; default: ~/.cache/merlin_hf")
    parser.add_argument("--target_rows", type=int, default=150, help="labelled target rows")
    parser.add_argument("--test_rows", type=int, default=500, help="at most so many rows to test on")
    parser.add_argument("--batch_size", type=int, default=32, help="target rows, and source rows, of a step")
    parser.add_argument("--max_steps", type=int, default=40)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--output_dir", default=output_dir)
    return parser.parse_args(argv)


def load_task(args: argparse.Namespace) -> Task:
    """Draw the target's rows, tokenize, and load the model."""
    disable_progress_bars()
    set_seed(0)
    train, _, test = split_by_group(load_sentences("editorials", args.data_dir), args.target_rows, seed=0)
    test = test.shuffle(seed=0).select(range(min(args.test_rows, len(test))))
    names = train.features["label"].names
    tokenizer = AutoTokenizer.from_pretrained(model_path(args), trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_path(args),
        trust_remote_code=False,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    source = load_sentences("films", args.data_dir)
    return Task(*(tokenize(part, tokenizer) for part in (train, test, source)), tokenizer, model)


def training_arguments(
    options: type[TransferTrainingArguments], args: argparse.Namespace, **more: Any
) -> TransferTrainingArguments:
    """Options of a short run that logs every tenth step and keeps no checkpoints."""
    return options(
        args.output_dir,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=args.learning_rate,
        warmup_steps=0.1,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        **more,
    )
