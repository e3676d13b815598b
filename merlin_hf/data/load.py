"""Data sets under the names they have on the Hub, also where there is no network."""

import os
from pathlib import Path
from typing import Any

import datasets

from .audio import AUDIO
from .images import IMAGES
from .media import find_split_folders, load_media_folders


DATA_ROOT = "MERLIN_DATA_ROOT"

# How a file name ends, and the builder of `datasets` that reads it.
FILE_TYPES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_dataset(
    path: str | os.PathLike, name: str | None = None, *, argument: str = "path", **kwargs: Any
) -> datasets.DatasetDict | datasets.Dataset:
    """
    [`datasets.load_dataset`] that looks in a local folder first, so that one command works with and without a network.

    The first of these that exists is read:

    1. `path` itself, a csv, json, jsonl or parquet file (its rows are the split `train`) or a folder;
    2. `$MERLIN_DATA_ROOT/<name>`, where that environment variable is set;
    3. `$MERLIN_DATA_ROOT/<the last part of path>`;
    4. the data set `path` of the Hub, in its configuration `name`.

    Args:
        path (`str` or `os.PathLike`): a name on the Hub, a file or a folder.
        name (`str`, *optional*): the configuration, as on the Hub.
        argument (`str`): how the user calls `path`, for error messages.
        kwargs: for [`datasets.load_dataset`], such as `split`, `cache_dir`, `revision` or `token`.

    Returns:
        `datasets.DatasetDict`; `datasets.Dataset` where `split` is given.

    Raises:
        FileNotFoundError: there is no such data set in any of these places; the message says what was tried.
        ValueError: a file of a type that is not read.

    Example:

    ```python
    >>> from merlin_hf.data import load_dataset

    >>> rte = load_dataset("nyu-mll/glue", "rte")  # $MERLIN_DATA_ROOT/rte if there is one, else the Hub
    >>> mine = load_dataset("reviews.csv", split="train")
    ```
    """
    path = os.fspath(path)
    if os.path.isfile(path):
        return datasets.load_dataset(file_type(path, argument), data_files={"train": path}, **kwargs)
    if os.path.isdir(path):
        found = load_class_folders(path, argument, kwargs.get("split"))
        return datasets.load_dataset(path, name, **kwargs) if found is None else found
    root = data_root()
    if root is not None:
        if name is not None and (root / name).is_dir():
            return datasets.load_dataset(str(root / name), **kwargs)
        folder = root / path.rstrip("/").split("/")[-1]
        if folder.is_dir():
            return datasets.load_dataset(str(folder), name, **kwargs)
    try:
        return datasets.load_dataset(path, name, **kwargs)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(_not_found(path, name, argument, root, error)) from error


def load_class_folders(
    folder: str, argument: str, split: str | None = None
) -> datasets.DatasetDict | datasets.Dataset | None:
    """
    Load a folder of images or recordings in a folder for each class, perhaps in a folder for each split.

    `datasets` would take the deepest folder of a file for its class, and none where files are on several levels.

    Returns:
        the splits, or the one that is asked for, perhaps a slice such as `train[:10%]`; `None` where the folder has other files.

    Raises:
        ValueError: it is not clear which folder is the class, or there is no such split.
    """
    for kind in (IMAGES, AUDIO):
        folders = find_split_folders(folder, kind, argument)
        if folders is not None:
            splits = load_media_folders(folders, kind, dict.fromkeys(folders, argument))
            break
    else:
        return None
    if split is None:
        return splits
    lengths = {name: len(rows) for name, rows in splits.items()}
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(lengths)
    rows = [
        splits[part.splitname].select(range(part.from_ or 0, lengths[part.splitname] if part.to is None else part.to))
        for part in parts
    ]
    return datasets.concatenate_datasets(rows)


def file_type(path: str | os.PathLike, argument: str = "path") -> str:
    """
    The builder of `datasets` that reads a file, by how its name ends.

    Raises:
        ValueError: there is none.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FILE_TYPES:
        raise ValueError(f"`{argument}` must be a {', '.join(FILE_TYPES)} file, got {os.fspath(path)!r}.")
    return FILE_TYPES[suffix]


def data_root() -> Path | None:
    """
    The folder that the environment variable `MERLIN_DATA_ROOT` names.

    Raises:
        FileNotFoundError: it names something that is not a folder.
    """
    value = os.environ.get(DATA_ROOT)
    if not value:
        return None
    if not os.path.isdir(value):
        raise FileNotFoundError(
            f"The environment variable {DATA_ROOT} must name a folder of data sets, got {value!r}. Unset it to read "
            "from the Hub."
        )
    return Path(value)


def _not_found(path: str, name: str | None, argument: str, root: Path | None, error: Exception) -> str:
    if root is None:
        local = f"{DATA_ROOT} is not set"
    else:
        folders = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
        listed = ", ".join(folders[:40]) + (", ..." if len(folders) > 40 else "")
        local = f"{DATA_ROOT} has {listed or 'no folders'}"
    given = f"`{argument}={path!r}`" + (f" (configuration {name!r})" if name is not None else "")
    return (
        f"{given} is not a file or folder here, {local}, and the Hub did not give it: {error}. Give a name as on the "
        f"Hub, a csv, json or parquet file, or a folder, or set {DATA_ROOT} to a folder with one folder per data set."
    )
