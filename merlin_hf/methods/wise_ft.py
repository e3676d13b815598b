"""Weights between those before and after fine-tuning."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import datasets
import torch
from torch import Tensor
from torch.utils.data import Subset

from ..transfer.checks import check_head_can_be_written
from ..transfer.distributed import sum_over_ranks
from ..transfer.labels import label_values, split_labels
from ..transfer.mixing import class_ids
from ..transfer.model import evaluating
from ..transfer.refit import rank_batches
from ..transfer.regularizer import Regularizer
from ..transfer.seeding import derived_generator
from ..transfer.splits import split_by_class
from ..utils.validation import Share, Words, interval
from .linear_probe import default_probe_head
from .regularized import RegularizedTrainer, count_labelled
from .sequential import SequentialTrainingArguments


AUTO = "auto"
MIXES = tuple(place / 10 for place in range(11))

logger = logging.getLogger(__name__)


@dataclass
class WiseFTTrainingArguments(SequentialTrainingArguments):
    """
    [`~merlin_hf.methods.sequential.SequentialTrainingArguments`] for [`WiseFTTrainer`].

    Args:
        mix (`str`): alpha of the paper: 0 for the weights before fine-tuning, 1 for those after; `"auto"` chooses it
            by the loss on rows of `train_dataset` that are held out of training.
        mix_fraction (`float`): share of the rows that `mix="auto"` holds out, in (0, 1).
    """

    mix: Annotated[str, Words((AUTO,)), interval("[0, 1]")] = field(
        default=AUTO, metadata={"help": "From 0 (before fine-tuning) to 1 (after), or 'auto' (by held-out rows)."}
    )
    mix_fraction: Share = field(default=0.2, metadata={"help": "Share of the rows that mix='auto' holds out."})


class WeightsAtStart(Regularizer):
    """The weights that fine-tuning starts from, kept in checkpoints; it adds nothing to the loss."""

    stores_model_copy: ClassVar[bool] = True
    supports_sharding: ClassVar[bool] = False

    def start(self, trainer):
        """Keep the classifier's weights as they are now."""
        state = trainer.build_transfer_model().model.state_dict()
        self.kept = {name: tensor.detach().clone() for name, tensor in state.items()}

    def forward(self, transfer_model, inputs, labels, output):
        """Return no penalty."""
        return None


