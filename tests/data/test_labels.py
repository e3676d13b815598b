"""Classes are matched by name, missing labels are counted, and guesses are said."""

import datasets
import numpy as np
import pytest

from merlin_hf.data.columns import ColumnOptions
from merlin_hf.data.labels import LabelMismatchError, match_names, number_classes
from merlin_hf.utils.validation import ConfigError
from tests.support import warnings_of


def table(labels, feature=None):
    rows = {"text": [f"text {place}" for place in range(len(labels))], "label": labels}
    features = None
    if feature is not None:
        features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    return datasets.Dataset.from_dict(rows, features=features)


def classes(*names):
    return datasets.ClassLabel(names=list(names))


def settle(splits, **options):
    origins = {name: f"`{name}_file='{name}.csv'`" for name in splits}
    return number_classes(datasets.DatasetDict(splits), origins, "train_file", ColumnOptions(**options))


def named(splits, labels, split):
    """The names of a split's labels."""
    return [None if place is None else labels.names[place] for place in splits[split]["label"]]


# Names


def test_exact_names_come_first():
    assert match_names(["b", "a"], ["A", "a", "b"], "x", "y") == [2, 1]


def test_names_of_another_case_are_matched_where_only_one_can_be_meant(caplog):
    assert match_names(["POSITIVE", "negative"], ["negative", "Positive"], "x", "y") == [1, 0]
    assert "'POSITIVE' as 'Positive'" in caplog.text and "negative" not in caplog.text.partition("POSITIVE")[2]


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["MAY"], ["May", "may"]),
        (["May", "may"], ["may"]),
        (["May", "MAY"], ["may"]),
        (["a", "c"], ["a", "b"]),
        (["0", "1"], ["1", "2"]),
        (["LABEL_0"], ["a"]),
    ],
)
def test_names_that_cannot_be_matched(names, known):
    with pytest.raises(LabelMismatchError) as error:
        match_names(names, known, "the data", "the model")
    assert str(names) in str(error.value) and str(known) in str(error.value)


# Splits


def test_classes_of_files_that_number_them_differently(caplog):
    splits = {
        "train": table([0, 1, 2], classes("anger", "joy", "sadness")),
        "validation": table([0, 1, 0], classes("joy", "sadness")),
        "test": table(["sadness", "anger"]),
    }
    settled, labels = settle(splits)
    assert labels.names == ["anger", "joy", "sadness"]
    assert named(settled, labels, "train") == ["anger", "joy", "sadness"]
    assert named(settled, labels, "validation") == ["joy", "sadness", "joy"]
    assert named(settled, labels, "test") == ["sadness", "anger"]
    assert settled["validation"].features["label"] == settled["train"].features["label"]
    assert not warnings_of(caplog)


@pytest.mark.parametrize(
    ("other", "feature"),
    [
        ([1, 3, 2], None),
        (["1", "3", "2"], None),
        ([1.0, 3.0, 2.0], None),
        ([2, 1, 0], classes("2", "3", "1")),
    ],
)
def test_numbers_and_their_names_are_the_same_classes(other, feature):
    settled, labels = settle({"train": table([1, 2, 3, 2]), "validation": table(other, feature)})
    assert labels.names == ["1", "2", "3"] and labels.numbers == [1, 2, 3]
    assert named(settled, labels, "validation") == ["1", "3", "2"]


@pytest.mark.parametrize("numbers_first", [True, False])
def test_numbers_stand_for_names_only_where_the_user_says_so(numbers_first):
    numbers, names = table([0, 1, 1]), table([0, 1, 1], classes("no", "yes"))
    splits = dict(zip(("train", "validation"), (numbers, names) if numbers_first else (names, numbers), strict=True))
    with pytest.raises(LabelMismatchError, match="`labels_by_number`"):
        settle(splits)
    settled, _ = settle(splits, labels_by_number=True)
    assert settled["train"]["label"][:] == settled["validation"]["label"][:] == [0, 1, 1]


