"""Sentence encoders: what is loaded, what is refused, and that sentence-transformers computes the same."""

import copy
import json
import pickle
import sys

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from torch.nn import functional

from merlin_hf.data.models import load_text_tokenizer
from merlin_hf.data.sentence_encoders import (
    SentenceCollator,
    SentenceEncoderForSequenceClassification,
    SentenceTokenizer,
    classifier_class,
    is_sentence_encoder,
    load_sentence_encoder,
    stack_pairs,
    text_collator,
)
from merlin_hf.transfer.model import TransferModel
from merlin_hf.utils.files import FileError
from merlin_hf.utils.validation import ConfigError
from tests.tiny import NUM_LABELS, tiny_bert, tiny_sentence_encoder, tiny_texts


FIRST, SECOND = ["w4 w5 w6", "w7", "w8 w9 w10 w11"], ["w20", "w21 w22 w23 w24 w25", "w26 w27"]
NAMES = {0: "bad", 1: "good", 2: "plain"}


def classifier(pairs=False, **kwargs):
    encoder = tiny_sentence_encoder(**kwargs)
    encoder.transformers_model.config.id2label = NAMES
    encoder.transformers_model.config.label2id = {name: id for id, name in NAMES.items()}
    torch.manual_seed(1)
    return SentenceEncoderForSequenceClassification(encoder, pairs).eval()


def batch(model, *texts):
    tokenizer = SentenceTokenizer(model.encoder)
    rows = tokenizer(*texts)
    return SentenceCollator(tokenizer.tokenizer)([{n: v[i] for n, v in rows.items()} for i in range(len(texts[0]))])


# What it computes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "cls", "more": ()},
        {"pooling": ("mean", "max"), "more": ("Normalize",)},
        {"more": ("Dense", "LayerNorm", "Normalize")},
        {"more": ("Dropout",)},
        {"prompts": {"task": "w50 w51 "}, "default_prompt_name": "task"},
        {"prompts": {"task": "w50 w51 "}, "default_prompt_name": "task", "include_prompt": False},
        {"prompts": {"task": "w50 "}},
    ],
    ids=str,
)
def test_features_are_the_embeddings_and_the_saved_folder_gives_the_logits(tmp_path, options):
    model = classifier(**options)
    with torch.no_grad():
        logits = model(**batch(model, FIRST)).logits
        features = model.pooled(batch(model, FIRST))
    embeddings = model.encoder.encode(FIRST, convert_to_tensor=True)
    torch.testing.assert_close(features, embeddings)
    model.save_pretrained(tmp_path)
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    torch.testing.assert_close(torch.stack(loaded.encode(FIRST, output_value="logits")), logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded.encode(FIRST, convert_to_tensor=True), embeddings)
    assert loaded[0].model.config.id2label == NAMES
    assert loaded.default_prompt_name == model.encoder.default_prompt_name
    assert len(model.encoder) == len(loaded) - 1, "the head is in the folder, and not in the encoder"


@pytest.mark.parametrize("options", [{}, {"prompts": {"a": "w50 "}, "default_prompt_name": "a"}], ids=str)
def test_pairs_are_read_apart_and_the_saved_folder_gives_the_logits(tmp_path, options):
    model = classifier(pairs=True, **options)
    with torch.no_grad():
        logits = model(**batch(model, FIRST, SECOND)).logits
    model.save_pretrained(tmp_path)
    encoder, head = SentenceTransformer(str(tmp_path), device="cpu"), Dense.load(str(tmp_path), "pair_classifier")
    u, v = (encoder.encode(texts, convert_to_tensor=True) for texts in (FIRST, SECOND))
    found = head({"sentence_embedding": torch.cat([u, v, (u - v).abs(), u * v], dim=1)})["logits"]
    torch.testing.assert_close(found, logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pad_left", [False, True])
def test_stacked_pairs_do_not_depend_on_the_longer_text(pad_left):
    inputs = {
        "input_ids": torch.tensor([[5, 6, 9], [7, 8, 9]]),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "input_ids_b": torch.tensor([[4], [5]]),
        "attention_mask_b": torch.tensor([[1], [1]]),
    }
    stacked = stack_pairs(inputs, pad_token_id=9, pad_left=pad_left)
    assert stacked["input_ids"].tolist() == [
        [5, 6, 9],
        [7, 8, 9],
        *([[9, 9, 4], [9, 9, 5]] if pad_left else [[4, 9, 9], [5, 9, 9]]),
    ]
    assert stacked["attention_mask"].sum(1).tolist() == [2, 3, 1, 1]
    without = {name: value for name, value in inputs.items() if "mask" not in name}
    assert stack_pairs(without)["attention_mask"].sum(1).tolist() == [3, 3, 1, 1]


@pytest.mark.parametrize(
    ("labels", "problem_type", "loss"),
    [
        (torch.tensor([0, 2, 1]), "single_label_classification", functional.cross_entropy),
        (torch.tensor([0, 2, 1]), None, functional.cross_entropy),
        (torch.eye(3), "multi_label_classification", functional.binary_cross_entropy_with_logits),
        (torch.eye(3), "regression", functional.mse_loss),
    ],
)
def test_loss_is_that_of_other_classifiers(labels, problem_type, loss):
    model = classifier()
    model.config.problem_type = problem_type
    output = model(**batch(model, FIRST), labels=labels)
    torch.testing.assert_close(output.loss, loss(output.logits, labels))


def test_pooler_that_is_left_out_is_not_trained_and_all_else_has_a_gradient():
    model = classifier(pairs=True)
    model(**batch(model, FIRST, SECOND), labels=torch.tensor([0, 1, 2])).loss.backward()
    without = {
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    }
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert not without
    assert {name.split(".")[3] for name in frozen} == {"pooler"}


def test_a_head_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match="reads pairs of texts, and was given single texts"):
        model = classifier(pairs=True)
        model(**batch(model, FIRST))
    with pytest.raises(ValueError, match="reads single texts, and was given pairs"):
        model = classifier()
        model(**batch(model, FIRST, SECOND))
    with pytest.raises(ValueError, match="not `inputs_embeds`"):
        model(inputs_embeds=torch.zeros(1, 2, 32))


