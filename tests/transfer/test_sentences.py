"""A sentence encoder as the model of a trainer: it trains, resumes and is saved as other classifiers are."""

import copy
import logging

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from torch.nn import functional
from transformers import BertForSequenceClassification

from merlin_hf import METHODS, MerlinTrainer, get_method
from merlin_hf.comparison.models import freeze
from merlin_hf.data.sentence_encoders import SentenceCollator, SentenceTokenizer, load_adapter
from merlin_hf.methods import JointTrainer, LWFTrainer
from tests.support import make_args, warnings_of
from tests.tiny import tiny_sentence_encoder, tiny_texts, tokenized


# The first needs BatchNorm, the next two take no steps, and the last two need the same labels on both sides.
NOT_HERE = ("stochnorm", "linear_probe", "embeddings", "zero_shot", "pooled")


def data(encoder, pairs=False, source_pairs=False, rows=24):
    return {
        "train_dataset": tokenized(encoder, tiny_texts(rows, pairs=pairs)),
        "eval_dataset": tokenized(encoder, tiny_texts(12, seed=2, pairs=pairs)),
        "source_dataset": tokenized(encoder, tiny_texts(40, num_labels=4, seed=1, pairs=source_pairs)),
    }


def make(
    output_dir, trainer_class=MerlinTrainer, encoder=None, pairs=False, source_pairs=False, options=None, **kwargs
):
    encoder = encoder or tiny_sentence_encoder()
    return trainer_class(
        model=encoder,
        args=make_args(output_dir, **kwargs),
        **{**data(encoder, pairs, source_pairs), **(options or {})},
    )


def logits_of(folder, texts, seconds=None):
    """What sentence-transformers gives, without this package."""
    encoder = SentenceTransformer(str(folder), device="cpu")
    if seconds is None:
        return torch.stack(encoder.encode(texts, output_value="logits"))
    u, v = (encoder.encode(column, convert_to_tensor=True) for column in (texts, seconds))
    head = Dense.load(str(folder), subfolder="pair_classifier")
    return head({"sentence_embedding": torch.cat([u, v, (u - v).abs(), u * v], dim=1)})["logits"]


def predictions(trainer):
    return torch.tensor(trainer.predict(trainer.eval_dataset).predictions)


def bodies(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("source_pairs", [False, True])
def test_what_is_saved_gives_the_predictions_in_sentence_transformers(tmp_path, pairs, source_pairs):
    trainer = make(tmp_path / "run", pairs=pairs, source_pairs=source_pairs)
    before = bodies(trainer.model)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    rows = trainer.eval_dataset
    found = logits_of(tmp_path / "saved", rows["text"][:], rows["second"][:] if pairs else None)
    torch.testing.assert_close(found, predictions(trainer), atol=1e-5, rtol=0)
    assert trainer.model.config.id2label == {0: "class0", 1: "class1", 2: "class2"}
    after = bodies(trainer.model)
    assert all(not torch.equal(after[name], before[name]) for name in before if "layer.1.output.dense" in name)
    assert all(torch.equal(after[name], before[name]) for name in before if ".pooler." in name)
    size = trainer.model.embedding_dimension
    assert trainer.transfer_model.source_head.in_features == size * (4 if source_pairs else 1)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in NOT_HERE])
