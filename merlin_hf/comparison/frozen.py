"""The frozen lower layers of a model, which need to see each text or image once and not in every step of every run."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import datasets
import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..transfer.model import find_head
from ..transfer.seeding import isolated_rng
from ..utils.validation import ConfigError, first_sentence
from .encoding import ImageEncoder, TextEncoder, computed_when_read
from .tasks import Rows


BATCH = 64  # texts or images that go through the lower layers at a time
TOLERANCE = 1e-3
EMBEDDINGS = ("embeddings", "embedder", "conv_stem")  # in most models, in ResNet, in MobileNet
PIXELS = "pixel_values"  # what image models take
STATES = "inputs_embeds"  # what text models take in place of token ids


class GivenStates(nn.Module):
    """
    In place of the embeddings: what the layers above the frozen ones are given.

    Args:
        embeddings (`nn.Module`): those of the whole model.
    """

    def __init__(self, embeddings: nn.Module):
        super().__init__()
        patches = getattr(embeddings, "patch_embeddings", None)
        if patches is not None:  # ViT asks them for their dtype
            self.patch_embeddings = patches

    def forward(self, inputs=None, inputs_embeds=None, *args, **kwargs) -> Tensor:
        """`inputs_embeds`, or what an image model takes for pixels, as they are."""
        return inputs if inputs_embeds is None else inputs_embeds


def layer_stack(model: PreTrainedModel) -> nn.ModuleList:
    """The longest list of modules of the base model that is in no other: its layers or stages; an empty one if it has none."""
    lists = {name: module for name, module in model.base_model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    return max(outer, key=len, default=nn.ModuleList())


def embeddings_name(base: PreTrainedModel) -> str | None:
    """What a base model calls its embeddings or stem; `None` if it is none of the usual names."""
    return next((name for name in EMBEDDINGS if isinstance(getattr(base, name, None), nn.Module)), None)


def cut_lower_layers(model: PreTrainedModel, layers: int, first_token_alone: bool = False) -> PreTrainedModel:
    """
    Take the embeddings and the lower layers away: the model then takes hidden states, as `inputs_embeds` or, one of images, as
    `pixel_values`.

    Args:
        model (`PreTrainedModel`): the whole classifier, which is changed.
        layers (`int`): how many layers go.
        first_token_alone (`bool`): what follows the attention of the last layer is computed for the first token alone, as no
            other is read ([`reads_first_token_alone`]).

    Raises:
        ConfigError: the model has no embeddings and list of layers; or nothing that follows the attention of its last layer.
    """
    stack, name = layer_stack(model), embeddings_name(model.base_model)
    if name is None or len(stack) < layers:
        raise ConfigError(
            f"`cache_frozen_layers` needs a model with embeddings and a list of layers, as BERT has; {type(model).__name__} "
            "has not. Leave it out."
        )
    setattr(model.base_model, name, GivenStates(getattr(model.base_model, name)))
    del stack[:layers]
    if first_token_alone:
        after_attention = getattr(getattr(stack[-1], "attention", None), "output", None) if len(stack) else None
        if not isinstance(after_attention, nn.Module):
            raise ConfigError(f"The last layer of {type(model).__name__} has no `attention.output`, as BERT's has.")
        after_attention.register_forward_pre_hook(_first_token)
    if model.main_input_name != PIXELS:
        model.main_input_name = STATES
    return model


def names_above_the_cut(model: PreTrainedModel, names: list[str], layers: int) -> list[str]:
    """Of the named modules of the whole classifier those that [`cut_lower_layers`] leaves, by their names afterwards."""
    stack = layer_stack(model)
    prefix = next((f"{name}." for name, module in model.named_modules() if module is stack), "")
    found = []
    for name in names:
        number, dot, rest = name.removeprefix(prefix).partition(".")
        if not prefix or not name.startswith(prefix):
            found.append(name)
        elif int(number) >= layers:
            found.append(f"{prefix}{int(number) - layers}{dot}{rest}")
    return found


def _first_token(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Forward pre-hook: of states `(n, length, hidden_size)` those of the first token."""
    return tuple(states[:, :1] for states in args)


