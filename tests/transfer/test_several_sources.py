"""Several sources: a head each, one backbone, batches mixed as `source_mix` says."""

import copy

import datasets
import pytest
import torch
from torch.nn.functional import cross_entropy

from merlin_hf import METHODS, MerlinTrainer
from merlin_hf.training_args import parse_mix
from merlin_hf.transfer.source import SourceMix, shares
from tests.support import losses, make_args, make_trainer, recording
from tests.tiny import tiny_bert, tiny_dataset


PLAIN_SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "learning_rate": 0.1}


def two_sources(rows=(40, 24)):
    return {
        "first": tiny_dataset(rows=rows[0], num_labels=4, seed=1),
        "second": tiny_dataset(rows=rows[1], num_labels=2, seed=5),
    }


def drawn(trainer_class, names):
    class Drawn(trainer_class):
        def take_batches(self, inputs):
            batches = super().take_batches(inputs)
            if batches is not None:
                names.append(self.source_name)
            return batches

    return Drawn


@pytest.mark.parametrize(
    ("mix", "wanted"),
    [
        ("proportional", {"first": 40 / 64, "second": 24 / 64}),
        ("equal", {"first": 0.5, "second": 0.5}),
        ("first=3, second=1", {"first": 0.75, "second": 0.25}),
        ({"second": 1, "first": 1.5}, {"first": 0.6, "second": 0.4}),
    ],
)
def test_counts_of_batches_follow_the_shares(mix, wanted):
    found = shares(mix, two_sources())
    assert found == pytest.approx(wanted)
    order = SourceMix(found)
    for number in range(1, 50):
        order.next()
        for name, share in wanted.items():
            assert abs(order.counts[name] - share * number) <= 1


def test_a_mix_that_starts_later_goes_on_as_one_from_the_start():
    found = shares("a=0.5,b=0.3,c=0.2", dict.fromkeys("abc"))
    whole = SourceMix(found)
    names = [whole.next() for _ in range(30)]
    later = SourceMix(found, start=11)
    assert [later.next() for _ in range(19)] == names[11:]


@pytest.mark.parametrize("mix", ["half", "a=0", "a=-1,b=1", "a=x", "", "a=inf", {"a": None}, {}])
def test_a_mix_that_cannot_be_is_refused(mix, tmp_path):
    with pytest.raises(ValueError, match="`source_mix` must be 'proportional', 'equal' or positive weights"):
        parse_mix(mix)
    with pytest.raises(ValueError, match="source_mix"):
        make_args(tmp_path, source_mix=mix)


def test_steps_are_those_written_out(tmp_path):
    """Joint training with two sources, in float64: each step has the loss of the source that its batch is of."""
    model = tiny_bert(dropout=0.0).double()
    written = copy.deepcopy(model)
    names, seen = [], []
    trainer = make_trainer(
        tmp_path,
        model=model,
        trainer_class=drawn(recording(METHODS["joint"], seen), names),
        source=two_sources(),
        max_steps=6,
        source_weight=0.7,
        source_mix="equal",
        **PLAIN_SGD,
    )
    heads = copy.deepcopy(trainer.build_transfer_model().source_head)
    sources = two_sources()
    trainer.train()
    assert names == ["first", "second"] * 3
    parameters = [*written.parameters(), *heads.parameters()]
    rows = {
        name: {tuple(row["input_ids"]): row["label"] for row in data}
        for name, data in {**sources, "target": trainer.train_dataset}.items()
    }
    for name, (target, source), loss in zip(names, seen, losses(trainer), strict=True):
        features = written.bert(input_ids=torch.tensor(source)).pooler_output
        labels = torch.tensor([rows[name][tuple(ids)] for ids in source])
        target_labels = torch.tensor([rows["target"][tuple(ids)] for ids in target])
        source_loss = cross_entropy(heads[name](features), labels)
        target_loss = cross_entropy(written(input_ids=torch.tensor(target)).logits, target_labels)
        total = 0.7 * source_loss + target_loss
        assert loss == pytest.approx(total.item(), rel=1e-6)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.1 * gradient
    for name, weight in written.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-9, atol=1e-10)
    logged = [entry for entry in trainer.state.log_history if "source_loss" in entry]
    assert [next(key for key in entry if key.startswith("source_loss_")) for entry in logged] == [
        f"source_loss_{name}" for name in names
    ]


