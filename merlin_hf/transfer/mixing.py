"""
Train on two halves of the target and on the source from the same weights, and mix what each has learned.

Weights that were trained from one start can be added (task arithmetic, Ilharco et al. 2023, arXiv 2212.04089) and
averaged (Wortsman et al. 2022, arXiv 2203.05482 and 2109.01903):

    phi(alpha, beta) = phi_0 + alpha (phi_source - phi_0) + beta ((phi_1 + phi_2) / 2 - phi_0)

Rows of one half of the target have had no part in the weights that were trained on the other, so they tell how much of
each is good for rows that no weights have seen.

Averages of BatchNorm's running statistics fit no mix. They are estimated again for each mix, on rows of the target, as
in stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from .distributed import assign_parameter, gather_parameter, is_distributed, reshard
from .labels import REGRESSION, SINGLE_LABEL, label_values, row_losses
from .layers import batch_norms
from .model import evaluating
from .refit import fit_targets
from .seeding import derived_generator, isolated_rng
from .source import Rows, SeededBatches, is_iterable
from .splits import fold_by_class
from .tokens import Sentences, sentences_of


SHARES = (0.0, 0.5, 1.0)  # of alpha and of beta
MIDDLE = (0.5, 0.5)
L2 = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the final head; the choice of the weights looks at COARSE_L2
COARSE_L2 = (0.03, 0.3, 3.0)
PARTS = 5  # of the rows that a half has not been trained on; the head is fit on all others
MAX_ROWS = 256  # that choose
MAX_FLOAT32 = 2**20  # classes times rows squared, above which small regularisers need float64
MEMORISED_L2 = 0.3  # of a head on features that have been trained on its rows
START, FIRST_HALF, SECOND_HALF, SOURCE = "start", "first half", "second half", "source"
HALVES = (FIRST_HALF, SECOND_HALF)
MIX = "mix"  # in the state of a run whose phases are over


class Mix(NamedTuple):
    """
    A choice of weights: alpha, beta and the regulariser of the final head.

    `loss` is the mean loss of rows that neither the backbone nor the head was trained on.
    """

    source: float
    target: float
    l2: float
    loss: float


def halves_of(labels: Tensor, seed: int) -> Tensor:
    """
    Return the half, 0 or 1, that each row belongs to, `(n,)`: every class is shared out evenly, the rest at random.

    `labels` `(n,)` are class ids, or the same number for all rows without classes.
    """
    generator = derived_generator("halves", seed)
    order = torch.randperm(len(labels), generator=generator)
    by_class = order[torch.argsort(labels[order], stable=True)]
    halves = torch.empty(len(labels), dtype=torch.long)
    halves[by_class] = torch.arange(len(labels)) % 2
    return halves


class HalfBatches:
    """
    Batches of `rows`, one half of the target, a function of their number: no row twice in a batch.

    A batch has `batch_size` rows a rank, or fewer where the half has. Each pass is shuffled by a generator of its own.
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
        own = order.tensor_split(self.world_size)[self.rank]
        return self.batches[number, [self.rows[index] for index in own]]


