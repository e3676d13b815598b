"""What is refused before training starts, beside what tests/test_trainer.py has."""

import functools
import types
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import DistributedType
from datasets import ClassLabel, Dataset, DatasetDict, IterableDatasetDict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, TrainerCallback

from merlin_hf import JointTrainer, MerlinTrainer
from merlin_hf.methods import L2SPTrainer, SequentialTrainer
from merlin_hf.transfer.checks import check_is_one_data_set, check_parallelism, check_sharding, check_tokens
from tests.methods.support import build, digits, tiny_resnet
from tests.support import SOURCE_LABELS, make_args
from tests.tiny import TINY_CLASSIFIERS, VOCAB, tiny_bert, tiny_dataset
from tests.transfer.test_label_checks import IDS, build_for, labelled


def test_several_devices_in_one_process(tmp_path, monkeypatch):
    args = make_args(tmp_path)
    check_parallelism(args, "MerlinTrainer")
    monkeypatch.setattr(type(args), "n_gpu", 2)
    with pytest.raises(
        ValueError, match="MerlinTrainer needs one process per device, and this one has 2.*accelerate launch"
    ):
        check_parallelism(args, "MerlinTrainer")


def test_parallelism_within_a_row(tmp_path):
    args = make_args(tmp_path)
    args.parallelism_config = ParallelismConfig(tp_size=2)
    with pytest.raises(
        ValueError, match="MerlinTrainer does not work with tensor, context or sequence parallelism.*'tp_size': 2"
    ):
        check_parallelism(args, "MerlinTrainer")


def test_the_first_version_of_fsdp():
    for version in (1, 2):
        accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=version == 2)
        if version == 2:
            check_sharding(accelerator, "MerlinTrainer")
        else:
            with pytest.raises(
                ValueError, match="MerlinTrainer needs the second version of FSDP: set `fsdp_version: 2`"
            ):
                check_sharding(accelerator, "MerlinTrainer")


# A step that goes by the method


def usual_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    labels = inputs.pop("labels")
    outputs = model(**inputs)
    loss = torch.nn.functional.cross_entropy(outputs.logits, labels)
    return (loss, outputs) if return_outputs else loss


def loss_of_named_inputs(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    outputs = model(input_ids=inputs["input_ids"], labels=inputs["labels"])
    return (outputs.loss, outputs) if return_outputs else outputs.loss


def usual_step(self, model, inputs, num_items_in_batch=None):
    model.train()
    inputs = self._prepare_inputs(inputs)
    loss = self.compute_loss(model, inputs)
    self.accelerator.backward(loss)
    return loss.detach()


def plain_batches(self, epoch_iterator, num_batches, device):
    return [next(epoch_iterator) for _ in range(num_batches)], None


REPLACED = {
    "compute_loss": [usual_loss, loss_of_named_inputs],
    "training_step": [usual_step],
    "get_batch_samples": [plain_batches],
}
REPLACED = [(name, function) for name, functions in REPLACED.items() for function in functions]


@pytest.mark.parametrize(
    ("trainer_class", "on_instance"),
    [
        (MerlinTrainer, False),
        (MerlinTrainer, True),
        (JointTrainer, False),
        (SequentialTrainer, True),
        (L2SPTrainer, False),
    ],
)
@pytest.mark.parametrize(("name", "function"), REPLACED, ids=lambda value: getattr(value, "__name__", None))
def test_a_step_without_the_methods_batches_is_an_error(tmp_path, name, function, trainer_class, on_instance):
    replaced = trainer_class if on_instance else type("Replaced", (trainer_class,), {name: function})
    given = {"source_dataset": None} if trainer_class is L2SPTrainer else {}
    trainer = build_for(replaced, tmp_path, given)
    if on_instance:
        setattr(trainer, name, types.MethodType(function, trainer))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"did not take the batches.*`compute_loss_func=`.*self.take_batches\(inputs\)`"
    ):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_a_forward_of_the_users_takes_both_tasks(tmp_path):
    calls = []
    model = tiny_bert()
    forward = model.forward

    @functools.wraps(forward)  # whose signature says which columns the model takes
    def counting(*args, **kwargs):
        calls.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    model.forward = counting
    trainer = build_for(MerlinTrainer, tmp_path, model=model, max_steps=2, per_device_source_batch_size=5)
    trainer.train()
    assert calls[:4] == [5, 8, 5, 8] and "source_loss" in trainer.state.log_history[0]