def test_every_method_trains_one_and_resumes_to_the_bit(tmp_path, method, pairs):
    trainer_class = get_method(method)
    plain = {"per_device_train_batch_size": 8, "max_steps": 4, "learning_rate": 1e-2, "report_to": "none"}
    plain |= {"use_cpu": True, "disable_tqdm": True, "save_strategy": "steps", "save_steps": 2}

    def trainer(folder):
        encoder = tiny_sentence_encoder()
        given = data(encoder, pairs, pairs)
        if not trainer_class.takes_source:
            del given["source_dataset"]
        return trainer_class(model=encoder, args=trainer_class.training_args_class(str(folder), **plain), **given)

    straight, resumed = trainer(tmp_path / "straight"), trainer(tmp_path / "resumed")
    straight.train()
    straight.save_model(tmp_path / "saved")
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
    rows = straight.eval_dataset
    found = logits_of(tmp_path / "saved", rows["text"][:], rows["second"][:] if pairs else None)
    torch.testing.assert_close(found, predictions(straight), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_step_is_the_one_that_is_written_out(tmp_path, pairs):
    """Joint training in float64: the mean cross-entropy of each task, through pooling and normalisation by hand."""
    encoder = tiny_sentence_encoder(dropout=0.0).double()
    sgd = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    trainer = make(tmp_path, JointTrainer, encoder, pairs, max_steps=1, **sgd)
    model, seen = copy.deepcopy(trainer.model), []
    source_head = copy.deepcopy(trainer.build_transfer_model().source_head)
    original = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *args, **kwargs: (
        seen.append(copy.deepcopy(dict(inputs))),
        original(model, inputs, *args, **kwargs),
    )[1]
    trainer.train()
    target = seen[0]
    source = target.pop("__source_inputs__")

    def embed(inputs, end=""):
        mask = inputs[f"attention_mask{end}"]
        body = model.encoder[0].model
        tokens = body(inputs[f"input_ids{end}"], mask, inputs.get(f"token_type_ids{end}")).last_hidden_state
        mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return mean / mean.norm(dim=1, keepdim=True)

    def features(inputs):
        u = embed(inputs)
        if "input_ids_b" not in inputs:
            return u
        v = embed(inputs, "_b")
        return torch.cat([u, v, (u - v).abs(), u * v], dim=1)

    loss = functional.cross_entropy(model.classifier(features(target)), target["labels"])
    loss = loss + trainer.args.source_weight * functional.cross_entropy(
        source_head(features(source)), source["labels"]
    )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    after = dict(trainer.model.named_parameters())
    for (name, before), gradient in zip(parameters.items(), gradients, strict=True):
        torch.testing.assert_close(
            after[name], before - 0.5 * gradient, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("pairs", [False, True])
def test_chunks_of_the_target_and_gradient_checkpointing_change_nothing(tmp_path, pairs):
    whole = make(tmp_path / "whole", encoder=tiny_sentence_encoder(dropout=0.0), pairs=pairs)
    others = [{"target_chunk_size": 3}, {"gradient_checkpointing": True}]
    parts = [
        make(tmp_path / f"{n}", encoder=tiny_sentence_encoder(dropout=0.0), pairs=pairs, **options)
        for n, options in enumerate(others)
    ]
    for trainer in (whole, *parts):
        trainer.train()
    for part in parts:
        torch.testing.assert_close(part.model.state_dict(), whole.model.state_dict(), atol=1e-5, rtol=1e-4)


def test_the_best_checkpoint_is_loaded_with_its_head(tmp_path):
    options = {
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "learning_rate": 1e-2,
    }
    trainer = make(tmp_path, load_best_model_at_end=True, **options)
    trainer.train()
    found = logits_of(trainer.state.best_model_checkpoint, trainer.eval_dataset["text"][:])
    torch.testing.assert_close(found, predictions(trainer), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("pairs", "task_type"), [(False, None), (True, None), (True, "SEQ_CLS")])
def test_an_adapter_is_trained_and_loaded_again(tmp_path, pairs, task_type):
    tiny_sentence_encoder().save(str(tmp_path / "base"), create_model_card=False)
    encoder = SentenceTransformer(str(tmp_path / "base"), device="cpu")
    config = LoraConfig(target_modules=["query", "value"], init_lora_weights=False, task_type=task_type)
    trainer = make(tmp_path / "run", encoder=encoder, pairs=pairs, options={"peft_config": config})
    frozen = bodies(trainer.model)
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    wanted = predictions(trainer)
    changed = {name for name, tensor in bodies(trainer.model).items() if not torch.equal(tensor, frozen[name])}
    assert changed and all("lora_" in name or "classifier.modules_to_save" in name for name in changed)
    loaded = load_adapter(str(tmp_path / "base"), str(tmp_path / "adapter"))
    assert isinstance(loaded, PeftModel) and loaded.get_base_model().pairs == pairs
    rows = [{n: v for n, v in row.items() if n not in ("text", "second", "label")} for row in trainer.eval_dataset]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(**SentenceCollator(encoder.tokenizer)(rows)).logits, wanted, atol=1e-5, rtol=0
        )
    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    rows = trainer.eval_dataset
    found = logits_of(tmp_path / "merged", rows["text"][:], rows["second"][:] if pairs else None)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_frozen_layers_stay_as_they_are(tmp_path):
    trainer = make(tmp_path, learning_rate=1e-2)
    freeze(trainer.model, 1)
    before = bodies(trainer.model)
    trainer.train()
    changed = {name for name, tensor in bodies(trainer.model).items() if not torch.equal(tensor, before[name])}
    assert changed and not any("embeddings" in name or "layer.0." in name for name in changed)


def test_a_search_makes_each_model_anew(tmp_path):
    encoder = tiny_sentence_encoder()
    args = make_args(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2)
    trainer = MerlinTrainer(model_init=lambda: tiny_sentence_encoder(), args=args, **data(encoder))
    assert isinstance(trainer.data_collator, SentenceCollator)
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True)}, n_trials=2
    )
    assert 1e-4 <= best.hyperparameters["learning_rate"] <= 1e-3


# Labels


def with_labels(labels):
    rows = tiny_texts(12).remove_columns("label")
    return tokenized(tiny_sentence_encoder(), rows.add_column("label", labels))


