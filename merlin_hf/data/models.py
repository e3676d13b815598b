"""Prepare a model for a task: the names of its labels, its tokenizer or processor, and how much it reads."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, PretrainedConfig

from ..utils.loading import hub_options, load_processor
from ..utils.validation import ConfigError
from .labels import LabelMismatchError, Labels, folded_name, match_names, shown
from .sentence_encoders import (
    SentenceEncoderForSequenceClassification,
    SentenceTokenizer,
    load_sentence_encoder,
)


NO_LIMIT = 10**9  # a tokenizer that does not know its model's limit says 1e30
SPARE_TOKENS = 1.05  # a tokenizer may have so many times the tokens of the model
# What models call their table of learned positions.
POSITION_TABLES = ("position_embeddings", "embed_positions", "position_embedding", "wpe", "positions_embed")

logger = logging.getLogger("merlin_hf.data")


# Labels


def is_unnamed(config: PretrainedConfig) -> bool:
    """Return whether labels are called `LABEL_0` and so on, which says nothing of what they are."""
    return config.label2id == PretrainedConfig(num_labels=config.num_labels).label2id


def model_names(config: PretrainedConfig) -> list[str]:
    """Return the names of a model's labels, in the order of its outputs; a ConfigError if some outputs have none."""
    unnamed = [id for id in range(config.num_labels) if id not in config.id2label]
    if unnamed:
        raise ConfigError(
            f"`id2label` in the model's configuration has no name for the output {unnamed[0]}: it must have one for "
            f"each of 0 ... {config.num_labels - 1}, and has {shown(sorted(config.id2label))}."
        )
    return [config.id2label[id] for id in range(config.num_labels)]


def configure_labels(
    config: PretrainedConfig,
    labels: Labels,
    accept_others: bool = False,
    option: str | None = "ignore_mismatched_sizes",
) -> None:
    """
    Set up the configuration of a pretrained model for a task, and settle which output stands for which class.

    Where the model was trained for the same names, each keeps its output; for other names the outputs are in the order
    of the data's classes. A LabelMismatchError if a last layer as large as needed knows some of the names but not all,
    unless `accept_others`, which the user calls `option`. `config` is changed in place, and `ids` of `labels` are set.
    """
    if labels.is_regression:
        config.num_labels = 1
        config.problem_type = "regression"
        return
    labels.ids = pretrained_outputs(config, labels.names, accept_others, option)
    config.num_labels = labels.num_labels
    config.problem_type = "multi_label_classification" if labels.is_multi_label else "single_label_classification"
    config.label2id = dict(zip(labels.names, labels.ids, strict=True))
    config.id2label = {id: name for name, id in config.label2id.items()}


def pretrained_outputs(
    config: PretrainedConfig,
    names: Sequence[str],
    accept_others: bool = False,
    option: str | None = "ignore_mismatched_sizes",
) -> list[int]:
    """Return the output of a pretrained model for each name; see [`configure_labels`]."""
    order = list(range(len(names)))
    if is_unnamed(config):
        return order
    known = model_names(config)
    folded = {folded_name(name) for name in known}
    shared = [name for name in names if folded_name(name) in folded]
    if len(known) == len(names) and shared:
        try:
            return match_names(names, known, "The data", "the model")
        except LabelMismatchError as error:
            if not accept_others:
                hint = (
                    f" To go on with its outputs for {shown(shared)}, and new names for the others, give `{option}`."
                )
                raise LabelMismatchError(f"{error}{hint if option else ''}") from None
        places = {name: known.index(name) for name in names if name in known}
        free = [place for place in order if place not in places.values()]
        return [places[name] if name in places else free.pop(0) for name in names]
    logger.warning(f"The model was trained for the labels {shown(known)}; the data has {shown(names)}, used here.")
    return order


