"""Trainer's ways to compute a step and to update the parameters, with a source beside the target."""

import dataclasses
import os
from functools import partial

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TrainerCallback, TrainingArguments, get_scheduler

from merlin_hf import JointTrainer, MerlinTrainer
from tests.support import losses, make_trainer
from tests.tiny import tiny_bert


BOTH = pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer], ids=["merlin", "joint"])
# transformers has renamed `gradient_checkpointing`.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {field.name for field in dataclasses.fields(TrainingArguments)}
)


def trained(output_dir, trainer_class=MerlinTrainer, resume=None, dropout=0.0, **kwargs):
    trainer = make_trainer(output_dir, trainer_class=trainer_class, model=tiny_bert(dropout=dropout), **kwargs)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def trained_parameters(trainer):
    """What gradient descent changes; a head in closed form is not among it."""
    head = set() if trainer.trains_target_head else {id(p) for p in trainer.transfer_model.head.parameters()}
    return {name: p for name, p in trainer.transfer_model.named_parameters() if id(p) not in head}


class EachStep(TrainerCallback):
    """Collects what `read` returns before and after each update of the parameters."""

    def __init__(self, read):
        self.read = read
        self.before, self.after = [], []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.before.append(self.read())

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.after.append(self.read())


# Memory and precision


@BOTH
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_runs_layers_again_and_changes_nothing(tmp_path, trainer_class, use_reentrant):
    runs, calls = {}, {False: 0, True: 0}
    for checkpointing in (False, True):
        model = tiny_bert()

        def count(*_, key=checkpointing):
            calls[key] += 1

        model.bert.encoder.layer[0].attention.register_forward_hook(count)
        options = {CHECKPOINTING: checkpointing, f"{CHECKPOINTING}_kwargs": {"use_reentrant": use_reentrant}}
        trainer = make_trainer(tmp_path, model, trainer_class, max_steps=3, **options)
        trainer.train()
        runs[checkpointing] = [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history[:3]]
    assert calls[True] == calls[False] + 2 * 3, "once more for each task and step"
    for one, other in zip(runs[False], runs[True], strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@BOTH
def test_bf16_is_for_the_backbone_and_not_for_the_head(tmp_path, trainer_class):
    layers, heads = [], []

    class Recording(trainer_class):
        def fit_head(self, features, labels, train, scalars=None):
            head = super().fit_head(features, labels, train, scalars)
            heads.extend([features.dtype, head.weight.dtype])
            return head

    runs = {}
    for bf16 in (False, True):
        model = tiny_bert(dropout=0.0)
        layer = model.bert.encoder.layer[0].intermediate.dense
        layer.register_forward_hook(lambda module, args, output: layers.append(output.dtype))
        trainer = make_trainer(tmp_path, model, Recording, bf16=bf16)
        trainer.train()
        trainer.evaluate()
        assert set(layers) == {torch.bfloat16 if bf16 else torch.float32}
        assert set(heads) <= {torch.float32}
        assert {parameter.dtype for parameter in trainer.transfer_model.parameters()} == {torch.float32}
        layers.clear()
        runs[bf16] = losses(trainer)
    assert (len(heads) > 0) == (trainer_class is MerlinTrainer)
    assert runs[True] != runs[False]
    assert runs[True] == pytest.approx(runs[False], rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 needs a GPU")
@BOTH
def test_fp16_on_a_gpu(tmp_path, trainer_class):
    layers, first = [], {}
    for fp16 in (False, True):
        model = tiny_bert(dropout=0.0)
        layer = model.bert.encoder.layer[0].intermediate.dense
        layer.register_forward_hook(lambda module, args, output: layers.append(output.dtype))
        trainer = make_trainer(tmp_path, model, trainer_class, fp16=fp16, use_cpu=False, max_steps=8)
        before = trainer.transfer_model.source_head.weight.detach().cpu().clone()
        trainer.train()
        assert set(layers) == {torch.float16 if fp16 else torch.float32}
        layers.clear()
        # Steps whose scaled gradients overflow are skipped, but not all of them.
        assert not torch.equal(trainer.transfer_model.source_head.weight.cpu(), before)
        assert all(parameter.isfinite().all() for parameter in trainer.transfer_model.parameters())
        assert (trainer.accelerator.scaler is not None) == fp16
        first[fp16] = losses(trainer)[0]
    assert first[True] == pytest.approx(first[False], rel=0.01)


@pytest.fixture
def own_dynamo_environment(monkeypatch):
    """`TrainingArguments` writes its backend to the environment, where it would reach every later test."""
    for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@BOTH
def test_torch_compile(tmp_path, trainer_class, own_dynamo_environment):
    plain = trained(tmp_path / "plain", trainer_class)
    assert torch._dynamo.utils.counters["frames"]["ok"] == 0
    options = {"torch_compile": True, "torch_compile_backend": "eager", "save_strategy": "steps", "save_steps": 2}
    compiled = trained(tmp_path / "compiled", trainer_class, **options)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)

    checkpoint = str(tmp_path / "compiled" / "checkpoint-2")
    loaded, info = AutoModelForSequenceClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(info.values()) and set(loaded.state_dict()) == set(plain.model.state_dict())
    resumed = trained(tmp_path / "resumed", trainer_class, resume=checkpoint, **options)
    assert losses(resumed) == losses(compiled)
    for name, parameter in resumed.transfer_model.named_parameters():
        assert torch.equal(parameter, compiled.transfer_model.get_parameter(name)), name


# Updates


@BOTH
def test_gradients_are_clipped_over_all_that_is_trained(tmp_path, trainer_class):
    changes, norms = {}, {}
    for max_grad_norm in (0.0, 0.05):
        # At a learning rate of 1, gradient descent changes the parameters by the clipped gradient.
        trainer = make_trainer(
            tmp_path,
            tiny_bert(dropout=0.0),
            partial(trainer_class, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 1.0})),
            max_steps=1,
            max_grad_norm=max_grad_norm,
            scalar_learning_rate=1.0,
            lr_scheduler_type="constant",
        )
        values = EachStep(
            lambda trainer=trainer: {name: p.detach().clone() for name, p in trained_parameters(trainer).items()}
        )
        trainer.add_callback(values)
        trainer.train()
        changes[max_grad_norm] = {name: values.after[0][name] - value for name, value in values.before[0].items()}
        norms[max_grad_norm] = trainer.state.log_history[0]["grad_norm"]
    total = torch.cat([change.flatten() for change in changes[0.0].values()]).norm().item()
    assert norms[0.0] == pytest.approx(total, rel=1e-4) and norms[0.05] == pytest.approx(total, rel=1e-4)
    assert total > 0.1
    scalars = {"scalars.log_logit_scale"} if trainer_class is MerlinTrainer else set()
    for name in {"source_head.weight", "source_head.bias", "model.bert.pooler.dense.weight"} | scalars:
        assert changes[0.0][name].any(), name
        # The clipped change is read off parameters near 1, so to their precision.
        torch.testing.assert_close(changes[0.05][name], changes[0.0][name] * 0.05 / total, rtol=1e-3, atol=1e-6)


