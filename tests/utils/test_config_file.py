"""One reader for configurations: nothing in them runs, and bombs are refused at once."""

import json

import pytest

from merlin_hf.utils.config_file import MAX_BYTES, read_mapping
from merlin_hf.utils.validation import ConfigError


def laughs(levels: int = 9) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(), "more than 10000 values with those that aliases"),
        ("a: &a [*a]", "an alias .* stands within what it repeats"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested more than 32 deep"),
        ("\n".join(" " * n + "a:" for n in range(100)), "nested more than 32 deep"),
        ("a: [" + "1," * 20_000 + "]", "more than 10000 values"),
        ("a: " + "9" * 5000, "a number has 5000 characters in line 1, column 4"),
        ("a: " + "1:" * 5000 + "1", "a number has 10001 characters"),
        ("a: 0x" + "f" * 5000, "a number has 5002 characters"),
        ("a: " + "x" * MAX_BYTES, f"a configuration has at most {MAX_BYTES}"),
        ("a: 1\nb: 2\na: 3", "the key 'a' stands twice in line 3"),
        ("t: {a: 1, a: 2}", "the key 'a' stands twice"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor for the tag"),
        ("a: 2001-99-99", "month must be in 1..12 in line 1"),
        ("a: *b", "found undefined alias"),
        ("a: [", "cannot be read as YAML"),
        ("a: \0", "special characters are not allowed"),
        ("[1]", r"must be a mapping of names to values, got \[1\]"),
        ("1: 2", "must be a mapping of names to values"),
        ("", "must be a mapping of names to values, got None"),
    ],
    ids=lambda value: value[:30],
)
def test_refused(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_mapping(path)
    assert "run.yaml" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_text_in_another_encoding(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes("a: ü".encode("latin-1"))
    with pytest.raises(ConfigError, match="run.yaml' cannot be read as YAML: 'utf-8' codec"):
        read_mapping(path)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.yaml"):
        with pytest.raises(FileNotFoundError, match=r"There is no configuration .*\(`--config`\)"):
            read_mapping(path, "--config")


def test_yaml_and_json(tmp_path):
    values = {"a": 1, "b": [0.5, None, True], "c": {"d": "é"}}
    (tmp_path / "a.json").write_text(json.dumps(values))
    (tmp_path / "a.yaml").write_text("base: &base {x: 1}\nmore: {<<: *base, y: 2}\n")
    assert read_mapping(tmp_path / "a.json") == values
    assert read_mapping(tmp_path / "a.yaml")["more"] == {"x": 1, "y": 2}
