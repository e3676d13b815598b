"""
Write a head solver of your own, linear discriminant analysis, and use it by name.

    python examples/custom_head.py              # MiniLM, film reviews -> editorials, a few minutes on a CPU

A solver fits a linear head to features, differentiably (`_fit`, in training) and on a whole data set (`fit_batches`,
for the head that ships). The base class has checked shapes and values by then, and switched autocast off.
"""

import torch
from editorials_task import load_task, parse_args, training_arguments
from torch import Tensor

from merlin_hf import MerlinTrainer, MerlinTrainingArguments, register_head
from merlin_hf.heads import HeadSolver, LinearHead


@register_head("lda")
class DiscriminantHead(HeadSolver):
    """
    Classes as Gaussians with a common covariance, which `l2` shrinks towards a multiple of the identity.

    The logit of a class is the logarithm of its posterior probability, up to a constant: with the class means `m_c`
    and `P = n (W + l2 s I)^-1` for the scatter `W` within classes, `x P m_c - m_c P m_c / 2 + log n_c`.
    """

    default_l2 = 10.0
    problem_types = ("single_label_classification",)

    def _fit(self, features: Tensor, targets: Tensor, l2: float | Tensor, sample_weight: Tensor) -> LinearHead:
        rows = sample_weight.unsqueeze(-1)
        weighted = targets * rows
        return self.from_sums(weighted.sum(-2), weighted.mT @ features, (features * rows).mT @ features, l2)

    @torch.no_grad()
    def fit_batches(self, batches, l2="auto", reduce=None) -> LinearHead:
        """Sums over batches, and by `reduce` over processes, in double precision; "auto" is the default `l2`."""
        sums, dtype = None, torch.float32
        for features, targets, weight in batches:
            dtype = features.dtype
            features, targets = features.double(), targets.double()
            rows = (torch.ones_like(targets[:, 0]) if weight is None else weight.double()).unsqueeze(-1)
            weighted = targets * rows
            parts = (weighted.sum(0), weighted.mT @ features, (features * rows).mT @ features)
            sums = parts if sums is None else [total + part for total, part in zip(sums, parts, strict=True)]
        if reduce is not None:
            sums = [reduce(total) for total in sums]
        head = self.from_sums(*sums, self.default_l2 if l2 == "auto" else l2)
        return LinearHead(head.weight.to(dtype), head.bias.to(dtype))

    def from_sums(self, counts: Tensor, sums: Tensor, squares: Tensor, l2: float | Tensor) -> LinearHead:
        """The head from the rows of each class `(..., C)`, their sums `(..., C, d)` and all products `(..., d, d)`."""
        total = counts.sum(-1)[..., None, None]
        means = sums / counts.clamp(min=1e-6).unsqueeze(-1)
        overall = sums.sum(-2, keepdim=True) / total
        between = means - overall
        scatter = squares - total * overall.mT @ overall  # around the mean of all rows
        spread = torch.diagonal(scatter, dim1=-2, dim2=-1).sum(-1)[..., None, None] / total
        within = scatter - between.mT @ (counts.unsqueeze(-1) * between)
        identity = torch.eye(within.shape[-1], dtype=within.dtype, device=within.device)
        weight = torch.linalg.solve(within + (l2 * spread + 1e-8) * identity, total * means.mT).mT
        bias = counts.clamp(min=1e-6).log() - (weight * means).sum(-1) / 2
        return LinearHead(weight, bias)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the new head and with ridge, and return both accuracies on the test rows."""
    args = parse_args(__doc__, "runs/custom-head", argv)
    accuracies = {}
    for head in ("ridge", "lda"):
        task = load_task(args)
        trainer = MerlinTrainer(args=training_arguments(MerlinTrainingArguments, args, head=head), **task.for_trainer)
        trainer.train()
        accuracies[head] = trainer.evaluate()["eval_accuracy"]
        trainer.save_model()  # a plain classifier, whose last layer is the head; it loads without this file
    print(f"Accuracy on {len(task.test)} rows: {accuracies}")
    return accuracies


if __name__ == "__main__":
    main()
