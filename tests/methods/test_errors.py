"""Errors before training name the argument and say what would do."""

import pytest

from merlin_hf import METHODS
from tests.methods.support import REGULARIZED, TWO_PHASES, build, source_rows, tiny_resnet
from tests.tiny import tiny_bert, tiny_dataset


BAD_OPTIONS = [
    *((method, "first_phase_fraction", value) for method in TWO_PHASES for value in (0.0, 1.0)),
    *((method, "regularization_weight", -0.1) for method in REGULARIZED),
    *((method, "source_weight", -1.0) for method in ("joint", "sequential", "linear_probe")),
    ("l2_sp", "head_regularization_weight", -1.0),
    ("delta", "head_regularization_weight", -1.0),
    ("delta", "channel_attention", "exakt"),
    ("delta", "num_layers", 0),
    ("bss", "num_singular_values", 0),
    ("stochnorm", "batch_statistics_probability", 1.5),
    ("stochnorm", "batch_statistics_probability", -0.1),
    ("stochnorm", "first_phase_fraction", 2.0),
    ("lwf", "temperature", 0.0),
    ("bi_tuning", "queue_size", 0),
    ("bi_tuning", "projection_size", -1),
    ("bi_tuning", "contrast_temperature", 0.0),
    ("bi_tuning", "key_momentum", 1.1),
    ("r3f", "noise", "gaussian"),
    ("r3f", "noise_scale", 0.0),
    ("joint", "batch_mix", "both"),
    ("linear_probe", "probe_head", "logistik"),
    ("linear_probe", "probe_l2", "small"),
    ("linear_probe", "probe_l2", "-1"),
    ("lp_ft", "probe_l2", "0"),
    ("merlin_ft", "rho", -1.0),
]


@pytest.mark.parametrize(("method", "name", "value"), BAD_OPTIONS, ids=str)
def test_options(tmp_path, method, name, value):
    """Set by the constructor, or by hand on arguments that exist."""
    options = METHODS[method].training_args_class
    with pytest.raises(ValueError, match=f"`{name}.*{value}"):
        options(str(tmp_path), use_cpu=True, **{name: value})
    args = options(str(tmp_path), use_cpu=True)
    setattr(args, name, value)
    with pytest.raises(ValueError, match=f"`{name}"):
        options.check_options(args)


@pytest.mark.parametrize("method", ["sequential", "lwf", "co_tuning"])
def test_without_the_source_that_is_needed(tmp_path, method):
    with pytest.raises(ValueError, match=rf"{METHODS[method].__name__}.*`source_dataset`"):
        build(method, tmp_path, source=False)


@pytest.mark.parametrize("method", ["finetune", "linear_probe", "lp_ft"])
def test_with_a_source_that_would_not_be_used(tmp_path, method):
    with pytest.raises(ValueError, match=rf"{METHODS[method].__name__}.*`source_dataset`.*Leave it out"):
        build(method, tmp_path, source=source_rows())


def relabelled(labels):
    return tiny_dataset().remove_columns("label").add_column("label", labels)


REAL = [float(i % 3) for i in range(24)]
SEVERAL = [[float(i % 3 == 0), 1.0, float(i % 2)] for i in range(24)]


@pytest.mark.parametrize("method", ["co_tuning", "bi_tuning"])
@pytest.mark.parametrize(
    ("labels", "model", "message"),
    [
        (REAL, {"num_labels": 1}, "the model has 1 labels"),
        (SEVERAL, {}, "labels of `train_dataset` are not class ids"),
        (SEVERAL, {"problem_type": "multi_label_classification"}, "problem_type='multi_label_classification'"),
    ],
    ids=["regression", "several labels", "several labels by the configuration"],
)
def test_targets_without_one_class_a_row(tmp_path, method, labels, model, message):
    with pytest.raises(
        ValueError, match=f"{METHODS[method].__name__} needs a target with one class per row.*{message}"
    ):
        build(method, tmp_path, model=tiny_bert(**model), target=relabelled(labels), eval_dataset=None)


@pytest.mark.parametrize("method", ["lwf", "co_tuning"])
def test_a_source_without_classes(tmp_path, method):
    with pytest.raises(ValueError, match=f"{METHODS[method].__name__}.*`source_dataset` has one real label a row"):
        build(method, tmp_path, source=relabelled(REAL))


