"""Load data sets under the names they have on the Hub, also where there is no network."""

import logging
import os
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet

from .audio import AUDIO
from .files import FILE_TYPES, file_type, read_csv_files, read_file, reading
from .images import IMAGES
from .media import find_split_folders, load_media_folders


__all__ = ["DATA_ROOT", "FILE_TYPES", "data_root", "file_type", "load_dataset"]

DATA_ROOT = "MERLIN_DATA_ROOT"
# Where others than these are given, `datasets` reads a file by itself.
OWN_OPTIONS = {"split", "cache_dir", "token", "revision"}

logger = logging.getLogger("merlin_hf.data")


def load_dataset(
    path: str | os.PathLike, name: str | None = None, *, argument: str = "path", **kwargs: Any
) -> datasets.DatasetDict | datasets.Dataset:
    """
    Load a data set as [`datasets.load_dataset`], from a local folder first, so that no network is needed.

    The first of these that exists is read:

    1. `path` itself, a csv, tsv, json, jsonl or parquet file (its rows are the split `train`) or a folder;
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
        ValueError: a file of a type that is not read, or that cannot be read; the message names the line and the
            reason.

    The delimiter of a csv file and a byte order mark are found; all else is UTF-8. In a csv file only an empty cell is
    a missing value: texts such as `None` and `NA` are texts.

    Example:
    ```python
    >>> from merlin_hf.data import load_dataset

    >>> rte = load_dataset("nyu-mll/glue", "rte")  # $MERLIN_DATA_ROOT/rte if there is one, else the Hub
    >>> mine = load_dataset("reviews.csv", split="train")
    ```
    """
    path = os.fspath(path)
    if os.path.isfile(path):
        return _load_file(path, argument, **kwargs)
    if os.path.isdir(path):
        return _load_folder(path, name, argument, f"`{argument}={path!r}`", **kwargs)
    root = data_root()
    if root is not None:
        given = f"`{argument}={path!r}`" + (f" (configuration {name!r})" if name is not None else "")
        if name is not None and (root / name).is_dir():
            return _load_folder(str(root / name), None, argument, given, **kwargs)
        folder = root / path.rstrip("/").split("/")[-1]
        if folder.is_dir():
            return _load_folder(str(folder), name, argument, given, **kwargs)
    try:
        return datasets.load_dataset(path, name, **kwargs)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(_not_found(path, name, argument, root, error)) from error
    except datasets.exceptions.DatasetsError:
        with reading(f"`{argument}={path!r}`"):
            raise


def _load_file(
    path: str, argument: str, split: str | None = None, cache_dir: str | None = None, **kwargs: Any
) -> datasets.DatasetDict | datasets.Dataset:
    if set(kwargs) <= OWN_OPTIONS:
        splits = datasets.DatasetDict(train=read_file(path, argument, cache_dir))
        return splits if split is None else take_split(splits, split)
    with reading(f"`{argument}={path!r}`"):
        return datasets.load_dataset(
            file_type(path, argument), data_files={"train": path}, split=split, cache_dir=cache_dir, **kwargs
        )


def _load_folder(
    path: str, name: str | None, argument: str, named: str, split: str | None = None, **kwargs: Any
) -> datasets.DatasetDict | datasets.Dataset:
    for kind in (IMAGES, AUDIO):
        # `datasets` takes the deepest folder of a file for its class, and none where files are on several levels.
        folders = find_split_folders(path, kind, argument)
        if folders is not None:
            return take_split(load_media_folders(folders, kind, dict.fromkeys(folders, argument)), split)
    if (Path(path) / datasets.config.DATASETDICT_JSON_FILENAME).is_file():
        return take_split(datasets.load_from_disk(path), split)
    if (Path(path) / datasets.config.DATASET_STATE_JSON_FILENAME).is_file():
        return take_split(datasets.DatasetDict(train=datasets.load_from_disk(path)), split)
    pattern = next((sign for sign in "[]*?" if sign in path), None)
    if pattern is not None:
        raise ValueError(
            f"{named}: `datasets` takes {pattern!r} in the path of a folder for a pattern. Rename the folder."
        )
    with reading(named):
        if not set(kwargs) <= OWN_OPTIONS:
            return datasets.load_dataset(path, name, split=split, **kwargs)
        builder = datasets.load_dataset_builder(path, name, **kwargs)
        files = {str(part): [str(file) for file in found] for part, found in (builder.config.data_files or {}).items()}
        if isinstance(builder, Csv | Json | Parquet):
            _warn_of_files_left_out(path, files, named)
        if isinstance(builder, Csv) and builder.config.features is None:
            # Each split is read as a file is: delimiters, encodings, and texts that are not missing values.
            cache_dir = kwargs.get("cache_dir")
            splits = {
                part: read_csv_files(found, f"{named}, split {part!r},", cache_dir) for part, found in files.items()
            }
            return take_split(datasets.DatasetDict(splits), split)
        try:
            return datasets.load_dataset(path, name, split=split, **kwargs)
        except Exception:
            if isinstance(builder, Json):
                for file in sum(files.values(), []):
                    read_file(file, "file")  # which says the line
            raise


def _warn_of_files_left_out(path: str, files: dict[str, list[str]], named: str) -> None:
    """Name the files of a folder that are not of a split; a README may choose them on purpose."""
    if (Path(path) / "README.md").exists():
        return
    taken = {os.path.realpath(file) for found in files.values() for file in found}
    left = sorted(
        str(file.relative_to(path))
        for file in Path(path).rglob("*.*")
        if file.suffix.lower() in FILE_TYPES and not file.name.startswith(".") and os.path.realpath(file) not in taken
    )
    if left and taken:
        logger.warning(
            f"{named}: {', '.join(left[:5])}{', ...' if len(left) > 5 else ''} in this folder is taken for no split; "
            f"the splits are {', '.join(files)}. Call a file train.csv, validation.csv or test.csv, or name it by an "
            "option of its own."
        )


def take_split(splits: datasets.DatasetDict, split: str | None) -> datasets.DatasetDict | datasets.Dataset:
    """Return one split, a slice such as `train[:80%]`, or with `None` all; a ValueError if there is no such split."""
    if split is None:
        return splits
    instruction = datasets.ReadInstruction.from_spec(split)
    parts = instruction.to_absolute({name: len(rows) for name, rows in splits.items()})
    chosen = [
        splits[part.splitname].select(
            range(part.from_ or 0, len(splits[part.splitname]) if part.to is None else part.to)
        )
        for part in parts
    ]
    return chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)


def data_root() -> Path | None:
    """
    Return the folder that the environment variable `MERLIN_DATA_ROOT` names.

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