def test_gradient_checkpointing_changes_nothing():
    model = classifier(dropout=0.0).train()
    inputs = {**batch(model, FIRST), "labels": torch.tensor([0, 1, 2])}
    plain = torch.autograd.grad(model(**inputs).loss, model.encoder[0].model.embeddings.word_embeddings.weight)[0]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.encoder[0].model.is_gradient_checkpointing
    again = torch.autograd.grad(model(**inputs).loss, model.encoder[0].model.embeddings.word_embeddings.weight)[0]
    torch.testing.assert_close(plain, again)


def test_copies_and_pickles_are_whole():
    model = classifier()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(**batch(other, FIRST)).logits, model(**batch(model, FIRST)).logits)
    tokenizer = pickle.loads(pickle.dumps(SentenceTokenizer(model.encoder)))
    assert tokenizer("w5")["input_ids"] == [2, 5, 3]


# Tokens


def test_tokenizer_puts_the_prompt_before_every_text():
    encoder = tiny_sentence_encoder(prompts={"a": "w50 "}, default_prompt_name="a")
    tokenizer = SentenceTokenizer(encoder)
    assert tokenizer(["w5"], ["w6"])["input_ids"] == [[2, 50, 5, 3]]
    assert tokenizer(["w5"], ["w6"])["input_ids_b"] == [[2, 50, 6, 3]]
    assert tokenizer("w5")["input_ids"] == [2, 50, 5, 3]
    assert len(tokenizer) == len(tokenizer.tokenizer)
    assert isinstance(text_collator(tokenizer), SentenceCollator)
    assert type(text_collator(encoder.tokenizer)) is t.DataCollatorWithPadding


def test_tokenizer_of_a_folder_is_that_of_its_encoder(tmp_path):
    model = classifier(prompts={"a": "w50 "}, default_prompt_name="a")
    model.encoder.max_seq_length = 7
    model.save_pretrained(tmp_path)
    tokenizer = load_text_tokenizer(SentenceEncoderForSequenceClassification, str(tmp_path), model.config)
    assert tokenizer.model_max_length == 7
    assert tokenizer("w5")["input_ids"] == [2, 50, 5, 3]


# Loading


@pytest.mark.parametrize("pairs", [False, True])
def test_a_saved_classifier_is_loaded_with_its_head(tmp_path, pairs):
    model = classifier(pairs=pairs)
    model.save_pretrained(tmp_path)
    texts = (FIRST, SECOND)[: 1 + pairs]
    loaded, info = SentenceEncoderForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert (loaded.pairs, info["missing_keys"]) == (pairs, set())
    torch.testing.assert_close(loaded.eval()(**batch(model, *texts)).logits, model(**batch(model, *texts)).logits)
    assert set(loaded.state_dict()) == set(model.state_dict())
    loaded.save_pretrained(tmp_path / "again")
    files = {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()} - {
        path.relative_to(tmp_path) for path in (tmp_path / "again").rglob("*")
    }


