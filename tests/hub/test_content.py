"""What a Trainer tells its card: data sets, settings and examples."""

import dataclasses
import json

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Sequence, Value
from transformers import TrainingArguments

from merlin_hf import MerlinTrainingArguments, TransferTrainingArguments
from merlin_hf.hub.content import (
    LONGEST_TEXT,
    changed_options,
    changed_training_arguments,
    content_of,
    examples_of,
    first_texts,
    given_arguments,
    origin_of,
    origins_of,
)
from merlin_hf.training_args import add_missing_options
from tests.hub.conftest import of_the_hub, text_dataset, text_trainer, tiny_tokenizer


IDS = {0: "no", 1: "yes"}


# Data sets


def rows_of_rte():
    """Rows with the information that `load_dataset("nyu-mll/glue", "rte", split="train")` leaves with them."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["yes", "no"])})
    return of_the_hub(Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features), "rte", "train")


def test_a_data_set_of_the_hub_says_its_name_configuration_split_and_revision():
    dataset = rows_of_rte().map(lambda row: {"length": len(row["text"])})
    origin = origin_of(dataset)
    assert origin[:6] == ("nyu-mll/glue", None, "rte", "train", "bcdcba79", 2)
    assert origin.label_names == ("yes", "no")
    assert origin.markdown == "[nyu-mll/glue](https://huggingface.co/datasets/nyu-mll/glue)"


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_file_has_no_name_and_its_path_is_not_told(tmp_path, suffix):
    dataset = rows_of_rte()
    path = str(tmp_path / f"secret-project.{suffix}")
    getattr(dataset, f"to_{suffix}")(path)
    loaded = datasets.load_dataset(suffix, data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    origin = origin_of(loaded)
    assert origin[:4] == (None, None, None, None) and origin.rows == 2
    assert "secret" not in str(origin)


def test_what_the_user_says_goes_first():
    origin = origin_of(rows_of_rte(), tag="ada/films", name="Films", config="short")
    assert origin[:3] == ("ada/films", "Films", "short") and origin.revision is None
    assert origin_of(rows_of_rte(), name="RTE")[:3] == ("nyu-mll/glue", "RTE", "rte")
    assert origin_of(rows_of_rte(), tag="nyu-mll/glue").revision == "bcdcba79"


def test_several_names_for_rows_of_several_data_sets():
    origins = origins_of([1, 2, 3], ["ada/films", "ada/books"], None, ["short"])
    assert [(origin.hub_id, origin.config, origin.rows) for origin in origins] == [
        ("ada/films", "short", None),
        ("ada/books", None, None),
    ]


def test_each_of_several_sources_is_described_by_its_own_rows():
    """By the name that it has among them, where it has no other; what the user says is in their order."""
    sources = {"films": rows_of_rte(), "letters": [1, 2, 3]}
    rte, letters = origins_of(sources)
    assert (rte.hub_id, rte.config, rte.rows, rte.name) == ("nyu-mll/glue", "rte", 2, None)
    assert (letters.name, letters.rows) == ("letters", 3)
    rte, letters = origins_of(sources, [None, "ada/letters"], ["RTE"])
    assert rte.name == "RTE" and (letters.hub_id, letters.name, letters.rows) == ("ada/letters", None, 3)
    assert origins_of(rows_of_rte(), "ada/films")[0].hub_id == "ada/films"
    assert origins_of(None) == []


def test_anything_may_be_a_data_set():
    assert origin_of(None).markdown == "not named"
    assert origin_of([1, 2, 3]).rows == 3
    stream = Dataset.from_dict({"a": [1]}).to_iterable_dataset()
    assert origin_of(stream).rows is None


def split_of_results(tmp_path, train, evaluation):
    """The split that a card names for results, and what it says of the data set."""
    trainer = text_trainer(tmp_path / "run", trainer={"train_dataset": train, "eval_dataset": evaluation})
    return {name: (found.hub_id, found.split) for name, found in content_of(trainer).evaluated_on.items()}


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_results_on_a_file_name_no_split(tmp_path, suffix):
    rows = {}
    for name in ("train", "validation"):
        path = str(tmp_path / f"{name}.{suffix}")
        getattr(text_dataset(tiny_tokenizer()), f"to_{suffix}")(path)
        rows[name] = datasets.load_dataset(suffix, data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert split_of_results(tmp_path, rows["train"], rows["validation"]) == {None: (None, None)}
    sets = {"films": rows["validation"], "books": rows["train"]}
    assert set(split_of_results(tmp_path, rows["train"], sets).values()) == {(None, None)}


def test_results_on_a_named_split_say_it_and_those_on_held_out_rows_do_not(tmp_path):
    whole, validation = (of_the_hub(text_dataset(tiny_tokenizer()), "rte", split) for split in ("train", "validation"))
    assert split_of_results(tmp_path, whole, validation) == {None: ("nyu-mll/glue", "validation")}
    assert split_of_results(tmp_path, whole, whole) == {None: ("nyu-mll/glue", "train")}
    parts = whole.train_test_split(0.5, seed=1)
    assert split_of_results(tmp_path, parts["train"], parts["test"]) == {None: ("nyu-mll/glue", None)}


def test_rows_of_another_place_are_no_results_on_the_targets_data_set(tmp_path):
    train = of_the_hub(text_dataset(tiny_tokenizer()), "rte", "train")
    assert split_of_results(tmp_path, train, text_dataset(tiny_tokenizer())) == {None: (None, None)}


@pytest.mark.parametrize("kind", ["imagefolder", "audiofolder"])
def test_a_folder_names_no_split(kind):
    info = DatasetInfo(builder_name=kind, dataset_name=kind, config_name="default-0f3a")
    origin = origin_of(Dataset.from_dict({"label": [0]}, info=info, split=datasets.Split.TRAIN))
    assert origin[:4] == (None, None, None, None)


@pytest.mark.parametrize("tag", ["Films | <b>", "../films", "/home/ada/films", "a\nb", "x" * 200])
def test_what_is_no_name_on_the_hub_is_shown_as_text_only(tag):
    origin = origin_of(None, tag)
    assert origin.hub_id is None and "](" not in origin.markdown and "/home/" not in origin.markdown


# Settings


def arguments(args_class, tmp_path, **options):
    return args_class(str(tmp_path), report_to="none", use_cpu=True, **options)


def test_defaults_are_not_told(tmp_path):
    args = arguments(MerlinTrainingArguments, tmp_path)
    assert changed_options(args, MerlinTrainingArguments) == {}
    assert changed_training_arguments(args) == {}


def test_what_differs_is_told(tmp_path):
    args = arguments(
        MerlinTrainingArguments, tmp_path, rho=3.0, head="logistic", source_weight=0.0, learning_rate=1e-4,
        lr_scheduler_type="cosine", data_seed=0, bf16=True,
    )  # fmt: skip
    assert changed_options(args, MerlinTrainingArguments) == {
        "rho": "3.0",
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
        rho=3.0,
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
        "rho": "3.0",
        "use_cpu": "True",
    }


def test_options_that_the_method_does_not_have_are_not_told(tmp_path):
    args = arguments(MerlinTrainingArguments, tmp_path, rho=3.0, source_weight=2.0)
    assert changed_options(args, TransferTrainingArguments) == {"source_weight": "2.0"}
    assert changed_options(args, None) == {}


def test_plain_training_arguments_have_the_defaults(tmp_path):
    args = arguments(TrainingArguments, tmp_path)
    add_missing_options(args, MerlinTrainingArguments)
    args.rho = 2.0
    assert changed_options(args, MerlinTrainingArguments) == {"rho": "2.0"}


def test_nothing_about_the_machine_the_account_or_the_logs(tmp_path):
    args = arguments(
        MerlinTrainingArguments, tmp_path, run_name="private", hub_token="hf_abc", hub_model_id="ada/x",
        logging_steps=3,
        save_steps=7, dataloader_num_workers=2, eval_strategy="steps", eval_steps=3,
        resume_from_checkpoint="/home/ada/x",
        optim_args="/home/ada/x",
    )  # fmt: skip
    assert changed_training_arguments(args) == {"optim_args": "x"}


@pytest.mark.parametrize(
    "value",
    ["/home/ada/x", "~/ada/x", "file:///home/ada/x", "C:\\Users\\ada\\x", "\\\\server\\ada\\x", "a=/home/ada/x,b=1"],
)
def test_no_absolute_path_is_told_wherever_it_stands(value, tmp_path):
    args = arguments(TrainingArguments, tmp_path, lr_scheduler_kwargs={"a": [value, {"b": value}]}, optim_args=value)
    told = changed_training_arguments(args)
    assert told.keys() == {"lr_scheduler_kwargs", "optim_args"} and "ada" not in json.dumps(told)


@pytest.mark.parametrize("value", ["https://host/ada/x", "and/or", "ada/x", "./ada/x"])
def test_what_is_no_absolute_path_is_told_as_it_is(value, tmp_path):
    assert changed_training_arguments(arguments(TrainingArguments, tmp_path, optim_args=value))["optim_args"] == value


# Examples


def dataset(texts, labels, column="text", label_feature=None):
    features = Features({column: Value("string"), "label": label_feature or Value("int64")})
    return Dataset.from_dict({column: texts, "label": labels}, features=features)


def test_the_first_of_each_label_in_the_order_of_the_labels():
    rows = dataset(["a", "b", "c", "d", ""], [1, 1, 0, 1, 0])
    assert examples_of(rows, IDS, 2) == [("no", "c", None), ("yes", "a", None), ("yes", "b", None)]
    assert examples_of(rows, IDS, 0) == []


def test_a_model_without_names_has_those_of_the_data():
    rows = dataset(["a", "b"], [0, 1], label_feature=ClassLabel(names=["bad", "good"]))
    assert examples_of(rows, {0: "LABEL_0", 1: "LABEL_1"}, 1) == [("bad", "a", None), ("good", "b", None)]
    assert examples_of(rows, IDS, 1) == [("no", "a", None), ("yes", "b", None)]


def test_several_labels_in_a_row():
    rows = dataset(["a", "b"], [[1.0, 1.0], [0.0, 1.0]], label_feature=Sequence(Value("float32")))
    assert examples_of(rows, IDS, 1) == [("no", "a", None), ("yes", "a", None)]


def test_long_and_odd_texts_are_one_short_line():
    (example,) = examples_of(dataset(["---\nx | <b>\t" + "word " * 500], [0]), IDS, 1)
    assert (
        len(example.text) <= LONGEST_TEXT and example.text.startswith("--- x | <b> word") and example.text[-1] == "…"
    )


def test_a_transform_of_the_users_is_not_asked():
    rows = dataset(["a", "b"], [0, 1])
    rows.set_transform(lambda batch: {"pixel_values": batch["label"]})
    assert examples_of(rows, IDS, 1) == [("no", "a", None), ("yes", "b", None)]


@pytest.mark.parametrize("columns", [("sentence1", "sentence2"), ("question", "sentence"), ("text", "text_pair")])
def test_pairs(columns):
    texts, others = ["", "a", "b", "c"], ["w", "x", "", "z"]
    rows = Dataset.from_dict({columns[1]: others, "title": ["t"] * 4, columns[0]: texts, "label": [0, 1, 0, 0]})
    assert examples_of(rows, IDS, 1) == [("no", "c", "z"), ("yes", "a", "x")]
    assert first_texts(rows) == ("a", "x")


def test_the_first_texts_need_no_classes():
    assert first_texts(dataset(["", "a"], [0.5, 1.5], label_feature=Value("float32"))) == ("a",)
    assert first_texts(Dataset.from_dict({"label": [0]})) == first_texts(None) == ()


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [{"text": "a", "label": 0}],
        Dataset.from_dict({"input_ids": [[1]], "label": [0]}),
        Dataset.from_dict({"id": ["row-1"], "label": [0]}),
        Dataset.from_dict({"text": ["a"]}),
        Dataset.from_dict({"text": ["a"], "label": [0.5]}),
        Dataset.from_dict({"text": ["a"], "label": [0]}).to_iterable_dataset(),
    ],
    ids=["none", "list", "tokens", "ids", "no labels", "regression", "stream"],
)
def test_where_there_are_none(rows):
    assert examples_of(rows, IDS, 1) == []
