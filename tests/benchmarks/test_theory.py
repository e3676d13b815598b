"""The paper's example: the problem is what it says, gradients are right, and the experiment goes on where it was."""

import itertools
import json

import pytest
import torch

from tests.benchmarks.modules import benchmark_modules


MODULES = ("problem", "network", "methods", "experiment", "report", "figures", "run")


@pytest.fixture(scope="module")
def theory():
    """The benchmark's modules by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with benchmark_modules("theory", *MODULES) as modules:
            yield modules
    finally:
        torch.set_num_threads(threads)


def product_form(problem, first, second):
    """The form of the product of the signs of two coordinates."""
    form = torch.zeros(problem.dimension, problem.dimension, dtype=torch.float64)
    form[first, second] = form[second, first] = 0.5
    scales = problem.scales(form)
    return form / scales / scales[:, None]


def every_input(problem, source):
    """All inputs of a small problem, and their labels."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=problem.dimension)), dtype=torch.float64)
    if source:
        signs = signs[signs[:, 3] == signs[:, :3].prod(1)]
    return signs * problem.scales(signs), signs[:, 0] * signs[:, 1]


def settings(count, **values):
    return {name: torch.full((count,), value) for name, value in values.items()}


@pytest.mark.parametrize("ease", [1.0, 1.2])
def test_both_products_explain_the_source_and_one_the_target(theory, ease):
    problem, outputs_of = theory["problem"].Problem(ease=ease), theory["network"].outputs_of
    transferable, specific = product_form(problem, 0, 1), product_form(problem, 2, 3)
    for form in (transferable, specific, 0.3 * transferable + 0.7 * specific):
        inputs, labels = problem.source_rows(200, seed=0)
        torch.testing.assert_close(outputs_of(form, inputs.double()), labels.double())
        assert float(problem.source_error(form)) == pytest.approx(0, abs=1e-12)
    inputs, labels = problem.target_rows(400, seed=0)
    torch.testing.assert_close(outputs_of(transferable, inputs.double()), labels.double())
    assert float(problem.target_error(transferable)) == pytest.approx(0, abs=1e-12)
    agree = (outputs_of(specific, inputs.double()) * labels > 0).float().mean()
    assert 0.4 < agree < 0.6
    assert float(problem.target_error(specific)) == pytest.approx(2)


def test_errors_are_those_over_all_inputs(theory):
    problem = theory["problem"].Problem(dimension=6, ease=1.2)
    form = torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    form = form + form.mT
    for source, error in ((False, problem.target_error), (True, problem.source_error)):
        inputs, labels = every_input(problem, source)
        outputs = theory["network"].outputs_of(form, inputs)
        torch.testing.assert_close(error(form), (outputs - labels).square().mean(-1))


def test_more_rows_of_a_seed_contain_fewer(theory):
    problem = theory["problem"].Problem()
    (few, _), (many, labels) = problem.target_rows(10, 3), problem.target_rows(160, 3)
    assert torch.equal(few, many[:10])
    assert labels.unique().tolist() == [-1, 1]
    with pytest.raises(ValueError, match="4096"):
        problem.target_rows(5000, 3)


def test_the_composition_of_a_form(theory):
    problem = theory["problem"].Problem(ease=1.2)
    form = 0.5 * product_form(problem, 0, 1) - 2 * product_form(problem, 2, 3) + 3 * product_form(problem, 4, 7)
    form[0, 0] += 4  # a constant
    found = {name: float(value) for name, value in problem.composition(form).items()}
    assert found == pytest.approx({"transferable": 0.5, "specific": -2, "rest": 5})


def test_every_network_has_its_own_l2(theory):
    network = theory["network"]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 12, 7, generator=generator, dtype=torch.float64)
    labels = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    l2, half = torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64), torch.arange(12) % 2 == 0
    heads = network.ridge(features, labels, l2, half.expand(3, 12))
    for number, value in enumerate(l2.tolist()):
        x, y = features[number, half], labels[number, half]
        penalty = value * x.square().sum(1).mean() * torch.eye(7, dtype=torch.float64)
        torch.testing.assert_close(heads[number], torch.linalg.solve(x.T @ x + penalty, x.T @ y))