def test_an_encoder_is_loaded_with_a_new_head_for_the_labels_of_a_configuration(tmp_path):
    tiny_sentence_encoder().save(str(tmp_path), create_model_card=False)
    config = t.AutoConfig.from_pretrained(tmp_path, id2label=NAMES)
    torch.manual_seed(0)
    load = SentenceEncoderForSequenceClassification.from_pretrained
    model, info = load(str(tmp_path), config=config, pairs=True, output_loading_info=True, max_seq_length=9)
    assert info["missing_keys"] == {"classifier.weight", "classifier.bias"}
    assert (model.config.num_labels, model.classifier.in_features, model.encoder.max_seq_length) == (3, 4 * 32, 9)
    scratch = load(str(tmp_path), config=config, from_scratch=True)
    body = "encoder.0.model.embeddings.word_embeddings.weight"
    assert not torch.equal(scratch.state_dict()[body], model.state_dict()[body])


def test_a_head_of_another_size_is_asked_about(tmp_path):
    classifier().save_pretrained(tmp_path)
    config = t.AutoConfig.from_pretrained(tmp_path, id2label={0: "a", 1: "b"})
    load = SentenceEncoderForSequenceClassification.from_pretrained
    with pytest.raises(ValueError, match="`ignore_mismatched_sizes=True` starts with a new one"):
        load(str(tmp_path), config=config)
    assert load(str(tmp_path), config=config, ignore_mismatched_sizes=True).classifier.out_features == 2


def test_which_folders_are_sentence_encoders(tmp_path):
    tiny_sentence_encoder().save(str(tmp_path / "encoder"), create_model_card=False)
    tiny_bert().save_pretrained(tmp_path / "plain")
    assert is_sentence_encoder(str(tmp_path / "encoder"))
    assert not is_sentence_encoder(str(tmp_path / "plain"))
    assert classifier_class(str(tmp_path / "encoder")) is SentenceEncoderForSequenceClassification
    assert classifier_class(str(tmp_path / "encoder"), False) is t.AutoModelForSequenceClassification
    assert classifier_class(str(tmp_path / "plain")) is t.AutoModelForSequenceClassification
    with pytest.raises(ConfigError, match="`sentence_encoder`: .*plain' is not a sentence encoder"):
        classifier_class(str(tmp_path / "plain"), True)
    edit(
        tmp_path / "encoder" / "config_sentence_transformers.json",
        lambda found: found.update(model_type="CrossEncoder"),
    )
    assert not is_sentence_encoder(str(tmp_path / "encoder"))


def test_without_the_library_the_error_names_the_extra(tmp_path, monkeypatch):
    tiny_sentence_encoder().save(str(tmp_path), create_model_card=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r'modules.json.*`pip install "merlin_hf\[sentence\]"`'):
        is_sentence_encoder(str(tmp_path))


# Folders that are refused


def edit(path, change):
    found = json.loads(path.read_text())
    changed = change(found)
    path.write_text(json.dumps(found if changed is None else changed))


def drop(name):
    return lambda folder: (folder / name).unlink()


def of_type(name):
    return lambda folder: edit(folder / "modules.json", lambda found: found[1].update(type=name))


def setting(**values):
    return lambda folder: edit(folder / "sentence_bert_config.json", lambda found: found.update(values))


def as_pickle(folder):
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        if (folder / name).exists():
            torch.save(load_file(folder / name), folder / name.replace("model.safetensors", "pytorch_model.bin"))
            (folder / name).unlink()


def larger_dense(folder):
    edit(folder / "2_Dense" / "config.json", lambda found: found.update(out_features=10**6))


