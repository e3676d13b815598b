"""Only what somebody chose is told, and nothing about the machine."""

import dataclasses

from transformers import TrainingArguments

from merlin_hf import MerlinTrainingArguments, TransferTrainingArguments
from merlin_hf.hub.settings import changed_options, changed_training_arguments, given_arguments
from merlin_hf.training_args import add_missing_options


def arguments(args_class, tmp_path, **options):
    return args_class(str(tmp_path), report_to="none", use_cpu=True, **options)


def test_defaults_are_not_told(tmp_path):
    args = arguments(MerlinTrainingArguments, tmp_path)
    assert changed_options(args, MerlinTrainingArguments) == {}
    assert changed_training_arguments(args) == {}


def test_what_differs_is_told(tmp_path):
    args = arguments(
        MerlinTrainingArguments, tmp_path, rho=1.0, head="logistic", source_weight=0.0, learning_rate=1e-4,
        lr_scheduler_type="cosine", data_seed=0, bf16=True,
    )  # fmt: skip
    assert changed_options(args, MerlinTrainingArguments) == {
        "rho": "1.0",
        "head": "logistic",
        "source_weight": "0.0",
    }
    assert changed_training_arguments(args) == {
        "learning_rate": "0.0001",
        "lr_scheduler_type": "cosine",
        "data_seed": "0",
        "bf16": "True",
    }


def test_an_argument_of_two_names_is_told_once(tmp_path):
    known = {option.name for option in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    assert changed_training_arguments(arguments(TrainingArguments, tmp_path, **{name: True})) == {name: "True"}


def test_what_the_user_is_told(tmp_path):
    args = arguments(
        MerlinTrainingArguments,
        tmp_path / "out",
        rho=1.0,
        eval_steps=7,
        hub_token="hf_secret",
        resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"),
    )
    told = given_arguments(args)
    told.pop("dataloader_pin_memory", None)  # follows from `use_cpu`
    assert told == {
        "eval_steps": "7",
        "hub_token": "<HUB_TOKEN>",
        "output_dir": str(tmp_path / "out"),
        "resume_from_checkpoint": str(tmp_path / "out" / "checkpoint-1"),
        "rho": "1.0",
        "use_cpu": "True",
    }


def test_options_that_the_method_does_not_have_are_not_told(tmp_path):
    args = arguments(MerlinTrainingArguments, tmp_path, rho=1.0, source_weight=2.0)
    assert changed_options(args, TransferTrainingArguments) == {"source_weight": "2.0"}
    assert changed_options(args, None) == {}


def test_plain_training_arguments_have_the_defaults(tmp_path):
    args = arguments(TrainingArguments, tmp_path)
    add_missing_options(args, MerlinTrainingArguments)
    args.rho = 2.0
    assert changed_options(args, MerlinTrainingArguments) == {"rho": "2.0"}


def test_nothing_about_the_machine_the_account_or_the_logs(tmp_path):
    args = arguments(
        MerlinTrainingArguments, tmp_path, run_name="private", hub_token="hf_abc", hub_model_id="ada/x", logging_steps=3,
        save_steps=7, dataloader_num_workers=2, eval_strategy="steps", eval_steps=3, resume_from_checkpoint="/home/ada/x",
        optim_args="/home/ada/x",
    )  # fmt: skip
    assert changed_training_arguments(args) == {"optim_args": "x"}
