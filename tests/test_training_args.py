import dataclasses

import numpy as np
import pytest
from transformers import HfArgumentParser, TrainingArguments

from merlin_hf import METHODS, MerlinTrainer, MerlinTrainingArguments
from merlin_hf.training_args import add_missing_options
from tests.fuzz import options as fuzz
from tests.tiny import tiny_bert, tiny_dataset


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.0}, r"`validation_fraction` must be a number more than 0 and less than 1, got 0.0"),
        ({"validation_fraction": 1.0}, r"`validation_fraction` must be a number more than 0 and less than 1, got 1.0"),
        ({"head": "rigde"}, r"'rigde'.*'ridge'"),
        ({"rho": -1.0}, r"`rho` must be a number of at least 0, got -1.0"),
        ({"source_weight": -1.0}, r"`source_weight` must be a number of at least 0"),
        ({"num_splits": 0}, r"`num_splits` must be a whole number from 1 to 100000, got 0"),
        ({"head_l2": 0.0}, r"`head_l2` must be a positive number or null, got 0.0"),
        ({"per_device_source_batch_size": 0}, r"`per_device_source_batch_size` must be a whole number of at least 1"),
        ({"split": "thirds"}, r"`split` must be one of half, kfold, loo, got 'thirds'"),
        ({"split": "loo", "head": "centroid"}, r"`split='loo'` needs `head='ridge'`.*got 'centroid'"),
        ({"split": "kfold", "num_splits": 1}, r"`split='kfold'` needs `num_splits` of at least 2"),
        ({"source_weight": 0.0, "rho": 0.0}, r"`source_weight=0` and `rho=0` leave no loss to train on"),
        ({"refit_l2": "often"}, r"`refit_l2` must be 'auto', 'meta' or a positive number, got 'often'"),
    ],
)
def test_bad_values_are_errors_that_name_the_argument(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        MerlinTrainingArguments(str(tmp_path), **options)


def test_every_option_of_ours_has_help_and_a_flag(tmp_path):
    parser = HfArgumentParser(MerlinTrainingArguments)
    flags = {action.dest: action for action in parser._actions}
    ours = set(MerlinTrainingArguments.__dataclass_fields__) - set(TrainingArguments.__dataclass_fields__)
    assert ours and all(flags[name].help for name in ours)
    (args,) = parser.parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--rho", "2", "--refit_l2", "0.5", "--learn_logit_scale", "false"]
    )
    assert args.rho == 2.0 and args.refit_l2 == 0.5 and args.learn_logit_scale is False


def test_plain_training_arguments_get_the_defaults_and_keep_what_was_set(tmp_path):
    args = TrainingArguments(str(tmp_path))
    args.rho = 3.0
    add_missing_options(args, MerlinTrainingArguments)
    assert args.rho == 3.0 and args.num_splits == MerlinTrainingArguments.num_splits


@pytest.mark.parametrize(
    ("name", "value"),
    [("split", "kfolds"), ("head_scope", "locl"), ("rho", -1.0), ("target_chunk_size", 0)],
)
def test_options_set_by_hand_on_plain_arguments_are_checked(tmp_path, name, value):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    setattr(args, name, value)
    with pytest.raises(ValueError, match=f"`{name}` must"):
        MerlinTrainer(tiny_bert(), args, train_dataset=tiny_dataset(), source_dataset=tiny_dataset())


OPTIONS = [*fuzz.own_options(), *fuzz.inherited_options()]


@pytest.mark.parametrize("name", fuzz.VALUES)
def test_a_slice_of_the_fuzz(tmp_path, name):
    """Every value for one option in sixteen; `make fuzz` has all."""
    first = list(fuzz.VALUES).index(name)
    found = [fuzz.give(cls, option, name, str(tmp_path)) for cls, option in OPTIONS[first :: len(fuzz.VALUES)]]
    assert len(found) > 10 and not [one for one in found if one.verdict in fuzz.FAULTS]


@pytest.mark.parametrize("method", METHODS)
def test_arguments_can_be_copied_and_parsed(method, tmp_path):
    """The values that a constructed instance has are taken again, and no flag or default is refused."""
    cls = METHODS[method].training_args_class
    args = cls(
        str(tmp_path), use_cpu=True, accelerator_config={"split_batches": False}, fsdp_config={"min_num_params": 1}
    )
    assert dataclasses.replace(args, learning_rate=np.float32(0.5)).learning_rate == 0.5
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number from 0 to 1000000, got nan"):
        dataclasses.replace(args, learning_rate=float("nan"))
    (parsed,) = HfArgumentParser(cls).parse_args_into_dataclasses(
        [
            "--output_dir",
            str(tmp_path),
            "--lr_scheduler_kwargs",
            '{"num_cycles": 2}',
            "--use_cpu",
            "--report_to",
            "none",
        ]
    )
    assert parsed.lr_scheduler_kwargs == {"num_cycles": 2} and parsed.report_to == []


@pytest.mark.parametrize(
    "options",
    [
        {"max_grad_norm": None}, {"max_steps": -1}, {"warmup_steps": 0.1}, {"save_steps": 0.5},
        {"eval_strategy": "epoch"}, {"report_to": []}, {"debug": "underflow_overflow"},
        {"resume_from_checkpoint": True}, {"optim": "sgd"}, {"weight_decay": 0}, {"save_total_limit": 0},
        {"data_seed": 2**40}, {"include_num_input_tokens_seen": True}, {"label_names": ["labels"]},
    ],
    ids=str,
)  # fmt: skip
def test_what_transformers_takes_is_taken(tmp_path, options):
    MerlinTrainingArguments(str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize("has_source", [True, False])
@pytest.mark.parametrize("cls", [TrainingArguments, MerlinTrainingArguments])
@pytest.mark.parametrize(("name", "value"), [("learning_rate", float("nan")), ("rho", "x"), ("max_steps", 2.5)])
def test_what_is_assigned_later_is_checked_before_training(tmp_path, cls, name, value, has_source):
    args = cls(str(tmp_path), use_cpu=True, report_to="none", max_steps=1)
    source = {"source_dataset": tiny_dataset()} if has_source else {}
    trainer = MerlinTrainer(tiny_bert(), args, train_dataset=tiny_dataset(), **source)
    setattr(trainer.args, name, value)
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("metric", "is_greater"),
    [("eval_ece", False), ("brier_score", False), ("eval_mm_log_loss", False), ("mse", False), ("eval_piece", True)],
)
def test_the_best_model_is_the_one_with_the_least_error(tmp_path, metric, is_greater):
    args = MerlinTrainingArguments(str(tmp_path), metric_for_best_model=metric)
    assert args.greater_is_better is is_greater
    assert MerlinTrainingArguments(
        str(tmp_path), metric_for_best_model=metric, greater_is_better=True
    ).greater_is_better
