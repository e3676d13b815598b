"""
Fit every head on degenerate features and on those whose squares overflow float32; compare with float64.

    python -m tests.fuzz.heads [--count 12480] [--seed 0]

All settings (solver, features, l2, shape, intercept, batch or whole set) make 12,480 fits; `--count` draws fewer of
them. Precision, row weights and labels are drawn for each. The reference is a float64 fit of the same rows,
standardised first, as scaling and shifting the features must not change the logits. A refusal (a ValueError that names
an argument) is no fault, unless the input is an ordinary one. Prints one line of counts, and ends with 1 if any fault
was found.
"""

import argparse
import itertools
import random
import sys
import warnings
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from merlin_hf.heads import get_head


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
SOLVERS = (
    ("ridge", SINGLE), ("ridge", MULTI), ("ridge", REGRESSION), ("leave_one_out", SINGLE),
    ("centroid", SINGLE), ("centroid", MULTI), ("logistic", SINGLE), ("logistic", MULTI),
)  # fmt: skip
L2 = (1e-12, 1e-3, 1.0, 1e3, 1e12)
SHAPES = ((1, 3, 2), (8, 3, 2), (5, 40, 3), (40, 6, 3), (12, 1, 2), (24, 64, 5))
TOLERANCE = 1e-2
FAULTS = ("nan_logits", "nan_gradients", "wrong_logits", "wrong_gradients", "untold_errors", "needless_refusals")


def _normal(x: Tensor) -> Tensor:
    return x


def _columns(x: Tensor) -> Tensor:
    return x * torch.logspace(-10, 10, x.shape[1], dtype=x.dtype)


def _outlier(x: Tensor) -> Tensor:
    factors = torch.ones(len(x), 1, dtype=x.dtype)
    factors[-1] = 1e15
    return x * factors


def _one_column_varies(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1], torch.full_like(x[:, 1:], 7.3)], 1)


