"""Collect the content of a model card from a Trainer: data sets, settings, results, examples and the method."""

import dataclasses
import enum
import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import datasets
from transformers import Trainer, TrainingArguments

from ..data.columns import KNOWN_TEXTS, LABEL_COLUMNS, is_text
from ..utils.files import short_paths
from ..utils.loading import is_repo_id
from ..utils.log_history import last_evaluations
from .card import (
    PLACEHOLDERS,
    TEXT_CLASSIFICATION,
    CardContent,
    Example,
    MethodDescription,
    Origin,
    Task,
    hub_name,
    task_of,
)


TAGS = ("generated_from_trainer", "merlin_hf")
HUB_FILE = re.compile(r"hf://datasets/(?P<id>[^@]+)@(?P<revision>[^/]+)/")
# Names of `datasets` for rows that were made in memory, and files and folders that were read here.
NO_NAMES = {
    None, "None", "arrow", "audiofolder", "cache", "csv", "generator", "hdf5", "imagefolder", "json", "lance",
    "pandas", "parquet", "spark", "sql", "text", "videofolder", "webdataset", "xml",
}  # fmt: skip
# Arguments about where and how a run was started, logged and saved: private, or saying nothing about the model.
HOUSEKEEPING = {
    "accelerator_config", "batch_eval_metrics", "debug", "deepspeed", "disable_tqdm", "enable_jit_checkpoint",
    "greater_is_better", "ignore_data_skip", "label_names", "length_column_name", "local_rank",
    "metric_for_best_model", "output_dir", "parallelism_config", "per_device_eval_batch_size", "prediction_loss_only",
    "project", "remove_unused_columns", "report_to", "restore_callback_states_from_checkpoint",
    "resume_from_checkpoint", "run_name", "skip_memory_metrics", "torch_empty_cache_steps", "use_cache", "use_cpu",
}  # fmt: skip
HOUSEKEEPING_PREFIXES = (
    "dataloader_", "ddp_", "do_", "eval_", "fsdp", "hub_", "include_", "log_", "logging_", "push_", "save_",
    "trackio_",
)  # fmt: skip
# Arguments that `TrainingArguments` fills in where they are not given.
FILLED_IN = {"accelerator_config"}
# Options of methods that say how much is computed at once, and what to do with the checkpoints of earlier runs.
HOUSEKEEPING_OPTIONS = {"overwrite_output_dir", "target_chunk_size"}
TEXT_COLUMNS = (
    "text", "sentence", "content", "review", "comment", "utterance", "tweet", "document", "headline", "title",
)  # fmt: skip
PAIRS = (("text", "text_pair"), *(columns for columns in KNOWN_TEXTS if len(columns) == 2))
SCANNED_ROWS = 1000
LONGEST_TEXT = 300
MERLIN_CITATION = """\
@article{liu2020merlin,
  title   = {Meta-learning Transferable Representations with a Single Target Domain},
  author  = {Hong Liu and Jeff Z. HaoChen and Colin Wei and Tengyu Ma},
  journal = {arXiv preprint arXiv:2011.01418},
  year    = {2020}
}"""

