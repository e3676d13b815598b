"""LoRA by `peft_config=` or as a PeftModel: what trains, what is saved, what loads it without merlin_hf."""

import os

import pytest
import torch
from peft import (
    AutoPeftModelForSequenceClassification,
    IA3Config,
    LoraConfig,
    PeftModel,
    get_peft_model,
)
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, TrainingArguments

from merlin_hf import JointTrainer, MerlinTrainer
from merlin_hf.transfer.adapters import new_modules
from tests.support import SOURCE_LABELS, losses, make_args
from tests.tiny import TINY_CLASSIFIERS, tiny_bert, tiny_dataset, tiny_inputs


LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], "lora_dropout": 0.0}
SEQ_CLS = LoraConfig(task_type="SEQ_CLS", **LORA)


@pytest.fixture
def base(tmp_path):
    """A model on disk, so that an adapter knows what it belongs to."""
    from transformers import AutoModelForSequenceClassification

    tiny_bert(dropout=0.0).save_pretrained(tmp_path / "base")
    return lambda: AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)


def build(model, output_dir, trainer_class=MerlinTrainer, **kwargs):
    options = {name: kwargs.pop(name) for name in list(kwargs) if name not in ("peft_config", "model_init")}
    return trainer_class(
        model=model,
        args=make_args(output_dir, learning_rate=1e-2, **options),
        train_dataset=tiny_dataset(),
        eval_dataset=tiny_dataset(rows=12, seed=2),
        source_dataset=tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1),
        **kwargs,
    )


@pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer])
@pytest.mark.parametrize("given", ["config", "config without a task", "ia3", "model"])
@pytest.mark.slow
def test_only_adapters_heads_and_scalars_train(base, tmp_path, given, trainer_class):
    config = {
        "config": SEQ_CLS,
        "config without a task": LoraConfig(**LORA),
        "ia3": IA3Config(task_type="SEQ_CLS", target_modules=["query", "dense"], feedforward_modules=["dense"]),
        "model": SEQ_CLS,
    }[given]
    if given == "model":
        trainer = build(get_peft_model(base(), config), tmp_path / "out", trainer_class)
    else:
        trainer = build(base(), tmp_path / "out", trainer_class, peft_config=config)
    before = {name: weight.clone() for name, weight in trainer.transfer_model.state_dict().items()}
    trainer.train()
    after = trainer.transfer_model.state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert all(".lora_" in n or ".ia3_" in n or ".modules_to_save." in n for n in changed if n.startswith("model."))
    assert any(".lora_" in name or ".ia3_" in name for name in changed)
    assert any(".classifier.modules_to_save." in name for name in changed)
    assert {"source_head.weight", "source_head.bias"} <= changed
    assert ("scalars.log_logit_scale" in changed) == (trainer_class is MerlinTrainer)


@pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer])
def test_the_checkpoint_is_an_adapter_that_peft_loads_and_merges(base, tmp_path, trainer_class):
    trainer = build(base(), tmp_path / "out", trainer_class, peft_config=SEQ_CLS, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model()
    expected = torch.tensor(trainer.predict(trainer.eval_dataset).predictions)
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-4"):
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(os.listdir(folder))
        assert "model.safetensors" not in os.listdir(folder)
        names = load_file(folder / "adapter_model.safetensors")
        assert all("lora_" in name or "classifier" in name for name in names)

        loaded = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
        inputs = trainer.data_collator(
            [{k: v for k, v in row.items() if k != "label"} for row in trainer.eval_dataset]
        )
        with torch.no_grad():
            torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
            merged = loaded.merge_and_unload()
            assert type(merged).__name__ == "BertForSequenceClassification"
            torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-4, atol=1e-5)