def test_an_optimizer_that_lacks_the_source_head_is_an_error(tmp_path):
    class OfTheModel(MerlinTrainer):
        def create_optimizer(self, model=None):
            parameters = [p for name, p in self.model.named_parameters() if name.startswith("model.")]
            self.optimizer = torch.optim.SGD(parameters, lr=0.1)
            return self.optimizer

    with pytest.raises(ValueError, match="The optimizer lacks source_head.weight.*`create_optimizer`"):
        build_for(OfTheModel, tmp_path).train()


class Replacing(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.model = tiny_bert(seed=1)


def test_a_model_that_is_replaced_in_training_is_an_error(tmp_path):
    callback = Replacing()
    callback.trainer = build_for(MerlinTrainer, tmp_path, {"callbacks": [callback]})
    with pytest.raises(ValueError, match="`trainer.model` has been replaced.*`model_init=`"):
        callback.trainer.train()


def test_a_model_that_is_replaced_before_training_is_trained(tmp_path):
    trainer = build_for(MerlinTrainer, tmp_path)
    trainer.model = other = tiny_bert(seed=1)
    trainer.train()
    assert trainer.transfer_model.model is other
    assert not torch.equal(other.bert.pooler.dense.weight, tiny_bert(seed=1).bert.pooler.dense.weight)


def test_label_names_without_labels(tmp_path):
    with pytest.raises(ValueError, match=r"`label_names=\['label'\]` lacks 'labels'"):
        build_for(MerlinTrainer, tmp_path, label_names=["label"])


@pytest.mark.parametrize("argument", ["train_dataset", "source_dataset", "eval_dataset"])
def test_data_sets_that_are_set_later_are_checked_as_well(tmp_path, argument):
    trainer = build_for(MerlinTrainer, tmp_path, {"source_dataset": None} if argument == "source_dataset" else {})
    setattr(trainer, argument, tiny_dataset().remove_columns("label").add_column("label", [None, *[0, 1] * 11, 1]))
    with pytest.raises(ValueError, match=f"`{argument}` has 1 of 24 rows without a label"):
        trainer.train()
    setattr(trainer, argument, tiny_dataset(rows=48))
    trainer.train()
    assert "source_loss" in trainer.state.log_history[0]


# What is no single data set


def rows_one_by_one():
    yield from tiny_dataset()


DATA = tiny_dataset()
NOT_ONE = {
    "dictionary of splits": (DatasetDict(train=DATA), r"DatasetDict, a dictionary of splits \('train'\).*\['train'\]"),
    "dictionary of streams": (IterableDatasetDict(train=DATA.to_iterable_dataset()), "a dictionary of splits"),
    "splits by name": ({"train": DATA, "test": DATA}, r"splits \('train', 'test'\).*`datasets.concatenate_datasets`"),
    "several in a list": ([DATA, DATA], "list of 2 data sets.*`datasets.concatenate_datasets`"),
    "columns": ({"input_ids": [[1]], "label": [0]}, "`datasets.Dataset.from_dict`"),
    "a path": ("train.csv", "is 'train.csv'.*`datasets.load_dataset`"),
    "a table": (pd.DataFrame({"label": [0, 1]}), "a DataFrame.*`datasets.Dataset.from_pandas`"),
    "an array": (torch.zeros(3, 4), "a Tensor"),
    "a loader": (torch.utils.data.DataLoader(DATA), "a DataLoader"),
    "a generator": (rows_one_by_one(), "`datasets.IterableDataset.from_generator`"),
    "no rows": (DATA.select([]), "has no rows"),
    "an empty list": ([], "has no rows"),
    "an empty dictionary": ({}, "a dict"),
}


@pytest.mark.parametrize("argument", ["train_dataset", "source_dataset"])
@pytest.mark.parametrize("kind", NOT_ONE)
def test_what_is_not_one_data_set(tmp_path, kind, argument):
    dataset, message = NOT_ONE[kind]
    with pytest.raises(ValueError, match=f"`{argument}` .*{message}"):
        build_for(MerlinTrainer, tmp_path, {argument: dataset})


def test_a_mapping_of_columns_needs_one_data_set_too(tmp_path):
    given = {"source_dataset": DatasetDict(train=DATA), "source_column_mapping": {"stars": "label"}}
    with pytest.raises(ValueError, match="`source_dataset` is a DatasetDict"):
        build_for(MerlinTrainer, tmp_path, given)


@pytest.mark.parametrize(
    "dataset", [DATA, DATA.to_iterable_dataset(), [dict(row) for row in DATA], torch.utils.data.Subset(DATA, [0])]
)
def test_what_is_one_data_set(dataset):
    check_is_one_data_set(dataset, "train_dataset")


def test_several_evaluation_data_sets_are_checked_by_name(tmp_path):
    several = DatasetDict(one=DATA, two=DATA.select([]))
    with pytest.raises(ValueError, match=r"`eval_dataset\['two'\]` has no rows"):
        build_for(MerlinTrainer, tmp_path, {"eval_dataset": several})
    del several["two"]
    build_for(MerlinTrainer, tmp_path, {"eval_dataset": several})


# Steps


@pytest.mark.parametrize("options", [{"max_steps": 0}, {"max_steps": -1, "num_train_epochs": 0}], ids=str)
@pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer])
def test_no_steps(tmp_path, trainer_class, options):
    with pytest.raises(ValueError, match=f"`{list(options)[-1]}=0` trains nothing"):
        build_for(trainer_class, tmp_path, **options)


