"""A model card, from what is known about a model."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.modelcard import METRIC_TAGS

from .errors import PublishError
from .examples import Example
from .markdown import table
from .methods import MethodDescription
from .origin import Origin
from .results import Evaluation, metric_title, shown, training_table
from .task import Task, usage


TEMPLATE = Path(__file__).with_name("model_card_template.md")
VERSIONS = ("merlin-hf", "transformers", "torch", "accelerate", "datasets", "tokenizers", "safetensors")
LISTED_LABELS = 20
PLACEHOLDERS = ("Replace this by your text.", "Replace this by the text that belongs to it.")


@dataclass
class CardContent:
    """
    What a card is made of.

    Args:
        repo_id (`str`): the model's name on the Hub.
        class_name (`str`): the class of the model.
        task ([`Task`], *optional*): what it is for.
        base_model (`str`, *optional*): the name on the Hub of what training began with.
        targets, sources (`list[Origin]`): the data.
        evaluated_on (`dict[str | None, Origin]`): by the name of the evaluation set, `None` where there is one.
        method ([`MethodDescription`], *optional*): how it was trained.
        options, training_arguments (`dict[str, str]`): those that differ from their defaults.
        evaluations (`list[Evaluation]`): the results.
        log_history (`list[dict]`): the course of training.
        examples (`list[Example]`): texts of each label, or pairs of texts.
        texts (`tuple[str, ...]`): what to classify in the lines that load it, where there are no examples: a text, or two.
        license, language, tags: as the user gave them.
        has_processor (`bool`): whether a tokenizer or a processor is beside it.
        is_adapter (`bool`): whether it is an adapter of PEFT.
        is_trained_here (`bool`): whether the versions of this process are those of the training.
    """

    repo_id: str
    class_name: str
    title: str
    task: Task | None = None
    base_model: str | None = None
    targets: list[Origin] = field(default_factory=list)
    sources: list[Origin] = field(default_factory=list)
    evaluated_on: dict[str | None, Origin] = field(default_factory=dict)
    method: MethodDescription | None = None
    options: dict[str, str] = field(default_factory=dict)
    training_arguments: dict[str, str] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    log_history: list[dict[str, Any]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    texts: tuple[str, ...] = PLACEHOLDERS[:1]
    license: str | None = None
    language: str | list[str] | None = None
    tags: list[str] = field(default_factory=list)
    has_processor: bool = False
    is_adapter: bool = False
    is_trained_here: bool = True


def write_card(content: CardContent) -> ModelCard:
    """
    The card.

    Raises:
        PublishError: its metadata cannot be read back; the message says what is wrong.
    """
    texts = content.examples[0].texts if content.examples else content.texts
    try:
        card = ModelCard.from_template(
            metadata(content),
            template_path=str(TEMPLATE),
            repo_id=content.repo_id,
            title=content.title,
            introduction=introduction(content),
            usage=usage(
                content.repo_id, content.class_name, content.task, content.has_processor, content.is_adapter, texts
            ),
            usage_note="merlin_hf is not needed for that.",
            labels_table=_labels_table(content.examples),
            evaluations=[_evaluation_section(content, evaluation) for evaluation in content.evaluations],
            data_table=_data_table(content),
            method=content.method,
            options_table=_options_table("option", content.options),
            arguments_table=_options_table("argument", content.training_arguments),
            training_table=_training_table(content.log_history),
            versions=_versions(content.is_adapter) if content.is_trained_here else "",
        )
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise PublishError(f"The card's metadata would not be valid: {error}") from error
    card.text = card.text.rstrip() + "\n"
    return card


# Metadata


def metadata(content: CardContent) -> ModelCardData:
    """The lines between the two `---`, which the Hub reads."""
    results = _eval_results(content)
    names = {name for evaluation in content.evaluations for name in evaluation.metrics}
    data_ids = [origin.hub_id for origin in (*content.targets, *content.sources) if origin.hub_id]
    # The Hub's widget asks for one text.
    widget = [
        {"text": example.text, "example_title": example.label}
        for example in content.examples
        if example.text_pair is None
    ]
    return ModelCardData(
        library_name="peft" if content.is_adapter else "transformers",
        language=content.language,
        license=content.license,
        base_model=content.base_model,
        datasets=list(dict.fromkeys(data_ids)) or None,
        metrics=sorted(names & set(METRIC_TAGS)) or None,
        pipeline_tag=content.task.tag if content.task is not None else None,
        tags=content.tags or None,
        widget=widget or None,
        eval_results=results or None,
        model_name=content.title if results else None,
    )


def _eval_results(content: CardContent) -> list[EvalResult]:
    """The results as the Hub shows them; a result without a task is one that it refuses."""
    if content.task is None:
        return []
    results, seen = [], set()
    for evaluation in content.evaluations:
        origin = content.evaluated_on.get(evaluation.name, Origin())
        name = origin.name or origin.hub_id or "unknown"
        if evaluation.name is not None:
            name = f"{name} ({evaluation.name})" if name != "unknown" else evaluation.name
        # Results of one data set, configuration and split are taken for one by the Hub's format.
        split = origin.split
        if evaluation.name is not None and (split is None or (origin.hub_id, origin.config, split) in seen):
            split = evaluation.name
        seen.add((origin.hub_id, origin.config, split))
        results += [
            EvalResult(
                task_type=content.task.tag,
                task_name=content.task.title,
                dataset_type=origin.hub_id or "unknown",
                dataset_name=name,
                dataset_config=origin.config,
                dataset_split=split,
                dataset_revision=origin.revision,
                metric_type=metric,
                metric_name=metric_title(metric),
                metric_value=value,
            )
            for metric, value in evaluation.metrics.items()
        ]
    return results


def hub_name(name: str | os.PathLike | None) -> str | None:
    """The name if it is one of a repository on the Hub, `None` for folders, which are nobody else's business."""
    if not name or os.path.exists(name) or os.path.isabs(name) or str(name).count("/") > 1:
        return None
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        return None
    return str(name)