RATES = {"learning_rate": 1e-3, "head_learning_rate": 1e-2, "scalar_learning_rate": 1e-1}


@BOTH
@pytest.mark.parametrize(
    ("schedule", "warmup", "options"),
    [("linear", 2, {}), ("cosine", 0, {}), ("cosine_with_restarts", 1, {"num_cycles": 2})],
    ids=["linear", "cosine", "restarts"],
)
def test_every_learning_rate_follows_the_schedule(tmp_path, trainer_class, schedule, warmup, options):
    trainer = make_trainer(
        tmp_path,
        trainer_class=trainer_class,
        max_steps=6,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=options,
        warmup_steps=warmup,
        **RATES,
    )

    def rates():
        groups = trainer.optimizer.param_groups
        return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}

    each_step = EachStep(rates)
    trainer.add_callback(each_step)
    trainer.train()

    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(schedule, reference, warmup, 6, scheduler_specific_kwargs=options)
    seen = set()
    for found in each_step.before:
        (factor,) = scheduler.get_last_lr()
        seen.add(factor)
        for name, parameter in trained_parameters(trainer).items():
            kind = name.partition(".")[0]
            is_head = kind == "source_head" or name.startswith("model.classifier")
            base = (
                "head_learning_rate" if is_head else "scalar_learning_rate" if kind == "scalars" else "learning_rate"
            )
            assert found[id(parameter)] == pytest.approx(factor * RATES[base]), name
        reference.step()
        scheduler.step()
    assert len(each_step.before) == 6 and len(seen) > 3