# By the name of the trainer class, as this package does not import trainers.
DESCRIPTIONS = {
    "MerlinTrainer": MethodDescription(
        "MeRLin",
        "[MeRLin](https://arxiv.org/abs/2011.01418) trains the backbone on the source and, through a head that is fit "
        "in closed form on a part of each target batch, for what that head does on the rest of it. The head in this "
        "model was fit on all rows of the target with the final backbone.",
        MERLIN_CITATION,
    ),
    "JointTrainer": MethodDescription(
        "joint training",
        "Joint training minimises the sum of the losses on source and target, with one backbone and a head for each. "
        "The head in this model is the target's.",
    ),
    "FinetuneTrainer": MethodDescription("fine-tuning", "All weights were trained on the target alone."),
}


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
    """Return a trainer's card; arguments as in [`~merlin_hf.hub.mixin.ModelCardMixin.create_model_card`]."""
    args, model = trainer.args, plain_model(trainer)
    is_adapter = hasattr(model, "peft_config")
    classifier = model.get_base_model() if is_adapter else model
    repo_id = getattr(trainer, "hub_model_id", None) or args.hub_model_id
    title = model_name or (repo_id or os.path.basename(os.path.abspath(args.output_dir))).split("/")[-1]
    target = (dataset_tags, dataset, dataset_args)
    evaluation = getattr(trainer, "_evaluated_dataset", None)
    evaluation = trainer.eval_dataset if evaluation is None else evaluation
    sources = getattr(trainer, "source_dataset", None)
    method = describe_method(type(trainer))
    id2label = getattr(getattr(classifier, "config", None), "id2label", None) or {}
    examples = (examples_of(rows, id2label, examples_per_label) for rows in _target_rows(trainer))
    own_tags = [tags] if isinstance(tags, str) else tags or ()
    processor = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
    return CardContent(
        repo_id=repo_id or title,
        class_name=_class_names(classifier)[0],
        title=title,
        task=_task(tasks, classifier),
        base_model=hub_name(finetuned_from) or _base_model(model),
        targets=origins_of(trainer.train_dataset, *target),
        sources=origins_of(sources, source_dataset_tags, source_dataset, source_dataset_args),
        evaluated_on=_evaluated_on(evaluation, trainer.train_dataset, *origins_of(None, *target)[:1]),
        method=method,
        options=changed_options(args, getattr(trainer, "training_args_class", None)),
        training_arguments=changed_training_arguments(args),
        evaluations=last_evaluations(
            trainer.state.log_history,
            best_step=trainer.state.best_global_step if args.load_best_model_at_end else None,
            eval_names=evaluation if isinstance(evaluation, dict) else (),
        ),
        log_history=trainer.state.log_history,
        examples=next(filter(None, examples), []),
        texts=_texts(trainer, examples_per_label),
        license=license,
        language=language if language is None or isinstance(language, str) else list(language),
        tags=list(dict.fromkeys([*own_tags, *TAGS, re.sub(r"[^\w-]+", "-", method.name.lower())])),
        has_processor=hasattr(processor, "save_pretrained"),
        is_adapter=is_adapter,
        sentence_pairs=getattr(classifier, "pairs", None),
    )


def plain_model(trainer: Trainer) -> Any:
    """Return the classifier without the wrappers of training."""
    transfer_model = getattr(trainer, "transfer_model", None)
    model = trainer.model if transfer_model is None else transfer_model.model
    return trainer.accelerator.unwrap_model(model, keep_torch_compile=False)


def _class_names(model: Any) -> list[str]:
    """Return the names of a model's class and its parents, without those that sharding puts in front."""
    names = [parent.__name__ for parent in type(model).__mro__]
    return next((names[index:] for index in range(len(names)) if task_of(names[index : index + 1])), names)


SENTENCE_ENCODER = "SentenceEncoderForSequenceClassification"


def _task(given: str | Sequence[str] | None, model: Any) -> Task | None:
    tag = given if given is None or isinstance(given, str) else next(iter(given), None)
    found = TEXT_CLASSIFICATION if SENTENCE_ENCODER in _class_names(model) else task_of(_class_names(model))
    return found if tag is None or (found and found.tag == tag) else Task(tag, tag.replace("-", " ").capitalize())


def _base_model(model: Any) -> str | None:
    if hasattr(model, "peft_config"):
        adapter = next(iter(model.peft_config.values()))
        return hub_name(adapter.base_model_name_or_path)
    return hub_name(getattr(getattr(model, "config", None), "_name_or_path", None))


