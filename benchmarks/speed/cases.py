"""What is trained: models with random weights, rows that are ready in memory, and how many of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset


VOCABULARY = 30522
SOURCE_CLASSES = 3
BERT_SIZES = {  # layers, hidden size; the published small BERTs and BERT-base
    "BERT-tiny": (2, 128),
    "BERT-mini": (4, 256),
    "BERT-medium": (8, 512),
    "BERT-base": (12, 768),
}
MODELS = (*BERT_SIZES, "ViT")


@dataclass(frozen=True)
class Case:
    """
    One training step.

    Attributes:
        model: a name in `MODELS`.
        batch: target rows, and as many source rows.
        length: tokens of each row; for `ViT` the side of an image in patches, squared.
        classes: of the target.
        bf16: whether all competitors run under bfloat16 autocast.
    """

    model: str
    batch: int
    length: int
    classes: int = 3
    bf16: bool = False

    @property
    def label(self) -> str:
        precision = ", bf16" if self.bf16 else ""
        return f"{self.model}, {self.batch}+{self.batch} rows, length {self.length}, C={self.classes}{precision}"


def build_model(case: Case) -> nn.Module:
    """
    A classifier with random weights, the same for the same case.

    Dropout is off: drawing its random numbers takes a CPU a large part of a step, and would hide what is compared.
    """
    torch.manual_seed(0)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if case.model == "ViT":
        patches = round(case.length**0.5)
        config = transformers.ViTConfig(
            image_size=8 * patches, patch_size=8, hidden_size=192, num_hidden_layers=12, num_attention_heads=3,
            intermediate_size=768, num_labels=case.classes, **no_dropout,
        )  # fmt: skip
        return transformers.ViTForImageClassification(config)
    layers, size = BERT_SIZES[case.model]
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=size, num_hidden_layers=layers, num_attention_heads=size // 64,
        intermediate_size=4 * size, num_labels=case.classes, **no_dropout,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def make_batch(case: Case, rows: int, classes: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs and labels of full length."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) // 2 % classes
    if case.model == "ViT":
        side = 8 * round(case.length**0.5)
        return {"pixel_values": torch.randn(rows, 3, side, side, generator=generator), "labels": labels}
    input_ids = torch.randint(5, VOCABULARY, (rows, case.length), generator=generator)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


class Rows(Dataset):
    """A batch as a data set that does not end before a benchmark does."""

    def __init__(self, batch: dict[str, Tensor], repeats: int = 10_000):
        self.batch = batch
        self.rows = len(batch["labels"])
        self.repeats = repeats

    def __len__(self) -> int:
        return self.rows * self.repeats

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[index % self.rows] for name, values in self.batch.items()}
