"""Which columns hold texts and labels: no guess without a word."""

import datasets
import pytest

from merlin_hf.data.columns import (
    check_text_columns,
    find_text_columns,
    no_label_column,
    rename_label_column,
    warn_of_empty_texts,
)
from merlin_hf.utils.validation import ConfigError


REVIEWS = [f"a film that I {'liked' if place % 2 else 'left'} {place}" for place in range(20)]
OTHERS = {
    "doc_id": [f"doc-{place:05d}x" for place in range(20)],
    "date": ["2024-01-02", "03.04.2023 10:00"] * 10,
    "language": ["en"] * 20,
    "category": ["books", "films"] * 10,
    "url": [f"https://site/{place}" for place in range(20)],
    "version": ["v1", "v2"] * 10,
    "empty": [None] * 20,
}


def table(**columns):
    return datasets.Dataset.from_dict({**columns, "label": ["a", "b"] * 10})


def find(dataset, given=None):
    return find_text_columns(dataset, given, "text_columns", "`train_file='x.csv'`")


@pytest.mark.parametrize("other", OTHERS)
def test_a_column_that_is_no_text_is_left_out_and_said(other, caplog):
    column = OTHERS[other] if other != "empty" else datasets.Dataset.from_dict({"x": [None, ""] * 10})["x"][:]
    assert find(table(**{other: column, "review": REVIEWS})) == ["review"]
    assert "WARNING" in caplog.text and f"{other} (" in caplog.text and "`text_columns`" in caplog.text


def test_all_of_them_at_once(caplog):
    assert find(table(**OTHERS, review=REVIEWS)) == ["review"]
    assert "and doc_id (" in caplog.text


@pytest.mark.parametrize(
    "columns", [("text",), ("sentence1", "sentence2"), ("question", "sentence"), ("premise", "hypothesis"), ("body",)]
)
def test_known_names_and_a_single_text_are_no_guess(columns, caplog):
    known = columns != ("body",)
    extra = {"doc_id": OTHERS["doc_id"]} if known else {}
    assert find(table(**extra, **dict.fromkeys(columns, REVIEWS))) == list(columns)
    assert not caplog.records


@pytest.mark.parametrize("columns", [("text",), ("question", "sentence")])
def test_texts_that_are_left_out_beside_known_names_are_said(columns, caplog):
    assert find(table(title=REVIEWS, **dict.fromkeys(columns, REVIEWS))) == list(columns)
    assert "WARNING" in caplog.text and "title is left out; `text_columns` says otherwise" in caplog.text


def test_two_texts_are_a_pair_that_is_said(caplog):
    assert find(table(title=REVIEWS, body=REVIEWS)) == ["title", "body"]
    assert "title and body, read as a pair" in caplog.text


def test_more_texts_are_asked_for():
    with pytest.raises(
        ConfigError, match=r"x.csv'` has the columns of texts a, b, c: name one or two of them by `text_columns`"
    ):
        find(table(a=REVIEWS, b=REVIEWS, c=REVIEWS))


@pytest.mark.parametrize("name", ["doc_id", "date", "language"])
def test_a_single_column_of_texts_that_holds_none_is_refused(name):
    with pytest.raises(ConfigError, match=rf"{name} \("):
        find(table(**{name: OTHERS[name]}))
    assert find(table(**{name: OTHERS[name]}), [name]) == [name], "the user knows"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["reveiw"], "Did you mean 'review'"),
        (["stars"], "'stars' holds numbers"),
        (["label"], "must be one or two"),
        (["review", "review"], "must be one or two"),
        ([], "must be one or two"),
        (["review", "title", "body"], "must be one or two"),
    ],
)
def test_given_columns_are_checked(given, said):
    dataset = table(review=REVIEWS, title=REVIEWS, body=REVIEWS, stars=list(range(20)))
    with pytest.raises(ConfigError, match=said):
        find(dataset, given)


def test_no_text_at_all():
    with pytest.raises(ConfigError, match=r"no column of texts, only stars \(numbers\), kind \(classes\)"):
        kinds = datasets.Dataset.from_dict(
            {"k": [0] * 20}, features=datasets.Features({"k": datasets.ClassLabel(names=["x"])})
        )
        find(table(stars=list(range(20))).add_column("kind", kinds["k"][:], feature=kinds.features["k"]))


def test_a_split_of_other_columns_is_named():
    other = table(sentence=REVIEWS)
    with pytest.raises(
        ConfigError, match=r"`validation_file='v.csv'` has no column of texts `text`, .*only sentence, label"
    ):
        check_text_columns(other, ["text"], "`validation_file='v.csv'`", "`train_file='t.csv'`")
    with pytest.raises(ConfigError, match="holds numbers in its column `text`"):
        check_text_columns(table(text=list(range(20))), ["text"], "`validation_file='v.csv'`", "`train_file='t.csv'`")


# Labels


def test_label_and_labels():
    same = table(text=REVIEWS).add_column("labels", ["a", "b"] * 10)
    assert rename_label_column(same, None, "x", "label_column")["label"][:] == ["a", "b"] * 10
    other = table(text=REVIEWS).add_column("labels", ["b", "a"] * 10)
    with pytest.raises(
        ConfigError, match="a column `label` and a column `labels`, which differ: name one by `label_column`"
    ):
        rename_label_column(other, None, "x", "label_column")
    assert rename_label_column(other, "labels", "x", "label_column")["label"][:] == ["b", "a"] * 10
    assert rename_label_column(other, "label", "x", "label_column")["label"][:] == ["a", "b"] * 10


def test_the_only_classes_are_the_labels():
    rows = table(text=REVIEWS).rename_column("label", "topic").class_encode_column("topic")
    assert "label" in rename_label_column(rows, None, "x", "label_column").column_names
    two = rows.add_column("mood", rows["topic"][:], feature=rows.features["topic"])
    assert "label" not in rename_label_column(two, None, "x", "label_column").column_names


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["text", "Label"], "Did you mean 'Label'"),
        (["a nice film", "positive"], "first line of the file"),
        (["text", "y"], "only text, y"),
    ],
)
def test_what_is_said_without_labels(columns, said):
    dataset = datasets.Dataset.from_dict({name: ["x"] for name in columns})
    assert said in no_label_column(dataset, "`train_file='x.csv'`", "label_column")


def test_empty_texts_are_counted(caplog):
    dataset = table(text=["", None, "  ", *REVIEWS[3:]])
    warn_of_empty_texts(dataset, ["text"], "`train_file='x.csv'`")
    assert "3 of 20 rows have an empty text" in caplog.text
    with pytest.raises(ConfigError, match="all 20 rows are empty"):
        warn_of_empty_texts(table(text=[""] * 20), ["text"], "x")
    caplog.clear()
    warn_of_empty_texts(table(a=["", *REVIEWS[1:]], b=REVIEWS), ["a", "b"], "x")
    assert [record.getMessage() for record in caplog.records] == [
        "x: 1 of 20 rows have an empty text in a; they are kept."
    ]