FEATURES = {
    "normal": _normal,
    "times 1e15": lambda x: x * 1e15,
    "times 1e20": lambda x: x * 1e20,
    "times 1e30": lambda x: x * 1e30,
    "times 1e37": lambda x: x * 1e37,
    "times 1e-20": lambda x: x * 1e-20,
    "times 1e-30": lambda x: x * 1e-30,
    "mean a million times the spread": lambda x: x + 1e6,
    "columns from 1e-10 to 1e10": _columns,
    "one row times 1e15": _outlier,
    "constant": lambda x: torch.full_like(x, -3.7),
    "one column varies": _one_column_varies,
    "rows twice": lambda x: x[torch.arange(len(x)) // 2] + 0.5,
}
HALF = ("normal", "constant", "one column varies", "rows twice")  # what 16 bits can hold


@dataclass(frozen=True)
class Case:
    """One fit: all that is not drawn."""

    solver: tuple[str, str]
    features: str
    l2: float
    shape: tuple[int, int, int]
    fit_intercept: bool
    whole_set: bool

    @property
    def is_ordinary(self) -> bool:
        """Whether the input is one that no solver may refuse."""
        return self.features in HALF and 1e-3 <= self.l2 <= 1e3


def all_cases() -> list[Case]:
    """Every combination, 12,480."""
    both = (True, False)
    return [Case(*values) for values in itertools.product(SOLVERS, FEATURES, L2, SHAPES, both, both)]


class _Ridge(torch.autograd.Function):
    """`min ||y - X W||^2 + l2 ||W||^2` by a singular value decomposition of X, which no l2 is too small for."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, l2: float) -> Tensor:
        u, sigma, v = torch.linalg.svd(x, full_matrices=False)
        weight = v.mT @ ((sigma / (sigma.square() + l2)).unsqueeze(-1) * (u.mT @ y))
        ctx.save_for_backward(x, y, sigma, v, weight)
        ctx.l2 = l2
        return weight

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, y, sigma, v, weight = ctx.saved_tensors
        l2 = ctx.l2
        inside = v.mT @ ((1 / (sigma.square() + l2)).unsqueeze(-1) * (v @ grad))
        # What X^T y does not reach is divided by l2 alone; it is multiplied by the weight's part there, which is 0.
        outside = (grad - v.mT @ (v @ grad)) / l2
        whole = inside + outside
        grad_x = (y - x @ weight) @ whole.mT - (x @ inside) @ weight.mT
        return grad_x, x @ inside, None


def standardise(x: Tensor, share: Tensor, fit_intercept: bool) -> Tensor:
    """Centre rows by their weighted mean, in units of their root mean squared distance to it; zeros where constant."""
    largest = x.detach().abs()[share > 0].amax().clamp_min(1e-200)
    x = x / largest
    if fit_intercept:
        for _ in range(2):
            x = x - share @ x
    spread = share @ x.square().sum(-1)
    if not spread > 1e-28:
        return torch.zeros_like(x)
    return x / spread.sqrt()


def reference(case: Case, features: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """The logits of one set of weights in float64, differentiably."""
    name, problem_type = case.solver
    features, targets, weight = features.double(), targets.double(), weight.double()
    share = weight / weight.sum()
    # Rows of weight 0 count nowhere, whatever they hold.
    z = standardise(features, share, case.fit_intercept)
    mean = share @ targets if case.fit_intercept else torch.zeros_like(targets[0])
    if name in ("ridge", "leave_one_out"):
        root = weight.sqrt().unsqueeze(-1)

        def ridge(kept: Tensor) -> Tensor:
            of_rows, of_targets = torch.zeros_like(z[0]), torch.zeros_like(mean)
            if case.fit_intercept:
                part = (weight * kept) / (weight * kept).sum()
                of_rows, of_targets = part @ z, part @ targets
            mask = root * kept.unsqueeze(-1)
            coef = _Ridge.apply(mask * (z - of_rows), mask * (targets - of_targets), case.l2)
            return (z - of_rows) @ coef + of_targets

        if name == "ridge":
            return ridge(torch.ones_like(weight))
        rows = []
        for i in range(len(z)):
            kept = torch.ones_like(weight)
            kept[i] = 0
            alone = not (weight * kept).sum() > 0
            rows.append(torch.zeros_like(mean) if alone else ridge(kept)[i])
        return torch.stack(rows)
    if name == "logistic" and case.whole_set and case.l2 < 1e-9 * len(z):
        # Too small for the solver of batches: the same solver, on standardised rows.
        solver = get_head(name, problem_type=problem_type, fit_intercept=case.fit_intercept)
        return solver.fit_batches([(z, targets, weight)], case.l2)(z)
    if name == "logistic":
        solver = get_head(
            name,
            problem_type=problem_type,
            fit_intercept=case.fit_intercept,
            max_iter=300,
            max_cg=2000,
            tolerance=1e-9,
        )
        head = solver.fit(z, targets, case.l2, weight)
        if head.info["solver_unconverged"] > 0:
            raise ValueError("the reference did not converge")
        return head(z)
    counts = weight @ targets
    means = (targets * weight.unsqueeze(-1)).mT @ z / (counts + case.l2).unsqueeze(-1)
    cross, square = 2 * z @ means.mT, means.square().sum(-1)
    if problem_type == MULTI:
        negatives = weight.sum() - counts
        others = ((1 - targets) * weight.unsqueeze(-1)).mT @ z / (negatives + case.l2).unsqueeze(-1)
        cross, square = cross - 2 * z @ others.mT, square - others.square().sum(-1)
        bias = -square + (negatives <= 0).double() - (counts <= 0).double()
    else:
        bias = torch.where(counts > 0, -square, -2 * square.max() - 1)
    return cross + bias if case.fit_intercept else cross


def draw(case: Case, generator: random.Random) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features, targets and row weights `(n,)` or `(2, n)`."""
    n, d, classes = case.shape
    torch.manual_seed(generator.getrandbits(30))
    dtype = generator.choice([torch.float32, torch.float32, torch.float32, torch.float64])
    if case.features in HALF and generator.random() < 0.3:
        dtype = generator.choice([torch.float16, torch.bfloat16])
    features = FEATURES[case.features](torch.randn(n, d, dtype=torch.float64)).to(dtype)
    problem_type = case.solver[1]
    kind = generator.choice(["all", "all", "one", "soft"])
    labels = torch.zeros(n, dtype=torch.long) if kind == "one" else torch.arange(n) % classes
    if problem_type == REGRESSION:
        targets = torch.randn(n, classes) * 10.0 ** generator.choice([0, 0, -15, 15])
    elif problem_type == MULTI:
        targets = torch.rand(n, classes).round() if kind != "one" else torch.eye(classes)[labels]
        if kind == "soft" and case.solver[0] != "centroid":
            targets = 0.8 * targets + 0.1
    else:
        targets = torch.eye(classes)[labels]
        if kind == "soft":
            targets = 0.8 * targets + 0.2 / classes
    weight = None
    chosen = generator.choice(["none", "zeros", "random", "two sets"])
    if chosen != "none":
        sets = 2 if chosen == "two sets" and not case.whole_set else 1
        weight = torch.ones(sets, n) if chosen != "random" else torch.rand(sets, n) + 0.1
        weight = weight * (torch.rand(sets, n) < 0.7)
        weight[:, 0] = 1.0
        weight = weight if sets == 2 else weight[0]
    return features, targets.to(torch.float64 if dtype == torch.float64 else torch.float32), weight


def run(case: Case, generator: random.Random) -> tuple[list[str], str]:
    """The names of what happened, and a line that says where it differs."""
    features, targets, weight = draw(case, generator)
    name, problem_type = case.solver
    solver = get_head(
        "ridge" if name == "leave_one_out" else name, problem_type=problem_type, fit_intercept=case.fit_intercept
    )
    with_gradient = not case.whole_set
    if with_gradient:
        features.requires_grad_()
        if problem_type == REGRESSION or targets.max() < 1:
            targets.requires_grad_()
    info: dict[str, Tensor] = {}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if name == "leave_one_out":
                logits = solver.leave_one_out(features, targets, case.l2, weight)
            else:
                if case.whole_set:
                    parts = (
                        features.split(7),
                        targets.split(7),
                        (torch.ones(len(targets)) if weight is None else weight).split(7),
                    )
                    head = solver.fit_batches(list(zip(*parts, strict=True)), case.l2)
                else:
                    head = solver.fit(features, targets, case.l2, weight)
                logits, info = head(features), dict(head.info)
    except ValueError as error:
        if not any(word in str(error) for word in ("features", "targets", "l2", "sample_weight")):
            return ["untold_errors"], repr(error)
        return ["needless_refusals" if case.is_ordinary else "refused"], str(error)
    except Exception as error:
        return ["untold_errors"], repr(error)
    if not logits.isfinite().all():
        return ["nan_logits"], f"{int((~logits.isfinite()).sum())} of {logits.numel()}"
    found: list[str] = []
    is_told = any(float(info.get(key, 0)) > 0 for key in ("solver_failures", "solver_unconverged")) or bool(caught)
    sets = torch.ones(1, len(features)) if weight is None else torch.atleast_2d(weight)
    direction = torch.randn(logits.shape, dtype=torch.float64)
    judged = torch.ones_like(direction)
    if case.features == "one row times 1e15":
        # A row of weight 0 that is so far from the others magnifies the rounding of the head that they have.
        judged = judged * (sets > 0).unsqueeze(-1)
    direction = direction * judged
    wanted = [t for t in (features, targets) if t.requires_grad]
    grads: tuple[Tensor, ...] = ()
    if wanted:
        scale = 1 / max(1.0, float(targets.detach().abs().max()))
        grads = torch.autograd.grad(
            (logits.double() * direction * scale).sum(), wanted, allow_unused=True, materialize_grads=True
        )
        if not all(g.isfinite().all() for g in grads):
            return ["nan_gradients"], ""
    copies = [t.detach().double().requires_grad_(t.requires_grad) for t in (features, targets)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            of_sets = [reference(case, *copies, one) for one in sets]
    except ValueError as error:
        return ["no_reference"], str(error)
    expected = torch.stack(of_sets).reshape(logits.shape) if logits.dim() == 3 else of_sets[0]
    # A row far from those of the fit has logits that are as far.
    size = expected.detach().abs().amax(-1, keepdim=True).clamp_min(max(1e-15, float(targets.detach().abs().max())))
    difference = float(((logits.detach().double() - expected.detach()).abs() / size * judged).max())
    detail = f"logits differ by {difference:.1e}"
    if difference > TOLERANCE:
        return ["told" if is_told else "wrong_logits"], detail
    if wanted:
        inputs = [t for t in copies if t.requires_grad]
        loss = (expected * direction * scale).sum() + 0.0 * copies[0][0, 0]
        exact = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        for tensor, grad, right in zip(wanted, grads, exact, strict=True):
            if tensor.dtype in (torch.float16, torch.bfloat16):
                continue  # the gradients of the fit and of the logits are rounded before they are added
            # A gradient is judged by what the logits would change, in units of the rows' own distance to the others.
            unit = tensor.detach().double().abs().amax()
            if tensor is features:
                rows = tensor.detach().double()
                unit = (
                    (rows - rows[(sets > 0).any(0)].median(0).values * case.fit_intercept).abs().amax(1, keepdim=True)
                )
            error = float(((grad.double() - right).abs() * unit).max())
            allowed = (TOLERANCE if case.l2 > 1e-9 else 10 * TOLERANCE) * max(float((right.abs() * unit).max()), 1.0)
            if error > allowed:
                detail = f"gradient of {tuple(tensor.shape)} differs by {error:.1e}, allowed {allowed:.1e}"
                found.append("told" if is_told else "wrong_gradients")
                break
    return found or ["right"], detail


def main(argv: list[str] | None = None) -> int:
    """Run the fits and print the counts; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--count", type=int, help="fits, drawn from all 12,480; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="a line for each fault")
    args = parser.parse_args(argv)
    cases = all_cases()
    chosen = (
        range(len(cases)) if args.count is None else random.Random(args.seed).sample(range(len(cases)), args.count)
    )
    counts: Counter[str] = Counter()
    for index in chosen:
        outcomes, detail = run(cases[index], random.Random(f"{args.seed}-{index}"))
        counts.update(outcomes)
        if args.verbose and set(outcomes) & {*FAULTS, "told", "no_reference"}:
            print(index, *outcomes, cases[index], detail, flush=True)
    faults = {name: counts[name] for name in FAULTS}
    others = {name: counts[name] for name in ("right", "refused", "told", "no_reference")}
    print(
        ", ".join(
            f"{name.replace('_', ' ')} {count:,}" for name, count in {"fits": len(chosen), **others, **faults}.items()
        )
    )
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main())
