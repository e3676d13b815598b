"""The frozen lower layers of a text model, which need to see each text once and not in every step of every run."""

import contextlib
import copy
from typing import Any, ClassVar

import datasets
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..transfer.model import find_head
from ..transfer.seeding import isolated_rng
from .encoding import TextEncoder, computed_when_read
from .tasks import Rows
from .values import ConfigError, first_sentence


BATCH = 64  # texts that go through the lower layers at a time
TOLERANCE = 1e-3


class GivenStates(nn.Module):
    """In place of the embeddings: what the layers above the frozen ones are given."""

    def forward(self, input_ids=None, inputs_embeds=None, *args, **kwargs) -> Tensor:
        """`inputs_embeds` as they are."""
        return inputs_embeds


def layer_stack(model: PreTrainedModel) -> nn.ModuleList:
    """The longest list of modules of the base model: its layers; an empty one if it has none."""
    stacks = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    return max(stacks, key=len, default=nn.ModuleList())


def cut_lower_layers(model: PreTrainedModel, layers: int, first_token_alone: bool = False) -> PreTrainedModel:
    """
    Take the embeddings and the lower layers away: the model then takes hidden states, as `inputs_embeds`.

    Args:
        model (`PreTrainedModel`): the whole classifier, which is changed.
        layers (`int`): how many layers go.
        first_token_alone (`bool`): what follows the attention of the last layer is computed for the first token alone, as no
            other is read ([`reads_first_token_alone`]).

    Raises:
        ConfigError: the model has no `embeddings` and list of layers; or nothing that follows the attention of its last layer.
    """
    stack = layer_stack(model)
    if not hasattr(model.base_model, "embeddings") or len(stack) < layers:
        raise ConfigError(
            f"`cache_frozen_layers` needs a model with embeddings and a list of layers, as BERT has; {type(model).__name__} "
            "has not. Leave it out."
        )
    model.base_model.embeddings = GivenStates()
    del stack[:layers]
    if first_token_alone:
        after_attention = getattr(getattr(stack[-1], "attention", None), "output", None) if len(stack) else None
        if not isinstance(after_attention, nn.Module):
            raise ConfigError(f"The last layer of {type(model).__name__} has no `attention.output`, as BERT's has.")
        after_attention.register_forward_pre_hook(_first_token)
    model.main_input_name = "inputs_embeds"
    return model


