"""The speed benchmark's own code: that its competitors do the same, and that what it writes says what was measured."""

import importlib

import pytest
import torch

from tests.benchmarks.modules import benchmark_modules


MODULES = ("cases", "measure", "parts", "report", "scaling", "steps", "unrolled")


@pytest.fixture(scope="module")
def speed():
    """The benchmark's modules by name."""
    with benchmark_modules("speed", *MODULES, others=("plot",)) as modules:
        yield modules


def head_problem(rows=12, size=20, classes=3, splits=2):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    targets = torch.eye(classes, dtype=torch.float64)[torch.arange(rows) % classes]
    train = (torch.rand(splits, rows, generator=generator) < 0.6).double()
    return features, targets, train


def test_all_unrolled_methods_take_the_same_steps(speed):
    features, targets, train = head_problem()
    unrolled = speed["unrolled"]
    names = [name for name in unrolled.installed()[0] if name != "closed form"]
    found = []
    for name in names:
        inputs = features.clone().requires_grad_()
        logits = unrolled.METHODS[name](unrolled.step_size(features))(inputs, targets, train)
        found.append((logits, *torch.autograd.grad(logits.square().sum(), inputs)))
    assert {"autograd", "torch.func"} <= set(names)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_the_steps_have_the_objective_of_the_closed_form(speed):
    """Its solution is where their gradient is zero."""
    features, targets, train = head_problem()
    unrolled = speed["unrolled"]
    head = unrolled.get_head("ridge").fit(features, targets, unrolled.L2, train)
    l2 = unrolled.penalty(features, train)
    gradients = torch.func.grad(unrolled.inner_loss, argnums=(0, 1))(
        head.weight, head.bias, features, targets, train, l2
    )
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_peak_memory_is_that_of_the_tensors_alive_together(speed):
    with speed["measure"].PeakMemory("cpu") as memory:
        for _ in range(3):
            block = torch.ones(2**19)  # 2 MiB
            del block
        kept = [torch.ones(2**18) for _ in range(3)]
    assert len(kept) == 3
    assert memory.mebibytes == pytest.approx(3, abs=0.01)


def test_joining_batches_pads_the_shorter_rows(speed):
    source, target = (
        {name: torch.ones(rows, length) for name in ("input_ids", "attention_mask")}
        for rows, length in ((2, 3), (1, 5))
    )
    together = speed["parts"].joined(source, target)
    for values in together.values():
        assert values.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_ratios_are_of_neighbouring_turns(speed):
    """Two equal things in a machine that is ten times slower for a while."""
    value = speed["measure"].ratios([2.0, 20.0, 2.0, 20.0], [1.0, 10.0, 1.0, 10.0])
    assert value == {"median": 2.0, "lower": 2.0, "upper": 2.0, "fastest": 2.0}


@pytest.mark.parametrize(("limit", "holds"), [(0.9, "no"), (1.0, "unclear"), (1.2, "yes")])
def test_a_budget_between_the_quartiles_is_unclear(speed, limit, holds):
    assert speed["report"].verdict({"lower": 0.95, "median": 1.0, "upper": 1.1}, limit) == holds


class Over(Exception):
    """There are no more turns."""


class Parent:
    """The other end of a competitor's connection."""

    def __init__(self, *turns):
        self.turns = iter(turns)
        self.reports = []

    def recv(self):
        for turn in self.turns:
            return turn
        raise Over

    def send(self, report):
        self.reports.append(report)


@pytest.mark.parametrize("name", ["merlin", "merlin, fixed rho", "joint", "Trainer", "bare loop"])
def test_each_competitor_does_a_whole_step_at_each_turn(speed, name):
    """By its memory: weights, gradients and AdamW's two moments are all there after the first."""
    case, parent = speed["cases"].Case("BERT-tiny", 4, 4), Parent("step", "step", "memory")
    with pytest.raises(Over):
        speed["steps"].COMPETITORS[name](case, "cpu", parent)
    weights = sum(p.numel() * p.element_size() for p in speed["cases"].build_model(case).parameters()) / 2**20
    *steps, memory = parent.reports
    assert [sorted(report) for report in steps] == [["between", "times", "work"]] * 2
    assert memory["held_mebibytes"] == pytest.approx(3 * weights, rel=0.01)
    assert memory["mebibytes"] > weights  # the gradients


def test_the_table_and_the_plot_are_of_what_was_measured(speed, tmp_path):
    """A ratio of exactly two, and a method that is not there."""
    case = speed["cases"].Case("BERT-tiny", 4, 4)
    methods = {
        name: {
            "times": [seconds] * 4,
            "work": [2 * seconds] * 4,
            "between": [0.001] * 4,
            "mebibytes": 10.0,
            "held_mebibytes": 30.0,
        }
        for name, seconds in zip(speed["steps"].COMPETITORS, [0.2, 0.101, 0.1, 0.1, 0.1, 0.1], strict=True)
    }
    results = {
        "environment": {"device": "cpu"},
        "minutes": 1.0,
        "budget_case": case.label,
        "missing": {"higher": "not installed (no module)"},
        "steps": [{"case": case.__dict__, "label": case.label, "methods": methods, "load_average": 0.5}],
    }
    speed["report"].write_table(results, tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert "| time, merlin / joint | 1.03 | 2.0000 | 2.0000 | 2.0000 | no |" in lines
    assert "| time, merlin, fixed rho / joint | 1.03 | 1.0100 | 1.0100 | 1.0100 | yes |" in lines
    assert "higher: not installed (no module)." in lines
    importlib.import_module("plot").plot(results, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 1000