class LowerLayers:
    """
    The hidden states that the frozen layers make of texts or images, each computed once.

    Dropout is off in them, other than in a frozen layer of a model in training.

    Args:
        model (`PreTrainedModel`): the whole classifier.
        layers (`int`): how many of its layers are frozen, beside the embeddings.
        collator (`Callable`): makes a batch of tokenized texts, padded, or of pixels.
        dtype (`torch.dtype`, *optional*): of autocast; states are then kept in float16, else in float32.
    """

    def __init__(self, model: PreTrainedModel, layers: int, collator: Any, dtype: torch.dtype | None = None):
        self.model, self.layers, self.collator, self.dtype = model.eval(), layers, collator, dtype
        self.is_of_images = model.main_input_name == PIXELS
        self.states: dict[int, Tensor] = {}

    def __call__(self, row: Callable[[int], dict[str, Any]], keys: list[int]) -> list[Tensor]:
        """
        Hidden states `(length, hidden_size)` of each tokenized text, `(channels, height, width)` or `(length, hidden_size)` of each image.

        Args:
            row (`Callable[[int], dict]`): from a place in `keys` to the model's inputs, without labels. Those whose states are kept are
                not asked for.
            keys (`list[int]`): a number for the content of each.
        """
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        new = sorted(place for key, place in first.items() if key not in self.states)
        for start in range(0, len(new), BATCH):
            places = new[start : start + BATCH]
            for place, states in zip(places, self._compute([row(place) for place in places]), strict=True):
                self.states[keys[place]] = states
        return [self.states[key] for key in keys]

    @torch.no_grad()
    def _compute(self, rows: list[dict[str, Any]]) -> list[Tensor]:
        device = self.model.device
        batch = {name: values.to(device) for name, values in self.collator(rows).items()}
        seen: list[Tensor] = []
        # Not `hidden_states`, of which the first is the embeddings' in most models and the first layer's in MobileNet.
        hook = layer_stack(self.model)[self.layers - 1].register_forward_hook(
            lambda module, args, output: seen.append(output if isinstance(output, Tensor) else output[0])
        )
        try:
            with torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype is not None):
                self.model.base_model(**batch)
        finally:
            hook.remove()
        (states,) = seen
        states = states.to("cpu", torch.float32 if self.dtype is None else torch.float16)
        if self.is_of_images:
            return [one.clone() for one in states]
        lengths = [len(row["input_ids"]) for row in rows]
        return [one[:length].clone() for one, length in zip(states, lengths, strict=True)]


def check_cut(lower: LowerLayers, encoded: datasets.Dataset) -> None:
    """
    Raise an error where the layers below and above the cut do not give what the whole model gives for these texts or images.

    Raises:
        ConfigError: they do not, or the model cannot be cut, or its logits are the same for all of them, which tells nothing.
    """
    name = type(lower.model).__name__
    try:
        expected, found = _logits_of_both(lower, encoded)
    except ConfigError:
        raise
    except Exception as error:  # whatever a model of any class meets without its lower layers
        raise ConfigError(
            f"`cache_frozen_layers` cannot be used with {name}, which cannot do without its lower layers "
            f"({first_sentence(error)}). Leave it out."
        ) from error
    if len(expected) > 1 and (expected - expected[0]).abs().max() < TOLERANCE:
        raise ConfigError(
            f"`cache_frozen_layers` cannot be tried with {name}: its logits are the same for all of {len(expected)} rows. Leave it out, "
            "or give a model that was trained."
        )
    if not _are_close(expected, found):
        raise ConfigError(
            f"`cache_frozen_layers` cannot be used with {name}: its layers are not a plain stack on its "
            f"embeddings (logits differ by {(expected - found).abs().max():.3g}). Leave it out."
        )


