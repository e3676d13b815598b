"""Check values that a user gave: their type, range and that they are finite, by the dataclass that they fill."""

import dataclasses
import difflib
import enum
import json
import math
import os
import re
import reprlib
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple


# Beyond these, a number is a slip: sizes and counts are kept in 32 bits by the libraries below, and losses overflow.
MAX_INT = 2**31 - 1
MAX_FLOAT = 1e12
TRUE, FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")  # as in transformers' HfArgumentParser
NAMES: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
SHOWN_CHARACTERS = 120


class ConfigError(ValueError):
    """A configuration cannot be used as it is; the message says what to change."""


class Interval(NamedTuple):
    """The range of a number, written as in mathematics: `[0, 1)` has 0 and not 1."""

    low: float
    high: float
    has_low: bool
    has_high: bool

    def __contains__(self, number: Any) -> bool:
        is_low = number >= self.low if self.has_low else number > self.low
        return is_low and (number <= self.high if self.has_high else number < self.high)

    def describe(self, noun: str) -> str:
        """Return "a number of at least 0 and less than 1" for `noun="number"`, and the like."""
        if self.low == 0 and not self.has_low and math.isinf(self.high):
            return f"a positive {noun}"
        if self.has_low and self.has_high and not math.isinf(self.low) and not math.isinf(self.high):
            return f"a {noun} from {self.low:.10g} to {self.high:.10g}"
        low = "" if math.isinf(self.low) else f"{'of at least' if self.has_low else 'more than'} {self.low:.10g}"
        high = "" if math.isinf(self.high) else f"{'at most' if self.has_high else 'less than'} {self.high:.10g}"
        return " ".join(part for part in (f"a {noun}", " and ".join(filter(None, (low, high)))) if part)


class Words(tuple):
    """Texts that stand for a number, in the annotation of a field that is text and takes a number: `"auto"`."""


@cache
def interval(text: str) -> Interval:
    """Return the interval that is written as `[0, 1)`, `(0, inf)` and so on."""
    low, high = text[1:-1].split(",")
    return Interval(float(low), float(high), text[0] == "[", text[-1] == "]")


# Annotations of fields. What stands beside a type in `Annotated` is not seen by transformers' HfArgumentParser.
Positive = Annotated[float, interval("(0, inf)")]
NonNegative = Annotated[float, interval("[0, inf)")]
Share = Annotated[float, interval("(0, 1)")]
Count = Annotated[int, interval("[1, inf)")]
NOT_EMPTY = "the text must not be empty"
JSON_FILE = "the text may name a JSON file"
Text = Annotated[str, NOT_EMPTY]


class Rule(NamedTuple):
    """
    The types, the range and the words that a field takes.

    Args:
        types (`tuple`): its annotation, divided where it is a union.
        range (`Interval`, *optional*): of its numbers, and of those in lists.
        choices (`tuple`): the texts that it may be; any if empty.
        words (`tuple[str, ...]`): texts that stand for a number.
        is_file (`bool`): whether its text may name a JSON file, where it takes a mapping.
        is_filled (`bool`): whether its text must not be empty.
    """

    types: tuple
    range: Interval | None = None
    choices: tuple = ()
    words: tuple[str, ...] = ()
    is_file: bool = False
    is_filled: bool = False


def rule(hint: Any, choices: Iterable[str] = ()) -> Rule:
    """Return the rule for an annotation, and the `choices` of its field."""
    types, extras = _divided(hint)
    limits = [extra for extra in extras if isinstance(extra, Interval)]
    words = [word for extra in extras if isinstance(extra, Words) for word in extra]
    return Rule(
        types, limits[0] if limits else None, tuple(choices), tuple(words), JSON_FILE in extras, NOT_EMPTY in extras
    )


@cache
def rules(cls: type) -> dict[str, Rule]:
    """
    Return the rule of each field of a dataclass, from its annotation and the `choices` in its metadata.

    Where `cls.checked_types` names a field, that counts for an annotation that another library wrote.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    for name, given in getattr(cls, "checked_types", {}).items():
        if name in hints:
            hints[name] = Annotated[hints[name], given] if isinstance(given, Interval) else given
    fields = [field for field in dataclasses.fields(cls) if field.init]
    return {field.name: rule(hints[field.name], field.metadata.get("choices") or ()) for field in fields}


def _divided(hint: Any) -> tuple[tuple, tuple]:
    """Return the types in a union, and what stands beside any of them in `Annotated`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        types, extras = _divided(parts[0])
        return types, (*parts[1:], *extras)
    if origin in (typing.Union, UnionType):
        divided = [_divided(part) for part in parts]
        return tuple(one for types, _ in divided for one in types), tuple(one for _, more in divided for one in more)
    if origin is list and parts:
        return (hint,), _divided(parts[0])[1]
    return (hint,), ()


