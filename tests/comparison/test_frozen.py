"""Frozen layers whose states are kept, and pixels that are."""

import copy
import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from datasets.fingerprint import Hasher
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DataCollatorWithPadding,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from merlin_hf.comparison import ConfigError, compare
from merlin_hf.comparison.config import TargetConfig
from merlin_hf.comparison.encoding import ImageEncoder, resize_and_scale
from merlin_hf.comparison.experiment import Experiment, reads_layers
from merlin_hf.comparison.frozen import LowerLayers, check_cut, cut_lower_layers, pad_states, reads_first_token_alone
from merlin_hf.comparison.models import AUTO_MODELS
from merlin_hf.comparison.plan import make_plans
from merlin_hf.comparison.tasks import TEXT, load_rows
from merlin_hf.data.images import read_image
from merlin_hf.methods import METHODS
from tests.comparison.conftest import read


@pytest.fixture
def steady(model_path, tmp_path):
    """The tiny model with two layers and without dropout, with which frozen layers are the same in training."""
    path = tmp_path / "steady"
    AutoTokenizer.from_pretrained(model_path).save_pretrained(path)
    config = AutoConfig.from_pretrained(
        model_path, num_hidden_layers=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2
    )
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    return str(path)


def finals(folder):
    runs = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("runs/*/final-*.json"))]
    return {(run["label"], run["seed"]): [log.get("loss") for log in run["log_history"]] for run in runs}


@pytest.mark.parametrize("method", ["finetune", "r3f", "delta", "bi_tuning", "lwf", "joint", "merlin"])
@pytest.mark.slow
def test_a_run_on_kept_states_is_the_run_on_the_texts(config, steady, tmp_path, method):
    training = {**config["training"], "logging_steps": 1, "learning_rate": 1e-2}
    options = {"model": steady, "methods": {method: {}}, "search": {"trials": 0}, "training": training}
    if method == "r3f":
        options["methods"] = {"r3f": {"noise_scale": 1e-9}}  # its noise goes to the states, not to the embeddings
    found = {}
    for cached in (False, True):
        folder = tmp_path / str(cached)
        changes = {"freeze_layers": 2, "cache_frozen_layers": cached, "output_dir": str(folder)}
        compare(read(config, **options, **changes), show_progress=False)
        found[cached] = finals(folder)
    assert found[True].keys() == found[False].keys() and len(found[True]) == 2
    for run, losses in found[True].items():
        assert len([loss for loss in losses if loss]) >= 3
        np.testing.assert_allclose(
            [loss for loss in losses if loss], [loss for loss in found[False][run] if loss], rtol=1e-3, atol=1e-4
        )


def test_a_text_goes_through_the_lower_layers_once(steady):
    model = AutoModelForSequenceClassification.from_pretrained(steady)
    lower = LowerLayers(model, 2, DataCollatorWithPadding(AutoTokenizer.from_pretrained(steady)))
    seen = []
    model.base_model.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    rows = [{"input_ids": [2, *range(5, 5 + length), 3], "attention_mask": [1] * (length + 2)} for length in (3, 6, 4)]
    first = lower(rows.__getitem__, [10, 11, 12])
    again = lower([rows[2], rows[0]].__getitem__, [12, 10])
    assert seen == [3]
    assert [len(states) for states in first] == [5, 8, 6]
    assert torch.equal(again[0], first[2]) and torch.equal(again[1], first[0])


def test_padded_states_give_what_padded_texts_give(steady):
    tokenizer = AutoTokenizer.from_pretrained(steady)
    whole = AutoModelForSequenceClassification.from_pretrained(steady).eval()
    rows = [{"input_ids": [2, *range(5, 5 + n), 3], "attention_mask": [1] * (n + 2)} for n in (1, 7, 3)]
    lower = LowerLayers(whole, 1, DataCollatorWithPadding(tokenizer))
    batch = pad_states([{"inputs_embeds": states, "labels": 1} for states in lower(rows.__getitem__, [0, 1, 2])])
    assert batch.pop("labels").tolist() == [1, 1, 1] and batch["attention_mask"].sum(1).tolist() == [3, 9, 5]
    upper = cut_lower_layers(copy.deepcopy(whole), 1)
    assert len(upper.base_model.encoder.layer) == 2
    with torch.no_grad():
        torch.testing.assert_close(upper(**batch).logits, whole(**lower.collator(rows)).logits, rtol=1e-4, atol=1e-5)


FEW = {"input_ids": [[2, 7, 8, 9, 3], [2, 9, 3]], "attention_mask": [[1] * 5, [1] * 3]}