def _first_token(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Forward pre-hook: of states `(n, length, hidden_size)` those of the first token."""
    return tuple(states[:, :1] for states in args)


class LowerLayers:
    """
    The hidden states that the frozen layers make of texts, each computed once.

    Dropout is off in them, other than in a frozen layer of a model in training.

    Args:
        model (`PreTrainedModel`): the whole classifier.
        layers (`int`): how many of its layers are frozen, beside the embeddings.
        collator (`Callable`): makes a padded batch of tokenized texts.
        dtype (`torch.dtype`, *optional*): of autocast; states are then kept in float16, else in float32.
    """

    def __init__(self, model: PreTrainedModel, layers: int, collator: Any, dtype: torch.dtype | None = None):
        self.model, self.layers, self.collator, self.dtype = model.eval(), layers, collator, dtype
        self.states: dict[int, Tensor] = {}

    def __call__(self, rows: list[dict[str, list[int]]], keys: list[int]) -> list[Tensor]:
        """
        Hidden states `(length, hidden_size)` of each tokenized text.

        Args:
            rows (`list[dict]`): the model's inputs, without labels.
            keys (`list[int]`): a number for the content of each.
        """
        new = [place for place, key in enumerate(keys) if key not in self.states]
        for start in range(0, len(new), BATCH):
            places = new[start : start + BATCH]
            for place, states in zip(places, self._compute([rows[place] for place in places]), strict=True):
                self.states[keys[place]] = states
        return [self.states[key] for key in keys]

    @torch.no_grad()
    def _compute(self, rows: list[dict[str, list[int]]]) -> list[Tensor]:
        batch = self.collator(rows).to(self.model.device)
        device = self.model.device.type
        with torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None):
            states = self.model.base_model(**batch, output_hidden_states=True).hidden_states[self.layers]
        states = states.to("cpu", torch.float32 if self.dtype is None else torch.float16)
        lengths = [len(row["input_ids"]) for row in rows]
        return [one[:length].clone() for one, length in zip(states, lengths, strict=True)]


def check_cut(lower: LowerLayers, tokenized: datasets.Dataset) -> None:
    """
    Raise an error where the layers below and above the cut do not give what the whole model gives for these texts.

    Raises:
        ConfigError: they do not, or the model cannot be cut.
    """
    name = type(lower.model).__name__
    try:
        expected, found = _logits_of_both(lower, tokenized)
    except ConfigError:
        raise
    except Exception as error:  # whatever a model of any class meets without its lower layers
        raise ConfigError(
            f"`cache_frozen_layers` cannot be used with {name}, which cannot do without its lower layers "
            f"({first_sentence(error)}). Leave it out."
        ) from error
    if not _are_close(expected, found):
        raise ConfigError(
            f"`cache_frozen_layers` cannot be used with {name}: its layers are not a plain stack on its "
            f"embeddings (logits differ by {(expected - found).abs().max():.3g}). Leave it out."
        )


def reads_first_token_alone(lower: LowerLayers, tokenized: datasets.Dataset) -> bool:
    """
    Whether the logits of these texts are the same if the last layer puts out the first token alone.

    So it is in BERT, RoBERTa and DeBERTa, whose layers have an `attention.output`. Where it cannot be tried the answer is no: a model
    of another kind, or texts of one token each.
    """
    if max(map(len, tokenized["input_ids"])) < 2:
        return False
    try:
        return _are_close(*_logits_of_both(lower, tokenized, first_token_alone=True))
    except Exception:  # whatever the model does with the others, it needs them
        return False


@torch.no_grad()
def _logits_of_both(
    lower: LowerLayers, tokenized: datasets.Dataset, first_token_alone: bool = False
) -> tuple[Tensor, Tensor]:
    """
    Logits `(n, num_labels)` of tokenized texts, by the whole model in evaluation mode and by the layers above those that are cut off.

    The last layer has weights of ordinary size in both, as the logits of one that begins at zero tell nothing.
    """
    whole = copy.deepcopy(lower.model)
    with contextlib.suppress(ValueError), isolated_rng("logits_of_both", 0):  # where it takes `head_module` to find it
        nn.init.normal_(whole.get_submodule(find_head(whole)).weight)
    upper = cut_lower_layers(copy.deepcopy(whole), lower.layers, first_token_alone)
    rows = [{name: value for name, value in row.items() if name != "labels"} for row in tokenized]
    states = LowerLayers(whole, lower.layers, lower.collator)(rows, list(range(len(rows))))
    expected = whole(**lower.collator(rows)).logits
    return expected, upper(**pad_states([{"inputs_embeds": state} for state in states])).logits


def _are_close(expected: Tensor, found: Tensor) -> bool:
    """Whether logits are the same but for rounding."""
    return expected.shape == found.shape and torch.allclose(expected, found, atol=TOLERANCE, rtol=TOLERANCE)


def pad_states(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of hidden states `(n, longest, hidden_size)` in float32, their attention mask, and `labels` where there are."""
    states = [torch.as_tensor(row["inputs_embeds"]).float() for row in rows]
    lengths = torch.tensor([len(one) for one in states])
    batch = {
        "inputs_embeds": nn.utils.rnn.pad_sequence(states, batch_first=True),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
    }
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


class FrozenTextEncoder:
    """
    Hidden states of texts in place of their token ids, computed when a row is first read.

    Args:
        encoder ([`TextEncoder`]): what tokenizes.
        lower ([`LowerLayers`]).
    """

    reads_lazily: ClassVar[bool] = True
    tokenizer: ClassVar = None  # nothing that is saved here takes texts

    def __init__(self, encoder: TextEncoder, lower: LowerLayers):
        self.encoder, self.lower = encoder, lower

    def __call__(self, rows: Rows) -> datasets.Dataset:
        """A data set of `inputs_embeds` and `labels`."""
        tokenized = self.encoder(rows)
        names = [name for name in tokenized.column_names if name != "labels"]

        def read(places: list[int]) -> list[Tensor]:
            columns = tokenized[places]
            texts = [dict(zip(names, values, strict=True)) for values in zip(*map(columns.get, names), strict=True)]
            return self.lower(texts, [int(rows.digests[place]) for place in places])

        return computed_when_read(rows, "inputs_embeds", read)

    @property
    def collator(self):
        """Makes a batch of rows."""
        return pad_states
