"""Tokens that a model has no embedding or position for are refused by the name of their data set."""

import pytest
from datasets import Dataset

from merlin_hf import MerlinTrainer
from merlin_hf.transfer.token_checks import check_tokens
from tests.methods.support import build, tiny_resnet
from tests.support import make_args
from tests.tiny import TINY_CLASSIFIERS, VOCAB, tiny_bert, tiny_dataset


BAD = {
    "an unknown token": (lambda rows: rows[:-1] + [[VOCAB] * 8], f"the token id {VOCAB} .*embeddings for 0 ... {VOCAB - 1}"),
    "a negative one": (lambda rows: [[-1] * 8] + rows[1:], "the token id -1 "),
    "a long row": (lambda rows: rows[:-1] + [[5] * 17], r"1 of 24 rows of more tokens \(up to 17\).*positions \(16\).*max_length=16"),
}  # fmt: skip


def with_tokens(change):
    data = tiny_dataset()
    rows = change(data["input_ids"][:])
    mask = [[1] * len(row) for row in rows]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": mask, "label": data["label"][:]})


@pytest.mark.parametrize("argument", ["train_dataset", "source_dataset", "eval_dataset"])
@pytest.mark.parametrize("kind", BAD)
def test_before_training(tmp_path, kind, argument):
    change, message = BAD[kind]
    given = {"train_dataset": tiny_dataset(), "source_dataset": tiny_dataset(), argument: with_tokens(change)}
    with pytest.raises(ValueError, match=f"`{argument}` has .*{message}"):
        MerlinTrainer(tiny_bert(max_position_embeddings=16), make_args(tmp_path), **given)


def test_of_a_method_that_is_plain_trainer_too(tmp_path):
    with pytest.raises(ValueError, match=f"`train_dataset` has the token id {VOCAB} "):
        build("finetune", tmp_path, target=with_tokens(BAD["an unknown token"][0]))


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2", "t5", "llama"])
def test_rows_that_a_model_takes(name):
    check_tokens(with_tokens(lambda rows: rows[:-1] + [[5] * 100]), "train_dataset", TINY_CLASSIFIERS[name]())


def test_lists_of_rows_are_checked_and_images_pass():
    rows = [dict(row) for row in with_tokens(BAD["an unknown token"][0])]
    with pytest.raises(ValueError, match=f"the token id {VOCAB} "):
        check_tokens(rows, "train_dataset", tiny_bert())
    check_tokens(rows, "train_dataset", tiny_resnet())
