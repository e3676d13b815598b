"""What holds for every method, on a tiny BERT, and on a tiny ResNet for stochastic normalization."""

import contextlib
import dataclasses
import os

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, TrainingArguments

from merlin_hf import METHODS
from tests.methods.support import (
    NO_STEPS,
    PLAIN_SGD,
    TEXT_METHODS,
    TWO_PHASES,
    WITHOUT_SOURCE,
    assert_same_weights,
    build,
    tiny_resnet,
    weights,
)
from tests.tiny import TINY_CLASSIFIERS, tiny_bert, tiny_dataset


pytestmark = pytest.mark.slow  # every method in every way


STEPS = 6  # three of each phase, where there are two
CASES = [*METHODS, *(f"{method} without a source" for method in WITHOUT_SOURCE)]


def make(case, output_dir, **options):
    """Half of the steps on the source, if any, with all that a checkpoint must bring back: dropout, a schedule."""
    method = case.split()[0]
    if case.endswith("without a source"):
        options["source"] = False
    if method == "stochnorm":
        options["model"] = tiny_resnet()
    if method in (*TWO_PHASES, "stochnorm"):
        options.setdefault("first_phase_fraction", 0.5)
    defaults = {"max_steps": STEPS, "weight_decay": 0.1, "warmup_steps": 1, "learning_rate": 1e-2}
    if method == "bi_tuning":
        defaults["key_momentum"] = 0.7
    if method == "r3f":
        defaults["noise_scale"] = 0.1
    return build(method, output_dir, **{**defaults, **options})


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A whole run of a case with a checkpoint at each step, made once: the trainer, its folder, what was before."""
    runs = {}

    def get(case):
        if case not in runs:
            folder = tmp_path_factory.mktemp("straight")
            trainer = make(case, folder, save_strategy="steps", save_steps=1)
            model = trainer.model
            before = {
                "weights": {name: weight.clone() for name, weight in model.state_dict().items()},
                "all": weights(trainer) if trainer.transfer_model is not None else {},
                "grads": {name: p.requires_grad for name, p in model.named_parameters()},
                "hooks": count_hooks(model),
                "attributes": {name: set(vars(module)) for name, module in model.named_modules()},
                "model": model,
            }
            trainer.train()
            runs[case] = (trainer, folder, before)
        return runs[case]

    return get


def count_hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def kept(trainer):
    regularizer = None if trainer.transfer_model is None else trainer.transfer_model.regularizer
    return {} if regularizer is None else regularizer.extra_state()


def all_weights(trainer):
    if trainer.transfer_model is not None:
        return weights(trainer)
    return {name: weight.clone() for name, weight in trainer.model.state_dict().items()}


def history(trainer):
    drop = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")
    return [{k: v for k, v in entry.items() if k not in drop} for entry in trainer.state.log_history]


# Resuming


def stops():
    for case in CASES:
        method = case.split()[0]
        if method in NO_STEPS:
            continue
        has_phases = method in (*TWO_PHASES, "stochnorm") and not case.endswith("without a source")
        first = (
            (2,) if method in ("sequential", "bi_tuning", "stochnorm", "merlin_ft") else ()
        )  # the same for the others
        for stop in (*first, 3, 5) if has_phases else (3,):
            yield pytest.param(case, stop, id=f"{case}-{stop}")


@pytest.mark.parametrize(("case", "stop"), stops())
def test_resuming_is_never_stopping(straight, tmp_path, case, stop):
    """In the first phase, exactly where the second begins, and within it."""
    whole, folder, _ = straight(case)
    resumed = make(case, tmp_path)
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{stop}"))
    assert_same_weights(all_weights(whole), all_weights(resumed))
    assert_same_weights(kept(whole), kept(resumed))
    assert history(whole) == history(resumed)
    rates = [entry["learning_rate"] for entry in history(whole) if "learning_rate" in entry]
    if case in TWO_PHASES:
        assert rates == pytest.approx([0.0, 1e-2, 5e-3] * 2), "the whole course of the learning rate in each phase"


def test_checkpoints_of_models_that_share_weights(tmp_path):
    """T5 has its embeddings three times, which a file of safetensors takes once."""
    rows = [
        dataset.map(lambda row: {"input_ids": [*row["input_ids"][:-1], 1]})
        for dataset in (tiny_dataset(), tiny_dataset(rows=40, num_labels=4, seed=1))
    ]
    for method in ("lwf", "delta", "bi_tuning"):
        runs = []
        for resume in (None, str(tmp_path / method / "checkpoint-3")):
            torch.manual_seed(0)
            options = {"save_strategy": "steps", "save_steps": 3, "source": rows[1], "max_steps": 4}
            trainer = build(method, tmp_path / method, model=TINY_CLASSIFIERS["t5"](), target=rows[0], **options)
            trainer.train(resume_from_checkpoint=resume)
            runs.append(trainer)
        assert_same_weights(*runs)
        assert_same_weights(*(kept(trainer) for trainer in runs))


# The model that comes out


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_plain_again(straight, case):
    trainer, _, before = straight(case)
    model = trainer.model
    assert model is before["model"] and trainer.model is model
    assert list(model.state_dict()) == list(before["weights"])
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before["grads"]
    assert count_hooks(model) == before["hooks"] == 0
    after = {name: set(vars(module)) for name, module in model.named_modules()}
    of_trainer = {"_is_accelerate_prepared"}  # which Trainer leaves as well
    left = {name: after[name] - attributes - of_trainer for name, attributes in before["attributes"].items()}
    assert not any(left.values()), {name: names for name, names in left.items() if names}


@pytest.mark.parametrize("case", CASES)
def test_all_that_should_train_does(straight, case):
    trainer, _, before = straight(case)
    after = trainer.model.state_dict()
    changed = {name for name, weight in before["weights"].items() if not torch.equal(weight, after[name])}
    trained = {name for name, _ in trainer.model.named_parameters()}
    if case in NO_STEPS:
        trained = {"classifier.weight", "classifier.bias"}
    statistics = {name for name in after if "running_" in name or "num_batches" in name}
    assert changed == trained | statistics
    if before["all"]:
        others = {name for name in before["all"] if not name.startswith("model.")}
        moved = {name for name in others if not torch.equal(before["all"][name], weights(trainer)[name])}
        assert moved == others


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_loads_without_merlin_hf(straight, tmp_path, case):
    trainer, folder, _ = straight(case)
    trainer.save_model(tmp_path)
    auto = AutoModelForImageClassification if case == "stochnorm" else AutoModelForSequenceClassification
    last = folder / f"checkpoint-{STEPS}"
    for saved in (tmp_path, last) if os.path.isdir(last) else (tmp_path,):
        loaded, info = auto.from_pretrained(saved, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert type(loaded) is type(trainer.model)
        assert_same_weights(dict(loaded.state_dict()), dict(trainer.model.state_dict()))
    assert os.path.isdir(last) or case in NO_STEPS
    rows = trainer.eval_dataset
    batch = trainer.data_collator([rows[i] for i in range(len(rows))])
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = loaded.eval()(**batch).logits
    prediction = trainer.predict(rows)
    torch.testing.assert_close(torch.tensor(prediction.predictions), logits)
    assert prediction.label_ids.tolist() == labels.tolist()


# Accumulation


MEANS_OVER_ROWS = [
    "finetune",
    "sequential",
    "l2_sp",
    "delta",
    "lwf",
    "co_tuning",
    "lp_ft",
    "r3f",
    "joint",
    "proportional",
]


@pytest.mark.parametrize("method", MEANS_OVER_ROWS)
def test_four_micro_batches_are_one_batch(tmp_path, method):
    """In both phases. Batch spectral shrinkage and Bi-Tuning are about the rows of a micro-batch together."""
    runs = []
    for batch_size, count in ((8, 1), (2, 4)):
        options = {"max_steps": 4, "learning_rate": 1e-2}
        if method == "proportional":
            options["batch_mix"] = "proportional"
        trainer = build(
            "joint" if method == "proportional" else method,
            tmp_path,
            model=tiny_bert(dropout=0.0).double(),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=count,
            train_sampling_strategy="sequential",
            **options,
        )
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        runs.append(([(entry["loss"], entry["grad_norm"]) for entry in entries], all_weights(trainer)))
    assert len(runs[0][0]) == 4
    for one, other in zip(runs[0][0], runs[1][0], strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    assert_same_weights(runs[0][1], runs[1][1], exact=False, tolerance=1e-5)


def test_micro_batches_of_merlin_ft_are_one_batch(tmp_path):
    """Its first phase fits a head to each micro-batch: here with nothing of that in the loss."""
    runs = []
    for batch_size, count in ((12, 1), (4, 3)):
        trainer = build(
            "merlin_ft",
            tmp_path,
            model=tiny_bert(dropout=0.0).double(),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=count,
            train_sampling_strategy="sequential",
            rho=0.0,
            max_steps=4,
            first_phase_fraction=0.5,
        )
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        runs.append([(entry["loss"], entry["grad_norm"]) for entry in entries])
    for one, other in zip(*runs, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


# Ways to run


@pytest.mark.parametrize("method", METHODS)
def test_plain_training_arguments(tmp_path, method):
    args = TrainingArguments(
        str(tmp_path), max_steps=2, logging_steps=1, report_to="none", disable_tqdm=True, use_cpu=True
    )
    trainer = build(method, tmp_path, model=tiny_resnet() if method == "stochnorm" else None, args=plain(args, method))
    trainer.train()
    options = METHODS[method].training_args_class
    if method in ("finetune", "pooled"):  # which are no more than Trainer
        assert trainer.args is args
        return
    known = {field.name for field in dataclasses.fields(TrainingArguments)} | {"num_source_labels"}
    for field in dataclasses.fields(options):
        if field.name not in known:
            assert getattr(trainer.args, field.name) == field.default, field.name


def plain(args, method):
    if method == "stochnorm":  # a list of images does not tell how many classes there are
        args.num_source_labels = 4
    return args


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_near_float32(tmp_path, method):
    runs = {}
    for bf16 in (False, True):
        model = tiny_resnet() if method == "stochnorm" else tiny_bert(dropout=0.0)
        options = {"noise_scale": 0.3} if method == "r3f" else {}
        options["max_steps"] = 2
        options["image_size"] = (
            32  # torch 2.13 reads uninitialised memory where an image of bfloat16 shrinks to one pixel
        )
        trainer = build(method, tmp_path, model=model, bf16=bf16, learning_rate=1e-4, **options)
        trainer.train()
        runs[bf16] = [e for e in trainer.state.log_history if "loss" in e]
        assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())
        assert all(weight.isfinite().all() for weight in trainer.model.parameters())
        assert trainer.evaluate()["eval_loss"] < 20
    for one, other in zip(runs[False], runs[True], strict=True):
        for name in {"loss", "source_loss", "penalty"} & set(one):
            # LP-FT and MeRLin-FT go on from a head that was solved, where a rounding error is a large part of a small
            # loss.
            tolerance = 0.6 if method in ("lp_ft", "merlin_ft") else 0.1
            assert other[name] == pytest.approx(one[name], rel=tolerance, abs=1e-4 if name == "penalty" else 0.05), (
                name
            )


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_adapters(tmp_path, method):
    """The adapter and the new layers are trained, and saved as an adapter that peft loads."""
    tiny_bert(dropout=0.0).save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], lora_dropout=0.0)
    trainer = build(method, tmp_path / "out", model=base, peft_config=lora, learning_rate=1e-2)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert all(".lora_" in name or ".modules_to_save." in name for name in changed)
    assert any(".classifier.modules_to_save." in name for name in changed)
    assert any(".lora_" in name for name in changed) == (method not in NO_STEPS)
    trainer.save_model()
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=3).eval()
    inputs = {name: torch.tensor(trainer.eval_dataset[name][:]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = loaded(**inputs).logits
    torch.testing.assert_close(torch.tensor(trainer.predict(trainer.eval_dataset).predictions), logits)


@pytest.mark.parametrize("method", ["delta", "lwf", "bi_tuning", "l2_sp"])
def test_adapters_resume(tmp_path, method):
    """What is kept of the start has the adapter in it."""
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    runs = []
    for resume in (None, str(tmp_path / "checkpoint-3")):
        options = {"save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
        trainer = build(method, tmp_path, peft_config=lora, **options)
        trainer.train(resume_from_checkpoint=resume)
        runs.append(trainer)
    assert_same_weights(*runs)


@pytest.mark.parametrize("method", ["sequential", "l2_sp", "delta", "lwf", "bi_tuning", "r3f", "merlin_ft"])
def test_activation_checkpointing_changes_nothing(tmp_path, method):
    runs = []
    for checkpointing in (False, True):
        trainer = build(
            method, tmp_path, model=tiny_bert(dropout=0.1).double(), gradient_checkpointing=checkpointing, **PLAIN_SGD
        )
        trainer.train()
        runs.append(trainer)
    assert_same_weights(*runs, exact=False, tolerance=1e-10)


@pytest.mark.parametrize("method", [*TWO_PHASES, "stochnorm"])
def test_training_twice_starts_again(tmp_path, method):
    """The second phase of the second run keeps what that run's first led to."""
    started = []
    trainer = build(method, tmp_path, model=tiny_resnet() if method == "stochnorm" else None, max_steps=2)
    regularizer = trainer.transfer_model.regularizer
    with contextlib.suppress(AttributeError):
        start = regularizer.start
        regularizer.start = lambda given: (started.append(given.state.global_step), start(given))
    for _ in range(2):
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert ["source_loss" in entry for entry in entries] == [True, False]
    assert started == ([] if regularizer is None else [1, 1])