def test_resuming_an_adapter_is_never_stopping(base, tmp_path):
    straight = build(base(), tmp_path / "straight", peft_config=SEQ_CLS)
    straight.train()
    build(base(), tmp_path / "stopped", peft_config=SEQ_CLS, save_strategy="steps", save_steps=2).train()
    resumed = build(base(), tmp_path / "stopped", peft_config=SEQ_CLS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-2"))
    assert losses(resumed) == losses(straight)
    for (name, one), other in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_best_adapter_is_loaded_with_its_head(base, tmp_path):
    trainer = build(
        base(),
        tmp_path / "out",
        peft_config=SEQ_CLS,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="head_train_accuracy",
        greater_is_better=True,
        lr_scheduler_type="constant",
    )
    trainer.train()
    best = trainer.state.best_global_step
    evaluated = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    assert trainer.evaluate()["eval_loss"] == pytest.approx(evaluated[best], rel=1e-5)


def test_without_a_source_it_is_a_trainer_with_an_adapter(base, tmp_path):
    trainer = MerlinTrainer(
        base(), TrainingArguments(str(tmp_path / "out"), max_steps=2, report_to="none", use_cpu=True),
        peft_config=SEQ_CLS,
        train_dataset=tiny_dataset(), eval_dataset=tiny_dataset(rows=12, seed=2),
    )  # fmt: skip
    trainer.train()
    assert isinstance(trainer.model, PeftModel) and "eval_loss" in trainer.evaluate()


def test_model_init_makes_a_fresh_adapter_each_time(base, tmp_path):
    trainer = build(None, tmp_path / "out", peft_config=SEQ_CLS, model_init=base)
    results = []
    for _ in range(2):
        trainer.train()
        results.append(losses(trainer))
        trainer.state.log_history.clear()
    assert results[0] == results[1] and isinstance(trainer.model, PeftModel)


def test_the_given_configuration_is_left_as_it_is(base, tmp_path):
    config = LoraConfig(**LORA)
    build(base(), tmp_path / "out", peft_config=config)
    assert config.modules_to_save is None


@pytest.mark.parametrize(
    "name, expected",
    [
        ("bert", ["classifier"]),
        ("roberta", ["classifier"]),
        ("distilbert", ["pre_classifier", "classifier"]),
        ("deberta_v2", ["pooler", "classifier"]),
        ("llama", ["score"]),
        ("t5", ["classification_head"]),
        ("vit", ["classifier"]),
        ("resnet", ["classifier"]),
        ("wav2vec2", ["projector", "classifier"]),
    ],
)
def test_all_that_is_new_beside_the_base_model_is_trained(name, expected):
    assert new_modules(TINY_CLASSIFIERS[name]()) == expected


def test_an_image_model(tmp_path):
    TINY_CLASSIFIERS["vit"]().save_pretrained(tmp_path / "base")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    rows = tiny_inputs(model, rows=24)["pixel_values"]
    data = [{"pixel_values": pixels, "labels": number % 3} for number, pixels in enumerate(rows)]
    trainer = MerlinTrainer(
        model=model,
        args=make_args(tmp_path / "out", num_source_labels=3, remove_unused_columns=False),
        train_dataset=data,
        source_dataset=data,
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "query"]),
    )
    trainer.train()
    trainer.save_model()
    inputs = {"pixel_values": rows[:4]}
    model = trainer.model.eval()
    loaded = PeftModel.from_pretrained(
        AutoModelForImageClassification.from_pretrained(tmp_path / "base"), tmp_path / "out"
    )  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**inputs).logits, model(**inputs).logits)


def test_an_adapter_that_would_lose_the_head_is_an_error(base, tmp_path):
    model = get_peft_model(base(), LoraConfig(**LORA))
    with pytest.raises(ValueError, match=r'does not save its head.*modules_to_save=\["classifier"\].*peft_config='):
        build(model, tmp_path / "out")


def test_an_adapter_on_an_adapter_is_an_error(base, tmp_path):
    with pytest.raises(ValueError, match="`peft_config` was given with a `model` that is a PeftModel already"):
        build(get_peft_model(base(), SEQ_CLS), tmp_path / "out", peft_config=SEQ_CLS)