class NoRows(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())


class NoSampler(MerlinTrainer):
    def _get_train_sampler(self, *args):
        return torch.utils.data.SubsetRandomSampler([])


@pytest.mark.parametrize(
    ("trainer_class", "dataset", "options", "message"),
    [
        (MerlinTrainer, tiny_dataset(rows=7), {"dataloader_drop_last": True}, "batches of 8.*`dataloader_drop_last`"),
        (JointTrainer, NoRows(), {}, "`train_dataset` gives no batch"),
        (NoSampler, tiny_dataset(), {}, "`train_dataset` gives no batch"),
    ],
    ids=["a batch that is dropped", "a stream without rows", "a sampler without rows"],
)  # fmt: skip
def test_no_batches(tmp_path, trainer_class, dataset, options, message):
    with pytest.raises(ValueError, match=message):
        build_for(trainer_class, tmp_path, {"train_dataset": dataset}, **options).train()


@pytest.mark.parametrize(
    ("target", "source", "options", "argument"),
    [
        (9, 12, {}, "train_dataset"),
        (9, 12, {"dataloader_drop_last": True}, None),
        (8, 12, {}, None),
        (8, 12, {"per_device_source_batch_size": 1}, "source_dataset"),
        (8, 13, {}, None),
        (8, 12, {"per_device_train_batch_size": 1, "per_device_source_batch_size": 2}, "train_dataset"),
    ],
)
def test_batch_norm_and_a_batch_of_a_single_row(tmp_path, target, source, options, argument):
    model = tiny_resnet()
    rows = {"train_dataset": digits([0, 1, 2], target), "source_dataset": digits([3, 4, 5, 6], source)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    build = partial(build_for, JointTrainer, tmp_path, {**rows, "eval_dataset": None}, model)
    options = {"num_source_labels": SOURCE_LABELS, "max_steps": 3, **options}
    if argument is None:
        build(**options).train()
    else:
        with pytest.raises(ValueError, match=f"`{argument}` gives a batch of a single row.*BatchNorm"):
            build(**options)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# Data sets that are given to an existing trainer


@pytest.mark.parametrize("use", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("values", "feature", "message"),
    [
        ([7, *IDS[1:]], None, r"label ids \[7\] outside 0 ... 2"),
        ([None, *IDS[1:]], None, "1 of 24 rows without a label"),
        (IDS, ClassLabel(names=["class2", "class1", "class0"]), "their numbers do not stand for the same"),
    ],
)
def test_what_is_evaluated_later_is_checked(tmp_path, use, values, feature, message):
    trainer = build_for(MerlinTrainer, tmp_path, {})
    with pytest.raises(ValueError, match=f"`{'eval' if use == 'evaluate' else 'test'}_dataset`.*{message}"):
        getattr(trainer, use)(labelled(values, feature))


def test_a_stream_is_checked_while_it_is_evaluated(tmp_path):
    stream = labelled([*IDS[:-1], 7]).to_iterable_dataset()
    trainer = build_for(MerlinTrainer, tmp_path, {"eval_dataset": stream})
    with pytest.raises(ValueError, match="A batch of `eval_dataset` has labels such as 7"):
        trainer.evaluate()


def test_names_of_what_is_evaluated_are_compared_with_the_models_where_the_target_has_none(tmp_path):
    model = tiny_bert(id2label={0: "class2", 1: "class1", 2: "class0"})
    given = {"train_dataset": labelled(IDS), "eval_dataset": tiny_dataset()}
    with pytest.raises(ValueError, match="`eval_dataset` are .*`model.config.id2label` has them in another order"):
        build_for(MerlinTrainer, tmp_path, given, model=model)


# Tokens


BAD_TOKENS = {
    "an unknown token": (
        lambda rows: rows[:-1] + [[VOCAB] * 8], f"the token id {VOCAB} .*embeddings for 0 ... {VOCAB - 1}"
    ),
    "a negative one": (lambda rows: [[-1] * 8] + rows[1:], "the token id -1 "),
    "a long row": (
        lambda rows: rows[:-1] + [[5] * 17],
        r"1 of 24 rows of more tokens \(up to 17\).*positions \(16\).*max_length=16",
    ),
}  # fmt: skip


def with_tokens(change):
    data = tiny_dataset()
    rows = change(data["input_ids"][:])
    mask = [[1] * len(row) for row in rows]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": mask, "label": data["label"][:]})


@pytest.mark.parametrize("argument", ["train_dataset", "source_dataset", "eval_dataset"])
@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_tokens_that_a_model_does_not_know(tmp_path, kind, argument):
    change, message = BAD_TOKENS[kind]
    given = {"train_dataset": tiny_dataset(), "source_dataset": tiny_dataset(), argument: with_tokens(change)}
    with pytest.raises(ValueError, match=f"`{argument}` has .*{message}"):
        MerlinTrainer(tiny_bert(max_position_embeddings=16), make_args(tmp_path), **given)


def test_tokens_for_a_method_that_is_plain_trainer(tmp_path):
    with pytest.raises(ValueError, match=f"`train_dataset` has the token id {VOCAB} "):
        build("finetune", tmp_path, target=with_tokens(BAD_TOKENS["an unknown token"][0]))


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2", "t5", "llama"])
def test_rows_that_a_model_takes(name):
    check_tokens(with_tokens(lambda rows: rows[:-1] + [[5] * 100]), "train_dataset", TINY_CLASSIFIERS[name]())


def test_tokens_of_lists_of_rows_are_checked_and_images_pass():
    rows = [dict(row) for row in with_tokens(BAD_TOKENS["an unknown token"][0])]
    with pytest.raises(ValueError, match=f"the token id {VOCAB} "):
        check_tokens(rows, "train_dataset", tiny_bert())
    check_tokens(rows, "train_dataset", tiny_resnet())


def tokenizer_with(**tokens):
    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2, "</s>": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **tokens)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({}, r"Set `tokenizer.pad_token = '\[PAD\]'` and .*pad_token_id.*resize_token_embeddings"),
        ({"eos_token": "</s>"}, "Set `tokenizer.pad_token = tokenizer.eos_token` and `model.config.pad_token_id"),
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_a_tokenizer_that_cannot_pad(tmp_path, tokens, message, as_list):
    tokenizer = tokenizer_with(**tokens)
    data = tiny_dataset()
    given = {"train_dataset": [dict(row) for row in data] if as_list else data, "processing_class": tokenizer}
    with pytest.raises(ValueError, match=f"cannot make a batch of `source_dataset`.*{message}"):
        build_for(MerlinTrainer, tmp_path, given)