def _evaluated_on(eval_dataset: Any, train_dataset: Any, given: Origin | None = None) -> dict[str | None, Origin]:
    """
    Return the data sets that results come from, by the name of the evaluation set.

    `given` is what the user says of the target, which holds for its evaluation set too.
    """
    sets = eval_dataset if isinstance(eval_dataset, dict) else {None: eval_dataset}
    trained = origin_of(train_dataset)
    found = {}
    for name, dataset in sets.items():
        own = origin_of(dataset)
        fingerprints = {getattr(one, "_fingerprint", id(one)) for one in (dataset, train_dataset)}
        # Rows held out of the split that was trained on are not results on that split.
        if own[:4] == trained[:4] and len(fingerprints) > 1:
            own = own._replace(split=None)
        if given is not None and own.hub_id is None and own.name is None:
            own = own._replace(hub_id=given.hub_id, name=given.name, config=given.config)
        found[name] = own
    return found


def _texts(trainer: Trainer, per_label: int) -> tuple[str, ...]:
    """Return a row to classify; where no rows are to be shown, as many placeholders as the model takes texts."""
    if per_label > 0:
        return next(filter(None, map(first_texts, _target_rows(trainer))), PLACEHOLDERS[:1])
    columns = next(filter(None, map(text_columns_of, _target_rows(trainer))), ())
    return PLACEHOLDERS[: max(len(columns), 1)]


def _target_rows(trainer: Trainer) -> list[Any]:
    """Return the data sets that may have texts of the target, the evaluation set first."""
    evaluation = trainer.eval_dataset
    if isinstance(evaluation, dict):
        evaluation = next(iter(evaluation.values()), None)
    return [evaluation, trainer.train_dataset]


# Data sets


def origin_of(dataset: Any, tag: str | None = None, name: str | None = None, config: str | None = None) -> Origin:
    """Describe a data set, by what it says itself and by what the user says, its `tag` on the Hub and more."""
    rows = len(dataset) if isinstance(dataset, Sized) else None
    info = getattr(dataset, "info", None)
    known = Origin()
    if info is not None and hasattr(info, "builder_name"):
        known = _from_info(info, getattr(dataset, "split", None))
    hub_id = tag if is_repo_id(tag) else None
    if hub_id is not None and hub_id != known.hub_id:
        known = known._replace(hub_id=hub_id, config=None, revision=None, name=None)
    return known._replace(
        name=_without_path(name or (tag if hub_id is None else None)) or known.name,
        config=config or known.config,
        rows=rows,
        label_names=_label_names(dataset),
    )


def _from_info(info: Any, split: Any) -> Origin:
    matches = (HUB_FILE.match(url) for url in info.download_checksums or {})
    found = next((match for match in matches if match and is_repo_id(match["id"])), None)
    hub_id, revision = (None, None) if found is None else (found["id"], found["revision"])
    # That of a folder that was read here is its last part; a path is never shown.
    name = getattr(info, "dataset_name", None) or info.builder_name
    is_named = hub_id is not None or name not in NO_NAMES
    config = info.config_name
    # A configuration that nobody named is a hash, or `default`.
    is_configured = config not in (None, "default") and not config.startswith("default-")
    return Origin(
        hub_id=hub_id,
        name=name if is_named and hub_id is None else None,
        config=config if is_configured and is_named else None,
        # `load_dataset("csv", data_files=...)` says `train` of any file.
        split=str(split) if is_named and split is not None else None,
        revision=revision,
    )


def _label_names(dataset: Any) -> tuple[str, ...] | None:
    features = getattr(dataset, "features", None) or {}
    for column in ("label", "labels"):
        feature = getattr(features.get(column), "feature", features.get(column))  # of tokens a list of these
        if isinstance(feature, datasets.ClassLabel):
            return tuple(feature.names)
    return None


