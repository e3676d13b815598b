"""
Write a method of your own: joint training with a contrastive loss on the target's features.

    python examples/custom_method.py            # MiniLM, film reviews -> editorials, a few minutes on a CPU

A method is one class with a `compute_loss` that takes the two batches, calls the model once and returns a mean over
rows. Gradient accumulation, resuming, several processes and a plain checkpoint come from `TransferTrainer`.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from editorials_task import load_task, parse_args, training_arguments
from torch import Tensor

from merlin_hf import METHODS, TransferTrainer, TransferTrainingArguments, get_method


@dataclass
class ContrastiveTrainingArguments(TransferTrainingArguments):
    """Options of the method; they become flags of a script with `HfArgumentParser`."""

    contrast: float = field(default=0.3, metadata={"help": "Share of the contrastive loss in the target's loss."})
    temperature: float = field(default=0.3, metadata={"help": "Of the contrastive loss."})


class ContrastiveTrainer(TransferTrainer):
    """
    Joint training, with rows of a class drawn together (Gunel et al. 2021, arXiv 2011.01403, without a source).

        L_source + (1 - contrast) * L_target + contrast * L_contrastive(target features)
    """

    training_args_class: ClassVar = ContrastiveTrainingArguments

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum above; Trainer's own loss in evaluation."""
        batches = self.take_batches(inputs)
        if batches is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(source_inputs=batches.source_inputs, target_inputs=batches.target_inputs)
        source_loss = self.source_loss(outputs.source_logits, batches.source_labels)
        target_loss = self.target_loss(outputs.target_logits, batches.target_labels)
        contrastive_loss = contrastive(outputs.target_features, batches.target_labels, self.args.temperature)
        self.record(source_loss=source_loss, target_loss=target_loss, contrastive_loss=contrastive_loss)

        share = self.args.contrast
        loss = self.args.source_weight * source_loss + (1 - share) * target_loss + share * contrastive_loss
        return (loss, outputs) if return_outputs else loss


def contrastive(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss (arXiv 2004.11362) of `(n, hidden_size)`; 0 if no class has two rows."""
    features = torch.nn.functional.normalize(features.float(), dim=-1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    log_share = (features @ features.mT / temperature).masked_fill(itself, -1e9).log_softmax(-1)
    alike = (labels[:, None] == labels) & ~itself
    pairs = alike.sum(-1)
    of_row = -(log_share * alike).sum(-1) / pairs.clamp(min=1)
    return of_row.sum() / (pairs > 0).sum().clamp(min=1)


def main(argv: list[str] | None = None) -> float:
    """Train by the method and return the accuracy on the test rows."""
    METHODS["contrastive"] = ContrastiveTrainer  # so that scripts with `--method` know it too
    args = parse_args(__doc__, "runs/custom-method", argv)
    task = load_task(args)
    method = get_method("contrastive")
    trainer = method(args=training_arguments(method.training_args_class, args), **task.for_trainer)
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    print(f"Accuracy on {len(task.test)} rows: {accuracy:.3f}")
    trainer.save_model()  # a plain classifier
    return accuracy


if __name__ == "__main__":
    main()