@pytest.mark.parametrize(("method", "streamed"), [("merlin", True), ("joint", False), ("sequential", True)])
def test_a_resumed_run_is_the_same(tmp_path, method, streamed):
    sources = two_sources()
    if streamed:
        sources["second"] = sources["second"].to_iterable_dataset()
    options = {
        "trainer_class": METHODS[method],
        "source": sources,
        "max_steps": 6,
        "gradient_accumulation_steps": 2,
        "source_mix": "first=0.6,second=0.4",
    }

    def build(folder, **more):
        return make_trainer(folder, model=tiny_bert(), **{**options, **more})

    whole = build(tmp_path / "whole")
    whole.train()
    build(tmp_path / "cut", save_strategy="steps", save_steps=4).train()
    resumed = build(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


def test_collators_losses_and_columns_by_name(tmp_path):
    sources = two_sources()
    sources["second"] = sources["second"].rename_column("label", "stars")
    calls = []

    def loss(outputs, labels, num_items_in_batch=None):
        calls.append(outputs.logits.shape[-1])
        return cross_entropy(outputs.logits, labels)

    trainer = MerlinTrainer(
        model=tiny_bert(),
        args=make_args(tmp_path, source_mix="equal"),
        train_dataset=tiny_dataset(),
        source_dataset=sources,
        source_column_mapping={"second": {"stars": "label"}},
        source_compute_loss_func={"second": loss},
    )
    trainer.train()
    assert calls == [2, 2]
    weights = dict(trainer.transfer_model.source_head.named_parameters())
    assert {name: tuple(weight.shape)[0] for name, weight in weights.items()} == {
        "first.weight": 4,
        "first.bias": 4,
        "second.weight": 2,
        "second.bias": 2,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_dataset": datasets.DatasetDict(train=tiny_dataset())}, "dictionary of splits"),
        ({"source_dataset": {"train": tiny_dataset(), "test": tiny_dataset()}}, "dictionary of splits"),
        ({"source_dataset": {"a.b": tiny_dataset()}}, "name 'a.b'"),
        ({"source_dataset": {"keys": tiny_dataset()}}, "name 'keys'"),
        ({"source_dataset": {"a": tiny_dataset(), "b": None}}, r"`source_dataset\['b'\]` is None"),
        ({"source_dataset": {"a": tiny_dataset(), "b": "glue"}}, r"`source_dataset\['b'\]` is 'glue'"),
        ({"source_collator": {"third": list}}, "`source_collator` has 'third', and the sources are 'first', 'second'"),
        ({"source_column_mapping": {"third": {"a": "b"}}}, "`source_column_mapping` has 'third'"),
        ({"mix": "first=1"}, "`source_mix` has weights for first, and the sources are first, second"),
        ({"trainer_class": METHODS["co_tuning"]}, "CoTuningTrainer takes one source"),
        ({"trainer_class": METHODS["lwf"]}, "takes one source"),
    ],
)
def test_bad_sources_are_refused_before_training(tmp_path, change, message):
    trainer_class, mix = change.pop("trainer_class", MerlinTrainer), change.pop("mix", "proportional")
    with pytest.raises(ValueError, match=message):
        trainer_class(
            model=tiny_bert(),
            args=make_args(tmp_path, source_mix=mix),
            train_dataset=tiny_dataset(),
            **{"source_dataset": two_sources(), **change},
        ).train()


def test_a_stream_has_no_share_by_size(tmp_path):
    sources = two_sources()
    sources["first"] = sources["first"].to_iterable_dataset()
    trainer = make_trainer(tmp_path, source=sources)
    with pytest.raises(ValueError, match=r"`source_dataset\['first'\]` has none. Use `source_mix='equal'`"):
        trainer.train()


def test_one_named_source_is_one_without_a_name(tmp_path):
    """But for the first weights of its head, which are drawn alike."""
    source = tiny_dataset(rows=40, num_labels=4, seed=1)
    runs = []
    for number, given in enumerate((source, {"only": source})):
        trainer = make_trainer(tmp_path / str(number), model=tiny_bert(), source=given)
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0] == runs[1]