def test_a_class_that_only_another_split_has_is_blamed_on_its_file():
    splits = {"train": table(["a", "b"]), "validation": table(["a"]), "test": table(["a", "c"])}
    with pytest.raises(LabelMismatchError) as error:
        settle(splits)
    message = str(error.value)
    assert message.startswith("`test_file='test.csv'` has the label ['c'], and `train_file='train.csv'`")
    assert "['a', 'c']" in message and "['a', 'b']" in message


def test_classes_that_are_declared_and_have_no_row_are_no_mismatch():
    splits = {"train": table([0, 1], classes("a", "b")), "validation": table([0, 2], classes("b", "other", "a"))}
    settled, labels = settle(splits)
    assert named(settled, labels, "validation") == ["b", "a"]


def test_class_numbers_without_a_name_are_refused():
    column = datasets.Dataset.from_dict({"text": ["a"], "label": [7]}).with_format("arrow")[:]
    features = datasets.Features({"text": datasets.Value("string"), "label": classes("a", "b")})
    damaged = datasets.Dataset(column, info=datasets.DatasetInfo(features=features))
    with pytest.raises(ConfigError, match=r"has the class number 7, and names of 2 classes, \['a', 'b'\]"):
        settle({"train": damaged})


# Blanks and case


def test_labels_that_differ_in_blanks_are_one_class(caplog):
    settled, labels = settle({"train": table(["a", "a ", " b", "b"]), "validation": table(["a\t"])})
    assert labels.names == ["a", "b"] and named(settled, labels, "train") == ["a", "a", "b", "b"]
    assert named(settled, labels, "validation") == ["a"]
    assert len(warnings_of(caplog)) == 2 and "'a '" in caplog.text and "train.csv" in caplog.text


def test_declared_classes_that_differ_in_blanks_are_one(caplog):
    settled, labels = settle({"train": table([0, 1, 2], classes("a", "a ", "b"))})
    assert labels.names == ["a", "b"] and named(settled, labels, "train") == ["a", "a", "b"]
    assert warnings_of(caplog)


@pytest.mark.parametrize(
    ("one", "other"), [("good", "good\u200b"), ("caf\u00e9", "cafe\u0301"), ("very good", "very  good")]
)
def test_labels_that_look_the_same_are_said(one, other, caplog):
    _, labels = settle({"train": table([one, other, "no"])})
    assert (
        len(labels.names) == 3 and f"{one!r} and {other!r}" in caplog.text or f"{other!r} and {one!r}" in caplog.text
    )
    assert match_names([other], [one, "no"], "x", "y") == [0]


def test_labels_that_differ_in_case_are_said(caplog):
    _, labels = settle({"train": table(["Yes", "yes", "no"])})
    assert labels.names == ["Yes", "no", "yes"]
    assert "'Yes' and 'yes'" in caplog.text


# Missing labels


@pytest.mark.parametrize(
    ("labels", "feature", "names"),
    [
        ([1, 2, None, 3], None, ["1", "2", "3"]),
        ([1.0, 2.0, float("nan"), 1.0, 2.0, 1.0], None, ["1", "2"]),
        (["a", "", "b", "  ", None], None, ["a", "b"]),
        ([0, 1, -100], None, ["0", "1"]),
        ([0, 1, 2, -1], None, ["0", "1", "2"]),
        ([0, -1, 1, None], classes("a", "b"), ["a", "b"]),
        ([True, None, False], None, ["False", "True"]),
    ],
)
def test_rows_without_a_label_are_counted_before_anything_is_decided(labels, feature, names, caplog):
    settled, found = settle({"train": table(labels, feature)})
    assert found.names == names and not found.is_regression
    missing = sum(place is None for place in settled["train"]["label"])
    assert missing == len([one for one in labels if one in (None, "", "  ", -100) or one != one or one == -1])
    assert any(f"{missing} of {len(labels)} rows have no label" in message for message in warnings_of(caplog))
    assert "train.csv" in caplog.text


@pytest.mark.parametrize("labels", [[-1, 1, 1, -1], [-1, 0, 1]])
def test_minus_one_may_be_a_class(labels, caplog):
    settled, found = settle({"train": table(labels)})
    assert found.names == [str(value) for value in sorted(set(labels))]
    assert None not in settled["train"]["label"][:]
    assert any("label -1 is taken as a class" in message for message in warnings_of(caplog))


