"""Sentence encoders as the model of a trainer: their labels, and whether rows are pairs of texts."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import (
    DataCollatorForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from transformers.utils import logging

from ..data.models import is_unnamed
from ..data.sentence_encoders import (
    MODULES,
    SentenceCollator,
    SentenceEncoderForSequenceClassification,
    has_pairs,
    is_encoder,
    take_head,
)
from .labels import MULTI_LABEL, REGRESSION, class_names, column_names, label_values
from .layers import without_adapter
from .seeding import isolated_rng
from .source import Source


logger = logging.get_logger(__name__)

DEFAULT_LABELS = 2  # of a configuration that says nothing of labels


def as_classifier(model: nn.Module | None, train_dataset: Any, seed: str) -> nn.Module | None:
    """
    Return a `SentenceTransformer` as a classifier for the labels of a data set; other models as they are.

    Labels that its configuration names are kept. Where there are none, they are those of `train_dataset`. A new head
    is drawn by `seed`. Raises a `ValueError` where the encoder has unknown modules, or a saved head of another size.
    """
    if model is None or not is_encoder(model):
        warn_of_unused_pooling(model)
        return model
    encoder: Any = model
    head = take_head(encoder)
    config = encoder.transformers_model.config
    if head is None and is_unnamed(config) and config.num_labels == DEFAULT_LABELS:
        take_labels(config, train_dataset)
    with isolated_rng("classifier", seed):
        classifier = SentenceEncoderForSequenceClassification(encoder, rows_have_pairs(train_dataset))
    classifier.load_head(head, "The sentence encoder")
    return classifier


def take_labels(config: PretrainedConfig, dataset: Any) -> None:
    """Give a configuration the labels of a data set; what its numbers leave open is said at WARNING."""
    names, values = class_names(dataset), label_values(dataset)
    if names is not None:
        config.id2label, config.label2id = dict(enumerate(names)), {name: id for id, name in enumerate(names)}
        return
    if values is None or len(values) == 0:
        logger.warning(
            "The sentence encoder's configuration names no labels, and `train_dataset` does not tell how many there "
            f"are: {config.num_labels} are taken. Set `id2label` in `model[0].model.config`."
        )
        return
    if values.ndim == 2:
        config.num_labels, config.problem_type = values.shape[1], MULTI_LABEL
    elif values.dtype.kind == "f":
        config.num_labels, config.problem_type = 1, REGRESSION
    else:
        config.num_labels = int(values.max()) + 1
    logger.warning(
        f"The labels of `train_dataset` have no names: the head has {config.num_labels} "
        f"output{'s' if config.num_labels > 1 else ''}, as many as they need. Name them by `id2label` in "
        "`model[0].model.config`, or by a `ClassLabel`."
    )


def sentence_classifier(model: Any) -> SentenceEncoderForSequenceClassification | None:
    """Return the classifier on a sentence encoder, also out of an adapter of PEFT; `None` for other models."""
    plain = without_adapter(model)
    return plain if isinstance(plain, SentenceEncoderForSequenceClassification) else None


def rows_have_pairs(dataset: Any) -> bool:
    """Return whether the rows of a data set have two texts each, tokenized apart."""
    names = column_names(dataset)
    if names or dataset is None or hasattr(dataset, "__len__"):
        return has_pairs(names)
    first = next(iter(dataset), None)
    return isinstance(first, Mapping) and has_pairs(first)


def source_features(model: Any, sources: Iterable[Source]) -> dict[str | None, int] | None:
    """Return how many features the head of each source reads, by name; `None` for other models."""
    classifier = sentence_classifier(model)
    if classifier is None:
        return None
    return {source.name: classifier.num_features(rows_have_pairs(source.dataset)) for source in sources}


def use_own_tokenizer(trainer: Trainer) -> None:
    """Give a trainer the tokenizer of its sentence encoder, where none is given."""
    classifier = sentence_classifier(trainer.model)
    if classifier is not None and trainer.processing_class is None:
        trainer.processing_class = trainer.callback_handler.processing_class = classifier.encoder.tokenizer


def default_collator(trainer: Any) -> Callable[[list], Any]:
    """Return a trainer's collator where none is given: for sentence encoders and tokens one of their own."""
    if sentence_classifier(trainer.model) is not None:
        return SentenceCollator(trainer.processing_class)
    if trainer.classifies_tokens and isinstance(trainer.processing_class, PreTrainedTokenizerBase):
        return DataCollatorForTokenClassification(trainer.processing_class)
    return trainer.data_collator


def check_pairs(model: Any, batch: Mapping[str, Any], argument: str) -> None:
    """Raise a `ValueError` unless rows of the target are what the head of an encoder reads: pairs or single texts."""
    classifier = sentence_classifier(model)
    if classifier is None or has_pairs(batch) == classifier.pairs:
        return
    found, wanted = ("pairs of texts", "single texts") if has_pairs(batch) else ("single texts", "pairs of texts")
    raise ValueError(
        f"`{argument}` has {found}, and the head of the model is for {wanted}: tokenize all rows of the target in one "
        "way, or load the sentence encoder without that head."
    )


def warn_of_unused_pooling(model: Any) -> None:
    """Say that a sentence encoder was loaded as a plain classifier, without the pooling that it was trained with."""
    if not isinstance(model, PreTrainedModel) or sentence_classifier(model) is not None:
        return
    name = model.name_or_path
    if not isinstance(name, str) or not name:
        return
    is_there = Path(name, MODULES).is_file()
    if not is_there and not Path(name).exists():
        try:
            is_there = isinstance(try_to_load_from_cache(name, MODULES), str)
        except ValueError:  # no name that a repository can have
            return
    if is_there:
        logger.warning(
            f"{name!r} has a sentence encoder ({MODULES}), and was loaded as {type(model).__name__}, whose own "
            "pooling was never trained: it is usually worse by many points. Pass `model=SentenceTransformer(...)` to "
            "use the pooling that it was trained with."
        )