@pytest.mark.parametrize(("steps", "fraction", "first"), [(2, 0.01, 1), (3, 0.99, 2), (10, 0.25, 2), (4, 0.5, 2)])
def test_both_phases_have_their_share_of_the_steps(tmp_path, steps, fraction, first):
    trainer = build("sequential", tmp_path, max_steps=steps, first_phase_fraction=fraction)
    trainer.train()
    tasks = ["source_loss" in entry for entry in trainer.state.log_history if "loss" in entry]
    assert tasks == [True] * first + [False] * (steps - first)


def test_the_second_phase_starts_with_a_fresh_optimizer(tmp_path):
    states = []

    class Watching(METHODS["sequential"]):
        def compute_loss(self, *args, **kwargs):
            optimizer = self.optimizer.optimizer
            states.append({int(state["step"]) for state in optimizer.state.values()})
            return super().compute_loss(*args, **kwargs)

    build("sequential", tmp_path, trainer_class=Watching, max_steps=6).train()
    assert states == [set(), {1}, {2}, set(), {1}, {2}]


def test_the_targets_head_is_not_trained_in_the_first_phase(straight):
    """Not by weight decay either."""
    for case in ("sequential", "lwf"):
        _, folder, before = straight(case)
        saved = AutoModelForSequenceClassification.from_pretrained(folder / "checkpoint-3")
        assert torch.equal(saved.classifier.weight, before["weights"]["classifier.weight"])
        assert not torch.equal(saved.bert.pooler.dense.weight, before["weights"]["bert.pooler.dense.weight"])


# What a comparison reads of a method


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_says_of_itself(tmp_path, method):
    trainer_class = METHODS[method]
    options = trainer_class.training_args_class
    names = {field.name for field in dataclasses.fields(options)}
    assert set(trainer_class.search_space) <= names
    for name, values in trainer_class.search_space.items():
        default = next(field.default for field in dataclasses.fields(options) if field.name == name)
        assert len(set(values)) == len(values) > 1 and default in values, "the default is one of the values tried"
        for value in values:
            options(str(tmp_path), use_cpu=True, **{name: value})
    assert not (trainer_class.needs_source and not trainer_class.takes_source)
    args = options(str(tmp_path), use_cpu=True, per_device_train_batch_size=10)
    cost = trainer_class.rows_per_step(args, trainer_class.takes_source)
    assert cost == 0 if method in NO_STEPS else 10 <= cost <= 20
