"""Two things measured by themselves: what MeRLin does after the backbone, and one forward against two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from cases import Case, build_model, make_batch
from measure import take_turns
from steps import EVERY_STEP, autocast, transfer_trainer
from torch import Tensor

from merlin_hf import MerlinTrainer
from merlin_hf.transfer.balance import gradient_ratio


def head_parts(rows: int, size: int, classes: int, device: str, repeats: int) -> dict:
    """
    The methods of MerlinTrainer that come after the backbone, on features `(rows, size)`.

    Returns:
        `dict`: as `take_turns`, of "fit and gradient" (the heads of all splits, their meta loss, its gradient in the
        features), "split and metrics" (drawing the splits, preparing the targets, the accuracies that are logged) and
        "balance" (the second pass back through the heads that `balance_gradients` takes).
    """
    trainer = transfer_trainer(MerlinTrainer, Case("BERT-tiny", rows, 8, classes), device, **EVERY_STEP)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, size, generator=generator).to(device)
    labels = (torch.arange(rows) // 2 % classes).to(device)
    source_logits = torch.randn(rows, classes, generator=generator).to(device).requires_grad_()
    gram = torch.eye(classes, device=device)
    split = trainer.split(labels)
    head = trainer.fit_head(features, labels, split.train)
    logits = head(features)

    def loss_of(inputs: Tensor, metrics: bool) -> Tensor:
        fitted = trainer.fit_head(inputs, labels, split.train)
        if metrics:
            return trainer.validate_head(fitted, inputs, labels, split)
        losses = trainer.row_losses(fitted(inputs), labels, trainer.logit_scale(None))
        return (losses * split.validation).sum() / split.validation.sum()

    def fit_and_gradient() -> None:
        inputs = features.detach().requires_grad_()
        torch.autograd.grad(loss_of(inputs, metrics=False), inputs)

    def split_and_metrics() -> None:
        trainer.record_head(logits, labels, trainer.split(labels), None)

    # What balancing adds: the gradient of the meta loss is computed once either way.
    inputs = features.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(inputs, metrics=True), inputs)
    source_loss = F.cross_entropy(source_logits, labels)

    def balance() -> None:
        gradient_ratio(source_loss, source_logits, gram, gradient)

    functions = {
        "fit and gradient": fit_and_gradient,
        "split and metrics": split_and_metrics,
        "balance": balance,
    }
    return take_turns(functions, device, repeats, warmup=5)


def joined(source: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both batches as one, the shorter rows padded."""
    length = max(part["input_ids"].shape[1] for part in (source, target))
    return {
        name: torch.cat([F.pad(part[name], (0, length - part[name].shape[1])) for part in (source, target)])
        for name in ("input_ids", "attention_mask")
    }


def compare_forwards(case: Case, source_length: int, device: str, repeats: int) -> dict:
    """Forward and backward of a model on source rows and target rows, as two batches or as one."""
    model = build_model(case).to(device).train()
    target, source = (
        {name: t.to(device) for name, t in make_batch(c, c.batch, case.classes).items() if name != "labels"}
        for c in (case, Case(case.model, case.batch, source_length))
    )
    together = joined(source, target)

    def run(*batches: dict[str, Tensor]) -> None:
        with autocast(case, device):
            losses = [model(**batch).logits.float().square().sum() for batch in batches]
        sum(losses).backward()
        model.zero_grad()

    functions = {"two forwards": lambda: run(source, target), "one forward": lambda: run(together)}
    return take_turns(functions, device, repeats)