@pytest.mark.parametrize("source", [True, False])
def test_stochnorm_without_batch_norm(tmp_path, source):
    with pytest.raises(ValueError, match="BertForSequenceClassification has none"):
        build("stochnorm", tmp_path, source=source)


def test_stochnorm_with_layers_computed_twice(tmp_path):
    with pytest.raises(ValueError, match="`gradient_checkpointing=True`"):
        build("stochnorm", tmp_path, model=tiny_resnet(), gradient_checkpointing=True)


@pytest.mark.parametrize("method", ["delta"])
def test_layers_of_a_batch_in_chunks(tmp_path, method):
    with pytest.raises(ValueError, match="DeltaTrainer.*`target_chunk_size=2`"):
        build(method, tmp_path, target_chunk_size=2)


def test_layers_that_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match="`layer_modules` names 'bert.layers'.*bert.encoder.layer.1"):
        build("delta", tmp_path, layer_modules=["bert.layers"], max_steps=1)


@pytest.mark.parametrize("method", TWO_PHASES)
def test_a_schedule_that_waits_for_evaluations(tmp_path, method):
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "metric_for_best_model": "loss"}
    with pytest.raises(ValueError, match=f"{METHODS[method].__name__}.*`lr_scheduler_type='reduce_lr_on_plateau'`"):
        build(method, tmp_path, eval_steps=1, **options)


@pytest.mark.parametrize("method", ["l2_sp", "bss", "r3f"])
def test_one_phase_may_have_such_a_schedule(tmp_path, method):
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "metric_for_best_model": "loss"}
    trainer = build(method, tmp_path, source=False, eval_steps=1, max_steps=2, **options)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize("method", ["linear_probe", "lp_ft", "sequential", "l2_sp", "merlin_ft"])
def test_targets_without_labels(tmp_path, method):
    with pytest.raises(ValueError, match=r"`train_dataset` has no labels.*`label`"):
        build(method, tmp_path, target=tiny_dataset().remove_columns("label"))


@pytest.mark.parametrize("method", ["lp_ft", "merlin_ft"])
def test_a_head_written_in_the_middle_of_a_run_is_refused_under_deepspeed(method, tmp_path):
    """ZeRO trains copies of the parameters; DeepSpeed itself is not needed to tell."""
    trainer = build(method, tmp_path)
    trainer.is_deepspeed_enabled = True
    with pytest.raises(ValueError, match="DeepSpeed.*Use `ddp` or `fsdp2`"):
        trainer.check_data()


@pytest.mark.parametrize("method", ["l2_sp", "sequential", "merlin_ft"])
@pytest.mark.slow
def test_a_checkpoint_is_not_resumed_in_another_phase(method, tmp_path):
    """The boundary moves with `max_steps`; a run that would never have met its start is told so."""
    saved = build(method, tmp_path, max_steps=12, first_phase_fraction=0.5, save_strategy="steps", save_steps=4)
    saved.train()
    checkpoint = str(tmp_path / "checkpoint-4")
    with pytest.raises(
        ValueError,
        match=r"step 4 .* until step 6, `[a-z-]+` until step 12, and .* until step 3, `[a-z-]+` until step 6\..*"
        "`first_phase_fraction`",
    ):
        build(method, tmp_path / "other", max_steps=6, first_phase_fraction=0.5).train(checkpoint)
    later = build(method, tmp_path / "more", max_steps=14, first_phase_fraction=0.5, save_strategy="no")
    later.train(checkpoint)  # still in the first phase, in both
    assert later.state.global_step == 14


@pytest.mark.parametrize("method", ["lwf", "co_tuning"])
def test_a_source_with_several_labels_a_row_has_no_classes(method, tmp_path):
    source = source_rows()
    several = source.remove_columns("label").add_column("labels", [[1.0, 0.0, 1.0]] * len(source))
    with pytest.raises(ValueError, match="`source_dataset` has several labels a row"):
        build(method, tmp_path, source=several)


@pytest.mark.parametrize("method", ["l2_sp", "bss"])
def test_without_a_source_no_head_is_unused(method, tmp_path, monkeypatch):
    alone = build(method, tmp_path, source=False, ddp_find_unused_parameters=False)
    after_source = build(method, tmp_path, ddp_find_unused_parameters=False)
    monkeypatch.setattr(type(alone.args), "world_size", 2)
    assert alone.check_data() is None
    with pytest.raises(ValueError, match="`ddp_find_unused_parameters=True`"):
        after_source.check_data()
