"""Read configurations in YAML, of which JSON is a part: nothing in a file runs, and none takes more than a moment."""

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .validation import ConfigError, check_mapping, shown


# A configuration of a comparison has about 2,000 characters and 100 values.
MAX_BYTES = 200_000
MAX_VALUES = 10_000
MAX_DEPTH = 32
MAX_DIGITS = 400
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """The safe loader, which counts what it reads, and refuses a key that stands twice."""

    def __init__(self, text: str):
        super().__init__(text)
        self.count = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.count, self.depth = self.count + 1, self.depth + 1
        if self.count > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES} values")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if node.tag in NUMBERS and len(node.value) > MAX_DIGITS:
                raise ValueError(f"a number has {len(node.value)} characters")
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:  # a number of too many digits, a date that there is not
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in names:
                    text = f"the key {shown(key.value)} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
                names.add(key.value)
        return super().construct_mapping(node, deep)


def read_mapping(path: str | os.PathLike, argument: str | None = None) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file; a ConfigError if it is none, too large, or a bomb."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no configuration {str(path)!r}{f' (`{argument}`)' if argument else ''}.")
    if file.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{str(path)!r} has {file.stat().st_size} bytes; a configuration has at most {MAX_BYTES}.")
    try:
        config = _load(file.read_bytes().decode("utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        text = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise ConfigError(f"{str(path)!r} cannot be read as YAML: {text}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{str(path)!r} must be a mapping of names to values, got {shown(config)}.")
    return check_mapping(config, str(path))


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES} values with those that aliases (`*name`) repeat")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node has with those that aliases repeat, or raise a ValueError if it repeats itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0  # as long as it is not known
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    elif not known[id(node)]:
        raise ValueError("an alias (`*name`) stands within what it repeats")
    return known[id(node)]
