"""The description of a run in its checkpoints, and its differences from a run that resumes from one."""

import dataclasses
import enum
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from torch import nn
from transformers import TrainingArguments

from ..utils.files import read_json
from ..utils.manifest import read_manifest
from .labels import output_names


# The training arguments of transformers that must be the same in a run and in one that resumes from its checkpoint.
# The others may differ: length (`max_steps`, `num_train_epochs`), logging, evaluation, saving, the Hub, devices,
# processes, data loading, memory, and those that later releases of transformers add.
COMPARED = {
    # the step
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "label_smoothing_factor",
    "neftune_noise_alpha",
    # the optimizer and its schedule
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "optim", "optim_args",
    "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    # the order of the rows
    "seed", "data_seed", "train_sampling_strategy", "group_by_length", "dataloader_drop_last",
    # the precision
    "bf16", "fp16",
}  # fmt: skip
# All options of a method are compared, but for these: how much is computed at once, and what to do with old
# checkpoints.
NOT_COMPARED = {"target_chunk_size", "overwrite_output_dir"}

DIGEST_LIMIT = 1 << 28  # bytes of a data set that are read for its digest; of a larger one a sample is
SAMPLE = 2000  # rows
SHOWN = 60  # characters of a value in messages


@dataclass
class Differences:
    """
    What differs between the run that wrote a checkpoint and this one, as text for messages.

    With `essential` differences (the method, the classes, the model, whether there is a source) the checkpoint cannot
    be used. With `other` ones (arguments and rows) it could, and the result would be of neither run.
    """

    essential: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.essential or self.other)

    def __str__(self) -> str:
        return "; ".join([*self.essential, *self.other])


def describe_run(
    method: type, args: TrainingArguments, model: nn.Module, data: Mapping[str, Any], has_all_weights: bool = True
) -> dict[str, Any]:
    """
    Return the description of a run, of plain values.

    `data` has the data sets by the names of their arguments, `None` for one that is not given. With
    `has_all_weights=False` this process has a part of them.
    """
    config = getattr(model, "config", None)
    weights = sum(parameter.numel() for parameter in model.parameters()) if has_all_weights else None
    return {
        "method": next((cls.__name__ for cls in method.__mro__ if cls.__module__.startswith("merlin_hf.")), None),
        "labels": output_names(config),
        "model": {
            "type": getattr(config, "model_type", type(model).__name__),
            "name": os.path.basename(str(getattr(config, "_name_or_path", "")).rstrip("/")) or None,
            "weights": weights,
        },
        "arguments": compared_arguments(args),
        "data": {name: None if dataset is None else describe_data(dataset) for name, dataset in data.items()},
    }