def test_a_tokenizer_that_can_pad(tmp_path):
    build_for(MerlinTrainer, tmp_path, {"processing_class": tokenizer_with(pad_token="</s>")})


# The metric of the best model

BEST = {"eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True}


@pytest.mark.parametrize(
    ("trainer_class", "name", "several"),
    [
        (MerlinTrainer, "accuracy", False),
        (MerlinTrainer, "eval_accuracy", False),
        (JointTrainer, "head_train_accuracy", False),
        (MerlinTrainer, "loss", True),
    ],
)
def test_a_metric_of_the_best_model_that_no_evaluation_has(tmp_path, trainer_class, name, several):
    given = {"eval_dataset": {"near": tiny_dataset(rows=12, seed=2)}} if several else {}
    remedy = "near_loss" if several else "loss"
    with pytest.raises(ValueError, match=f"`metric_for_best_model='{name}'` .*without `compute_metrics`.* {remedy},"):
        build_for(trainer_class, tmp_path, given, metric_for_best_model=name, **BEST)


class Measuring(TrainerCallback):
    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_depth"] = 1.0


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("loss", {}),
        ("eval_head_train_accuracy", {}),
        ("accuracy", {"compute_metrics": lambda prediction: {"accuracy": 0.5}}),
        ("near_loss", {"eval_dataset": {"near": tiny_dataset(rows=12, seed=2)}}),
        ("depth", {"callbacks": [Measuring()]}),
    ],
)
def test_a_metric_of_the_best_model_that_evaluations_may_have(tmp_path, name, given):
    options = {"metric_for_best_model": name, "max_steps": 1, "eval_steps": 1, "save_steps": 1}
    trainer = build_for(MerlinTrainer, tmp_path, given, **BEST | options)
    trainer.train()
    assert trainer.state.best_metric is not None