@pytest.mark.parametrize(
    ("labels", "outputs", "problem_type"),
    [
        ([row % 5 for row in range(12)], 5, None),
        ([row / 2 for row in range(12)], 1, "regression"),
        ([[float(row % 2), 1.0, 0.0, 0.0] for row in range(12)], 4, "multi_label_classification"),
    ],
)
def test_labels_without_names_are_counted_and_said(tmp_path, caplog, labels, outputs, problem_type):
    with caplog.at_level(logging.WARNING):
        trainer = MerlinTrainer(
            model=tiny_sentence_encoder(), args=make_args(tmp_path, max_steps=1), train_dataset=with_labels(labels),
            source_dataset=data(tiny_sentence_encoder())["source_dataset"],
        )  # fmt: skip
    assert (trainer.model.config.num_labels, trainer.model.config.problem_type) == (outputs, problem_type)
    assert any("have no names: the head has" in line for line in warnings_of(caplog))
    trainer.train()


def test_labels_of_the_configuration_are_kept(tmp_path):
    encoder = tiny_sentence_encoder()
    encoder.transformers_model.config.id2label = {0: "class0", 1: "class1", 2: "class2", 3: "class3"}
    trainer = make(tmp_path, encoder=encoder, options={"train_dataset": with_labels([row % 3 for row in range(12)])})
    assert trainer.model.config.num_labels == 4


def test_a_saved_classifier_goes_on_with_its_head(tmp_path):
    first = make(tmp_path / "first", JointTrainer)
    first.train()
    first.save_model(tmp_path / "saved")
    encoder = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    second = make(tmp_path / "second", JointTrainer, encoder)
    assert torch.equal(second.model.classifier.weight, first.model.classifier.weight)


# Errors and warnings


def test_rows_of_another_kind_are_refused_before_training(tmp_path):
    encoder = tiny_sentence_encoder()
    pairs = data(encoder, pairs=True)["eval_dataset"]
    with pytest.raises(ValueError, match="`eval_dataset` has pairs of texts, and the head of the model is for single"):
        make(tmp_path, encoder=encoder, options={"eval_dataset": pairs})
    with pytest.raises(ValueError, match="LWFTrainer reads the target's rows by the source head"):
        make(tmp_path, LWFTrainer, source_pairs=True)


def test_tokens_of_second_texts_are_checked(tmp_path):
    encoder = tiny_sentence_encoder()
    rows = data(encoder, pairs=True)["train_dataset"].remove_columns(["text", "second"])
    wrong = rows.map(lambda row: {"input_ids_b": [2, 999, 3]})
    with pytest.raises(ValueError, match="has the token id 999 in its column 'input_ids_b'"):
        make(tmp_path, encoder=encoder, options={"train_dataset": wrong, "eval_dataset": None})


def test_a_plain_classifier_from_the_folder_of_an_encoder_is_warned_of(tmp_path, caplog):
    tiny_sentence_encoder().save(str(tmp_path / "encoder"), create_model_card=False)
    model = BertForSequenceClassification.from_pretrained(tmp_path / "encoder", num_labels=3)
    encoder = tiny_sentence_encoder()
    rows, collator = data(encoder), SentenceCollator(encoder.tokenizer)
    with caplog.at_level(logging.WARNING):
        MerlinTrainer(model=model, args=make_args(tmp_path / "run"), data_collator=collator, **rows)
    assert any("whose own pooling was never trained" in line for line in warnings_of(caplog))


def test_tokenizer_of_the_encoder_is_saved_and_used(tmp_path):
    encoder = tiny_sentence_encoder()
    trainer = make(tmp_path, encoder=encoder, options={"processing_class": SentenceTokenizer(encoder)})
    assert trainer.processing_class is encoder.tokenizer
    assert make(tmp_path, encoder=tiny_sentence_encoder()).processing_class is not None


def test_rows_that_are_read_one_by_one_may_be_pairs(tmp_path):
    encoder = tiny_sentence_encoder()
    source = data(encoder, source_pairs=True)["source_dataset"]
    source = source.remove_columns(["text", "second"]).to_iterable_dataset()
    trainer = make(tmp_path, encoder=encoder, options={"source_dataset": source}, num_source_labels=4)
    trainer.train()
    assert trainer.transfer_model.source_head.in_features == 4 * trainer.model.embedding_dimension


def test_data_sets_of_lists_are_rows_too(tmp_path):
    encoder = tiny_sentence_encoder()
    rows = data(encoder, pairs=True)["train_dataset"].remove_columns(["text", "second"])
    trainer = make(tmp_path, encoder=encoder, options={"train_dataset": list(rows), "eval_dataset": None})
    assert trainer.model.pairs
    assert isinstance(rows, Dataset)
