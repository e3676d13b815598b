"""A model is set up for the labels of a task by their names, and is shown no more than it has positions for."""

import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast

from merlin_hf.data.labels import LabelMismatchError, Labels
from merlin_hf.data.models import (
    check_vocabulary,
    configure_labels,
    is_unnamed,
    load_text_tokenizer,
    longest_text,
    outputs_of,
    pad_by_known_token,
    positions_of,
)
from merlin_hf.utils.validation import ConfigError
from tests.examples.conftest import model_path  # noqa: F401


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 50}


def labels(*names):
    return Labels(list(names))


def config(*names):
    if not names:
        return transformers.BertConfig()
    return transformers.BertConfig(
        id2label=dict(enumerate(names)), label2id={name: id for id, name in enumerate(names)}
    )


@pytest.mark.parametrize(
    ("known", "given", "expected"),
    [
        (["neg", "pos"], ["pos", "neg"], [1, 0]),
        (["Neg", "Pos"], ["neg", "pos"], [0, 1]),
        (["a", "b"], ["x", "y"], [0, 1]),
        (["a", "b", "c"], ["b", "a"], [0, 1]),
        ([], ["b", "a"], [0, 1]),
    ],
)
def test_outputs_of_a_pretrained_model_keep_their_names(known, given, expected, caplog):
    pretrained, task = config(*known), labels(*given)
    configure_labels(pretrained, task)
    assert task.ids == expected and pretrained.num_labels == len(given)
    assert [pretrained.id2label[id] for id in expected] == given
    assert pretrained.problem_type == "single_label_classification"
    # Another case, or other labels than the model was trained for, are said.
    assert bool(caplog.records) == (known not in ([], ["neg", "pos"]))


def test_a_head_that_knows_some_of_the_names_is_refused():
    with pytest.raises(LabelMismatchError) as error:
        configure_labels(config("neg", "neutral", "pos"), labels("neg", "pos", "mixed"))
    assert "['neg', 'pos', 'mixed']" in str(error.value) and "['neg', 'neutral', 'pos']" in str(error.value)
    assert "ignore_mismatched_sizes" in str(error.value)
    task = labels("mixed", "pos", "neg")
    configure_labels(config("neg", "neutral", "pos"), task, accept_others=True)
    assert task.ids == [1, 2, 0], "shared names keep their outputs"


def test_real_labels_have_one_output():
    pretrained = config("a", "b", "c")
    configure_labels(pretrained, Labels())
    assert pretrained.num_labels == 1 and pretrained.problem_type == "regression"


def test_numbers_are_the_names_of_a_model_that_has_no_others(caplog):
    numbers = Labels(["0", "2"], numbers=[0, 2], has_names=False)
    unnamed = transformers.BertConfig(num_labels=3)
    assert is_unnamed(unnamed) and outputs_of(numbers, unnamed) == [0, 2] and not caplog.records
    assert outputs_of(labels("a", "b", "c"), unnamed) == [0, 1, 2]
    assert "--labels_by_number" in caplog.text, "in their order is a guess"
    with pytest.raises(LabelMismatchError):
        outputs_of(labels("a", "b"), unnamed)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("Bert", {"max_position_embeddings": 20}, 20),
        ("Roberta", {"max_position_embeddings": 22, "pad_token_id": 1}, 20),
        ("XLMRoberta", {"max_position_embeddings": 22, "pad_token_id": 1}, 20),
        ("MPNet", {"max_position_embeddings": 22, "pad_token_id": 1}, 20),
        ("DebertaV2", {"max_position_embeddings": 20}, 20),
        ("GPT2", {"n_positions": 20, "n_embd": 8, "n_layer": 1, "n_head": 2}, 20),
        ("DistilBert", {"max_position_embeddings": 20, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}, 20),
        ("OPT", {"max_position_embeddings": 20, "ffn_dim": 8, "word_embed_proj_dim": 8}, 20),
        ("ModernBert", {"num_hidden_layers": 2}, None),  # one alone is refused by transformers 5.10
        ("Llama", {"num_key_value_heads": 2}, None),
    ],
)
def test_positions_of_models(kind, options, expected):
    """A text of so many tokens goes through, and where there is a limit one more does not."""
    own = SMALL if kind not in ("GPT2", "DistilBert") else {"vocab_size": 50}
    known = getattr(transformers, f"{kind}Config")(
        **{**own, **options, "pad_token_id": options.get("pad_token_id", 0)}
    )
    assert positions_of(known) == expected
    model = transformers.AutoModel.from_config(known).eval()
    ids = torch.full((1, expected or 64), 5)
    with torch.no_grad():
        model(input_ids=ids)
        if expected is not None:
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                model(input_ids=torch.full((1, expected + 1), 5))


@pytest.mark.parametrize(
    ("told", "asked", "expected"), [(int(1e30), 128, 64), (48, 128, 48), (512, 128, 64), (512, 32, 32)]
)
def test_texts_are_cut_to_what_the_model_takes(told, asked, expected, model_path, caplog):  # noqa: F811
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_path)
    tokenizer.model_max_length = told
    assert longest_text(tokenizer, transformers.BertConfig(**SMALL, max_position_embeddings=64), asked) == expected
    assert ("`max_seq_length=128` is more than the model takes" in caplog.text) == (expected < asked)


def test_no_room_for_a_text(model_path):  # noqa: F811
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    with pytest.raises(ConfigError, match="`max_seq_length=2` leaves no room"):
        longest_text(tokenizer, transformers.BertConfig(**SMALL), 2)


def test_decoders_pad_by_the_end_of_a_text(model_path):  # noqa: F811
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_path)
    tokenizer.pad_token, tokenizer.eos_token = None, tokenizer.convert_ids_to_tokens(3)
    decoder = transformers.GPT2Config(pad_token_id=None)
    pad_by_known_token(tokenizer, decoder)
    assert tokenizer.pad_token_id == decoder.pad_token_id == 3
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="neither a token to pad by nor one for the end"):
        pad_by_known_token(tokenizer, decoder)


def test_a_tokenizer_of_another_model(model_path):  # noqa: F811
    known = transformers.BertConfig(**SMALL)
    tokenizer = load_text_tokenizer(None, str(model_path), known)
    check_vocabulary(tokenizer, known, "x")
    with pytest.raises(
        ConfigError, match=f"The tokenizer of `tokenizer_name='x'` has {len(tokenizer)} tokens, and the model 9"
    ):
        check_vocabulary(tokenizer, transformers.BertConfig(**{**SMALL, "vocab_size": 9}), "`tokenizer_name='x'`")
