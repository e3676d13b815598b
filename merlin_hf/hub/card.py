"""Write a model card: its metadata, its text and the lines of code that load the model."""

import functools
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.modelcard import METRIC_TAGS, TASK_MAPPING, TASK_TAG_TO_NAME_MAPPING

from ..data.sentence_encoders import PAIR_HEAD
from ..utils.loading import is_repo_id
from ..utils.log_history import Evaluation, metric_title, training_table
from ..utils.markdown import Markdown, cell, code, escape, visible
from ..utils.tables import markdown_table, shown
from .errors import PublishError


table = functools.partial(markdown_table, align=None)  # texts of examples may be long
TEMPLATE = Path(__file__).with_name("model_card_template.md")
VERSIONS = ("merlin-hf", "transformers", "torch", "accelerate", "datasets", "tokenizers", "safetensors")
LISTED_LABELS = 20
LONGEST_NAME = 200  # characters
PLACEHOLDERS = ("Replace this by your text.", "Replace this by the text that belongs to it.")
AUTO_CLASSES = {
    "audio-classification": "AutoModelForAudioClassification",
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
INPUTS = {"audio-classification": "recording.wav", "image-classification": "picture.png"}


class Task(NamedTuple):
    """The Hub's name of a task, such as `text-classification`, and its title."""

    tag: str
    title: str


TEXT_CLASSIFICATION = Task("text-classification", TASK_TAG_TO_NAME_MAPPING["text-classification"])


class MethodDescription(NamedTuple):
    """The text of a card about the training method: its name, a summary in Markdown, and the BibTeX of its paper."""

    name: str
    summary: str
    citation: str | None = None


class Origin(NamedTuple):
    """
    What is known about a data set; `None` where it is not known.

    Args:
        hub_id (`str`): its name on the Hub, such as `nyu-mll/glue`.
        name (`str`): its name in a sentence.
        revision (`str`): the commit it was read at.
        label_names (`tuple[str, ...]`): the classes.
    """

    hub_id: str | None = None
    name: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    rows: int | None = None
    label_names: tuple[str, ...] | None = None

    @property
    def markdown(self) -> Markdown:
        """Return its name in a card, with a link where it is on the Hub."""
        name = cell(_short(self.name or self.hub_id or "not named"))
        if self.hub_id is not None and is_repo_id(self.hub_id):
            return Markdown(f"[{name}](https://huggingface.co/datasets/{self.hub_id})")
        return Markdown(name)


class Example(NamedTuple):
    """A text, or two that belong together, and the label that they are an example of."""

    label: str
    text: str
    text_pair: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the text, or both."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)


@dataclass
class CardContent:
    """
    Everything that a card says. Names and texts may hold anything: they are shown as text.

    Args:
        title (`str`): the heading of the card.
        base_model (`str`, *optional*): the name on the Hub of what training began with.
        evaluated_on (`dict[str | None, Origin]`): by the name of the evaluation set, `None` where there is one.
        options, training_arguments (`dict[str, str]`): those that differ from their defaults.
        examples (`list[Example]`): texts of each label, or pairs of texts.
        texts (`tuple[str, ...]`): one or two texts to classify in the lines that load it, where there are no examples.
        sentence_pairs (`bool`, *optional*): of a sentence encoder whether it reads two texts apart; `None` for other
            models.
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
    sentence_pairs: bool | None = None
    is_trained_here: bool = True


def write_card(content: CardContent) -> ModelCard:
    """Write the card; a PublishError says why its metadata cannot be read back."""
    try:
        card = ModelCard.from_template(
            metadata(content),
            template_path=str(TEMPLATE),
            repo_id=_code_name(content.repo_id),
            title=escape(_short(content.title)),
            introduction=introduction(content),
            usage=usage(content),
            usage_note=usage_note(content),
            labels_table=_labels_table(content.examples),
            evaluations=[_evaluation_section(content, evaluation) for evaluation in content.evaluations],
            data_table=_data_table(content),
            method=content.method,
            options_table=_options_table("option", content.options),
            arguments_table=_options_table("argument", content.training_arguments),
            training_table=_training_table(content.log_history),
            versions=_versions(content) if content.is_trained_here else "",
        )
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise PublishError(f"The card's metadata would not be valid: {error}") from error
    card.text = card.text.rstrip() + "\n"
    return card


# Names


def hub_name(name: Any) -> str | None:
    """Return the name if a repository on the Hub can have it, `None` for folders, which are nobody else's business."""
    return name if is_repo_id(name) and not os.path.exists(name) else None


def _code_name(repo_id: str) -> str:
    """Return the name of a repository as it can stand in code and in a comment."""
    if is_repo_id(repo_id):
        return repo_id
    return re.sub(r"[^\w./]+|--+|\.\.+", "-", repo_id, flags=re.ASCII).strip("-.") or "model"


def _short(name: Any) -> str:
    """Return a name on one line, cut where it is very long."""
    text = visible(name)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


# Metadata


def metadata(content: CardContent) -> ModelCardData:
    """Return the metadata that stand between the two `---`, which the Hub reads."""
    results = _eval_results(content)
    names = {name for evaluation in content.evaluations for name in evaluation.metrics}
    named = [origin.hub_id for origin in (*content.targets, *content.sources)]
    data_ids = [name for name in named if is_repo_id(name)]
    language = content.language
    library = "transformers" if content.sentence_pairs is None else "sentence-transformers"
    # The Hub's widget asks for one text.
    widget = [
        {"text": example.text, "example_title": _short(example.label)}
        for example in content.examples
        if example.text_pair is None
    ]
    return ModelCardData(
        library_name="peft" if content.is_adapter else library,
        language=[_short(one) for one in language] if isinstance(language, list) else language and _short(language),
        license=content.license and _short(content.license),
        base_model=content.base_model,
        datasets=list(dict.fromkeys(data_ids)) or None,
        metrics=sorted(names & set(METRIC_TAGS)) or None,
        pipeline_tag=content.task and content.task.tag,
        tags=[_short(tag) for tag in content.tags] or None,
        widget=widget or None,
        eval_results=results or None,
        model_name=_short(content.title) if results else None,
    )


def _eval_results(content: CardContent) -> list[EvalResult]:
    """Return the results for the Hub, which refuses results without a task."""
    if content.task is None:
        return []
    results, seen = [], set()
    for evaluation in content.evaluations:
        origin = content.evaluated_on.get(evaluation.name, Origin())
        hub_id = origin.hub_id
        name = _short(origin.name or origin.hub_id or "unknown")
        own_name = None if evaluation.name is None else _short(evaluation.name)
        if own_name is not None:
            name = f"{name} ({own_name})" if name != "unknown" else own_name
        # The Hub's format takes results of one data set, configuration and split for results on the same rows.
        split = origin.split
        if own_name is not None and (split is None or (origin.hub_id, origin.config, split) in seen):
            split = own_name
        seen.add((origin.hub_id, origin.config, split))
        results += [
            EvalResult(
                task_type=content.task.tag,
                task_name=content.task.title,
                dataset_type=hub_id if is_repo_id(hub_id) else "unknown",
                dataset_name=name,
                dataset_config=origin.config and _short(origin.config),
                dataset_split=split and _short(split),
                dataset_revision=origin.revision and _short(origin.revision),
                metric_type=_short(metric),
                metric_name=_short(metric_title(metric)),
                metric_value=value,
            )
            for metric, value in evaluation.metrics.items()
        ]
    return results


# Text


def introduction(content: CardContent) -> str:
    """Return a sentence about the model: its class, its base, its method and its data."""
    name = content.base_model
    base = f"[{escape(name)}](https://huggingface.co/{name})" if name else None
    class_name = code(_short(content.class_name))
    what = f"adapter of {base or f'a {class_name}'}" if content.is_adapter else class_name
    if content.method is None:
        return f"This is {'an ' if content.is_adapter else 'a '}{what}."
    sentence = f"This {what} was trained" + (f" from {base}" if base and not content.is_adapter else "")
    sentence += f" with **{escape(_short(content.method.name))}**"
    targets, sources = (" and ".join(map(_mention, origins)) for origins in (content.targets, content.sources))
    if targets:
        sentence += f" on {targets}"
    if sources:
        sentence += f" (the target) with the help of {sources} (the source)"
    return f"{sentence}."


def _mention(origin: Origin) -> str:
    named = origin.markdown if origin.hub_id or origin.name else "a data set without a name"
    return f"{named}, {code(_short(origin.config))}" if origin.config else named


def _labels_table(examples: list[Example]) -> str:
    is_pair = any(example.text_pair is not None for example in examples)
    header = ("label", "text", "text pair") if is_pair else ("label", "example")
    return table(header, [(_short(example.label), *example[1 : len(header)]) for example in examples])


def _data_table(content: CardContent) -> str:
    roles = {"target": content.targets, "source": content.sources}
    rows = []
    for role, origins in roles.items():
        for origin in origins:
            names = origin.label_names or ()
            labels = [_short(name) for name in names[:LISTED_LABELS]]
            if len(names) > LISTED_LABELS:
                labels.append(f"… ({len(names)} in all)")
            count = "" if origin.rows is None else f"{origin.rows:,}"
            config, split = _short(origin.config), _short(origin.split)
            rows.append((role, origin.markdown, config, split, count, ", ".join(labels)))
    return table(("", "data set", "configuration", "split", "rows", "labels"), rows)


def _evaluation_section(content: CardContent, evaluation: Evaluation) -> dict[str, str]:
    origin = content.evaluated_on.get(evaluation.name, Origin())
    where: list[str] = [code(_short(evaluation.name))] if evaluation.name else []
    if origin.hub_id or origin.name:
        where.append(_mention(origin))
    if origin.split:
        where.append(f"split {code(_short(origin.split))}")
    if origin.rows is not None:
        where.append(f"{origin.rows:,} rows")
    note = f"On {', '.join(where)}" if where else "On the evaluation set"
    if evaluation.step is not None:
        note += f", after step {evaluation.step}"
    rows = [(_short(metric_title(name)), shown(value)) for name, value in evaluation.metrics.items()]
    return {
        "heading": f"Results on {escape(_short(evaluation.name))}" if evaluation.name else "Results",
        "note": f"{note}.",
        "table": table(("metric", "value"), rows),
    }


def _options_table(header: str, options: dict[str, str]) -> str:
    return table((header, "value"), [(code(name, in_table=True), value) for name, value in options.items()])


def _training_table(log_history: list[dict[str, Any]]) -> str:
    rows = training_table(log_history)
    return table(tuple(map(_short, rows[0])), [tuple(row.values()) for row in rows]) if rows else ""


def _versions(content: CardContent) -> str:
    found = {"Python": platform.python_version()}
    more = {"peft": content.is_adapter, "sentence-transformers": content.sentence_pairs is not None}
    for name in (*VERSIONS, *(name for name, is_used in more.items() if is_used)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "\n".join(f"- {name} {version}" for name, version in found.items())


# Lines that load the model


def task_of(class_names: Iterable[str]) -> Task | None:
    """Return the task of the first of these model classes that has one."""
    for class_name in class_names:
        for tag, mapping in TASK_MAPPING.items():
            names = mapping.values() if isinstance(mapping, Mapping) else ()
            if any(class_name == name or (isinstance(name, tuple | list) and class_name in name) for name in names):
                return Task(tag, TASK_TAG_TO_NAME_MAPPING.get(tag, tag))
    return None


def usage(content: CardContent) -> str:
    """Return the lines of Python that load the model without this package."""
    task, name = content.task, _code_name(content.repo_id)
    if content.sentence_pairs is not None:
        return _sentence_lines(content, name)
    auto_class = AUTO_CLASSES.get(task.tag) if task is not None else None
    if content.is_adapter and auto_class == "AutoModelForSequenceClassification":
        return _load_lines("peft", "AutoPeftModelForSequenceClassification", name)
    if task is None or auto_class is None or content.is_adapter or not content.has_processor:
        known = content.class_name if content.class_name.isidentifier() else "AutoModel"
        return _load_lines("transformers", auto_class or known, name)
    texts: Sequence[str] = content.examples[0].texts if content.examples else content.texts
    if task.tag in INPUTS or len(texts) == 1:
        given = quoted(INPUTS.get(task.tag, texts[0]))
    else:
        given = f'{{"text": {quoted(texts[0])}, "text_pair": {quoted(texts[1])}}}'
    return (
        "from transformers import pipeline\n\n"
        f'classifier = pipeline("{task.tag}", model="{name}")\n'
        f"classifier({given})"
    )


def usage_note(content: CardContent) -> str:
    """Return what to say of this package beside the lines that load the model."""
    if content.sentence_pairs is not None and content.is_adapter:
        return (
            "Merged into its base model with `merge_and_unload()` and saved by `save_pretrained`, "
            "sentence-transformers loads it without merlin_hf."
        )
    return "merlin_hf is not needed for that."


def _sentence_lines(content: CardContent, name: str) -> str:
    """Return the lines that load a sentence encoder and its head, and give the logits of a text or of a pair."""
    if content.is_adapter:
        base = quoted(content.base_model or "base-model")
        return f'from merlin_hf.data.sentence_encoders import load_adapter\n\nmodel = load_adapter({base}, "{name}")'
    texts = content.examples[0].texts if content.examples else content.texts
    texts = (*texts, *PLACEHOLDERS[len(texts) :])
    if not content.sentence_pairs:
        return (
            "from sentence_transformers import SentenceTransformer\n\n"
            f'model = SentenceTransformer("{name}")\n'
            f'logits = model.encode([{quoted(texts[0])}], output_value="logits")[0]\n'
            "dict(zip(model[0].model.config.id2label.values(), logits.tolist()))"
        )
    return (
        "import torch\n"
        "from sentence_transformers import SentenceTransformer\n"
        "from sentence_transformers.sentence_transformer.modules import Dense\n\n"
        f'model = SentenceTransformer("{name}")\n'
        f'head = Dense.load("{name}", subfolder="{PAIR_HEAD}").to(model.device)\n'
        f"texts = [{quoted(texts[0])}, {quoted(texts[1])}]\n"
        "u, v = model.encode(texts, convert_to_tensor=True)\n"
        'logits = head({"sentence_embedding": torch.cat([u, v, (u - v).abs(), u * v])})["logits"]\n'
        "dict(zip(model[0].model.config.id2label.values(), logits.tolist()))"
    )


def _load_lines(library: str, class_name: str, name: str) -> str:
    return f'from {library} import {class_name}\n\nmodel = {class_name}.from_pretrained("{name}")'


def quoted(text: str) -> str:
    """Return the text as a literal of Python that is harmless in a code block, in double quotes where it can be."""
    literal = repr(visible(text).replace("```", "'''"))
    return f'"{literal[1:-1]}"' if literal.startswith("'") and '"' not in literal and "\\" not in literal else literal
