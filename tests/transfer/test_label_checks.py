"""Checks of labels, their kind and the names of classes, before training."""

from functools import partial

import pytest
import torch
from datasets import ClassLabel

from merlin_hf import JointTrainer, MerlinTrainer
from tests.support import SOURCE_LABELS, make_args
from tests.tiny import NUM_LABELS, tiny_bert, tiny_dataset


def build_for(trainer_class, output_dir, given=None, model=None, **options):
    data = {
        "train_dataset": tiny_dataset(),
        "source_dataset": tiny_dataset(rows=40, num_labels=SOURCE_LABELS, seed=1),
        "eval_dataset": tiny_dataset(rows=12, seed=2),
        **(given or {}),
    }
    return trainer_class(model=model or tiny_bert(), args=make_args(output_dir, **options), **data)


# Labels


def labelled(values, feature=None, name="label", rows=None):
    data = tiny_dataset(rows=rows or len(values)).remove_columns("label")
    return data.add_column(name, values, feature=feature)


NAN = float("nan")
IDS = [i % NUM_LABELS for i in range(24)]
REAL = [float(i % NUM_LABELS) + 0.5 for i in range(24)]
ONE_HOT = [[float(i % NUM_LABELS == j) for j in range(NUM_LABELS)] for i in range(24)]
ALL = ["train_dataset", "source_dataset", "eval_dataset"]
BAD_LABELS = {
    "None": (partial(labelled, [None, *IDS[1:]]), "has 1 of 24 rows without a label"),
    "None among classes": (
        partial(labelled, [None, None, *IDS[2:]], ClassLabel(num_classes=3)), "has 2 of 24 rows without a label"
    ),
    "NaN": (partial(labelled, [NAN, None, *REAL[2:]]), "has 2 of 24 rows without a label"),
    "all None": (partial(labelled, [None] * 24), "has 24 of 24 rows without a label"),
    "None in lists": (partial(labelled, [[1.0, None, 0.0], None, *ONE_HOT[2:]]), "has 2 of 24 rows without a label"),
    "all -100": (partial(labelled, [-100] * 24), "has no row with a label: all 24 are -100"),
    "infinite": (partial(labelled, [float("inf"), *REAL[1:]]), "has 1 of 24 rows with an infinite label"),
    "-1 in lists": (
        partial(labelled, [[-1.0, -1.0, -1.0], *ONE_HOT[1:]]), "has 1 of 24 rows with a label outside 0 ... 1.*-1.0"
    ),
    "text": (partial(labelled, ["None", *"abc" * 7, "a", "b"]), "are text, such as 'None'"),
    "two columns": (
        lambda: labelled(IDS).add_column("labels", IDS[1:] + [0]), "'labels' and 'label', and they differ"
    ),
    "label_ids": (
        lambda: labelled(IDS, name="label_ids").add_column("label", IDS[1:] + [0]), "'label' and 'label_ids', and they"
    ),
}  # fmt: skip


KEPT_IN = {
    "list": lambda data: [dict(row) for row in data],
    "subset": lambda data: torch.utils.data.Subset(data, range(len(data))),
}


@pytest.mark.parametrize("kept_in", KEPT_IN)
@pytest.mark.parametrize("kind", ["None", "NaN", "all -100", "None in lists", "two columns"])
def test_bad_labels_in_lists_and_subsets(tmp_path, kind, kept_in):
    make, message = BAD_LABELS[kind]
    with pytest.raises(ValueError, match=f"`train_dataset`.* {message}"):
        build_for(MerlinTrainer, tmp_path, {"train_dataset": KEPT_IN[kept_in](make())})


@pytest.mark.parametrize("bad", [7, -1])
@pytest.mark.parametrize("argument", ["train_dataset", "source_dataset"])
def test_bad_labels_in_a_stream(tmp_path, argument, bad):
    stream = labelled([*IDS[:-1], bad]).to_iterable_dataset()
    trainer = build_for(JointTrainer, tmp_path, {argument: stream}, num_source_labels=4)
    with pytest.raises(ValueError, match=f"A batch of `{argument}` has labels such as {bad}"):
        trainer.train()