def outputs_of(labels: Labels, config: PretrainedConfig, by_number: bool = False) -> list[int]:
    """
    Find the output of a trained model for each class of some data, by name; the data may have some of the classes.

    With `by_number`, classes of other names are taken by their numbers. A LabelMismatchError has both lists of names.
    """
    known = model_names(config)
    numbers = labels.numbers
    fits = bool(numbers) and 0 <= min(numbers) and max(numbers) < config.num_labels
    if by_number and fits and not set(labels.names) <= set(known):
        return list(numbers)
    if is_unnamed(config) and fits and not set(labels.names) <= set(known):
        # Numbers are the names of a model that has no others. Sorted names have them only where none is missing.
        if not labels.has_names:
            return list(numbers)
        if len(labels.names) == config.num_labels:
            logger.warning(
                "The model's labels have no names, only numbers; the data's are taken in their order: "
                f"{shown(labels.names)}. `--labels_by_number` says that this is right."
            )
            return list(numbers)
    if labels.is_multi_label and not labels.has_names and fits and not set(labels.names) & set(known):
        logger.warning(f"The numbers in the lists of labels are taken as those of the model's labels, {shown(known)}.")
        return list(numbers)
    try:
        return match_names(labels.names, known, "The data", "the model")
    except LabelMismatchError:
        raise LabelMismatchError(
            f"The data has the labels {shown(labels.names)}, the model {shown(known)}. Give data with the model's "
            f"names, or `--labels_by_number` where both number the same {config.num_labels} classes alike."
        ) from None


# Texts


def load_text_tokenizer(
    model_class: Any, path: str, config: PretrainedConfig, called: str | None = None, **options: Any
) -> Any:
    """
    Load the tokenizer of a classifier of texts; of a sentence encoder, with its prompt.

    It has a token to pad by, which the configuration of the model then knows as well.
    """
    if model_class is SentenceEncoderForSequenceClassification:
        tokenizer: Any = SentenceTokenizer(load_sentence_encoder(path, called, **hub_options(options)))
    else:
        tokenizer = load_processor(AutoTokenizer, path, called, **options)
    check_vocabulary(tokenizer, config, called or repr(path))
    pad_by_known_token(getattr(tokenizer, "tokenizer", tokenizer), config)  # a sentence encoder's is inside
    return tokenizer


def check_vocabulary(tokenizer: Any, config: PretrainedConfig, called: str) -> None:
    """Raise a ConfigError if a tokenizer has many more tokens than the model, as one of another model has."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(size, int) and len(tokenizer) > SPARE_TOKENS * size:
        raise ConfigError(
            f"The tokenizer of {called} has {len(tokenizer)} tokens, and the model {size}: it is that of another "
            "model."
        )


def pad_by_known_token(tokenizer: Any, config: PretrainedConfig) -> None:
    """Pad by the end of the text where a tokenizer, such as GPT-2's, has no token of its own for that."""
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise ConfigError(
            "The tokenizer has neither a token to pad by nor one for the end of a text: set its `pad_token`."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if config.get_text_config().pad_token_id is None:
        config.get_text_config().pad_token_id = tokenizer.pad_token_id


def longest_text(tokenizer: Any, config: PretrainedConfig, max_seq_length: int) -> int:
    """
    Return how many tokens of a text the model is shown, at most.

    It is less than asked for, with a WARNING, where the tokenizer or the model's table of positions has less. A
    ConfigError if there is no room beside the special tokens.
    """
    most = tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None
    positions = positions_of(config)
    limits = [limit for limit in (most, positions) if limit is not None]
    length = min([max_seq_length, *limits])
    if length < max_seq_length:
        logger.warning(f"`max_seq_length={max_seq_length}` is more than the model takes; {length} is used.")
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if length <= special:
        raise ConfigError(
            f"`max_seq_length={length}` leaves no room for a text beside {special} special tokens; give at least "
            f"{special + 1}."
        )
    return length


def positions_of(config: PretrainedConfig) -> int | None:
    """
    Return how many tokens a model has positions for; `None` where these are computed, so that there is no limit.

    Read from the tables of the model itself, built without memory, as configurations name and count them in many ways:
    RoBERTa's begins after the token to pad by, BART's has an offset.
    """
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # a model of its own code, or one without a base model: its tokenizer must know
        logger.debug(f"positions are not known: {error}")
        return None
    return positions_in(model)


def positions_in(model: Any) -> int | None:
    """Return how many tokens the tables of positions in a model have room for; `None` where it has none."""
    found = []
    for name, module in model.named_modules():
        part = name.rpartition(".")[2]
        weight = getattr(module, "weight", None)
        if part not in POSITION_TABLES or not isinstance(weight, nn.Parameter) or weight.ndim != 2:
            continue
        offset = getattr(module, "offset", 0)
        if not offset and getattr(module, "padding_idx", None) is not None:
            offset = module.padding_idx + 1
        found.append(len(weight) - offset)
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if found and isinstance(most, int) and most > 0:
        found.append(most)
    return min(found, default=None)


# Images


def load_image_processor(path: str, **options: Any) -> Any:
    """Load an image processor. The PIL backend needs no torchvision, and gives the same pixels with and without it."""
    return load_processor(AutoImageProcessor, path, backend="pil", **options)
