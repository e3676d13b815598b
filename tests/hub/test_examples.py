"""A few texts for each label."""

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from merlin_hf.hub.examples import LONGEST_TEXT, examples_of, first_texts


IDS = {0: "no", 1: "yes"}


def dataset(texts, labels, column="text", label_feature=None):
    features = Features({column: Value("string"), "label": label_feature or Value("int64")})
    return Dataset.from_dict({column: texts, "label": labels}, features=features)


def test_the_first_of_each_label_in_the_order_of_the_labels():
    rows = dataset(["a", "b", "c", "d", ""], [1, 1, 0, 1, 0])
    assert examples_of(rows, IDS, 2) == [("no", "c", None), ("yes", "a", None), ("yes", "b", None)]
    assert examples_of(rows, IDS, 0) == []


def test_a_model_without_names_has_those_of_the_data():
    rows = dataset(["a", "b"], [0, 1], label_feature=ClassLabel(names=["bad", "good"]))
    assert examples_of(rows, {0: "LABEL_0", 1: "LABEL_1"}, 1) == [("bad", "a", None), ("good", "b", None)]
    assert examples_of(rows, IDS, 1) == [("no", "a", None), ("yes", "b", None)]


def test_several_labels_in_a_row():
    rows = dataset(["a", "b"], [[1.0, 1.0], [0.0, 1.0]], label_feature=Sequence(Value("float32")))
    assert examples_of(rows, IDS, 1) == [("no", "a", None), ("yes", "a", None)]


def test_long_and_odd_texts_are_one_short_line():
    (example,) = examples_of(dataset(["---\nx | <b>\t" + "word " * 500], [0]), IDS, 1)
    assert (
        len(example.text) <= LONGEST_TEXT and example.text.startswith("--- x | <b> word") and example.text[-1] == "…"
    )


def test_a_transform_of_the_users_is_not_asked():
    rows = dataset(["a", "b"], [0, 1])
    rows.set_transform(lambda batch: {"pixel_values": batch["label"]})
    assert examples_of(rows, IDS, 1) == [("no", "a", None), ("yes", "b", None)]


@pytest.mark.parametrize("columns", [("sentence1", "sentence2"), ("question", "sentence"), ("text", "text_pair")])
def test_pairs(columns):
    texts, others = ["", "a", "b", "c"], ["w", "x", "", "z"]
    rows = Dataset.from_dict({columns[1]: others, "title": ["t"] * 4, columns[0]: texts, "label": [0, 1, 0, 0]})
    assert examples_of(rows, IDS, 1) == [("no", "c", "z"), ("yes", "a", "x")]
    assert first_texts(rows) == ("a", "x")


def test_the_first_texts_need_no_classes():
    assert first_texts(dataset(["", "a"], [0.5, 1.5], label_feature=Value("float32"))) == ("a",)
    assert first_texts(Dataset.from_dict({"label": [0]})) == first_texts(None) == ()


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [{"text": "a", "label": 0}],
        Dataset.from_dict({"input_ids": [[1]], "label": [0]}),
        Dataset.from_dict({"id": ["row-1"], "label": [0]}),
        Dataset.from_dict({"text": ["a"]}),
        Dataset.from_dict({"text": ["a"], "label": [0.5]}),
        Dataset.from_dict({"text": ["a"], "label": [0]}).to_iterable_dataset(),
    ],
    ids=["none", "list", "tokens", "ids", "no labels", "regression", "stream"],
)
def test_where_there_are_none(rows):
    assert examples_of(rows, IDS, 1) == []