def test_a_plateau_lowers_every_learning_rate(tmp_path):
    trainer = trained(
        tmp_path,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"factor": 0.5, "patience": 0, "threshold": 1e3, "threshold_mode": "abs"},
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="loss",
        **RATES,
    )
    # The first metric is the best so far; none of the three others is better by enough.
    rates = sorted({group["lr"] for group in trainer.optimizer.param_groups})
    assert rates == pytest.approx([rate / 2**3 for rate in RATES.values()])


@BOTH
def test_weight_decay_groups_are_those_of_trainer(tmp_path, trainer_class):
    trainer = trained(tmp_path, trainer_class, max_steps=1, weight_decay=0.1, **RATES)
    decayed = {id(p) for group in trainer.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in trainer.transfer_model.named_parameters() if id(p) in decayed}
    expected = {f"model.{name}" for name in trainer.get_decay_parameter_names(trainer.model)} | {"source_head.weight"}
    assert "model.classifier.weight" in expected and "model.bert.embeddings.LayerNorm.weight" not in expected
    assert names == expected - (set() if trainer_class is JointTrainer else {"model.classifier.weight"})


@pytest.mark.parametrize(
    ("optim", "optimizer_class"), [("sgd", torch.optim.SGD), ("adagrad", torch.optim.Adagrad)], ids=["sgd", "adagrad"]
)
def test_optimizers_by_name(tmp_path, optim, optimizer_class):
    trainer = make_trainer(tmp_path, optim=optim, max_steps=1)
    before = {name: value.detach().clone() for name, value in trained_parameters(trainer).items()}
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, optimizer_class)
    unchanged = [name for name, value in trained_parameters(trainer).items() if torch.equal(before[name], value)]
    assert not [name for name in unchanged if "key.bias" not in name], "which have no effect on attention"


# Noise and determinism


@BOTH
def test_neftune_is_in_training_alone(tmp_path, trainer_class):
    quiet = trained(tmp_path, trainer_class)
    noisy = trained(tmp_path, trainer_class, neftune_noise_alpha=5.0, eval_strategy="steps", eval_steps=1)
    parts = ("source_loss", "meta_loss" if trainer_class is MerlinTrainer else "target_loss")
    for part in parts:
        assert noisy.state.log_history[0][part] != pytest.approx(quiet.state.log_history[0][part], rel=1e-4)
    embeddings = noisy.model.get_input_embeddings()
    assert not embeddings._forward_hooks and not hasattr(embeddings, "neftune_noise_alpha")
    *_, last = (entry["eval_loss"] for entry in noisy.state.log_history if "eval_loss" in entry)
    assert noisy.evaluate()["eval_loss"] == pytest.approx(last, rel=1e-5), "what was evaluated had no noise"
    head = noisy.model.classifier.weight.clone()
    noisy.refit_head()
    torch.testing.assert_close(noisy.model.classifier.weight, head)


@pytest.fixture
def own_determinism(monkeypatch):
    names = ("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC")
    for name in (*names, "FLASH_ATTENTION_DETERMINISTIC"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


@pytest.mark.parametrize("head", ["ridge", "logistic", "centroid"])
def test_full_determinism(tmp_path, own_determinism, head):
    runs, modes = [], []
    for _ in range(2):
        trainer = make_trainer(tmp_path, full_determinism=True, head=head, max_steps=3)
        trainer.add_callback(EachStep(lambda: modes.append(torch.are_deterministic_algorithms_enabled())))
        trainer.train()
        runs.append(trainer.transfer_model.state_dict())
        # Which the next run has to forget.
        torch.use_deterministic_algorithms(False)
        torch.rand(7)
    assert len(modes) == 12 and all(modes)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
