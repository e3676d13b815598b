"""Checking values that a user wrote, with messages that name the key, what was given and what would work."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any


# YAML 1.1 reads `1e-4`, without a dot, as text.
EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


class ConfigError(ValueError):
    """A configuration cannot be used as it is; the message says what to change."""


def did_you_mean(name: Any, known: Iterable[str], most: int = 1) -> str:
    """` Did you mean 'seeds'?` where known names are near, the nearest `most` of them; else nothing."""
    close = [repr(one) for one in difflib.get_close_matches(str(name), list(known), n=most)]
    if not close:
        return ""
    *others, last = close
    return f" Did you mean {', '.join(others)} or {last}?" if others else f" Did you mean {last}?"


def check_mapping(value: Any, key: str) -> dict[str, Any]:
    """
    The value as a dictionary whose keys are text; `None` is an empty one.

    Raises:
        ConfigError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"`{key}` must be a mapping of names to values, got {value!r}.")
    return dict(value)


def check_names(given: Iterable[str], known: Iterable[str], key: str) -> None:
    """
    Check that every name is known.

    Args:
        key (`str`): where the names stand; empty for the top of the configuration.

    Raises:
        ConfigError: one is not; the message suggests the nearest and lists all.
    """
    known = list(known)
    for name in given:
        if name not in known:
            where = f"`{key}.{name}`" if key else f"`{name}`"
            raise ConfigError(f"{where} is unknown.{did_you_mean(name, known)} Known here: {', '.join(known)}.")


def check_type(value: Any, hint: Any, key: str) -> Any:
    """
    The value, if a field with this annotation takes it; whole numbers become floats, and so does text such as `1e-4`.

    Annotations other than `int`, `float`, `bool`, `str`, lists of them and unions of all these are not checked.

    Raises:
        ConfigError: it is of another type.
    """
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if any(not _is_simple(choice) for choice in choices):
        return value
    for choice in choices:
        found, converted = _convert(value, choice)
        if found:
            return converted
    expected = " or ".join(_name(choice) for choice in choices)
    raise ConfigError(f"`{key}` must be {expected}, got {value!r}.")


def check_fields(given: Any, cls: type, key: str) -> dict[str, Any]:
    """
    The keyword arguments for a dataclass, from a mapping of the configuration.

    Raises:
        ConfigError: there is an unknown key, one is missing or has a value of another type.
    """
    given = check_mapping(given, key)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    check_names(given, fields, key)
    prefix = f"{key}." if key else ""
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and given.get(name) is None:
            raise ConfigError(f"`{prefix}{name}` is missing.")
    hints = typing.get_type_hints(cls)
    return {name: check_type(value, hints[name], f"{prefix}{name}") for name, value in given.items()}


def check_at_least(value: float | None, least: float, key: str) -> None:
    """
    Check a number that may be left out.

    Raises:
        ConfigError: it is less than `least`.
    """
    if value is not None and value < least:
        raise ConfigError(f"`{key}` must be at least {least}, got {value}.")


def first_sentence(error: BaseException) -> str:
    """What an error says, up to the end of its first sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text, maxsplit=1)[0]


def _is_simple(hint: Any) -> bool:
    if typing.get_origin(hint) is list:
        return all(_is_simple(item) for item in typing.get_args(hint))
    return hint in NAMES


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is list:
        return f"a list (each {_name(typing.get_args(hint)[0])})"
    return NAMES[hint]


def _convert(value: Any, hint: Any) -> tuple[bool, Any]:
    if typing.get_origin(hint) is list:
        if not isinstance(value, list | tuple):
            return False, None
        items = [_convert(item, typing.get_args(hint)[0]) for item in value]
        return all(found for found, _ in items), [item for _, item in items]
    if hint is float:
        if isinstance(value, str) and EXPONENT.fullmatch(value):
            return True, float(value)
        return isinstance(value, int | float) and not isinstance(value, bool), value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, hint), value