class WiseFTTrainer(RegularizedTrainer):
    """
    WiSE-FT: averages the weights before and after fine-tuning.

        phi, theta_t = (1 - mix) * (phi_0, theta_0) + mix * (phi_1, theta_1)

    (phi_0, theta_0) is the start of fine-tuning on the target, and (phi_1, theta_1) its end. With a `source_dataset`
    training on the source comes first, as in [`~merlin_hf.methods.SequentialTrainer`], and phi_0 is its result.
    Without one phi_0 is the pretrained backbone. theta_0 is the source's head where labels have the same names.
    Otherwise it is fitted to the target's rows on phi_0, as in LP-FT.

    Rows that are not trained on choose the mix. `merlin-hf compare` searches it as an option, on its validation rows.
    Elsewhere `mix="auto"` holds out a fifth of the target's training rows, evenly by class. It takes the mix, in
    steps of 0.1, with the least loss on them. Weights are mixed after the last step, before the model is evaluated or
    saved. The method is by Wortsman et al. 2022 (arXiv 2109.01903).

    A step costs one batch of the target, and memory for a second copy of the weights. Checkpoints hold that copy too.
    """

    training_args_class: ClassVar = WiseFTTrainingArguments
    regularizer_class: ClassVar = WeightsAtStart  # type: ignore[assignment]  # has no options of its method
    search_space: ClassVar = {"mix": (AUTO, 0.25, 0.5, 0.75)}
    held_out: Any = None  # the rows that choose the mix
    chosen_mix: float | None = None
    _is_mixed: bool = True

    def build_regularizer(self, transfer_model):
        """Return what keeps the weights at the start."""
        return WeightsAtStart(weight=0.0)

    def start_phase(self, phase):
        """Start a phase; fine-tuning starts from the source's head, or from one that fits the target's rows."""
        if self.source_head_places() is None:
            self._head_needs_refit = True
            super().refit_head_if_stale()
            self.head_metrics = {}  # of the fitted head, which is trained from here on
        super().start_phase(phase)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Make a training step, after which the weights are those after fine-tuning."""
        self._is_mixed = False
        return super().training_step(model, inputs, num_items_in_batch)

    def solver_name(self, problem_type):
        """Return the solver of the head that fine-tuning starts from."""
        return default_probe_head(problem_type)

    def train(self, *args, **kwargs):
        """Train as SequentialTrainer does, and mix the weights."""
        self._is_mixed = True
        with self.holding_out():
            output = super().train(*args, **kwargs)
            self.mix_weights()  # also where it was stopped before the last step
        return output

    def refit_head_if_stale(self):
        """Mix the weights before the model is evaluated or saved, once the last step is made."""
        super().refit_head_if_stale()
        if self.state.global_step >= self.state.max_steps:
            self.mix_weights()

    @contextlib.contextmanager
    def holding_out(self) -> Iterator[None]:
        """Train on the rows that do not choose the mix, within a block."""
        given = self.train_dataset
        if self.args.mix == AUTO:
            self.train_dataset, self.held_out = self.divide(given)
        try:
            yield
        finally:
            self.train_dataset = given

    def divide(self, dataset: Any) -> tuple[Any, Any]:
        """
        Return the rows to train on, and those that are held out, of each class alike; the same for the same seed.

        Raises:
            ValueError: the data set does not tell how many rows it has, or has no class with two rows.
        """
        if not hasattr(dataset, "__len__"):
            raise ValueError("`mix='auto'` holds rows of `train_dataset` out, which does not tell how many it has.")
        ids = class_ids(None if self.classifies_tokens else label_values(dataset), len(dataset))
        generator = derived_generator("mix", self.args.seed)
        held = split_by_class(ids, self.args.mix_fraction, 1, generator).validation[0]
        if not held.any():
            raise ValueError("`mix='auto'` needs a class with two rows, one to hold out: give `mix` as a number.")
        parts = [torch.nonzero(rows).flatten().tolist() for rows in (~held, held)]
        select = dataset.select if isinstance(dataset, datasets.Dataset) else lambda rows: Subset(dataset, rows)
        return select(parts[0]), select(parts[1])

    @torch.no_grad()
    def mix_weights(self) -> None:
        """Put the weights between those before and after fine-tuning into the model; a collective."""
        before: dict[str, Tensor] = {} if self.transfer_model is None else self.regularizer.kept
        if self._is_mixed or not before:
            return
        self._is_mixed = True
        model = self.build_transfer_model().model
        after = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if self.args.mix != AUTO:
            chosen = float(self.args.mix)
        else:
            losses = []
            for mix in MIXES:
                set_between(model, before, after, mix)
                losses.append(self.held_out_loss())
            chosen = MIXES[min(range(len(MIXES)), key=losses.__getitem__)]
            logger.info(f"Mix of the weights before and after fine-tuning: {chosen}, by the loss on held-out rows.")
        set_between(model, before, after, chosen)
        self.chosen_mix = chosen

    def held_out_loss(self) -> float:
        """Return the mean loss of the model as it is on the rows that were held out, over all ranks."""
        model, total = self.build_transfer_model().model, torch.zeros(2, device=self.args.device)
        with evaluating(model), torch.no_grad():
            for batch, is_own in rank_batches(self, self.held_out):
                inputs, labels = split_labels(self._prepare_inputs(batch))
                outputs = model(**inputs)
                logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
                rows = int(count_labelled(labels))
                if is_own and rows:
                    total += torch.tensor([float(self.target_loss(logits, labels)) * rows, rows]).to(total)
        loss, rows = sum_over_ranks(total).tolist()
        return loss / max(rows, 1)

    def check_data(self):
        """Check the data as RegularizedTrainer does, and that the mix can be written, and stays."""
        super().check_data()
        check_head_can_be_written(self)
        if self.args.load_best_model_at_end:
            raise ValueError(
                f"{type(self).__name__} mixes the weights after the last step, and `load_best_model_at_end=True` "
                "would put those of another step in their place. Leave it out."
            )


def set_between(model: torch.nn.Module, before: dict[str, Tensor], after: dict[str, Tensor], mix: float) -> None:
    """Give a model the weights `(1 - mix) * before + mix * after`."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.equal(before[name], after[name]):
            tensor.copy_(torch.lerp(before[name], after[name], mix))