def check_memory(lower: LowerLayers, encoded: datasets.Dataset, rows: int) -> None:
    """
    Raises:
        ConfigError: what the frozen layers make of so many images is larger than the memory of the machine.
    """
    size = 2 if lower.dtype is not None else 4  # bytes of a number
    one = {name: value for name, value in encoded[0].items() if name != "labels"}
    states = LowerLayers(lower.model, lower.layers, lower.collator)([one].__getitem__, [0])[0]
    needed, memory = rows * states.numel() * size, psutil.virtual_memory().total
    if needed > memory:
        raise ConfigError(
            f"`cache_frozen_layers` would keep {needed / 2**30:.0f} GiB, {tuple(states.shape)} numbers of each of {rows:,} images, and the "
            f"memory has {memory / 2**30:.0f}. Give a higher `freeze_layers`, a smaller `image_size` or fewer `source.rows`, or leave it out."
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
    lower: LowerLayers, encoded: datasets.Dataset, first_token_alone: bool = False
) -> tuple[Tensor, Tensor]:
    """
    Logits `(n, num_labels)` of tokenized texts or of images, by the whole model in evaluation mode and by the layers above those that are cut off.

    The last layer has weights of ordinary size in both, as the logits of one that begins at zero tell nothing.
    """
    whole = copy.deepcopy(lower.model)
    with contextlib.suppress(ValueError), isolated_rng("logits_of_both", 0):  # where it takes `head_module` to find it
        nn.init.normal_(whole.get_submodule(find_head(whole)).weight)
    upper = cut_lower_layers(copy.deepcopy(whole), lower.layers, first_token_alone)
    rows = [{name: value for name, value in row.items() if name != "labels"} for row in encoded]
    states = LowerLayers(whole, lower.layers, lower.collator)(rows.__getitem__, list(range(len(rows))))
    expected = whole(**lower.collator(rows)).logits
    batch = [{PIXELS if lower.is_of_images else STATES: state} for state in states]
    return expected, upper(**(stack_states if lower.is_of_images else pad_states)(batch)).logits


def _are_close(expected: Tensor, found: Tensor) -> bool:
    """Whether logits are the same but for rounding."""
    return expected.shape == found.shape and torch.allclose(expected, found, atol=TOLERANCE, rtol=TOLERANCE)


def pad_states(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of hidden states `(n, longest, hidden_size)` in float32, their attention mask, and `labels` where there are."""
    states = [torch.as_tensor(row[STATES]).float() for row in rows]
    lengths = torch.tensor([len(one) for one in states])
    return {
        STATES: nn.utils.rnn.pad_sequence(states, batch_first=True),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        **_labels(rows),
    }


def stack_states(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of images' hidden states `(n, ...)` in float32, all of one shape, and `labels` where there are."""
    return {PIXELS: torch.stack([torch.as_tensor(row[PIXELS]).float() for row in rows]), **_labels(rows)}


def _labels(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[0] else {}


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
            return self.lower(texts.__getitem__, [int(rows.digests[place]) for place in places])

        return computed_when_read(rows, STATES, read)

    @property
    def collator(self):
        """Makes a batch of rows."""
        return pad_states


class FrozenImageEncoder:
    """
    Hidden states of images in place of their pixels, computed when a row is first read.

    Args:
        encoder ([`ImageEncoder`]): what makes pixels, which are not kept.
        lower ([`LowerLayers`]).
    """

    reads_lazily: ClassVar[bool] = True

    def __init__(self, encoder: ImageEncoder, lower: LowerLayers):
        self.encoder, self.lower = replace(encoder, memory=0), lower

    def __call__(self, rows: Rows) -> datasets.Dataset:
        """A data set of `pixel_values`, which are hidden states, and `labels`."""
        pixels = self.encoder(rows).remove_columns("labels")

        def read(places: list[int]) -> list[Tensor]:
            return self.lower(lambda number: pixels[places[number]], [int(rows.digests[place]) for place in places])

        return computed_when_read(rows, PIXELS, read)

    @property
    def collator(self):
        """Makes a batch of rows."""
        return stack_states
