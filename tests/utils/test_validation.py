"""Values are kept as the type that a field declares, or refused by name."""

import enum
import pathlib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch

from merlin_hf.utils.validation import (
    JSON_FILE,
    ConfigError,
    Count,
    NonNegative,
    Positive,
    Share,
    Text,
    Words,
    check_fields,
    check_options,
    check_value,
    interval,
    shown,
)


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("hint", "given", "kept"),
    [
        (int, np.int64(3), 3),
        (int, torch.tensor(3), 3),
        (int, "3", 3),
        (int, 3.0, 3),
        (float, 3, 3),
        (float, np.float32(0.5), 0.5),
        (float, torch.tensor(0.5), 0.5),
        (float, "1e-4", 1e-4),
        (float | None, None, None),
        (Positive | None, "0.5", 0.5),
        (bool, np.bool_(True), True),
        (bool, "No", False),
        (bool, 1, True),
        (bool | str, "no", "no"),
        (str, pathlib.Path("a"), "a"),
        (str | None, "", ""),
        (list[str], ("a", "b"), ["a", "b"]),
        (list[float], ["1e-4", 1], [1e-4, 1]),
        (list[str] | str, "a", "a"),
        (Colour | str, "red", "red"),
        (Colour | str, Colour.RED, Colour.RED),
        (Literal["a"] | list[Literal["a"]], ["a"], ["a"]),
        (dict | str, '{"a": 1}', '{"a": 1}'),
        (dict[str, Any] | None, {"a": 1}, {"a": 1}),
        (Annotated[str, Words(("auto",)), interval("(0, inf)")], "auto", "auto"),
        (Annotated[str, Words(("auto",)), interval("(0, inf)")], "0.5", 0.5),
        (Any, [object], [object]),
    ],
    ids=str,
)
def test_kept(hint, given, kept):
    found = check_value(given, hint, "x")
    assert found == kept and type(found) is type(kept)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("hint", "given", "message"),
    [
        (float, NAN, "`x` must be a finite number, got nan"),
        (float, "inf", "`x` must be a finite number, got 'inf'"),
        (float, 10**400, "`x` must be a number, and at most 1000000000000, got 1000.*000"),
        (float, 10**5000, "`x` must be a number, and at most 1000000000000, got an integer of 16610 bits"),
        (float, True, "`x` must be a number, got True"),
        (float, None, "`x` must be a number, got None"),
        (float | None, "x", "`x` must be a number or null, got 'x'"),
        (NonNegative, -0.1, "`x` must be a number of at least 0, got -0.1"),
        (Positive, 0, "`x` must be a positive number, got 0"),
        (Positive, INF, "`x` must be a positive finite number, got inf"),
        (Share, 1, "`x` must be a number more than 0 and less than 1, got 1"),
        (Count, 2.5, "`x` must be a whole number of at least 1, got 2.5"),
        (Count, 10**12, "`x` must be a whole number of at least 1, and at most 2147483647, got 1000000000000"),
        (Annotated[int, interval("[0, 9]")] | None, 10, "`x` must be a whole number from 0 to 9 or null, got 10"),
        (list[Positive], [1, NAN], r"`x` must be a list \(each a positive finite number\), got \[1, nan\]"),
        (list[str], "text", r"`x` must be a list \(each text\), got 'text'"),
        (bool, "maybe", "`x` must be true or false, got 'maybe'"),
        (bool, 2, "`x` must be true or false, got 2"),
        (str, 3, "`x` must be text, got 3"),
        (Text | None, "", "`x` must be text that is not empty or null, got ''"),
        (str, "x" * 1000, "nothing"),
        (Colour | str, "rod", "`x` must be one of red, got 'rod'. Did you mean 'red'"),
        (Literal["a", "b"], "c", "`x` must be one of a, b, got 'c'"),
        (dict | str, "a", "`x` must be a mapping, or JSON of one, got 'a'"),
        (dict | str, "{" * 10_000, "`x` must be a mapping, or JSON of one, got '{{{"),
        (dict, {"a": NAN}, "`x` must have finite numbers"),
        (
            Annotated[dict | str, JSON_FILE] | None,
            "nowhere",
            "`x` must be a mapping, or JSON or a JSON file of one or null",
        ),
        (
            Annotated[str, Words(("auto",)), interval("(0, inf)")],
            NAN,
            "`x` must be 'auto' or a positive finite number",
        ),
    ],
    ids=lambda value: shown(value)[:40],
)
def test_refused(hint, given, message):
    if message == "nothing":
        assert len(shown(check_value(given, hint, "x"))) < 200, "a long text is cut in messages"
        return
    with pytest.raises(ConfigError, match=message) as error:
        check_value(given, hint, "x")
    assert len(str(error.value)) < 500


def test_a_json_file(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    path = str(tmp_path / "a.json")
    assert check_value(path, Annotated[dict | str, JSON_FILE], "x") == path
    with pytest.raises(ConfigError, match="`x` must be a mapping, or JSON of one"):
        check_value(path, dict | str, "x")


@dataclass
class Section:
    size: Count
    kind: str = field(default="a", metadata={"choices": ("a", "b")})
    rate: NonNegative | None = None


def test_a_dataclass_is_checked_and_converted():
    section = Section("3", rate=np.float32(0.5))
    check_options(section, prefix="s.")
    assert (section.size, section.rate) == (3, 0.5) and type(section.rate) is float
    section.kind = "c"
    with pytest.raises(ConfigError, match=r"`s\.kind` must be one of a, b, got 'c'"):
        check_options(section, prefix="s.")
    assert check_fields({"size": 2.0, "rate": "1e-3"}, Section, "s") == {"size": 2, "rate": 1e-3}
    for given, message in [({}, r"`s\.size` is missing"), ({"siz": 1}, r"`s\.siz` is unknown. Did you mean 'size'")]:
        with pytest.raises(ConfigError, match=message):
            check_fields(given, Section, "s")