def test_the_gradient_of_merlins_loss(theory):
    """Of all of it, through the head's fit, against finite differences."""
    problem, network, methods = theory["problem"].Problem(dimension=5, ease=1.2), theory["network"], theory["methods"]
    rows = network.Rows(*(t.double() for t in theory["experiment"].target_rows(problem, 9, [0, 1])))
    weights = [t.double().requires_grad_() for t in network.initial_weights([0, 1], problem.dimension, width=4)[:2]]
    train = methods.halves(rows.labels, [0, 1], num_splits=1)[0]
    l2 = torch.tensor([0.1, 1.0], dtype=torch.float64)

    def loss(backbone, head):
        meta = methods.meta_loss(backbone, rows, train, l2)
        return (
            problem.source_error(network.form_of(backbone, head)) + 3 * meta + 0.01 * network.size_of(backbone, head)
        )

    assert torch.autograd.gradcheck(loss, weights)
    meta = methods.meta_loss(weights[0], rows, train, l2)
    (gradient,) = torch.autograd.grad(meta.sum(), weights[0])
    assert (gradient.flatten(1).norm(dim=1) > 1e-3).all()


def test_a_head_is_judged_by_the_other_half(theory):
    """Changing the label of a row in the train half changes the head; of one outside, the error alone."""
    network, methods = theory["network"], theory["methods"]
    problem = theory["problem"].Problem()
    rows = theory["experiment"].target_rows(problem, 16, [0])
    backbone = network.initial_weights([0], problem.dimension).backbone
    train = methods.halves(rows.labels, [0], num_splits=1)[0]
    assert 0 < int(train.sum()) < 16
    features = network.features_of(backbone, rows.inputs)
    other = torch.where(train, rows.labels, -rows.labels)
    l2 = torch.ones(1)
    torch.testing.assert_close(
        network.ridge(features, rows.labels, l2, train), network.ridge(features, other, l2, train)
    )
    changed = methods.meta_loss(backbone, network.Rows(rows.inputs, other), train, l2)
    assert float(changed) != float(methods.meta_loss(backbone, rows, train, l2))


@pytest.mark.parametrize("name", ["joint", "merlin"])
def test_networks_trained_together_are_those_trained_alone(theory, name):
    problem, method = theory["problem"].Problem(), theory["methods"].METHODS[name]
    effort = theory["methods"].Effort(steps=20, long=20)
    values = {"decay": 1e-3, "target_weight": 1.0, "rho": 1.0, "l2": 1.0}
    fit = {}
    for seeds in ([0, 1], [0], [1]):
        rows = theory["experiment"].target_rows(problem, 12, seeds)
        fit[tuple(seeds)] = method.fit(problem, rows, seeds, settings(len(seeds), **values), effort).target_form
    torch.testing.assert_close(fit[0, 1], torch.cat([fit[0,], fit[1,]]), atol=1e-4, rtol=1e-3)


def test_settings_are_chosen_on_held_out_rows_and_the_fit_is_on_all(theory):
    """Of a method whose form is a multiple of the true one: only the factor 1 has no error on held-out rows."""
    experiment, methods = theory["experiment"], theory["methods"]
    problem, seen = theory["problem"].Problem(), []

    def fit(problem, rows, seeds, settings, effort):
        seen.append((rows.labels.shape[1], len(seeds)))
        return methods.Fitted(settings["factor"][:, None, None] * product_form(problem, 0, 1).float())

    method = methods.Method("", fit, {"factor": (0.0, 1.0, 5.0)})
    rows = experiment.target_rows(problem, 10, [0, 1])
    validation, test, options = experiment.try_all(method, problem, rows, [0, 1], methods.Effort())
    assert seen == [(7, 6)]
    assert options == [{"factor": 0.0}, {"factor": 1.0}, {"factor": 5.0}]
    torch.testing.assert_close(validation, torch.tensor([[1.0, 0.0, 16.0]] * 2))
    torch.testing.assert_close(test, validation)


