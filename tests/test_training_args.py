import pytest
from transformers import HfArgumentParser, TrainingArguments

from merlin_hf import MerlinTrainer, MerlinTrainingArguments
from merlin_hf.training_args import add_missing_options
from tests.tiny import tiny_bert, tiny_dataset


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.0}, r"`validation_fraction` must lie strictly between 0 and 1, got 0.0"),
        ({"validation_fraction": 1.0}, r"`validation_fraction` must lie strictly between 0 and 1, got 1.0"),
        ({"head": "rigde"}, r"'rigde'.*'ridge'"),
        ({"meta_loss": "hinge"}, r"`meta_loss` must be one of cross_entropy, squared_error, got 'hinge'"),
        ({"balance_reference": "none"}, r"`balance_reference` must be one of current, chance, got 'none'"),
        (
            {"balance_reference": "chance", "balance_gradients": False},
            r"`balance_reference='chance'` is what `balance_gradients` compares with, which is False",
        ),
        ({"rho": -1.0}, r"`rho` must not be negative, got -1.0"),
        ({"source_weight": -1.0}, r"`source_weight` must not be negative"),
        ({"num_splits": 0}, r"`num_splits` must be positive, got 0"),
        ({"head_l2": 0.0}, r"`head_l2` must be positive, got 0.0"),
        ({"per_device_source_batch_size": 0}, r"`per_device_source_batch_size` must be positive"),
        ({"split": "thirds"}, r"`split` must be one of half, kfold, loo, got 'thirds'"),
        ({"split": "loo", "head": "centroid"}, r"`split='loo'` needs `head='ridge'`.*got 'centroid'"),
        ({"split": "kfold", "num_splits": 1}, r"`split='kfold'` needs `num_splits` of at least 2"),
        ({"refit_l2": "often"}, r"`refit_l2` must be 'auto', 'meta' or a number, got 'often'"),
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
        ["--output_dir", str(tmp_path), "--rho", "2", "--refit_l2", "0.5", "--learn_head_l2", "true"]
    )
    assert args.rho == 2.0 and args.refit_l2 == 0.5 and args.learn_head_l2 is True


def test_plain_training_arguments_get_the_defaults_and_keep_what_was_set(tmp_path):
    args = TrainingArguments(str(tmp_path))
    args.rho = 3.0
    add_missing_options(args, MerlinTrainingArguments)
    assert args.rho == 3.0 and args.num_splits == MerlinTrainingArguments.num_splits


@pytest.mark.parametrize(
    ("name", "value"),
    [("split", "kfolds"), ("meta_loss", "mse"), ("head_scope", "locl"), ("rho", -1.0), ("target_chunk_size", 0)],
)
def test_options_set_by_hand_on_plain_arguments_are_checked(tmp_path, name, value):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    setattr(args, name, value)
    with pytest.raises(ValueError, match=f"`{name}` must"):
        MerlinTrainer(tiny_bert(), args, train_dataset=tiny_dataset(), source_dataset=tiny_dataset())