@pytest.mark.parametrize("frozen", [1, 2])
def test_the_last_layer_puts_out_what_is_read_with_the_same_gradient(steady, frozen):
    whole = AutoModelForSequenceClassification.from_pretrained(steady).eval()
    lower = LowerLayers(whole, frozen, DataCollatorWithPadding(AutoTokenizer.from_pretrained(steady)))
    assert reads_first_token_alone(lower, datasets.Dataset.from_dict(FEW))
    rows = [dict(zip(FEW, values, strict=True)) for values in zip(*FEW.values(), strict=True)]
    batch = pad_states([{"inputs_embeds": states} for states in lower(rows.__getitem__, [0, 1])])
    logits, gradients = [], []
    for alone in (False, True):
        upper = cut_lower_layers(copy.deepcopy(whole), frozen, first_token_alone=alone)
        seen = []
        upper.bert.pooler.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].shape[1]))
        logits.append(upper(**batch).logits)
        assert seen == [1 if alone else 5]
        logits[-1].square().sum().backward()
        gradients.append({name: p.grad for name, p in upper.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*logits)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) >= 4
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


class MeanPooled(BertForSequenceClassification):
    """Reads all tokens of the last layer."""

    def forward(self, **inputs):
        states, mask = self.bert(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
        return SequenceClassifierOutput(logits=self.classifier((states * mask).sum(1) / mask.sum(1)))


class SecondToken(BertForSequenceClassification):
    """Reads a token that the last layer would not put out."""

    def forward(self, **inputs):
        return SequenceClassifierOutput(logits=self.classifier(self.bert(**inputs).last_hidden_state[:, 1]))


@pytest.mark.parametrize("model_class", [MeanPooled, SecondToken])
def test_a_model_that_reads_other_tokens_keeps_them(steady, model_class):
    lower = LowerLayers(
        model_class.from_pretrained(steady), 1, DataCollatorWithPadding(AutoTokenizer.from_pretrained(steady))
    )
    check_cut(lower, datasets.Dataset.from_dict(FEW))
    assert not reads_first_token_alone(lower, datasets.Dataset.from_dict(FEW))


@pytest.mark.parametrize("weight", [0.0, 1e-4])
def test_a_head_that_begins_small_hides_nothing(steady, weight):
    model = MeanPooled.from_pretrained(steady)
    torch.nn.init.normal_(model.classifier.weight, std=weight)
    lower = LowerLayers(model, 1, DataCollatorWithPadding(AutoTokenizer.from_pretrained(steady)))
    few = datasets.Dataset.from_dict(FEW)
    before = copy.deepcopy(model.state_dict())
    assert not reads_first_token_alone(lower, few)
    torch.testing.assert_close(model.state_dict(), before)


def test_where_all_layers_are_frozen_there_is_none_to_change(steady):
    model = AutoModelForSequenceClassification.from_pretrained(steady)
    lower = LowerLayers(model, 3, DataCollatorWithPadding(AutoTokenizer.from_pretrained(steady)))
    check_cut(lower, datasets.Dataset.from_dict(FEW))
    assert not reads_first_token_alone(lower, datasets.Dataset.from_dict(FEW))


def test_texts_of_one_token_tell_nothing(steady):
    model = MeanPooled.from_pretrained(steady)
    lower = LowerLayers(model, 1, DataCollatorWithPadding(AutoTokenizer.from_pretrained(steady)))
    few = datasets.Dataset.from_dict({"input_ids": [[7], [9]], "attention_mask": [[1], [1]]})
    assert not reads_first_token_alone(lower, few)


class NeedsAll(BertForSequenceClassification):
    """Raises an error where states and mask differ in length."""

    def forward(self, **inputs):
        if self.bert(**inputs).last_hidden_state.shape[1] != inputs["attention_mask"].shape[1]:
            raise ValueError("too short")
        return super().forward(**inputs)


def untrained(name):
    """A tiny classifier of another kind."""
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    if name == "distilbert":
        config = transformers.DistilBertConfig(vocab_size=60, dim=16, n_layers=3, n_heads=2, hidden_dim=32)
        return transformers.DistilBertForSequenceClassification(config)
    if name == "mpnet":
        return transformers.MPNetForSequenceClassification(transformers.MPNetConfig(**sizes, intermediate_size=32))
    family = {"roberta": "Roberta", "deberta-v2": "DebertaV2"}[name]
    config = getattr(transformers, f"{family}Config")(**sizes, intermediate_size=32, pad_token_id=0)
    return getattr(transformers, f"{family}ForSequenceClassification")(config)


def tiny(name):
    """One with weights so large that logits differ between texts."""
    model = untrained(name)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(
    ("name", "alone"),
    [("roberta", True), ("deberta-v2", True), ("distilbert", False), ("mpnet", False)],
)
def test_models_of_other_kinds(steady, name, alone):
    torch.manual_seed(0)
    lower = LowerLayers(tiny(name), 1, DataCollatorWithPadding(AutoTokenizer.from_pretrained(steady)))
    few = datasets.Dataset.from_dict(FEW)
    check_cut(lower, few)
    assert reads_first_token_alone(lower, few) is alone


def test_what_a_model_needs_is_found_out_without_an_error(steady):
    few = datasets.Dataset.from_dict(FEW)
    collator = DataCollatorWithPadding(AutoTokenizer.from_pretrained(steady))
    lower = LowerLayers(NeedsAll.from_pretrained(steady), 1, collator)
    check_cut(lower, few)
    assert not reads_first_token_alone(lower, few)
    model = NeedsAll.from_pretrained(steady)
    model.bert.forward = lambda **inputs: model.bert.embeddings(**inputs).needs_the_embeddings
    with pytest.raises(ConfigError, match="cannot be used with NeedsAll, which cannot do without its lower layers"):
        check_cut(LowerLayers(model, 1, collator), few)


@pytest.mark.parametrize("model_class", [BertForSequenceClassification, MeanPooled])
def test_runs_compute_what_is_read(config, steady, monkeypatch, model_class):
    class OwnTrainer(METHODS["finetune"]):
        pass

    monkeypatch.setitem(METHODS, "own", OwnTrainer)
    monkeypatch.setitem(AUTO_MODELS, TEXT, model_class)
    options = {"model": steady, "methods": ["finetune", "merlin", "delta", "own"], "search": {"trials": 0}}
    experiment = Experiment(read(config, **options, freeze_layers=2, cache_frozen_layers=True))
    cut = {}
    for plan in make_plans(experiment):
        trainer, _ = experiment.build_trainer(plan.method, plan.final_runs(experiment, {})[0])
        hooks = trainer.model.bert.encoder.layer[-1].attention.output._forward_pre_hooks
        cut[plan.label] = len(hooks) == 1
    reads_one = model_class is BertForSequenceClassification
    assert cut == {"finetune": reads_one, "merlin": reads_one, "delta": False, "own": False}


def test_a_method_that_reads_layers_or_may_do_so_has_all_tokens():
    class OwnTrainer(METHODS["finetune"]):
        pass

    assert reads_layers(METHODS["delta"]) and reads_layers(OwnTrainer)
    assert not any(reads_layers(METHODS[name]) for name in METHODS if name != "delta")


def test_a_model_whose_layers_are_no_plain_stack_is_refused(steady):
    class Twice(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, states, *args, **kwargs):
            return self.layer(states, *args, **kwargs) + (0.5 * first.pop() if first else 0)

    first = []
    model = AutoModelForSequenceClassification.from_pretrained(steady)
    stack = model.base_model.encoder.layer
    model.base_model.embeddings.register_forward_hook(lambda module, args, output: first.append(output))
    stack[2] = Twice(stack[2])
    lower = LowerLayers(model, 1, DataCollatorWithPadding(AutoTokenizer.from_pretrained(steady)))
    tokenized = datasets.Dataset.from_dict(
        {"input_ids": [[2, 7, 8, 3], [2, 9, 3]], "attention_mask": [[1] * 4, [1] * 3]}
    )
    with pytest.raises(ConfigError, match="`cache_frozen_layers` cannot be used with BertForSequenceClassification"):
        check_cut(lower, tokenized)
    albert = transformers.AlbertForSequenceClassification(
        transformers.AlbertConfig(
            vocab_size=50, hidden_size=8, embedding_size=8, num_attention_heads=2, intermediate_size=8
        )
    )
    with pytest.raises(ConfigError, match="`cache_frozen_layers` needs a model with embeddings and a list of layers"):
        cut_lower_layers(albert, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache_frozen_layers": True}, "`cache_frozen_layers` has no layers to keep: give `freeze_layers`"),
        ({"cache_frozen_layers": True, "freeze_layers": 1, "save_models": True}, "`save_models` would save the upper"),
        ({"cache_frozen_layers": "yes"}, "`cache_frozen_layers` must be true or false"),
    ],
)
def test_what_does_not_go_together_is_said(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        read(config, **changes)


@pytest.mark.parametrize("images_kept", [0, 5, 100])
def test_pixels_are_the_same_kept_or_not(images, images_kept):
    rows = load_rows(TargetConfig(path=str(images / "target")), "target", "train_split")
    preprocess, seen = resize_and_scale(8, 1), []

    def counted(batch: list[Image.Image]) -> np.ndarray:
        seen.append(len(batch))
        return preprocess(batch)

    encoder = ImageEncoder(counted, memory=images_kept * 8 * 8 * 4)
    expected = preprocess([read_image(value) for value in rows.dataset[:]["image"]])
    for _ in range(2):
        read = encoder(rows)[[3, 7, 3, *range(20)]]
        np.testing.assert_array_equal(np.stack(read["pixel_values"]), expected[[3, 7, 3, *range(20)]])
    different = len({rows.digests[place] for place in range(20)})
    assert sum(seen) == 2 * different - min(images_kept, different)


def test_a_dataset_that_is_computed_is_named_by_its_rows_and_stays_in_its_process(images):
    rows = load_rows(TargetConfig(path=str(images / "target")), "target", "train_split")
    encoder = ImageEncoder(resize_and_scale(8, 1))
    transform = encoder(rows).format["format_kwargs"]["transform"]
    assert Hasher.hash(transform) == Hasher.hash(encoder(rows).format["format_kwargs"]["transform"])
    assert Hasher.hash(transform) != Hasher.hash(encoder(rows.select([1, 0])).format["format_kwargs"]["transform"])
    with pytest.raises(TypeError, match="leave out `training.dataloader_num_workers`"):
        pickle.loads(pickle.dumps(transform))