@pytest.mark.parametrize("argument", ALL)
@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_labels_are_named_and_counted_in_every_data_set(tmp_path, kind, argument):
    make, message = BAD_LABELS[kind]
    with pytest.raises(ValueError, match=f"`{argument}`.* {message}"):
        build_for(MerlinTrainer, tmp_path, {argument: make()})


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ("train_dataset", "Load the model with"),
        ("source_dataset", "Set `num_source_labels`"),
        ("eval_dataset", "Encode its labels as those of"),
    ],
)
@pytest.mark.parametrize("bad", [-1, 7])
def test_ids_outside_are_counted(tmp_path, bad, argument, remedy):
    data = labelled([bad, bad, *IDS[2:]])
    with pytest.raises(
        ValueError, match=rf"`{argument}` has label ids \[{bad}\] outside 0 ... 2, in 2 of 24 rows. {remedy}"
    ):
        build_for(
            MerlinTrainer, tmp_path, {argument: data}, num_source_labels=3 if argument == "source_dataset" else None
        )


def test_a_column_that_is_there_twice_is_trained_on(tmp_path):
    twice = labelled(IDS).add_column("labels", IDS)
    trainer = build_for(MerlinTrainer, tmp_path, {"train_dataset": twice, "source_dataset": twice}, max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1


def test_what_a_transform_makes_is_not_judged_by_what_is_stored(tmp_path):
    def encode(rows):
        columns = {name: torch.tensor(rows[name]) for name in ("input_ids", "attention_mask")}
        return {**columns, "labels": torch.tensor(["abc".index(label or "c") for label in rows["label"]])}

    stored = labelled([*"abcabc", *[None] * 6]).with_transform(encode)
    args = {"remove_unused_columns": False, "num_source_labels": 3, "max_steps": 1}
    trainer = build_for(MerlinTrainer, tmp_path, {"train_dataset": stored, "source_dataset": stored}, **args)
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_source_of_one_class_has_nothing_to_tell_apart(tmp_path):
    with pytest.raises(ValueError, match=r"`source_dataset` has one class \(\[0\]\) in 24 rows"):
        build_for(MerlinTrainer, tmp_path, {"source_dataset": labelled([0] * 24)})


@pytest.mark.parametrize("given", [None, 1])
def test_whole_numbers_stored_as_real_ones_are_a_guess_that_is_said(tmp_path, monkeypatch, given):
    warnings = []
    monkeypatch.setattr("merlin_hf.transfer.label_checks.logger.warning", warnings.append)
    floats = labelled([float(i) for i in IDS])
    build_for(MerlinTrainer, tmp_path, {"source_dataset": floats}, num_source_labels=given)
    assert ["`num_source_labels=1`" in warning for warning in warnings] == ([True] if given is None else [])


@pytest.mark.parametrize(
    ("labels", "model", "message"),
    [
        (
            [float(i) for i in IDS],
            {},
            r"are real numbers. The model has 3 outputs.*cast_column\('label', datasets.Value\('int64'\)\)",
        ),
        (REAL, {}, "are real numbers. The model has 3 outputs.*`num_labels`"),
        (IDS, {"problem_type": "regression"}, "are class ids.*`config.problem_type='regression'`.*to None"),
        (IDS, {"problem_type": "multi_label_classification"}, "are class ids.*'multi_label_classification'"),
        (ONE_HOT, {"problem_type": "single_label_classification"}, "are lists of 3.*'single_label_classification'"),
        (REAL, {"problem_type": "single_label_classification"}, "are real numbers.*'single_label_classification'"),
        ([row[:2] for row in ONE_HOT], {}, "are lists of 2. The model has 3 outputs"),
        (ONE_HOT, {"num_labels": 1}, "are lists of 3. The model has 1 output"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
def test_labels_of_another_kind_than_the_models(tmp_path, labels, model, message, argument):
    fitting = REAL if model.get("num_labels") == 1 else IDS
    if model.get("problem_type") in ("regression", "multi_label_classification"):
        fitting = ONE_HOT
    given = {"train_dataset": labelled(fitting), argument: labelled(labels)}
    with pytest.raises(ValueError, match=f"`{argument}` {message}"):
        build_for(JointTrainer, tmp_path, given, model=tiny_bert(**model))


def test_a_problem_type_that_is_none(tmp_path):
    model = tiny_bert()
    model.config.problem_type = "classification"
    with pytest.raises(ValueError, match="`model.config.problem_type='classification'` is none of single_label"):
        build_for(MerlinTrainer, tmp_path, model=model)


def test_classes_and_a_single_output(tmp_path):
    with pytest.raises(ValueError, match=r"3 classes, \['class0', 'class1', 'class2'\].*`num_labels=3`"):
        build_for(MerlinTrainer, tmp_path, model=tiny_bert(num_labels=1))


@pytest.mark.parametrize("labels", [REAL, IDS], ids=["real", "integers"])
def test_numbers_and_a_single_output(tmp_path, labels):
    data = labelled(labels)
    trainer = build_for(JointTrainer, tmp_path, {"train_dataset": data, "eval_dataset": data}, tiny_bert(num_labels=1))
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


# Names of classes


def named(names, values=IDS):
    return labelled(values).cast_column("label", ClassLabel(names=names))


@pytest.mark.parametrize(
    "names", [["b", "a", "c"], ["a", "b", "d"], ["a", "b", "c", "d"], ["A", "b", "c"], ["x", "y", "z"]], ids=str
)
@pytest.mark.parametrize("several", [False, True])
def test_classes_of_the_evaluation_are_those_of_the_target(tmp_path, names, several):
    evaluation, argument = named(names), "eval_dataset"
    if several:
        evaluation, argument = {"good": named(["a", "b", "c"]), "bad": evaluation}, r"eval_dataset\['bad'\]"
    listed = [r"\[" + ", ".join(map(repr, some)) + r"\]" for some in (names, ["a", "b", "c"])]
    with pytest.raises(
        ValueError, match=f"`{argument}` are {listed[0]}, and those of `train_dataset` are {listed[1]}"
    ):
        build_for(MerlinTrainer, tmp_path, {"train_dataset": named(["a", "b", "c"]), "eval_dataset": evaluation})


@pytest.mark.parametrize("evaluation", [named(["a", "b", "c"]), labelled(IDS), tiny_dataset().remove_columns("label")])
def test_the_same_names_or_none(tmp_path, evaluation):
    build_for(MerlinTrainer, tmp_path, {"train_dataset": named(["a", "b", "c"]), "eval_dataset": evaluation})


def test_names_of_outputs_in_another_order(tmp_path):
    model = tiny_bert(id2label=dict(enumerate("bac")))
    with pytest.raises(
        ValueError, match=r"`train_dataset` are \['a', 'b', 'c'\].*\['b', 'a', 'c'\].*`model.config.id2label ="
    ):
        build_for(MerlinTrainer, tmp_path, {"train_dataset": named(["a", "b", "c"]), "eval_dataset": None}, model)


def lists_of(labels, rows=12):
    data = tiny_dataset(rows=rows).remove_columns("label")
    return data.add_column("labels", [labels[row % len(labels)] for row in range(rows)])


def test_lists_of_integers_are_several_labels_of_the_source_and_refused_of_the_target(tmp_path):
    integers = lists_of([[0, 1, 1], [1, 0, 1], [0, 0, 1]])
    trainer = MerlinTrainer(
        model=tiny_bert(), args=make_args(tmp_path, max_steps=1), train_dataset=tiny_dataset(), source_dataset=integers
    )
    trainer.train()
    assert trainer.transfer_model.source_head.out_features == 3
    with pytest.raises(ValueError, match=r"`train_dataset` are lists of int64.*cast_column"):
        MerlinTrainer(
            model=tiny_bert(), args=make_args(tmp_path), train_dataset=integers, source_dataset=tiny_dataset()
        ).train()


@pytest.mark.parametrize("argument", ["train_dataset", "source_dataset"])
def test_lists_of_different_lengths_are_refused(tmp_path, argument):
    data = {"train_dataset": tiny_dataset(), "source_dataset": tiny_dataset(), argument: lists_of([[0], [1, 2]])}
    with pytest.raises(ValueError, match=f"`{argument}` are lists of different lengths.*zeros and ones"):
        MerlinTrainer(model=tiny_bert(), args=make_args(tmp_path), **data).train()


@pytest.mark.parametrize("argument", ["train_dataset", "source_dataset"])
def test_labels_may_be_made_by_a_transform(tmp_path, argument):
    def collate(rows):
        names = {"input_ids": "input_ids", "attention_mask": "attention_mask", "fine": "labels", "label": "labels"}
        return {names[name]: torch.tensor([row[name] for row in rows]) for name in rows[0]}

    data = {"train_dataset": tiny_dataset(), "source_dataset": tiny_dataset(num_labels=4)}
    data[argument] = data[argument].rename_column("label", "fine")
    args = make_args(tmp_path, max_steps=2, remove_unused_columns=False, num_source_labels=4)
    trainer = MerlinTrainer(model=tiny_bert(), args=args, data_collator=collate, **data)
    trainer.train()
    assert trainer.state.global_step == 2