def origins_of(
    dataset: Any,
    tags: str | Sequence[str] | None = None,
    names: str | Sequence[str] | None = None,
    configs: str | Sequence[str] | None = None,
) -> list[Origin]:
    """
    Describe the data sets that rows come from, as [`origin_of`]; none where nothing is known.

    `dataset` is a dictionary by name of several sources. `tags`, `names` and `configs` are what the user says of them,
    in their order; there may be several of one data set that was put together from several.
    """
    listed = [[given] if given is None or isinstance(given, str) else list(given) for given in (tags, names, configs)]
    if dataset is None and not any((tags, names, configs)):
        return []
    if isinstance(dataset, Mapping) and not isinstance(dataset, datasets.DatasetDict):
        keys, parts = list(dataset), list(dataset.values())
    else:
        parts = [dataset] * max(map(len, listed))
        keys = [None] * len(parts)
    columns = [[*given, *[None] * len(parts)][: len(parts)] for given in listed]
    origins = [origin_of(part, *given) for part, *given in zip(parts, *columns, strict=True)]
    if len(parts) > 1 and None in keys:  # nobody knows which of them has how many rows
        origins = [origin._replace(rows=None) for origin in origins]
    return [
        origin if origin.hub_id or origin.name else origin._replace(name=key)
        for origin, key in zip(origins, keys, strict=True)
    ]


# Settings


def changed_options(args: TrainingArguments, options: type | None) -> dict[str, str]:
    """Return the options of the method, the dataclass `options`, that differ from their defaults."""
    if options is None:
        return {}
    known = {option.name for option in dataclasses.fields(TrainingArguments)}
    own = [option for option in dataclasses.fields(options) if option.name not in known | HOUSEKEEPING_OPTIONS]
    return _changed(args, own)


def changed_training_arguments(args: TrainingArguments) -> dict[str, str]:
    """Return the changed training arguments, without those about logging, saving, the Hub and the machine."""
    shown = [
        option
        for option in dataclasses.fields(TrainingArguments)
        if option.name not in HOUSEKEEPING
        and not option.name.startswith(HOUSEKEEPING_PREFIXES)
        and not option.name.endswith("_token")
    ]
    changed = _changed(args, shown)
    for name in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):  # the old names of these two
        if name.replace("gradient", "activation") in changed:
            changed.pop(name, None)
    if args.world_size > 1:
        changed["processes"] = str(args.world_size)
    return changed


def given_arguments(args: TrainingArguments) -> dict[str, str]:
    """Return all changed arguments and options, for the user's own eyes: with folders, without tokens."""
    options = [option for option in dataclasses.fields(args) if option.name not in FILLED_IN]
    names = {*_changed(args, options), "output_dir"}
    if not args.report_to:  # "none", which is the default, comes to an empty list
        names.discard("report_to")
    values = args.to_dict()  # with a placeholder for each token
    return {name: str(values[name]) for name in sorted(names)}


def _changed(args: TrainingArguments, options: list[dataclasses.Field]) -> dict[str, str]:
    # The defaults are read from the fields: making another instance would reset accelerate's state in mid-training.
    changed = {}
    for option in options:
        default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
        value = _plain(getattr(args, option.name, default))
        if value != _plain(default) and not (_is_blank(value) and _is_blank(default)):
            changed[option.name] = str(value)
    return changed


