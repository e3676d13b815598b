"""Tagged sentences become tokens: the first token of a word has the label of its tag."""

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from merlin_hf.data.tags import encode_tags, load_word_tokenizer, tag_names
from merlin_hf.utils.validation import ConfigError


TEXT = {"tokens": [["Ada", "Lovelace", "sings"], ["in", "Turin"]], "tags": [["B-PER", "I-PER", "O"], ["O", "B-LOC"]]}


@pytest.fixture(scope="module")
def tokenizer():
    """Divides words into letters, between [CLS] and [SEP]."""
    letters = {letter: i for i, letter in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"adelinorstuvALgT"])}
    made = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def test_names_of_text_begin_with_o():
    assert tag_names(Dataset.from_dict(TEXT), "tags", "data") == ["O", "B-LOC", "B-PER", "I-PER"]


def test_each_word_has_one_label(tokenizer):
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    rows = encode_tags(Dataset.from_dict(TEXT), tokenizer, names, max_length=12)
    first = [-100, 1, -100, -100, 2, *[-100] * 7]  # cut after 12 tokens: [CLS] A d a L o v e l a c [SEP]
    assert rows["labels"][0] == first and len(rows["input_ids"][0]) == 12
    assert rows["labels"][1] == [-100, 0, -100, 3, -100, -100, -100, -100, -100]
    assert rows.features["labels"].feature.names == names


def test_tags_with_numbers_of_their_own_are_matched_by_name(tokenizer):
    """As where a pretrained model has its outputs in another order."""
    text = Dataset.from_dict(TEXT)
    named = ["B-LOC", "O", "I-PER", "B-PER"]
    numbers = [[named.index(tag) for tag in tags] for tags in TEXT["tags"]]
    features = Features({"tokens": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=named))})
    ids = Dataset.from_dict({"tokens": TEXT["tokens"], "tags": numbers}, features=features)
    assert tag_names(ids, "tags", "data") == named
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    assert encode_tags(ids, tokenizer, names)["labels"][:] == encode_tags(text, tokenizer, names)["labels"][:]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({**TEXT, "tags": [["O"], ["O", "O"]]}, "Row 0 of `data` has 3 words and 1 tags"),
        (
            {**TEXT, "tags": [["O", "O", "O"], ["O", "B-ORG"]]},
            "Row 1 of `data` has the tag 'B-ORG', which is none of O",
        ),
        ({"words": TEXT["tokens"], "tags": TEXT["tags"]}, "`data` has no column 'tokens', only words, tags"),
    ],
)
def test_rows_that_do_not_fit_are_named(tokenizer, rows, message):
    with pytest.raises(ConfigError, match=message):
        encode_tags(Dataset.from_dict(rows), tokenizer, ["O", "B-PER", "I-PER", "B-LOC"], argument="data")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("tag", "no column 'tag', only tokens, tags, ids.*tags"),
        ("ids", "no tags with names"),
        ("text", "no tags with"),
    ],
)
def test_columns_without_tags_are_told(column, message):
    rows = Dataset.from_dict({**TEXT, "ids": [[0, 1, 2], [0, 1]]})
    rows = rows if column != "text" else rows.add_column("text", ["a", "b"])
    with pytest.raises(ConfigError, match=message):
        tag_names(rows, column, "data")


def test_spaces_are_put_before_words_where_the_model_needs_them(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    assert load_word_tokenizer(str(tmp_path), BertConfig()).is_fast
