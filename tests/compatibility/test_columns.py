"""A source whose columns have other names, and what is said when they do not fit."""

import pytest
from datasets import Dataset

from merlin_hf import MerlinTrainer
from merlin_hf.transfer.named_sources import rename_columns
from tests.support import SOURCE_LABELS, losses, make_args
from tests.tiny import tiny_bert, tiny_dataset


NAMES = {"input_ids": "ids", "label": "stars"}
MAPPING = {new: old for old, new in NAMES.items()}


def build(output_dir, source, **kwargs):
    return MerlinTrainer(
        model=tiny_bert(),
        args=make_args(output_dir, num_source_labels=SOURCE_LABELS),
        train_dataset=tiny_dataset(),
        source_dataset=source,
        **kwargs,
    )


def plain_source():
    return tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1)


@pytest.mark.parametrize("streaming", [False, True])
def test_column_mapping_gives_what_renaming_by_hand_gives(tmp_path, streaming):
    def load(source):
        return source.to_iterable_dataset() if streaming else source

    by_hand = build(tmp_path, load(plain_source()))
    by_hand.train()
    renamed = load(plain_source().rename_columns(NAMES))
    mapped = build(tmp_path, renamed, source_column_mapping=MAPPING)
    mapped.train()
    assert losses(mapped) == losses(by_hand)
    assert set(renamed.column_names) >= set(MAPPING), "the user's data set is left as it is"


@pytest.mark.parametrize(
    "mapping, message",
    [
        (
            {"star": "label"},
            r"renames 'star', which `source_dataset` does not have. Did you mean 'stars'\? Its columns are",
        ),
        (
            {"qqq": "label"},
            r"renames 'qqq', which `source_dataset` does not have. Its columns are 'ids', 'attention_mask'",
        ),
        ({"stars": "ids"}, r"gives two columns of `source_dataset` the name 'ids'.*remove_columns\('ids'\)"),
        ({"stars": "label", "ids": "label"}, "gives two columns of `source_dataset` the name 'label'"),
    ],
)
def test_a_mapping_that_does_not_fit(mapping, message):
    source = plain_source().rename_columns(NAMES)
    with pytest.raises(ValueError, match=message):
        rename_columns(source, mapping, "source_dataset")


def test_swapping_two_names_is_allowed():
    swapped = rename_columns(Dataset.from_dict({"a": [1], "b": [2]}), {"a": "b", "b": "a"}, "source_dataset")
    assert swapped[0] == {"b": 1, "a": 2}


def test_a_mapping_for_rows_without_columns():
    with pytest.raises(ValueError, match="`source_column_mapping` needs a `datasets.Dataset`.*is a list.*collator"):
        rename_columns([{"a": 1}], {"a": "label"}, "source_dataset")


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"label": "stars"}, r"`source_dataset` has no labels.*'stars'.*source_column_mapping=\{'stars': 'label'\}"),
        ({"input_ids": "ids"}, "`source_dataset`"),
    ],
)
def test_unmapped_columns_are_an_error_before_training(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, plain_source().remove_columns("attention_mask").rename_columns(columns))


def test_a_source_collator_reads_its_own_columns(tmp_path):
    from transformers import default_data_collator

    def collate(rows):
        return default_data_collator(
            [{"input_ids": row["ids"], "attention_mask": row["attention_mask"], "label": row["stars"]} for row in rows]
        )

    trainer = MerlinTrainer(
        model=tiny_bert(),
        args=make_args(tmp_path, num_source_labels=SOURCE_LABELS, remove_unused_columns=False),
        train_dataset=tiny_dataset(),
        source_dataset=[dict(row) for row in plain_source().rename_columns(NAMES)],
        source_collator=collate,
    )
    trainer.train()
    by_name = build(tmp_path, plain_source())
    by_name.train()
    assert losses(trainer) == losses(by_name)


@pytest.mark.parametrize("argument", ["source_dataset", "train_dataset"])
def test_labels_in_words_are_an_error_that_says_how_to_encode_them(tmp_path, argument):
    data = {"source_dataset": plain_source(), "train_dataset": tiny_dataset()}
    words = ["yes" if label else "no" for label in data[argument]["label"]]
    data[argument] = data[argument].remove_columns("label").add_column("label", words)
    with pytest.raises(
        ValueError, match=rf"labels of `{argument}` are text, such as 'no'.*class_encode_column\('label'\)"
    ):
        MerlinTrainer(tiny_bert(), make_args(tmp_path), **data)