class Branches:
    """
    The weights that a run of a trainer started from, those that each of its phases has led to, and their mix.

    They are kept on the CPU, whole where the model is sharded, and are part of checkpoints.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.reset()

    def reset(self) -> None:
        """Forget all of an earlier run, the rows of a stream included."""
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.mix: Mix | None = None
        self._halves: Tensor | None = None
        self._rows: Rows = None

    @property
    def l2(self) -> float:
        """The regulariser of the final head; before the mix that for features that know the rows."""
        return MEMORISED_L2 if self.mix is None else self.mix.l2

    # The phases

    def start(self) -> None:
        """Keep the weights of now as those that all phases start from; forget those of an earlier run."""
        self.reset()
        self.keep(START)

    @torch.no_grad()
    def keep(self, name: str) -> None:
        """Keep the weights of now under a name; a collective where they are sharded."""
        self.weights[name] = {key: gather_parameter(value).cpu().clone() for key, value in self._tensors()}
        reshard(self.trainer.transfer_model)

    @torch.no_grad()
    def write(self, weights: Mapping[str, Tensor]) -> None:
        """Write weights into the model; a collective where it is sharded."""
        reshard(self.trainer.transfer_model)
        for key, value in self._tensors():
            if key in weights:
                assign_parameter(value, weights[key])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Return all that training changes but the target's head: parameters, and buffers such as BatchNorm's."""
        model = self.trainer.transfer_model
        head = {id(value) for value in model.head.parameters()}
        for key, value in model.named_parameters():
            if value.requires_grad and id(value) not in head:
                yield key, value
        for name, layer in batch_norms(model).items():
            yield from layer.named_buffers(name, recurse=False)

    def batches(self, half: str, count: int) -> list[Any]:
        """Return the next batches of a half of the target, a function of the step."""
        trainer = self.trainer
        ends = [0, *trainer.phase_ends]
        updates = trainer.state.global_step - ends[[phase.name for phase in trainer.phases].index(half)]
        first = updates * trainer.args.gradient_accumulation_steps
        args = trainer.args
        dataset, collate_fn = trainer._with_collator(self.rows, None, "training")
        batches = HalfBatches(
            dataset,
            collate_fn=collate_fn,
            rows=torch.nonzero(self.halves == HALVES.index(half)).squeeze(-1).tolist(),
            batch_size=trainer._train_batch_size,
            seed=args.seed,
            rank=args.process_index,
            world_size=args.world_size,
        )
        return [batches[number] for number in range(first, first + count)]

    @property
    def rows(self) -> Rows:
        """All rows of the target by number; those of a stream are read once, and kept."""
        dataset = self.trainer.train_dataset
        if not is_iterable(dataset):
            return dataset
        if self._rows is None:
            self._rows = list(dataset)
        return self._rows

    @property
    def halves(self) -> Tensor:
        """The half, 0 or 1, that each row of the target belongs to, of shape `(n,)`."""
        if self._halves is None:
            rows = self.rows
            labels = None if self.trainer.classifies_tokens else label_values(rows)
            if labels is None and isinstance(rows, list) and isinstance(rows[0], Mapping):
                labels = np.asarray([row.get("labels", row.get("label")) for row in rows])
            self._halves = halves_of(class_ids(labels, len(rows)), self.trainer.args.seed)
        return self._halves

    # The mix

    @torch.no_grad()
    def mix_weights(self) -> None:
        """Write the mix of weights with the least loss on target rows that its weights were not trained on."""
        trainer = self.trainer
        limit = MAX_ROWS // (8 if trainer.classifies_tokens else 1)
        chosen = rows_that_choose(self.halves, trainer.args.seed, limit)
        rows, halves = chosen.tolist(), self.halves[chosen]
        with isolated_rng("mix", trainer.args.seed), evaluating(trainer.transfer_model):
            found = {
                shares: self._losses_of(*shares, rows, halves, COARSE_L2)
                for shares in itertools.product(self._shares(SOURCE), self._shares(*HALVES))
            }
            shares = choose_shares(found)
            losses = self._losses_of(*shares, rows, halves, L2).mean(1)
        place = int(losses.argmin())
        mix = Mix(*shares, L2[place], float(losses[place]))
        if is_distributed():  # the same on all ranks, whatever the rounding
            of_first_rank = [tuple(mix)]
            broadcast_object_list(of_first_rank)
            mix = Mix(*of_first_rank[0])
        self.mix = mix
        with evaluating(trainer.transfer_model):
            self._write_mix(mix.source, dict.fromkeys(HALVES, mix.target / 2) if mix.target else {}, rows)
        self.weights = {}  # a finished run needs them no more
        trainer.log({"mix_source": mix.source, "mix_target": mix.target, "mix_loss": mix.loss})

    def _shares(self, *names: str) -> tuple[float, ...]:
        return SHARES if all(name in self.weights for name in names) else SHARES[:1]

    def _losses_of(
        self, source: float, target: float, rows: list[int], halves: Tensor, regularisers: tuple[float, ...]
    ) -> Tensor:
        """
        Return the loss of each row for each regulariser, `(len(regularisers), n)`, always in the same order.

        The weights trained on one half are judged by rows of the other half, by heads that are fit on all rows but a
        fifth of that half.
        """
        losses: list[Tensor] = []
        features = None
        for half, name in enumerate(HALVES):
            if target or features is None:
                self._write_mix(source, {name: target} if target else {}, rows)
                features = self._features(rows)
            losses.append(self._held_out_losses(*features, halves != half, regularisers))
        return torch.cat(losses, dim=1)

    def mixed(self, source: float, targets: Mapping[str, float]) -> dict[str, Tensor]:
        """Return phi(alpha, beta) above; `targets` has what the changes on each half are multiplied by."""
        factors = {name: factor for name, factor in {SOURCE: source, **targets}.items() if factor}
        mixed = {}
        for key, start in self.weights[START].items():
            if key.startswith("model."):
                changes = [f * (self.weights[name][key].double() - start.double()) for name, f in factors.items()]
                mixed[key] = (start.double() + sum(changes)).to(start.dtype)
        return mixed

    def _write_mix(self, source: float, targets: Mapping[str, float], rows: list[int]) -> None:
        """Write phi(alpha, beta), see [`Branches.mixed`], with BatchNorm's statistics of these rows of the target."""
        self.write(self.mixed(source, targets))
        if source or targets:
            self._estimate_statistics(rows)

    def _estimate_statistics(self, rows: list[int]) -> None:
        """Estimate the running statistics that training has moved again, on rows of the target."""
        trainer = self.trainer
        layers = [layer for name, layer in batch_norms(trainer.transfer_model).items() if self._has_moved(name)]
        if not layers or len(rows) < 2:
            return
        momenta = [layer.momentum for layer in layers]
        for layer in layers:  # in training mode, while dropout and the rest are in evaluation mode
            layer.train().reset_running_stats()
            layer.momentum = None  # the mean over batches
        order = torch.randperm(len(rows), generator=derived_generator("statistics", trainer.args.seed))
        for part in order.tensor_split(max(1, len(rows) // max(2, trainer._train_batch_size))):
            for _ in self._outputs([rows[index] for index in part.tolist()], len(part)):
                pass
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.eval().momentum = momentum

    def _has_moved(self, name: str) -> bool:
        """Return whether a phase has changed the running statistics of a BatchNorm layer."""
        key = f"{name}.running_mean"
        start = self.weights[START].get(key)
        return start is not None and any(not torch.equal(kept[key], start) for kept in self.weights.values())

    def _outputs(self, rows: list[int], batch_size: int) -> Iterator[tuple[Tensor, Tensor, Sentences | None]]:
        """Yield features, labels and the sentences of tokens for each batch of rows of the target."""
        trainer = self.trainer
        dataset, collate_fn = trainer._with_collator(self.rows, None, "training")
        model = trainer.model_wrapped if trainer.is_fsdp_enabled else trainer.transfer_model
        for start in range(0, len(rows), batch_size):
            batch = collate_fn([dataset[index] for index in rows[start : start + batch_size]])
            inputs, labels = trainer.split_batch(trainer._prepare_inputs(batch))
            sentences = sentences_of(inputs)
            features = model(target_inputs=inputs, with_target_logits=False).target_features
            yield features, labels, sentences

    def _features(self, rows: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Return what heads are fit on and judged by, the same on all ranks.

        Features `(n, hidden_size)`, targets `(n, num_labels)`, sample weights `(n,)` and the places of their rows in
        `rows`, `(n,)`, which are several times the same where features are of tokens.
        """
        trainer = self.trainer
        batch_size = trainer.args.eval_batch_size
        found = []
        for number, (features, labels, sentences) in enumerate(self._outputs(rows, batch_size)):
            places = torch.arange(len(labels)) if sentences is None else sentences.ids.cpu()
            if trainer.target_problem_type is None:
                trainer.target_problem_type = trainer.problem_type(labels)
            solver = trainer.final_solver(trainer.target_problem_type)
            found.append((features.float(), *fit_targets(trainer, labels, solver), number * batch_size + places))
        features, targets, weight, places = (torch.cat(parts) for parts in zip(*found, strict=True))
        return features, targets, weight, places

    def _held_out_losses(
        self,
        features: Tensor,
        targets: Tensor,
        weight: Tensor,
        places: Tensor,
        judged: Tensor,
        regularisers: tuple[float, ...],
    ) -> Tensor:
        """Return the loss of each judged row for each regulariser; a fifth of them is judged at a time."""
        trainer = self.trainer
        problem_type = trainer.target_problem_type
        options: dict[str, Any] = {}
        if problem_type != REGRESSION and targets.shape[-1] * len(targets) ** 2 <= MAX_FLOAT32:
            options = {"dtype": torch.float32, "tolerance": 1e-3}  # a third of the time, and the loss to three digits
        solver = trainer.final_solver(problem_type, **options)
        classes = torch.zeros(len(judged), dtype=torch.long)
        if problem_type == SINGLE_LABEL and not trainer.classifies_tokens:
            classes, judged = targets.argmax(-1).cpu(), judged & (weight > 0).cpu()
        parts = self.parts(classes, judged)[:, places].to(weight.device) & (weight > 0)
        fit_on = (weight * ~parts).to(features)
        losses = []
        for l2 in regularisers:
            logits = solver.fit(features, targets.to(features), l2, fit_on)(features)
            losses.append((row_losses(logits, targets, problem_type) * parts).sum(0)[parts.any(0)])
        return torch.stack(losses).double().cpu()

    def parts(self, classes: Tensor, judged: Tensor) -> Tensor:
        """Return the rows that are judged together, `(PARTS, n)`, with every class shared out evenly."""
        generator = derived_generator("parts", self.trainer.args.seed)
        return fold_by_class(torch.where(judged, classes, -100), PARTS, generator).validation

    # Checkpoints

    def state(self) -> dict[str, Tensor]:
        """Return all weights that are kept, for a checkpoint; after the mix none, but that there is one."""
        state = {f"{name}|{key}": value for name, kept in self.weights.items() for key, value in kept.items()}
        return state if self.mix is None else {**state, MIX: torch.tensor(self.mix, dtype=torch.float64)}

    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """Restore what [`Branches.state`] returned; other tensors are ignored."""
        self.reset()
        for key, value in saved.items():
            name, found, weight = key.partition("|")
            if found:
                self.weights.setdefault(name, {})[weight] = value


def choose_shares(losses: Mapping[tuple[float, float], Tensor]) -> tuple[float, float]:
    """
    Return alpha and beta: one half each, unless others are better by more than a standard error.

    A few rows choose, so that the least loss is often a matter of chance. `losses` are `(num_regularisers, n)`, of the
    same rows, for each alpha and beta.
    """
    of_best = {shares: rows[rows.mean(1).argmin()] for shares, rows in losses.items()}
    best = min(of_best, key=lambda shares: float(of_best[shares].mean()))
    if MIDDLE not in of_best:
        return best
    lead = of_best[MIDDLE] - of_best[best]
    return best if float(lead.mean()) > float(lead.std()) / len(lead) ** 0.5 else MIDDLE


def rows_that_choose(halves: Tensor, seed: int, number: int = MAX_ROWS) -> Tensor:
    """Return the numbers of at most `number` rows, half of them of each half, in their order."""
    generator = derived_generator("rows that choose", seed)
    chosen = []
    for half in (0, 1):
        rows = torch.nonzero(halves == half).squeeze(-1)
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[: number // 2]])
    return torch.cat(chosen).sort().values


def class_ids(labels: np.ndarray | None, rows: int) -> Tensor:
    """Return the class of each row, or 0 where there is not one class per row."""
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iub":
        return torch.zeros(rows, dtype=torch.long)
    return torch.from_numpy(labels.astype(np.int64))