# Text


def introduction(content: CardContent) -> str:
    """What the model is, in a sentence."""
    base = f"[{content.base_model}](https://huggingface.co/{content.base_model})" if content.base_model else None
    if content.is_adapter:
        what = f"adapter of {base or f'a `{content.class_name}`'}"
    else:
        what = f"`{content.class_name}`"
    if content.method is None:
        return f"This is {'an ' if content.is_adapter else 'a '}{what}."
    sentence = f"This {what} was trained" + (f" from {base}" if base and not content.is_adapter else "")
    sentence += f" with **{content.method.name}**"
    targets, sources = (" and ".join(map(_mention, origins)) for origins in (content.targets, content.sources))
    if targets:
        sentence += f" on {targets}"
    if sources:
        sentence += f" (the target) with the help of {sources} (the source)"
    return f"{sentence}."


def _mention(origin: Origin) -> str:
    named = origin.markdown if origin.hub_id or origin.name else "a data set without a name"
    return f"{named}, `{origin.config}`" if origin.config else named


def _labels_table(examples: list[Example]) -> str:
    is_pair = any(example.text_pair is not None for example in examples)
    header = ("label", "text", "text pair") if is_pair else ("label", "example")
    return table(header, [example[: len(header)] for example in examples])


def _data_table(content: CardContent) -> str:
    roles = {"target": content.targets, "source": content.sources}
    rows = []
    for role, origins in roles.items():
        for origin in origins:
            labels = list(origin.label_names or ())
            if len(labels) > LISTED_LABELS:
                labels = [*labels[:LISTED_LABELS], f"… ({len(labels)} in all)"]
            count = "" if origin.rows is None else f"{origin.rows:,}"
            rows.append((role, origin.markdown, origin.config, origin.split, count, ", ".join(labels)))
    return table(("", "data set", "configuration", "split", "rows", "labels"), rows)


def _evaluation_section(content: CardContent, evaluation: Evaluation) -> dict[str, str]:
    origin = content.evaluated_on.get(evaluation.name, Origin())
    where = [f"`{evaluation.name}`"] if evaluation.name else []
    if origin.hub_id or origin.name:
        where.append(_mention(origin))
    if origin.split:
        where.append(f"split `{origin.split}`")
    if origin.rows is not None:
        where.append(f"{origin.rows:,} rows")
    note = f"On {', '.join(where)}" if where else "On the evaluation set"
    if evaluation.step is not None:
        note += f", after step {evaluation.step}"
    rows = [(metric_title(name), shown(value)) for name, value in evaluation.metrics.items()]
    return {
        "heading": f"Results on {evaluation.name}" if evaluation.name else "Results",
        "note": f"{note}.",
        "table": table(("metric", "value"), rows),
    }


def _options_table(header: str, options: dict[str, str]) -> str:
    return table((header, "value"), [(f"`{name}`", value) for name, value in options.items()])


def _training_table(log_history: list[dict[str, Any]]) -> str:
    rows = training_table(log_history)
    return table(tuple(rows[0]), [tuple(row.values()) for row in rows]) if rows else ""


def _versions(is_adapter: bool) -> str:
    found = {"Python": platform.python_version()}
    for name in (*VERSIONS, *(["peft"] if is_adapter else [])):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "\n".join(f"- {name} {version}" for name, version in found.items())
