"""Metrics of tags on cases that are counted by hand."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from merlin_hf.utils.tag_metrics import make_tag_metrics


def tagged(names, references, predictions):
    """What Trainer hands on: rows padded with -100."""
    label_ids = np.full((len(references), max(map(len, references))), -100)
    logits = np.full((*label_ids.shape, len(names)), -100.0)
    for row, tags in enumerate(zip(references, predictions, strict=True)):
        for place, (reference, prediction) in enumerate(zip(*tags, strict=True)):
            label_ids[row, place] = names.index(reference) if reference else -100
            logits[row, place, names.index(prediction)] = 5.0
    return SimpleNamespace(predictions=logits, label_ids=label_ids)


def test_spans_are_scored_as_a_whole_by_seqeval():
    """Of three spans one is right, one has a wrong end, one is of another kind; a piece of a word does not count."""
    pytest.importorskip("seqeval")
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    references = [["B-PER", None, "I-PER", "O"], ["B-LOC", "I-LOC", "O", "B-PER", "O"]]
    predictions = [["B-PER", "O", "I-PER", "O"], ["B-LOC", "O", "O", "B-LOC", "O"]]
    output = tagged(names, references, predictions)
    found = make_tag_metrics(names)(output)
    assert found == pytest.approx(
        {
            "precision": 1 / 3,
            "recall": 1 / 3,
            "f1": 1 / 3,
            "f1_PER": 2 / 3,
            "f1_LOC": 0.0,
            "macro_f1": 1 / 3,
            "accuracy": 6 / 8,
        }
    )
    output.predictions = output.predictions.argmax(-1)
    assert make_tag_metrics(names)(output) == pytest.approx(found)


def test_other_tags_are_scored_token_by_token():
    output = tagged(["NOUN", "VERB"], [["NOUN", "VERB", None]], [["NOUN", "NOUN", "VERB"]])
    found = make_tag_metrics(["NOUN", "VERB"])(output)
    assert found == pytest.approx({"accuracy": 0.5, "macro_f1": 1 / 3})


def test_spans_without_seqeval_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    with pytest.raises(ImportError, match=r"pip install merlin-hf\[seqeval\]"):
        make_tag_metrics(["O", "B-PER"])
