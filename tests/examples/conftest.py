"""A tiny pretrained model, and the examples on the path."""

import re
import sys
from pathlib import Path

import datasets
import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_bert


ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [f"w{number}" for number in range(40)]


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory, monkeypatch):
    """Data sets are made for one test, and libraries say as much after it as before."""
    verbosity = transformers.logging.get_verbosity(), datasets.logging.get_verbosity()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cached-data-sets"))
    monkeypatch.delenv("MERLIN_DATA_ROOT", raising=False)
    yield
    transformers.logging.set_verbosity(verbosity[0])
    datasets.logging.set_verbosity(verbosity[1])


@pytest.fixture
def refused(capsys, monkeypatch):
    """Checks that a program ends with one line about its arguments, that matches a pattern, and exit status 2."""

    def refused(main, arguments, message):
        monkeypatch.setattr(sys, "argv", ["/somewhere/run_it.py"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run_it.py: ")]
        assert end.value.code == 2 and len(said) == 1 and re.search(message, said[0])

    return refused


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A tiny BERT, as pre-trained without a classifier, with a word-level tokenizer beside it."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(path)
    tiny_bert().bert.save_pretrained(path)
    return str(path)