def test_merlin_recovers_what_joint_training_overfits(theory):
    """With a penalty too weak for joint training, on 40 target rows."""
    problem, methods = theory["problem"].Problem(), theory["methods"]
    seeds, effort = [0, 1], methods.Effort(steps=600)
    rows = theory["experiment"].target_rows(problem, 40, seeds)
    fitted = {
        "joint": methods.joint(problem, rows, seeds, settings(2, decay=1e-4, target_weight=1.0), effort),
        "merlin": methods.merlin(problem, rows, seeds, settings(2, decay=1e-4, rho=1.0, l2=1.0), effort),
    }
    error = {name: problem.target_error(one.target_form) for name, one in fitted.items()}
    train_error = theory["experiment"].error_on(fitted["joint"].target_form, rows)
    assert (train_error < 1e-3).all()
    assert (error["joint"] > 0.2).all()
    assert (error["merlin"] < 0.2 * error["joint"]).all()


ARGUMENTS = [
    "--rows",
    "20",
    "--seeds",
    "0",
    "--methods",
    "target_only",
    "merlin",
    "oracle",
    "--ease",
    "1",
    "--noise",
    "0",
]


@pytest.fixture
def tiny(theory, tmp_path, monkeypatch):
    """A run of a few steps; returns a function that runs, and gives what was computed."""
    run, computed = theory["run"], []
    monkeypatch.setattr(run, "Effort", lambda: theory["methods"].Effort(steps=2, long=12))
    for name in ("run_cell", "run_pretraining"):
        original = getattr(run, name)

        def recorded(*arguments, name=name, original=original):
            computed.append(arguments[0] if name == "run_cell" else "pretraining")
            return original(*arguments)

        monkeypatch.setattr(run, name, recorded)

    def go(*arguments):
        computed.clear()
        run.run(run.parse([*ARGUMENTS, "--output", str(tmp_path), *arguments]))
        return list(computed)

    return go


def test_what_is_there_is_not_computed_again(tiny, tmp_path):
    assert tiny() == ["pretraining", "target_only", "merlin", "oracle"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    assert sorted(files) == [
        "ease-1-merlin-20.json",
        "ease-1-oracle-20.json",
        "ease-1-pretraining-0.json",
        "ease-1-target_only-20.json",
    ]
    assert tiny() == []
    (tmp_path / "cells" / "ease-1-merlin-20.json").unlink()
    assert tiny() == ["merlin"]
    assert tiny("--seeds", "0", "1") == ["pretraining", "target_only", "merlin", "oracle"]
    again = json.loads((tmp_path / "cells" / "ease-1-merlin-20.json").read_text())
    assert again["results"]["test_error"][0] == json.loads(files["ease-1-merlin-20.json"])["results"]["test_error"][0]


def test_a_run_that_is_broken_off_goes_on(theory, tiny, tmp_path, monkeypatch):
    replace = theory["run"].os.replace

    def fails(part, path):
        if "merlin" in str(path):
            raise KeyboardInterrupt
        replace(part, path)

    monkeypatch.setattr(theory["run"].os, "replace", fails)
    with pytest.raises(KeyboardInterrupt):
        tiny()
    assert not (tmp_path / "cells" / "ease-1-merlin-20.json").exists()
    monkeypatch.setattr(theory["run"].os, "replace", replace)
    assert tiny() == ["merlin", "oracle"]


def test_the_table_and_the_figures_are_of_what_was_computed(theory, tiny, tmp_path):
    tiny()
    path = tmp_path / "cells" / "ease-1-merlin-20.json"
    cell = json.loads(path.read_text())
    cell["results"]["test_error"] = [0.0625]
    path.write_text(json.dumps(cell))
    cells = theory["report"].load(tmp_path)
    theory["report"].write_table(cells, tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert "| target rows | 20 |" in lines
    assert "| MeRLin, ρ chosen | 0.062 (1/1) |" in lines
    theory["figures"].draw(cells, tmp_path)
    assert all(
        (tmp_path / f"{name}.png").stat().st_size > 1000
        for name in ("test_error", "forms", "pretraining", "penalties")
    )