# Checks


def check_value(value: Any, hint: Any, key: str) -> Any:
    """
    Return the value as a field keeps it; a ConfigError, which names `key`, says what would work.

    Numbers may come as text (`"1e-4"`, which YAML reads so), as scalars of NumPy and PyTorch, and whole numbers with a
    decimal point; true and false as the words that transformers' command line takes.
    """
    known = hint if isinstance(hint, Rule) else rule(hint)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if known.words and not (isinstance(value, str) and value in known.words):
        known = known._replace(types=(float,))
    names = _names(known)
    if names and isinstance(value, str) and value not in names:
        raise ConfigError(f"`{key}` must be {_expected(known)}, got {shown(value)}.{did_you_mean(value, names)}")
    for fit in (_as_is, _converted):
        for kind in known.types:
            found, kept = fit(value, kind, known)
            if found:
                _check_range(kept, known, key, value)
                return kept
    raise ConfigError(f"`{key}` must be {_expected(known)}, got {shown(value)}.")


def check_options(instance: Any, cls: type | None = None, prefix: str = "") -> None:
    """
    Check every field of a dataclass on an instance, and keep the values as the fields take them.

    With `cls`, the instance may be any object with its attributes; those that are missing are left out. `prefix`
    stands before the names in messages.
    """
    for name, known in rules(cls or type(instance)).items():
        if hasattr(instance, name):
            given = getattr(instance, name)
            kept = check_value(given, known, f"{prefix}{name}")
            if kept is not given:
                setattr(instance, name, kept)


def check_mapping(value: Any, key: str) -> dict[str, Any]:
    """Return the value as a dictionary whose keys are text; `None` is an empty one, a ConfigError anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"`{key}` must be a mapping of names to values, got {shown(value)}.")
    return dict(value)


def check_names(given: Iterable[str], known: Iterable[str], key: str) -> None:
    """
    Raise a ConfigError, which suggests the nearest and lists all, unless every name is known.

    `key` is where the names stand; empty for the top of the configuration.
    """
    known = list(known)
    for name in given:
        if name not in known:
            where = f"`{key}.{cut(name)}`" if key else f"`{cut(name)}`"
            raise ConfigError(f"{where} is unknown.{did_you_mean(name, known)} Known here: {', '.join(known)}.")


def check_fields(given: Any, cls: type, key: str) -> dict[str, Any]:
    """Return the keyword arguments for a dataclass, from a mapping of the configuration, checked."""
    given = check_mapping(given, key)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    check_names(given, fields, key)
    prefix = f"{key}." if key else ""
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and given.get(name) is None:
            raise ConfigError(f"`{prefix}{name}` is missing.")
    return {name: check_value(value, rules(cls)[name], f"{prefix}{name}") for name, value in given.items()}


# Texts


def did_you_mean(name: Any, known: Iterable[str], most: int = 1) -> str:
    """Return ` Did you mean 'seeds'?` where known names are near, with the nearest `most` of them; else nothing."""
    close = [repr(one) for one in difflib.get_close_matches(str(cut(name)), list(known), n=most)]
    if not close:
        return ""
    *others, last = close
    return f" Did you mean {', '.join(others)} or {last}?" if others else f" Did you mean {last}?"


def shown(value: Any) -> str:
    """Return the value as Python writes it, cut where it is long."""
    try:
        is_short = isinstance(value, str | float | bool | type(None)) or (
            isinstance(value, int) and abs(value) < 2**63
        )
        return cut(repr(value) if is_short else _REPR.repr(value))
    except ValueError:  # an integer of more digits than Python writes
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def cut(text: str) -> str:
    """Return the text, or its beginning with the number of characters."""
    text = str(text)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


def first_sentence(error: BaseException) -> str:
    """Return what an error says, up to the end of its first sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text, maxsplit=1)[0]


_REPR = reprlib.Repr()
_REPR.maxother = _REPR.maxstring = _REPR.maxlong = SHOWN_CHARACTERS


# Types


def _names(known: Rule) -> list[str]:
    """Return the texts that a value may be, where only some are allowed."""
    enums = [str(member.value) for kind in known.types if _is_enum(kind) for member in kind]
    return list(map(str, known.choices)) or enums


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_mapping(kind: Any) -> bool:
    return kind is dict or typing.get_origin(kind) is dict


