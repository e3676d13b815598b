"""Where a data set comes from, as far as it says so itself."""

import re
from collections.abc import Sequence, Sized
from typing import Any, NamedTuple

from datasets import ClassLabel


HUB_FILE = re.compile(r"hf://datasets/(?P<id>[^@]+)@(?P<revision>[^/]+)/")
# What `datasets` calls rows that were made in memory, and files and folders that were read here.
NO_NAMES = {
    None, "None", "arrow", "audiofolder", "cache", "csv", "generator", "hdf5", "imagefolder", "json", "lance", "pandas",
    "parquet", "spark", "sql", "text", "videofolder", "webdataset", "xml",
}  # fmt: skip


class Origin(NamedTuple):
    """
    What is known about a data set; `None` where it is not.

    Args:
        hub_id (`str`): its name on the Hub, such as `nyu-mll/glue`.
        name (`str`): how to call it in a sentence.
        config (`str`): its configuration, such as `rte`.
        split (`str`): `train`, `validation` and so on.
        revision (`str`): the commit it was read at.
        rows (`int`): how many there are.
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
    def markdown(self) -> str:
        """How the card names it."""
        if self.hub_id is not None:
            return f"[{self.name or self.hub_id}](https://huggingface.co/datasets/{self.hub_id})"
        return self.name or "not named"


def origin_of(dataset: Any, tag: str | None = None, name: str | None = None, config: str | None = None) -> Origin:
    """
    Describe a data set, by what it says itself and by what the user says, which goes first.

    Args:
        dataset (`torch.utils.data.Dataset` or `datasets.Dataset`, *optional*).
        tag (`str`, *optional*): its name on the Hub.
        name (`str`, *optional*): how to call it.
        config (`str`, *optional*): its configuration.
    """
    rows = len(dataset) if isinstance(dataset, Sized) else None
    info = getattr(dataset, "info", None)
    known = Origin()
    if info is not None and hasattr(info, "builder_name"):
        known = _from_info(info, getattr(dataset, "split", None))
    if tag is not None and tag != known.hub_id:
        known = known._replace(hub_id=tag, config=None, revision=None, name=None)
    return known._replace(
        name=name or known.name, config=config or known.config, rows=rows, label_names=_label_names(dataset)
    )


def _from_info(info: Any, split: Any) -> Origin:
    for url in info.download_checksums or {}:
        found = HUB_FILE.match(url)
        if found:
            hub_id, revision = found["id"], found["revision"]
            break
    else:
        hub_id = revision = None
    # That of a folder that was read here is its last part; a path is never shown.
    name = getattr(info, "dataset_name", None) or info.builder_name
    is_named = name not in NO_NAMES
    config = info.config_name
    # A configuration that nobody named is a hash, or `default`.
    is_configured = config not in (None, "default") and not config.startswith("default-")
    return Origin(
        hub_id=hub_id,
        name=None if hub_id or not is_named else name,
        config=config if is_configured and (hub_id or is_named) else None,
        split=None if split is None else str(split),
        revision=revision,
    )


def _label_names(dataset: Any) -> tuple[str, ...] | None:
    features = getattr(dataset, "features", None) or {}
    for column in ("label", "labels"):
        if isinstance(features.get(column), ClassLabel):
            return tuple(features[column].names)
    return None


def origins_of(
    dataset: Any,
    tags: str | Sequence[str] | None = None,
    names: str | Sequence[str] | None = None,
    configs: str | Sequence[str] | None = None,
) -> list[Origin]:
    """[`origin_of`], where the user may name several data sets that the rows come from."""
    listed = [[given] if given is None or isinstance(given, str) else list(given) for given in (tags, names, configs)]
    length = max(map(len, listed))
    columns = [[*values, *[None] * (length - len(values))] for values in listed]
    origins = [origin_of(dataset, *given) for given in zip(*columns, strict=True)]
    return (
        origins if length == 1 else [origin._replace(rows=None) for origin in origins]
    )  # which has how many is unknown
