"""
Train on two halves of the target and on the source from the same weights, and mix what each has learned.

Weights that were trained from one start can be added (task arithmetic, Ilharco et al. 2023, arXiv 2212.04089) and
averaged (Wortsman et al. 2022, arXiv 2203.05482 and 2109.01903):

    phi(alpha, beta) = phi_0 + alpha (phi_source - phi_0) + beta ((phi_1 + phi_2) / 2 - phi_0)

Rows of one half of the target have had no part in the weights that were trained on the other, so they tell how much of
each is good for rows that no weights have seen.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ..heads import HeadSolver
from .distributed import assign_parameter, gather_parameter, is_distributed, reshard
from .seeding import derived_generator
from .source import Rows, SeededBatches
from .splits import fold_by_class


SHARES = (0.0, 0.5, 1.0)  # of alpha and of beta
L2 = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the final head
PARTS = 5  # of the rows that a half has not been trained on; the head is fit on all others
MAX_ROWS = 256  # that choose
START, FIRST_HALF, SECOND_HALF, SOURCE = "start", "first half", "second half", "source"
HALVES = (FIRST_HALF, SECOND_HALF)

Features = Callable[[], tuple[Tensor, Tensor, Tensor]]


class Mix(NamedTuple):
    """
    A choice of weights.

    Attributes:
        source (`float`): alpha.
        target (`float`): beta.
        l2 (`float`): the regulariser of the final head.
        loss (`float`): the mean loss of rows that neither the backbone nor the head was trained on.
    """

    source: float
    target: float
    l2: float
    loss: float


def halves_of(labels: Tensor, seed: int) -> Tensor:
    """
    Return the half, 0 or 1, that each row belongs to: every class is shared out evenly, the rest at random.

    Args:
        labels (`torch.LongTensor` of shape `(n,)`): class ids; the same number for all rows without classes.
        seed (`int`): of the draw.
    """
    generator = derived_generator("halves", seed)
    order = torch.randperm(len(labels), generator=generator)
    by_class = order[torch.argsort(labels[order], stable=True)]
    halves = torch.empty(len(labels), dtype=torch.long)
    halves[by_class] = torch.arange(len(labels)) % 2
    return halves


class HalfBatches:
    """
    Batches of one half of the target, a function of their number: no row twice in a batch.

    Args:
        dataset (`Rows`): all rows of the target.
        rows (`list[int]`): those of the half.
        collate_fn (`Callable`): makes a batch of a list of rows.
        batch_size (`int`): rows per batch and rank; less where the half has fewer.
        seed (`int`): each pass over the half is shuffled by a generator derived from it.
        rank, world_size (`int`): which of how many processes this is.
    """

    def __init__(
        self,
        dataset: Rows,
        rows: list[int],
        collate_fn: Callable[[list], Any],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.batches = SeededBatches(dataset, collate_fn, seed, rank)
        self.rows, self.seed, self.rank, self.world_size = rows, seed, rank, world_size
        self.size = min(batch_size * world_size, len(rows))

    def __getitem__(self, number: int) -> Any:
        """Return the batch of that number of this rank."""
        passes, place = divmod(number, len(self.rows) // self.size)
        generator = derived_generator("half", self.seed, passes)
        order = torch.randperm(len(self.rows), generator=generator)[place * self.size : (place + 1) * self.size]
        return self.batches[number, [self.rows[index] for index in order[self.rank :: self.world_size]]]


class Branches:
    """
    The weights that a run started from, and those at the end of each of its phases, on the CPU.

    Args:
        model (`torch.nn.Module`): a [`~merlin_hf.transfer.model.TransferModel`].
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.weights: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def keep(self, name: str) -> None:
        """Keep the weights of now under the name of a phase; a collective where they are sharded."""
        self.weights[name] = {key: gather_parameter(value).cpu().clone() for key, value in self._tensors()}
        reshard(self.model)

    @torch.no_grad()
    def write(self, weights: Mapping[str, Tensor]) -> None:
        """Write weights into the model; a collective where it is sharded."""
        reshard(self.model)
        for key, value in self._tensors():
            if key in weights:
                assign_parameter(value, weights[key])

    def mixed(self, source: float, targets: Mapping[str, float]) -> dict[str, Tensor]:
        """
        Return the weights of the classifier without its head.

        Args:
            source (`float`): the factor of what the source's phase has changed.
            targets (`Mapping[str, float]`): the factors of what the phases of the halves have changed.
        """
        factors = {SOURCE: source, **targets}
        start = self.weights[START]
        mixed = {}
        for key, first in start.items():
            if not key.startswith("model."):
                continue
            value = first.double() if first.is_floating_point() else first
            for name, factor in factors.items():
                if factor and first.is_floating_point():
                    value = value + factor * (self.weights[name][key].double() - first.double())
            if key.endswith("running_var"):  # which a sum of changes could make negative
                smallest = [self.weights[name][key].double() for name in (START, *factors) if name in self.weights]
                value = value.clamp(min=torch.stack(smallest).amin(0))
            mixed[key] = value.to(first.dtype)
        return mixed

    def state(self) -> dict[str, Tensor]:
        """Return all tensors, for a checkpoint."""
        return {f"{name}|{key}": value for name, kept in self.weights.items() for key, value in kept.items()}

    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """Restore what [`Branches.state`] returned; other tensors are ignored."""
        self.weights = {}
        for key, value in saved.items():
            name, found, weight = key.partition("|")
            if found:
                self.weights.setdefault(name, {})[weight] = value

    def _tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Return all that training changes but the target's head: parameters, and buffers such as BatchNorm's."""
        head = {id(value) for value in self.model.head.parameters()}
        for key, value in self.model.named_parameters():
            if value.requires_grad and id(value) not in head:
                yield key, value
        persistent = self.model.state_dict(keep_vars=True)
        yield from ((key, value) for key, value in self.model.named_buffers() if key in persistent)


@torch.no_grad()
def choose_mix(branches: Branches, halves: Tensor, features: Features, solver: HeadSolver, is_scored_by: Any) -> Mix:
    """
    Return the mix with the least loss on target rows that neither its weights nor its head were trained on.

    For each half, the weights trained on it are mixed with the source's, and rows of the other half are judged by heads
    that are fit on all rows but a fifth of that half.

    Args:
        branches ([`Branches`]): with the phases that there were.
        halves (`torch.LongTensor` of shape `(n,)`): the half of each row, as in training.
        features (`Callable`): computes features `(n, hidden_size)`, targets `(n, num_labels)` and sample weights
            `(n,)` of these rows with the model's current weights.
        solver ([`~merlin_hf.heads.HeadSolver`]): fits the heads.
        is_scored_by (`Callable`): maps logits `(num_heads, n, num_labels)` and targets to losses `(num_heads, n)`.
    """
    has_halves = all(name in branches.weights for name in HALVES)
    sources = SHARES if SOURCE in branches.weights else SHARES[:1]
    best: Mix | None = None
    cache: dict[tuple[float, float, str], tuple[Tensor, Tensor, Tensor]] = {}
    for source, target in itertools.product(sources, SHARES if has_halves else SHARES[:1]):
        total = torch.zeros(len(L2), dtype=torch.float64)
        counted = 0.0
        for number, name in enumerate(HALVES):
            key = (source, target, name if target else "")
            if key not in cache:
                branches.write(branches.mixed(source, {name: target} if target else {}))
                cache[key] = features()
            rows, targets, weight = cache[key]
            losses, count = held_out_losses(rows, targets, weight, halves != number, solver, is_scored_by)
            total, counted = total + losses, counted + count
        losses = total / max(counted, 1.0)
        place = int(losses.argmin())
        if best is None or losses[place] < best.loss:
            best = Mix(source, target, L2[place], float(losses[place]))
        if not target:
            cache.clear()
    assert best is not None
    if is_distributed():  # the same on all ranks, whatever the rounding
        chosen = [tuple(best)]
        broadcast_object_list(chosen)
        best = Mix(*chosen[0])
    return best


def held_out_losses(
    features: Tensor, targets: Tensor, weight: Tensor, judged: Tensor, solver: HeadSolver, is_scored_by: Any
) -> tuple[Tensor, float]:
    """
    Return the sum of the losses of some rows for each of `L2`, of shape `(len(L2),)`, and the number of the rows.

    Args:
        features, targets, weight: of all rows, see [`choose_mix`].
        judged (`torch.BoolTensor` of shape `(n,)`): the rows; a part of them at a time is judged by a head that is fit
            on all others.
    """
    classes = targets.argmax(-1) if targets.shape[-1] > 1 else torch.zeros(len(targets), dtype=torch.long)
    classes = torch.where(judged.to(classes.device) & (weight > 0), classes, -100)
    folds = fold_by_class(classes, PARTS, derived_generator("parts", 0)).validation
    fit_on = (weight * ~folds).to(features)
    losses = []
    for l2 in L2:
        head = solver.fit(features, targets, l2, fit_on)
        losses.append((is_scored_by(head(features), targets).double() * folds).sum())
    return torch.stack(losses).cpu(), float(folds.sum())


def rows_that_choose(halves: Tensor, seed: int) -> Tensor:
    """Return the numbers of at most `MAX_ROWS` rows, half of them of each half, in their order."""
    generator = derived_generator("rows that choose", seed)
    chosen = []
    for half in (0, 1):
        rows = torch.nonzero(halves == half).squeeze(-1)
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[: MAX_ROWS // 2]])
    return torch.cat(chosen).sort().values


def class_ids(labels: np.ndarray | None, rows: int) -> Tensor:
    """Return the class of each row, or 0 where there is not one class per row."""
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iub":
        return torch.zeros(rows, dtype=torch.long)
    return torch.from_numpy(labels.astype(np.int64))
