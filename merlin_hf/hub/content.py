"""What a Trainer knows that belongs on a card."""

import os
import re
from collections.abc import Sequence
from typing import Any

from transformers import Trainer

from .card import PLACEHOLDERS, CardContent, hub_name
from .examples import Example, examples_of, first_texts, text_columns_of
from .methods import describe_method
from .origin import Origin, origin_of, origins_of
from .results import last_evaluations
from .settings import changed_options, changed_training_arguments
from .task import Task, task_of


TAGS = ("generated_from_trainer", "merlin_hf")


def content_of(
    trainer: Trainer,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | Sequence[str] | None = None,
    dataset_tags: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    dataset_args: str | Sequence[str] | None = None,
    source_dataset_tags: str | Sequence[str] | None = None,
    source_dataset: str | Sequence[str] | None = None,
    source_dataset_args: str | Sequence[str] | None = None,
    examples_per_label: int = 0,
) -> CardContent:
    """The content of a trainer's card; arguments as in [`~merlin_hf.hub.mixin.ModelCardMixin.create_model_card`]."""
    args, model = trainer.args, plain_model(trainer)
    is_adapter = hasattr(model, "peft_config")
    classifier = model.get_base_model() if is_adapter else model
    repo_id = getattr(trainer, "hub_model_id", None) or args.hub_model_id
    title = model_name or (repo_id or os.path.basename(os.path.abspath(args.output_dir))).split("/")[-1]
    targets = origins_of(trainer.train_dataset, dataset_tags, dataset, dataset_args)
    evaluation = getattr(trainer, "_evaluated_dataset", None)
    evaluation = trainer.eval_dataset if evaluation is None else evaluation
    sources = getattr(trainer, "source_dataset", None)
    named = source_dataset_tags or source_dataset
    return CardContent(
        repo_id=repo_id or title,
        class_name=_class_names(classifier)[0],
        title=title,
        task=_task(tasks, classifier),
        base_model=hub_name(finetuned_from) or _base_model(model),
        targets=targets if trainer.train_dataset is not None or dataset_tags or dataset else [],
        sources=origins_of(sources, source_dataset_tags, source_dataset, source_dataset_args)
        if sources is not None or named
        else [],
        evaluated_on=_evaluated_on(evaluation, targets[0]),
        method=describe_method(type(trainer)),
        options=changed_options(args, getattr(trainer, "training_args_class", None)),
        training_arguments=changed_training_arguments(args),
        evaluations=last_evaluations(
            trainer.state.log_history,
            best_step=trainer.state.best_global_step if args.load_best_model_at_end else None,
            eval_names=evaluation if isinstance(evaluation, dict) else (),
        ),
        log_history=trainer.state.log_history,
        examples=_examples(trainer, classifier, examples_per_label),
        texts=_texts(trainer, examples_per_label),
        license=license,
        language=language if language is None or isinstance(language, str) else list(language),
        tags=_tags(tags, describe_method(type(trainer)).name),
        has_processor=_has_processor(trainer),
        is_adapter=is_adapter,
    )


def plain_model(trainer: Trainer) -> Any:
    """The classifier, where training wraps it too."""
    transfer_model = getattr(trainer, "transfer_model", None)
    model = trainer.model if transfer_model is None else transfer_model.model
    return trainer.accelerator.unwrap_model(model, keep_torch_compile=False)


def _class_names(model: Any) -> list[str]:
    """The model's class, by the first name that a task is known for: sharding puts a class in front."""
    names = [parent.__name__ for parent in type(model).__mro__]
    return next((names[index:] for index in range(len(names)) if task_of(names[index : index + 1])), names)


def _task(given: str | Sequence[str] | None, model: Any) -> Task | None:
    tag = given if given is None or isinstance(given, str) else next(iter(given), None)
    found = task_of(_class_names(model))
    return found if tag is None or (found and found.tag == tag) else Task(tag, tag.replace("-", " ").capitalize())


def _base_model(model: Any) -> str | None:
    if hasattr(model, "peft_config"):
        adapter = next(iter(model.peft_config.values()))
        return hub_name(adapter.base_model_name_or_path)
    return hub_name(getattr(getattr(model, "config", None), "_name_or_path", None))


def _evaluated_on(eval_dataset: Any, target: Origin) -> dict[str | None, Origin]:
    """Where results come from; what the user said of the target holds for its evaluation set too."""
    sets = eval_dataset if isinstance(eval_dataset, dict) else {None: eval_dataset}
    found = {}
    for name, dataset in sets.items():
        own = origin_of(dataset)
        if own.hub_id is None and own.name is None:
            own = own._replace(hub_id=target.hub_id, name=target.name, config=target.config)
        found[name] = own
    return found


def _examples(trainer: Trainer, model: Any, per_label: int) -> list[Example]:
    id2label = getattr(getattr(model, "config", None), "id2label", None) or {}
    found = (examples_of(dataset, id2label, per_label) for dataset in _target_rows(trainer))
    return next(filter(None, found), [])


def _texts(trainer: Trainer, per_label: int) -> tuple[str, ...]:
    """A row to classify; where none is to be shown, as many placeholders as the model takes texts."""
    if per_label > 0:
        return next(filter(None, map(first_texts, _target_rows(trainer))), PLACEHOLDERS[:1])
    columns = next(filter(None, map(text_columns_of, _target_rows(trainer))), ())
    return PLACEHOLDERS[: max(len(columns), 1)]


def _target_rows(trainer: Trainer) -> list[Any]:
    """Where texts of the target may be, the evaluation set first."""
    evaluation = trainer.eval_dataset
    if isinstance(evaluation, dict):
        evaluation = next(iter(evaluation.values()), None)
    return [evaluation, trainer.train_dataset]


def _tags(given: str | Sequence[str] | None, method: str) -> list[str]:
    own = [given] if isinstance(given, str) else list(given or ())
    return list(dict.fromkeys([*own, *TAGS, re.sub(r"[^\w-]+", "-", method.lower())]))


def _has_processor(trainer: Trainer) -> bool:
    processor = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
    return processor is not None and hasattr(processor, "save_pretrained")
