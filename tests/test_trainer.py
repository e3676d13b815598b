"""MerlinTrainer: its objective, its gradient, its checkpoints, and Trainer where there is no source."""

import copy
import itertools
import os

import pytest
import torch
from datasets import Dataset, Value
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from merlin_hf import MerlinTrainer, MerlinTrainingArguments
from merlin_hf.transfer.checkpoint import TRANSFER_STATE_NAME
from merlin_hf.utils.manifest import MANIFEST_NAME
from tests.support import SOURCE_LABELS, losses, make_args, make_trainer, one_step_inputs, recording
from tests.tiny import NUM_LABELS, TINY_CLASSIFIERS, tiny_bert, tiny_dataset


# The objective


def test_every_backbone_parameter_gets_a_gradient_from_the_meta_loss_alone(tmp_path):
    trainer = make_trainer(tmp_path, source_weight=0.0, num_splits=2)
    inputs = one_step_inputs(trainer)
    trainer.compute_loss(trainer.model_wrapped, inputs).backward()
    without = [
        name
        for name, parameter in trainer.model.named_parameters()
        if not name.startswith("classifier") and (parameter.grad is None or not parameter.grad.any())
    ]
    assert without == []
    assert trainer.model.classifier.weight.grad is None
    assert not trainer.transfer_model.source_head.weight.grad.any()


@pytest.mark.parametrize(
    ("head", "split"),
    [("ridge", "half"), ("ridge", "kfold"), ("ridge", "loo"), ("centroid", "half"), ("logistic", "half")],
)
def test_gradient_of_the_meta_loss_equals_float64_finite_differences(tmp_path, head, split):
    model = tiny_bert(dropout=0.0).double()
    trainer = make_trainer(
        tmp_path,
        model,
        source_weight=0.0,
        balance_gradients=False,
        head=head,
        split=split,
        num_splits=3,
    )
    inputs = one_step_inputs(trainer)
    transfer_model = trainer.transfer_model.double()

    def loss():
        return trainer.compute_loss(transfer_model, copy.deepcopy(inputs))

    loss().backward()
    # The key biases have no effect on attention, so their gradient is zero.
    parameters = {n: p for n, p in transfer_model.named_parameters() if p.grad is not None and p.grad.norm() > 1e-9}
    assert len(parameters) > 20
    generator = torch.Generator().manual_seed(0)
    for name, parameter in parameters.items():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        step = 1e-5 * direction / direction.norm()
        with torch.no_grad():
            parameter += step
            above = loss()
            parameter -= 2 * step
            below = loss()
            parameter += step
        torch.testing.assert_close(
            (above - below) / 2,
            (parameter.grad * step).sum(),
            rtol=1e-4,
            atol=1e-13,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_loss_is_the_papers_sum(tmp_path):
    trainer = make_trainer(tmp_path, model=tiny_bert(dropout=0.0), rho=0.0, balance_gradients=False)
    inputs = one_step_inputs(trainer)
    parts = {}
    for rho, weight in ((0.0, 1.0), (1.0, 0.0), (3.0, 2.0)):
        trainer.args.rho, trainer.args.source_weight = rho, weight
        parts[rho, weight] = trainer.compute_loss(trainer.model_wrapped, dict(inputs)).item()
    assert parts[3.0, 2.0] == pytest.approx(2 * parts[0.0, 1.0] + 3 * parts[1.0, 0.0], rel=1e-5)
    assert parts[0.0, 1.0] > 0.1 and parts[1.0, 0.0] > 0.001


@pytest.mark.parametrize("head", ["centroid", "ridge"])
def test_features_of_low_precision_have_the_loss_of_their_values(tmp_path, head):
    """Class means are far closer to each other than to 0, where bfloat16 has steps of their size."""
    trainer = make_trainer(tmp_path, head=head, num_splits=2)
    inputs = one_step_inputs(trainer)
    generator = torch.Generator().manual_seed(0)
    features = (100 + torch.randn(8, 32, generator=generator)).bfloat16().requires_grad_()
    values = features.detach().float().requires_grad_()
    losses = [trainer.meta_loss(x, inputs["labels"], trainer.transfer_model.scalars())[0] for x in (features, values)]
    assert losses[0].dtype == torch.float32 and torch.equal(*losses)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(features.grad, values.grad.bfloat16())


def test_training_lowers_both_losses_and_solves_the_target(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=80, learning_rate=3e-3, per_device_train_batch_size=12, num_splits=2)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "meta_loss" in entry]
    assert history[-1]["meta_loss"] < 0.5 * history[0]["meta_loss"]
    assert history[-1]["source_loss"] < 0.7 * history[0]["source_loss"]
    assert history[-1]["logit_scale"] != history[0]["logit_scale"]
    prediction = trainer.predict(tiny_dataset(rows=30, seed=3))
    assert (prediction.predictions.argmax(-1) == prediction.label_ids).mean() == 1.0