def only_dense_is_a_pickle(folder):
    weights = load_file(folder / "model.safetensors")
    as_pickle(folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BAD = {
    "code in the folder": (of_type("custom.Pooling"), "names the module 'custom.Pooling'"),
    "another package": (of_type("os.path.Pooling"), "names the module 'os.path.Pooling'"),
    "an unknown module": (of_type("sentence_transformers.models.Router"), "may have Transformer, Pooling"),
    "a module of a module": (of_type("sentence_transformers.util.file_io.os"), "names the module"),
    "no type": (of_type(None), "names the module 'None'"),
    "a module elsewhere": (
        lambda folder: edit(folder / "modules.json", lambda found: found[1].update(path="../1_Pooling")),
        "in the folder '../1_Pooling'",
    ),
    "an old layout": (
        lambda folder: edit(folder / "modules.json", lambda found: found[0].update(path="0_Transformer")),
        r"SentenceTransformer\(.*\).save\(folder\)` writes it so",
    ),
    "no modules": (lambda folder: (folder / "modules.json").write_text("[]"), "is not a list of modules"),
    "damaged modules": (lambda folder: (folder / "modules.json").write_text("[{"), "modules.json cannot be used"),
    "modules in another order": (
        lambda folder: edit(folder / "modules.json", lambda found: found[::-1]), "must begin with a Transformer"
    ),
    "pickled weights": (as_pickle, "which may be pickles, are not read"),
    "a pickled module": (only_dense_is_a_pickle, "has no 2_Dense/model.safetensors.*pickles"),
    "a module of another size": (larger_dense, r"describes a layer of \(1000000, 32\) weights"),
    "settings that load code": (
        setting(model_args={"attn_implementation": "someone/kernel"}), "model_args=.*attn_implementation"
    ),
    "another tokenizer": (setting(tokenizer_name_or_path="elsewhere"), "names another tokenizer"),
    "another task": (setting(transformer_task="fill-mask"), "transformer_task='fill-mask'"),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "with an adapter"),
    "no configuration": (drop("config.json"), "cannot be loaded"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_folders_that_are_refused(tmp_path, case):
    tiny_sentence_encoder(more=("Dense",)).save(str(tmp_path), create_model_card=False)
    (tmp_path / "custom.py").write_text("raise SystemExit('code of the folder was run')")
    change, message = BAD[case]
    change(tmp_path)
    with pytest.raises(FileError, match=message):
        load_sentence_encoder(str(tmp_path))


def test_folders_of_earlier_releases_are_loaded(tmp_path):
    tiny_sentence_encoder().save(str(tmp_path), create_model_card=False)
    names = ("Transformer", "Pooling", "Normalize")
    edit(
        tmp_path / "modules.json",
        lambda found: [
            {**one, "type": f"sentence_transformers.models.{n}"} for one, n in zip(found, names, strict=True)
        ],
    )
    (tmp_path / "2_Normalize" / "config.json").unlink()
    assert len(load_sentence_encoder(str(tmp_path))) == 3


def test_code_of_others_is_never_run(tmp_path):
    tiny_sentence_encoder().save(str(tmp_path), create_model_card=False)
    with pytest.raises(ValueError, match="leave `trust_remote_code` out"):
        SentenceEncoderForSequenceClassification.from_pretrained(str(tmp_path), trust_remote_code=True)


def test_encoders_that_cannot_be_saved_are_refused():
    from sentence_transformers.sentence_transformer.modules import WordWeights

    encoder = tiny_sentence_encoder()
    encoder.append(WordWeights(["a"], {"a": 1.0}))
    with pytest.raises(ValueError, match="has the modules Transformer, Pooling, Normalize, WordWeights"):
        SentenceEncoderForSequenceClassification(encoder)
    encoder = tiny_sentence_encoder()
    encoder.truncate_dim = 8
    with pytest.raises(ValueError, match="`truncate_dim=8`"):
        SentenceEncoderForSequenceClassification(encoder)


@pytest.mark.parametrize(
    ("config_class", "model_class", "after"),
    [
        (t.ModernBertConfig, t.ModernBertForSequenceClassification, lambda model, mean: model.drop(model.head(mean))),
        (
            t.EuroBertConfig,
            t.EuroBertForSequenceClassification,
            lambda model, mean: model.activation(model.dense(mean)),
        ),
    ],
)
def test_pooling_that_a_configuration_chooses_is_a_plain_classifiers(config_class, model_class, after):
    """`classifier_pooling="mean"` means over real tokens, whatever stands in the padding; features are read there."""
    options = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
               "num_key_value_heads": 2, "intermediate_size": 37, "pad_token_id": 0}  # fmt: skip
    torch.manual_seed(0)
    model = model_class(config_class(**options, num_labels=NUM_LABELS, classifier_pooling="mean")).eval()
    rows = torch.tensor([[2, 5, 6, 3, 0, 0], [2, 7, 8, 9, 10, 3]])
    mask = (rows != 0).long()
    transfer_model = TransferModel(model, num_source_labels=0)
    with torch.no_grad(), transfer_model.feature_mode():
        tokens = model.model(rows, mask).last_hidden_state
        mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        features = transfer_model.features({"input_ids": rows, "attention_mask": mask})
        torch.testing.assert_close(features, after(model, mean))
        torch.testing.assert_close(model(rows, mask).logits, model.classifier(after(model, mean)))
        changed = torch.where(mask == 0, 40, rows)
        torch.testing.assert_close(transfer_model.features({"input_ids": changed, "attention_mask": mask}), features)


def test_rows_of_the_tests_can_be_tokenized():
    rows = tiny_texts(rows=4, pairs=True)
    assert all({word[:1] for word in row.split()} == {"w"} for row in rows["second"])