def compared_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Return the arguments that a run and its continuation have in common, as plain values."""
    inherited = {option.name for option in dataclasses.fields(TrainingArguments)}
    names = {option.name for option in dataclasses.fields(args)} - (inherited - COMPARED) - NOT_COMPARED
    return {name: _plain(getattr(args, name)) for name in sorted(names) if not name.endswith("_token")}


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Differences:
    """Compare two descriptions, of a checkpoint and of this run; what one of them does not have is not compared."""
    found = Differences()

    def compare(kind: list[str], name: str, then: Any, this: Any) -> bool:
        is_other = then is not None and this is not None and then != this
        if is_other:
            kind.append(_changed(name, then, this))
        return is_other

    methods = (None if run.get("method") is None else f"`{run['method']}`" for run in (saved, now))
    compare(found.essential, "the method", *methods)
    labels = [run.get("labels") if isinstance(run.get("labels"), list) else None for run in (saved, now)]
    counts = (None if names is None else len(names) for names in labels)
    if not compare(found.essential, "the number of classes", *counts):
        compare(found.essential, "the classes", *labels)
    then, this = _mapping(saved.get("model")), _mapping(now.get("model"))
    compare(found.essential, "the type of the model", then.get("type"), this.get("type"))
    compare(found.essential, "the number of the model's weights", then.get("weights"), this.get("weights"))
    compare(found.other, "the pretrained model", then.get("name"), this.get("name"))
    data = _mapping(saved.get("data")), _mapping(now.get("data"))
    for name in sorted(set(data[0]) & set(data[1]), reverse=True):
        if (data[0][name] is None) != (data[1][name] is None):
            with_it, without = ("the checkpoint", "this run")[:: 1 if data[1][name] is None else -1]
            found.essential.append(f"`{name}` ({with_it} has one, {without} has none)")
            continue
        then, this = (_mapping(of_run[name]) for of_run in data)
        if compare(found.essential, f"the columns of `{name}`", then.get("columns"), this.get("columns")):
            continue
        if compare(found.other, f"the number of rows of `{name}`", then.get("rows"), this.get("rows")):
            continue
        if None not in (then.get("digest"), this.get("digest")) and then["digest"] != this["digest"]:
            found.other.append(f"the rows of `{name}`")
    then, this = _mapping(saved.get("arguments")), _mapping(now.get("arguments"))
    for name in sorted(set(then) & set(this)):
        if then[name] != this[name]:
            found.other.append(_changed(f"`{name}`", then[name], this[name]))
    return found


def read_record(checkpoint: str) -> dict[str, Any] | None:
    """Return the description in a checkpoint; if it has none, as from plain Trainer, the classes of its model."""
    manifest = read_manifest(checkpoint)
    if manifest is not None and manifest["run"] is not None:
        return manifest["run"]
    try:
        names = read_json(Path(checkpoint, "config.json"))["id2label"]
        return {"labels": [str(names[key]) for key in sorted(names, key=int)]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _changed(name: str, then: Any, now: Any) -> str:
    shown = [text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..." for text in (str(then), str(now))]
    return f"{name} ({shown[0]} in the checkpoint, {shown[1]} now)"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


# Data


def describe_data(dataset: Any) -> dict[str, Any]:
    """
    Return the number of rows of a data set, its columns and a digest of its rows, as far as they can be known.

    The digest is of the rows alone: it stays the same where a file gets another name, and changes with its content.
    Only a `datasets.Dataset` has one, as the rows of others may be drawn anew whenever they are read.
    """
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    if not isinstance(dataset, datasets.Dataset):
        return {"rows": rows, "columns": None, "digest": None}
    return {"rows": rows, "columns": sorted(dataset.column_names), "digest": digest(dataset)}


def digest(dataset: datasets.Dataset) -> str:
    """Return a hash of all rows, or of labels and evenly spaced rows where they are large; transforms are left out."""
    columns = sorted(dataset.column_names)
    files = [
        name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image | datasets.Audio)
    ]
    found = hashlib.sha256(str([(name, str(dataset.features[name])) for name in columns]).encode())
    whole = dataset.select_columns([name for name in columns if name not in files]).with_format("arrow")
    if files or _bytes_of(whole) > DIGEST_LIMIT:
        sample = sorted({number * len(dataset) // SAMPLE for number in range(SAMPLE)}) if len(dataset) else []
        small = [
            name
            for name in whole.column_names
            if dataset.features[name] in SCALARS or isinstance(dataset.features[name], datasets.ClassLabel)
        ]
        _update(found, whole.select_columns(small))
        whole = whole.select(sample)
        for row in dataset.select(sample).select_columns(files).with_format("arrow").iter(1) if files else ():
            for name in sorted(files):
                found.update(_content(row.column(name)[0].as_py()))
    _update(found, whole)
    return found.hexdigest()[:32]


SCALARS = [datasets.Value(kind) for kind in ("bool", "int8", "int32", "int64", "uint8", "float32", "float64")]


def _bytes_of(dataset: datasets.Dataset) -> int:
    """Return the size of the rows, a part of which may be selected."""
    table = dataset.data.nbytes if dataset.data is not None else 0
    return table * len(dataset) // max(dataset.data.num_rows, 1)


def _update(found: Any, dataset: datasets.Dataset) -> None:
    if not dataset.column_names:
        return
    for table in dataset.iter(1000):
        # Taken row by row, the same rows have the same bytes, however they are cut into chunks.
        rows = table.replace_schema_metadata(None).combine_chunks().take(list(range(table.num_rows)))
        for batch in rows.combine_chunks().to_batches():
            found.update(batch.serialize())


def _content(value: Any) -> bytes:
    """Return the bytes of an image or sound, or the size and the beginning of the file that it is in."""
    if not isinstance(value, Mapping):
        return repr(value).encode()
    if value.get("bytes") is not None:
        return hashlib.sha256(value["bytes"]).digest()
    path = value.get("path")
    try:
        with open(path or "", "rb") as file:
            return f"{os.fstat(file.fileno()).st_size} ".encode() + hashlib.sha256(file.read(1 << 16)).digest()
    except (OSError, TypeError, ValueError):
        return str(path).encode()