def test_what_is_logged(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert {"loss", "grad_norm", "learning_rate", "source_loss", "meta_loss", "logit_scale"} < set(entry)
    assert 0 <= entry["head_validation_accuracy"] <= entry["head_train_accuracy"] <= 1
    assert entry["loss"] == pytest.approx(entry["source_loss"] + entry["rho"] * entry["meta_loss"], rel=1e-5)
    assert 0 < entry["rho"] <= trainer.args.rho
    assert 1 <= entry["validation_rows"] <= 4
    assert not any("merlin" in key or "meta" in key for key in trainer.evaluate())


def test_logged_parts_are_means_over_the_logging_window(tmp_path):
    every = make_trainer(tmp_path, max_steps=4)
    every.train()
    window = make_trainer(tmp_path, max_steps=4, logging_steps=4)
    window.train()
    mean = sum(entry["meta_loss"] for entry in every.state.log_history[:4]) / 4
    assert window.state.log_history[0]["meta_loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("head", ["centroid", "logistic"])
def test_every_head_solves_the_target(tmp_path, head):
    trainer = make_trainer(
        tmp_path, max_steps=60, learning_rate=3e-3, per_device_train_batch_size=12, head=head, rho=1.0
    )
    trainer.train()
    history = trainer.state.log_history
    assert all(entry.get("solver_unconverged", 0) == 0 for entry in history)
    assert ("solver_residual" in history[0]) == (head != "centroid")
    prediction = trainer.predict(tiny_dataset(rows=30, seed=3))
    assert (prediction.predictions.argmax(-1) == prediction.label_ids).mean() > 0.9


def test_leave_one_out_is_as_many_folds_as_rows(tmp_path):
    rows = with_labels(tiny_dataset(rows=8), [0.5 * i for i in range(8)])
    parts = {}
    for split in ("loo", "kfold"):
        # Leave-one-out keeps the penalty of the whole batch and folds have their own, so it is small here.
        options = {"split": split, "num_splits": 8, "head_l2": 8e-7, "source_weight": 0.0, "balance_gradients": False}
        trainer = make_trainer(tmp_path, tiny_bert(num_labels=1, dropout=0.0).double(), target=rows, **options)
        inputs = one_step_inputs(trainer)
        parts[split] = trainer.compute_loss(trainer.transfer_model.double(), inputs).item()
    assert parts["loo"] == pytest.approx(parts["kfold"], rel=3e-3) and parts["loo"] > 0.1


@pytest.mark.parametrize("split", ["kfold", "loo"])
def test_every_split_solves_the_target(tmp_path, split):
    options = {"max_steps": 60, "learning_rate": 3e-3, "per_device_train_batch_size": 12}
    trainer = make_trainer(tmp_path, split=split, num_splits=4, rho=1.0, head_l2=1.0, **options)
    trainer.train()
    assert ("head_train_accuracy" in trainer.state.log_history[0]) == (split == "kfold")
    prediction = trainer.predict(tiny_dataset(rows=30, seed=3))
    assert (prediction.predictions.argmax(-1) == prediction.label_ids).mean() > 0.9


# Other kinds of target


def with_labels(dataset, labels):
    return dataset.remove_columns("label").add_column("label", labels)


@pytest.mark.parametrize("name", ["bert", "gpt2"], ids=["with a bias", "without a bias"])
def test_multi_label_target(tmp_path, name):
    base = tiny_dataset(rows=36)
    rows = with_labels(base, [[float(i % 3 == 0), float(i % 3 != 1), float(i % 3 == 2)] for i in range(36)])
    trainer = MerlinTrainer(
        model=TINY_CLASSIFIERS[name](),
        args=make_args(tmp_path, max_steps=60, learning_rate=3e-3, per_device_train_batch_size=12, rho=1.0),
        train_dataset=rows,
        source_dataset=tiny_dataset(num_labels=SOURCE_LABELS),
    )
    trainer.train()
    prediction = trainer.predict(rows)
    assert ((prediction.predictions > 0) == (prediction.label_ids > 0.5)).mean() > 0.95
    assert prediction.metrics["test_loss"] < 0.4


def test_regression_target(tmp_path):
    base = tiny_dataset(rows=36)
    rows = with_labels(base, [10.0 + 3 * (i % 3) for i in range(36)])
    trainer = MerlinTrainer(
        model=tiny_bert(num_labels=1),
        args=make_args(
            tmp_path, max_steps=60, learning_rate=3e-3, per_device_train_batch_size=12, head_l2=1e-2, rho=1.0
        ),
        train_dataset=rows,
        source_dataset=tiny_dataset(num_labels=SOURCE_LABELS),
    )
    trainer.train()
    assert "logit_scale" not in trainer.state.log_history[0]
    assert trainer.predict(rows).metrics["test_loss"] < 0.3


# Without a source


def test_without_a_source_it_is_trainer(tmp_path):
    runs = {}
    for name, trainer_class in (("merlin", MerlinTrainer), ("trainer", Trainer)):
        trainer = make_trainer(
            tmp_path / name, trainer_class=trainer_class, without_source=True, save_strategy="steps", save_steps=2
        )
        model = trainer.model
        trainer.train()
        assert trainer.model is model and type(model).__name__ == "BertForSequenceClassification"
        metrics = trainer.evaluate()
        files = sorted(
            os.path.relpath(os.path.join(d, f), tmp_path / name)
            for d, _, fs in os.walk(tmp_path / name)
            for f in set(fs) - {MANIFEST_NAME}  # the one file more
        )
        runs[name] = (losses(trainer), [set(e) for e in trainer.state.log_history], files, metrics["eval_loss"])
        runs[name] += (torch.get_rng_state().tolist(),)
    assert runs["merlin"] == runs["trainer"]


def test_plain_training_arguments_and_positional_arguments(tmp_path):
    args = TrainingArguments(
        str(tmp_path), max_steps=3, logging_steps=1, report_to="none", disable_tqdm=True, use_cpu=True
    )
    trainer = MerlinTrainer(tiny_bert(), args, None, tiny_dataset(), source_dataset=tiny_dataset(num_labels=4))
    trainer.train()
    assert trainer.args.rho == MerlinTrainingArguments.rho and "meta_loss" in trainer.state.log_history[0]


# The target's data and random numbers are what they would be without a source


def test_target_batches_are_those_of_trainer(tmp_path):
    seen = {"merlin": [], "trainer": []}
    for name, trainer_class in (("merlin", MerlinTrainer), ("trainer", Trainer)):
        make_trainer(
            tmp_path,
            trainer_class=recording(trainer_class, seen[name]),
            without_source=name == "trainer",
            max_steps=7,
            per_device_train_batch_size=10,
        ).train()
    assert [target for target, _ in seen["merlin"]] == [target for target, _ in seen["trainer"]]


def test_source_batches_have_their_own_size_and_order(tmp_path):
    seen = []
    source = tiny_dataset(rows=24, num_labels=SOURCE_LABELS)
    make_trainer(
        tmp_path,
        trainer_class=recording(MerlinTrainer, seen),
        target=tiny_dataset(rows=24, num_labels=3),
        source=source,
        max_steps=6,
        per_device_source_batch_size=4,
    ).train()
    batches = [source_rows for _, source_rows in seen]
    assert all(len(batch) == 4 for batch in batches)
    everything = sorted(itertools.chain(*batches))
    assert everything == sorted(source["input_ids"]), "six batches of four are one pass over 24 rows"


# Checkpoints


def test_the_saved_model_is_plain_and_gives_the_logits_of_predict(tmp_path):
    model = tiny_bert()
    keys = set(model.state_dict())
    trainer = make_trainer(tmp_path, model)
    trainer.train()
    trainer.save_model()
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert set(loaded.state_dict()) == keys and type(loaded) is type(model)
    assert loaded.config.num_labels == NUM_LABELS
    assert not os.path.exists(tmp_path / TRANSFER_STATE_NAME)

    dataset = tiny_dataset(rows=9, seed=5)
    predictions = trainer.predict(dataset).predictions
    with torch.no_grad():
        columns = {name: torch.tensor(dataset[name][:]) for name in ("input_ids", "attention_mask")}
        logits = loaded.eval()(**columns).logits
    torch.testing.assert_close(torch.tensor(predictions), logits)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 2, "dataloader_num_workers": 1}], ids=["plain", "accumulation"]
)
@pytest.mark.parametrize("stop", [2, 5])
def test_resuming_equals_never_stopping(tmp_path, stop, options):
    def run(folder, resume=None, **kwargs):
        trainer = make_trainer(
            tmp_path / folder, max_steps=7, save_strategy="steps", save_steps=stop, per_device_train_batch_size=10,
            weight_decay=0.1, save_total_limit=None, **options, **kwargs,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    straight = run("straight")
    resumed = run("resumed", resume=str(tmp_path / "straight" / f"checkpoint-{stop}"))
    for (name, one), other in zip(
        straight.transfer_model.state_dict().items(), resumed.transfer_model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    drop = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")
    histories = [
        [{k: v for k, v in entry.items() if k not in drop} for entry in trainer.state.log_history]
        for trainer in (straight, resumed)
    ]
    assert histories[0] == histories[1]


def test_evaluating_and_saving_does_not_change_the_run(tmp_path):
    quiet = make_trainer(tmp_path / "quiet", max_steps=6)
    quiet.train()
    busy = make_trainer(tmp_path / "busy", max_steps=6, save_strategy="steps", save_steps=1)
    busy.train()
    assert losses(quiet) == losses(busy)


def test_the_head_is_fit_again_only_when_the_model_has_changed(tmp_path):
    calls = []

    class Counting(MerlinTrainer):
        def refit_head(self):
            calls.append(self.state.global_step)
            super().refit_head()

    trainer = make_trainer(
        tmp_path,
        trainer_class=Counting,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    before = trainer.model.classifier.weight.clone()
    trainer.train()
    assert calls == [2, 4]
    trainer.evaluate()
    trainer.save_model()
    assert calls == [2, 4]
    assert not torch.equal(before, trainer.model.classifier.weight)


def test_resuming_a_checkpoint_without_transfer_state_is_an_error(tmp_path):
    trainer = make_trainer(tmp_path, without_source=True, save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    with pytest.raises(ValueError, match="`source_dataset` .this run has one, the checkpoint has none"):
        make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_resuming_with_another_source_head_is_an_error(tmp_path):
    make_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    other = make_trainer(tmp_path, source=tiny_dataset(rows=40, num_labels=5))
    with pytest.raises(ValueError, match=r"source_head.*Resume with the same `source_dataset`"):
        other.train(resume_from_checkpoint=True)


# Iterable data sets


@pytest.mark.parametrize(
    "phases", [{}, {"source_phase_fraction": 0.5, "target_phase_fraction": 0.5}], ids=["both losses", "phases"]
)
@pytest.mark.parametrize("iterable", ["source", "target", "both"])
@pytest.mark.slow
def test_iterable_datasets_on_either_side(tmp_path, iterable, phases):
    # Trainer itself cannot find its place again in an iterable target that ended before.
    kwargs = {"target": tiny_dataset(rows=64), "source": tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1)}
    for side in kwargs:
        if iterable in (side, "both"):
            kwargs[side] = kwargs[side].to_iterable_dataset()
    runs = [
        make_trainer(tmp_path / str(stop), max_steps=6, save_strategy="steps", save_steps=stop, **phases, **kwargs)
        for stop in (4, 6)
    ]
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "4" / "checkpoint-4"))
    weights = [run.transfer_model.state_dict() for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert losses(runs[0])[4:] == losses(runs[1])[4:]


# Optimizers


def test_an_optimizer_of_the_users_gets_the_source_head_and_the_scalars(tmp_path):
    model = tiny_bert()
    trainer = MerlinTrainer(
        model=model,
        args=make_args(tmp_path, scalar_learning_rate=0.25),
        train_dataset=tiny_dataset(),
        source_dataset=tiny_dataset(num_labels=SOURCE_LABELS),
        optimizers=(torch.optim.SGD(model.parameters(), lr=1e-2), None),
    )
    before = {name: value.clone() for name, value in trainer.transfer_model.named_parameters()}
    trainer.train()
    head = dict(model.classifier.named_parameters(prefix="model.classifier"))
    unchanged = [
        n for n, v in trainer.transfer_model.named_parameters() if torch.equal(before[n], v) and n not in head
    ]
    assert unchanged == []
    assert [group["initial_lr"] for group in trainer.optimizer.param_groups] == [1e-2, 1e-2, 0.25]


def test_an_optimizer_with_a_scheduler_that_lacks_the_source_head_is_an_error(tmp_path):
    model = tiny_bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    trainer = MerlinTrainer(
        model=model,
        args=make_args(tmp_path),
        train_dataset=tiny_dataset(),
        source_dataset=tiny_dataset(num_labels=SOURCE_LABELS),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    )
    with pytest.raises(ValueError, match=r"`optimizers`.*source_head.weight.*`optimizer_cls_and_kwargs`"):
        trainer.train()


def test_learned_scalars_are_not_decayed(tmp_path):
    trainer = make_trainer(tmp_path, weight_decay=0.1, max_steps=1)
    trainer.train()
    scalars = {id(parameter) for parameter in trainer.transfer_model.scalars.values()}
    groups = [g for g in trainer.optimizer.param_groups if scalars & {id(p) for p in g["params"]}]
    assert [(g["weight_decay"], g["initial_lr"]) for g in groups] == [(0.0, trainer.args.scalar_learning_rate)]


# Errors before training


RAW_TEXT = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
RAGGED = Dataset.from_dict({"input_ids": [[4, 5], [4]], "label": [0, 1]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": tiny_dataset().remove_columns("label")}, r"`train_dataset` has no labels.*`label`"),
        ({"source": tiny_dataset().remove_columns("label")}, r"`source_dataset` has no labels.*`label`"),
        ({"target": tiny_dataset(num_labels=1)}, r"`train_dataset` has 1 class \(\[0\]\).*at least two"),
        ({"per_device_train_batch_size": 3}, r"target batch of 3 rows is too small.*3 classes.*4 rows"),
        ({"target": tiny_dataset(num_labels=5)}, r"`train_dataset` has label ids \[3, 4\] outside 0 \.\.\. 2"),
        ({"num_source_labels": 2}, r"`source_dataset` has label ids \[2, 3\] outside 0 \.\.\. 1.*`num_source_labels`"),
        (
            {"source": RAW_TEXT},
            r"`source_dataset` has no model inputs: of its columns text, label.*`source_collator=`",
        ),
        (
            {"source": RAGGED},
            r"cannot make a batch of `source_dataset` \(columns input_ids, label\).*`source_collator=`",
        ),
        ({"head_module": "nowhere"}, r"`head_module='nowhere'`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_before_training_name_the_argument_and_the_remedy(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **changes)


@pytest.mark.parametrize(
    ("options", "num_labels", "head"),
    [
        ({}, NUM_LABELS, "CentroidHead"),
        ({"split": "kfold"}, NUM_LABELS, "CentroidHead"),
        ({"split": "loo"}, NUM_LABELS, "RidgeHead"),
        ({}, 1, "RidgeHead"),
        ({"head": "ridge"}, NUM_LABELS, "RidgeHead"),
    ],
)
def test_the_head_is_class_means_where_they_can_be(tmp_path, options, num_labels, head):
    target = tiny_dataset()
    if num_labels == 1:
        target = target.cast_column("label", Value("float32"))
    trainer = make_trainer(tmp_path, tiny_bert(num_labels), target=target, max_steps=2, **options)
    solver = trainer.head_solver("regression" if num_labels == 1 else "single_label_classification")
    assert type(solver).__name__ == head
    trainer.train()
    assert trainer.evaluate()["eval_head_l2"] > 0
    learned = trainer.transfer_model.scalars
    assert set(learned) == ({"log_logit_scale"} if num_labels > 1 else set())
    assert all(value.isfinite() for value in learned.values())