def _plain(value: Any) -> Any:
    """Return a value without absolute paths, which say something about the machine."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _without_path(value)


def _without_path(value: Any) -> Any:
    """Return a text with the last part only of each absolute path in it; anything else as it is."""
    return short_paths(value) if isinstance(value, str) else value


def _is_blank(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, str | list | tuple | dict) and not value)


# Examples


def examples_of(dataset: Any, id2label: dict[int, str], per_label: int) -> list[Example]:
    """
    Return the first `per_label` texts of each label, in the order of the labels.

    They are found in a `datasets.Dataset` with one or two columns of raw texts and one of classes.
    """
    if per_label <= 0 or not isinstance(dataset, datasets.Dataset):
        return []
    columns = text_columns_of(dataset)
    label_column = next((name for name in LABEL_COLUMNS if name in dataset.column_names), None)
    if not columns or label_column is None:
        return []
    names = _names_of_labels(dataset.features[label_column], id2label)
    found: dict[str, list[Example]] = {name: [] for name in names.values()}
    for row in _scanned(dataset, (*columns, label_column)):
        texts = [_one_line(row[name]) for name in columns]
        for label in _labels(row[label_column], names):
            if all(texts) and len(found.setdefault(label, [])) < per_label:
                found[label].append(Example(label, *texts))
        if all(len(examples) == per_label for examples in found.values()):
            break
    return [example for examples in found.values() for example in examples]


def text_columns_of(dataset: Any) -> tuple[str, ...]:
    """Return the column of raw texts of a `datasets.Dataset`, or the two that a model takes together; else nothing."""
    if not isinstance(dataset, datasets.Dataset):
        return ()
    texts = [name for name, feature in dataset.features.items() if is_text(feature)]
    pair = next((pair for pair in PAIRS if set(pair) <= set(texts)), None)
    return pair or tuple(name for name in TEXT_COLUMNS if name in texts)[:1]


def first_texts(dataset: Any) -> tuple[str, ...]:
    """Return the texts of the first row that has some in all columns of [`text_columns_of`]."""
    columns = text_columns_of(dataset)
    for row in _scanned(dataset, columns) if columns else ():
        texts = tuple(_one_line(row[name]) for name in columns)
        if all(texts):
            return texts
    return ()


def _scanned(dataset: datasets.Dataset, columns: Iterable[str]) -> datasets.Dataset:
    # Without the user's transform, which may return anything.
    rows = dataset.with_format(None).select_columns(list(columns))
    return rows.select(range(min(len(rows), SCANNED_ROWS)))


def _names_of_labels(feature: Any, id2label: dict[int, str]) -> dict[int, str]:
    names = {int(id): str(name) for id, name in id2label.items()}
    if isinstance(feature, datasets.ClassLabel) and all(name == f"LABEL_{id}" for id, name in names.items()):
        return dict(enumerate(feature.names))
    return names


def _labels(value: Any, names: dict[int, str]) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool | int):
        return [names[value]] if int(value) in names else []
    if isinstance(value, list) and len(value) == len(names):  # several labels, as zeros and ones
        return [names[id] for id, is_set in enumerate(value) if id in names and is_set]
    return []


def _one_line(text: Any) -> str:
    line = " ".join(str(text or "").split())
    line = line.encode("utf-8", "replace").decode("utf-8")
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1].rstrip()}…"


# Methods


def describe_method(trainer_class: type) -> MethodDescription:
    """
    Return the text of a card about a trainer's method.

    It is that of the nearest class in the inheritance that has one: its attribute `method_description`, the text in
    [`DESCRIPTIONS`], or for other methods of this package the first paragraph of the docstring. A method that builds
    on one with a citation has that citation too.
    """
    found = list(filter(None, map(_own_description, trainer_class.__mro__))) or [_from_docstring(trainer_class)]
    return found[0]._replace(citation=next(filter(None, (one.citation for one in found)), None))


def _own_description(trainer_class: type) -> MethodDescription | None:
    if trainer_class.__dict__.get("method_description") is not None:
        return trainer_class.__dict__["method_description"]
    if trainer_class.__name__ in DESCRIPTIONS:
        return DESCRIPTIONS[trainer_class.__name__]
    if trainer_class.__module__.startswith("merlin_hf.methods.") and trainer_class.__name__.endswith("Trainer"):
        return _from_docstring(trainer_class)
    return None


def _from_docstring(trainer_class: type) -> MethodDescription:
    paragraph = inspect.cleandoc(trainer_class.__dict__.get("__doc__") or "").split("\n\n")[0]
    paragraph = re.sub(r"\[`~?(?:\w+\.)*(\w+)`\]", r"`\1`", " ".join(paragraph.split()))
    # The name of a method stands before its authors: "L2-SP (Li, Grandvalet and Davoine 2018): ..."
    named = re.match(r"([^:.(`]{1,40}) \(", paragraph)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", trainer_class.__name__.removesuffix("Trainer") or "Trainer")
    linked = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paragraph)
    return MethodDescription(named[1] if named else words.capitalize(), linked)
