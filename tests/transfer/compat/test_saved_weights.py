"""Resuming and loading the best model, for models that are saved under other names than they have in memory."""

import pytest
import torch
from transformers import AutoModelForImageClassification, GPT2Config, GPT2LMHeadModel

from merlin_hf import get_method
from merlin_hf.transfer.compat.saved_weights import is_renamed, load_renamed, saved_names
from tests.support import losses, make_args
from tests.tiny import TINY_CLASSIFIERS, tiny_bert, tiny_inputs


def images(rows, seed):
    pixels = tiny_inputs(TINY_CLASSIFIERS["vit"](), rows=rows, seed=seed)["pixel_values"]
    return [{"pixel_values": image, "labels": number % 3} for number, image in enumerate(pixels)]


def train(output_dir, model, method="merlin", resume=None, **kwargs):
    source = {} if method == "finetune" else {"source_dataset": images(40, seed=1)}
    trainer = get_method(method)(
        model=model,
        args=make_args(output_dir, remove_unused_columns=False, num_source_labels=3, **kwargs),
        train_dataset=images(24, seed=0),
        eval_dataset=images(9, seed=2),
        **source,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def make_model(name, seed):
    torch.manual_seed(seed)
    return TINY_CLASSIFIERS[name]()


@pytest.mark.parametrize("method", ["merlin", "joint", "finetune"])
@pytest.mark.parametrize("name", ["vit", "swin", "dinov2", "resnet"])
def test_resuming_with_another_first_model_is_never_stopping(tmp_path, name, method):
    straight = train(tmp_path, make_model(name, 0), method, save_strategy="steps", save_steps=2)
    resumed = train(tmp_path / "resumed", make_model(name, 1), method, resume=str(tmp_path / "checkpoint-2"))
    assert losses(resumed) == losses(straight)
    for (key, one), other in zip(
        straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), key


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_the_best_model_is_the_checkpoints(tmp_path, name):
    trainer = train(
        tmp_path,
        make_model(name, 0),
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        learning_rate=1e-1,
        head="ridge",
    )
    best = trainer.state.best_model_checkpoint
    assert best != str(tmp_path / "checkpoint-4"), "the last one would show nothing"
    saved = AutoModelForImageClassification.from_pretrained(best)
    for (key, one), other in zip(saved.state_dict().items(), trainer.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


@pytest.mark.parametrize("shard", [None, "20KB"])
def test_which_checkpoints_have_other_names(tmp_path, shard):
    size = {} if shard is None else {"max_shard_size": shard}
    for name, model in (("bert", tiny_bert()), ("vit", make_model("vit", 0))):
        model.save_pretrained(tmp_path / name, **size)
        assert len(list((tmp_path / name).glob("*.safetensors"))) > 1 or shard is None
    assert not is_renamed(tiny_bert(), str(tmp_path / "bert"))
    assert is_renamed(make_model("vit", 0), str(tmp_path / "vit"))
    assert saved_names(str(tmp_path)) is None and not is_renamed(tiny_bert(), str(tmp_path))


def test_layers_of_several_dtypes_are_read_exactly(tmp_path):
    saved, model = (make_model("vit", seed) for seed in (0, 1))
    for each in (saved, model):
        each.vit.bfloat16()
    saved.save_pretrained(tmp_path)
    load_renamed(model, str(tmp_path))
    for (name, one), other in zip(saved.state_dict().items(), model.state_dict().values(), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other), name


def test_tied_weights_which_a_file_has_once_are_no_renaming(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1))
    model.save_pretrained(tmp_path)
    assert saved_names(str(tmp_path)) < set(model.state_dict()) and not is_renamed(model, str(tmp_path))