def _as_is(value: Any, kind: Any, known: Rule) -> tuple[bool, Any]:
    """Return whether a value is of a type already, and the value; in lists, with their items converted."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is float:
        return _is_number(value), value
    if kind is int:
        return _is_number(value) and isinstance(value, int), value
    if kind is str and any(map(_is_mapping, known.types)):
        return isinstance(value, str) and _is_configuration(value, known.is_file), value
    if kind is str and value == "" and known.is_filled:
        return False, value
    if origin is list:
        return _list(value, known._replace(types=_divided(parts[0])[0]))
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in parts), value
    if _is_mapping(kind):
        return isinstance(value, Mapping), value
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind), value


def _converted(value: Any, kind: Any, known: Rule) -> tuple[bool, Any]:
    """Return whether a value can be read as a type, and what it is then."""
    if kind is bool:
        text = value.lower() if isinstance(value, str) else str(value) if isinstance(value, int) else ""
        return text in (*TRUE, *FALSE), text in TRUE
    if kind is int:
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,19}\s*", value):
            return True, int(value)
        return (True, int(value)) if isinstance(value, float) and value.is_integer() else (False, None)
    if kind is float and isinstance(value, str) and len(value) < SHOWN_CHARACTERS:
        try:
            return True, float(value)
        except ValueError:
            return False, None
    if kind is str and isinstance(value, os.PathLike):
        return True, os.fspath(value)
    if _is_enum(kind):
        return isinstance(value, str) and value in _names(known), value
    return _is_mapping(kind) and isinstance(value, str) and _is_configuration(value, known.is_file), value


def _list(value: Any, items: Rule) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple):
        return False, None
    kept = []
    for item in value:
        fits = (fit(item, kind, items) for fit in (_as_is, _converted) for kind in items.types)
        found = next((kept for is_found, kept in fits if is_found), fits)
        if found is fits:
            return False, None
        kept.append(found)
    is_same = isinstance(value, list) and all(new is old for new, old in zip(kept, value, strict=True))
    return True, value if is_same else kept


def _is_configuration(text: str, is_file: bool) -> bool:
    """Return whether a text is a JSON object, or names a file where those are read."""
    if text.startswith("{"):
        try:
            return isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            return False
    return is_file and bool(text) and os.path.isfile(text)


# Ranges


def _check_range(kept: Any, known: Rule, key: str, given: Any) -> None:
    """Raise a ConfigError if a number, also in a list or mapping, is not finite, out of range or absurd."""
    if isinstance(kept, Mapping):
        if any(isinstance(item, float) and not math.isfinite(item) for item in kept.values()):
            raise ConfigError(f"`{key}` must have finite numbers, got {shown(given)}.")
    elif isinstance(kept, list | tuple):
        for item in kept:
            _check_range(item, known, key, given)
    elif _is_number(kept):
        is_finite = isinstance(kept, int) or math.isfinite(kept)
        if not is_finite or (known.range is not None and kept not in known.range):
            expected = _expected(known, "" if is_finite else "finite ")
            raise ConfigError(f"`{key}` must be {expected}, got {shown(given)}.")
        most = MAX_INT if int in known.types else MAX_FLOAT
        if abs(kept) > most and (known.range is None or math.isinf(known.range.high)):
            raise ConfigError(f"`{key}` must be {_expected(known)}, and at most {most:.15g}, got {shown(given)}.")


def _expected(known: Rule, finite: str = "") -> str:
    """Return what a rule takes, in words."""
    if known.words:
        return f"{', '.join(map(repr, known.words))} or {_described(float, known, finite)}"
    names = _names(known)
    parts = [f"one of {', '.join(names)}"] if names else []
    if not names:
        hidden = (type(None), str) if any(map(_is_mapping, known.types)) else (type(None),)
        parts = [_described(kind, known, finite) for kind in known.types if kind not in hidden]
    return " or ".join(dict.fromkeys([*parts, "null"] if type(None) in known.types else parts))


def _described(kind: Any, known: Rule, finite: str = "") -> str:
    parts = typing.get_args(kind)
    if kind in (int, float):
        limits = Interval(-math.inf, math.inf, False, False) if known.range is None else known.range
        return limits.describe(f"{finite}{NAMES[kind]}")
    if typing.get_origin(kind) is list:
        if typing.get_origin(parts[0]) is Literal:
            return "a list of such"
        items = " or ".join(_described(item, known, finite) for item in _divided(parts[0])[0])
        return f"a list (each {items})"
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if _is_mapping(kind):
        return "a mapping, or JSON or a JSON file of one" if known.is_file else "a mapping, or JSON of one"
    if kind is str and known.is_filled:
        return "text that is not empty"
    return NAMES.get(kind) or str(getattr(kind, "__name__", kind))