def test_hidden_labels_of_a_test_split_are_nothing_to_warn_of(caplog):
    settled, _ = settle({"train": table([0, 1]), "test": table([-1, -1])})
    assert settled["test"]["label"][:] == [None, None]
    settled, _ = settle({"train": table([0.5, 1.5]), "test": table([-1.0, -1.0])})
    assert settled["test"]["label"][:] == [None, None]
    assert not warnings_of(caplog)


def test_texts_such_as_none_are_labels():
    _, found = settle({"train": table(["None", "NA", "null", "nan"] * 2)})
    assert found.names == ["NA", "None", "nan", "null"]


# Classes or real numbers


@pytest.mark.parametrize(
    ("labels", "is_regression", "flag"),
    [
        ([0.5, 1.0, 2.0], True, None),
        ([1.0, 2.0, 1.0, 2.0], False, "problem_type=regression"),
        ([float(place) for place in range(30)], True, "problem_type=single_label_classification"),
        ([1, 2, 1, 2], False, None),
        ([*range(60), 0], False, "problem_type=regression"),
        (["1.5", "2.5"], False, None),
    ],
)
def test_classes_or_real_numbers(labels, is_regression, flag, caplog):
    _, found = settle({"train": table(labels)})
    assert found.is_regression == is_regression
    assert any(flag in message for message in warnings_of(caplog)) if flag else not warnings_of(caplog)


@pytest.mark.parametrize("labels", [[1, 2, 1, 2], [1.0, 2.0, 1.0, 2.0], [float(place) for place in range(30)]])
@pytest.mark.parametrize("problem_type", ["regression", "single_label_classification"])
def test_the_flag_settles_it(problem_type, labels, caplog):
    settled, found = settle({"train": table(labels)}, problem_type=problem_type)
    assert found.is_regression == (problem_type == "regression")
    if found.is_regression:
        assert settled["train"]["label"][:] == [float(label) for label in labels]
    assert not [message for message in warnings_of(caplog) if "problem_type" in message]


def test_other_splits_count_for_what_numbers_are():
    _, found = settle({"train": table([1.0, 2.0, 1.0, 2.0]), "validation": table([1.5])})
    assert found.is_regression
    with pytest.raises(ConfigError, match=r"`validation_file='validation.csv'` has the labels \['a'\].*real numbers"):
        settle({"train": table([0.5]), "validation": table(["a"])})
    with pytest.raises(ConfigError, match="`validation_file='validation.csv'` has the label"):
        settle({"train": table([1, 2]), "validation": table([1.5])})


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        ([0.5, float("inf")], {}, "label inf"),
        (["a", "b"], {"problem_type": "regression"}, "needs numbers as labels"),
        ([1, 2], {"problem_type": "multi"}, "must be single_label_classification or regression, got 'multi'"),
        ([{"a": 1}], {}, "one label per row"),
        ([[1], [2]], {}, "one label per row"),
        ([None, None], {}, "no row with a label"),
    ],
)
def test_labels_that_cannot_be_used(labels, options, said):
    with pytest.raises(ConfigError, match=said):
        settle({"train": table(labels)}, **options)


def test_a_column_of_names_is_no_column_of_labels(caplog):
    settle({"train": table([f"name {place}" for place in range(9)])})
    assert any("each of its 9 rows has a label of its own" in message for message in warnings_of(caplog))
    with pytest.raises(
        ConfigError, match="each of its 99 rows has a label of its own, such as 'name 0'.*`label_column`"
    ):
        settle({"train": table([f"name {place}" for place in range(99)])})


def test_what_stays_as_it_was():
    """Settling labels that are settled changes nothing, and the order of rows is kept."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 50).tolist()
    settled, found = settle({"train": table(labels, classes("c", "a", "b"))})
    again, same = settle(settled)
    assert settled["train"]["label"][:] == labels == again["train"]["label"][:]
    assert found.names == same.names == ["c", "a", "b"]
    assert settled["train"]["text"][:] == [f"text {place}" for place in range(50)]
