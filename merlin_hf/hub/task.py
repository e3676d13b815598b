"""What a model is for, and how to load it without this package."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from transformers.modelcard import TASK_MAPPING, TASK_TAG_TO_NAME_MAPPING


AUTO_CLASSES = {
    "audio-classification": "AutoModelForAudioClassification",
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
}
INPUTS = {"audio-classification": "recording.wav", "image-classification": "picture.png"}


class Task(NamedTuple):
    """The Hub's name of a task, such as `text-classification`, and how to call it."""

    tag: str
    title: str


TEXT_CLASSIFICATION = Task("text-classification", TASK_TAG_TO_NAME_MAPPING["text-classification"])


def task_of(class_names: Iterable[str]) -> Task | None:
    """The task of the first of these model classes that has one."""
    for class_name in class_names:
        for tag, mapping in TASK_MAPPING.items():
            names = mapping.values() if isinstance(mapping, Mapping) else ()
            if any(class_name == name or (isinstance(name, tuple | list) and class_name in name) for name in names):
                return Task(tag, TASK_TAG_TO_NAME_MAPPING.get(tag, tag))
    return None


def usage(
    repo_id: str, class_name: str, task: Task | None, has_processor: bool, is_adapter: bool, texts: Sequence[str]
) -> str:
    """
    The lines that load a model.

    Args:
        repo_id (`str`): its name on the Hub.
        class_name (`str`): the class of the model.
        task ([`Task`], *optional*): what it is for.
        has_processor (`bool`): whether a tokenizer or a processor is beside it, which pipelines need.
        is_adapter (`bool`): whether it is an adapter of PEFT.
        texts (`Sequence[str]`): something to classify: a text, or two that the model takes together.
    """
    auto_class = AUTO_CLASSES.get(task.tag) if task is not None else None
    if is_adapter and auto_class == "AutoModelForSequenceClassification":
        class_name = "AutoPeftModelForSequenceClassification"
        return f'from peft import {class_name}\n\nmodel = {class_name}.from_pretrained("{repo_id}")'
    if task is None or auto_class is None or is_adapter or not has_processor:
        class_name = auto_class or class_name
        return f'from transformers import {class_name}\n\nmodel = {class_name}.from_pretrained("{repo_id}")'
    if task.tag in INPUTS or len(texts) == 1:
        given = quoted(INPUTS.get(task.tag, texts[0]))
    else:
        given = f'{{"text": {quoted(texts[0])}, "text_pair": {quoted(texts[1])}}}'
    return (
        "from transformers import pipeline\n\n"
        f'classifier = pipeline("{task.tag}", model="{repo_id}")\n'
        f"classifier({given})"
    )


def quoted(text: str) -> str:
    """The text as a literal of Python, in double quotes where it may be, and harmless within a code block."""
    literal = repr(text.replace("```", "'''"))
    return f'"{literal[1:-1]}"' if literal.startswith("'") and '"' not in literal and "\\" not in literal else literal
