"""The ablations: what is compared with what, on which rows, and the table."""

import dataclasses
import json

import pytest

from merlin_hf import get_method
from merlin_hf.comparison import load_config
from tests.benchmarks.modules import benchmark_modules
from tests.comparison.conftest import cache, config, same_generators, texts  # noqa: F401
from tests.examples.conftest import model_path  # noqa: F401


@pytest.fixture(scope="module")
def ablations():
    """The benchmark's modules by name."""
    with benchmark_modules("ablations", "run", "table", others=("transfer", "transfer.run")) as modules:
        yield modules


def test_every_variant_differs_from_the_recipe_and_from_the_others(ablations):
    training = ablations["run"].load("qqp-mrpc", 100)["training"]
    variants, seen = ablations["run"].load_variants(), []
    for label, options in variants.items():
        method, own = options["method"], {name: value for name, value in options.items() if name != "method"}
        fields = dataclasses.fields(get_method(method).training_args_class)
        defaults = {field.name: field.default for field in fields} | training
        assert not [name for name, value in own.items() if defaults[name] == value], f"{label} changes nothing"
        assert options not in seen
        seen.append(options)
    assert seen[0] == {"method": "merlin"}


def test_no_test_rows_are_seen(ablations, tmp_path):
    run = ablations["run"]
    assert len(run.PAIRS) == 6
    for pair in run.PAIRS:
        found = load_config(run.load(pair, 100) | {"output_dir": str(tmp_path)})
        apart = pair == "tweet_sentiment-tweet_emotion"
        splits = ("train", "validation") if apart else ("train[:50%]", "train[50%:]")
        assert (found.target.train_split, found.target.test_split) == splits
        assert found.search.trials == 0 and len(found.seeds) == 5 and found.reference == "merlin"
        assert [method.name for method in found.methods] == list(run.load_variants())


def test_all_variants_run_and_stand_in_the_table(ablations, config, tmp_path, monkeypatch):  # noqa: F811
    run, table = ablations["run"], ablations["table"]
    tiny = config | {"methods": run.load_variants(), "search": {"trials": 0}, "reference": "merlin"}
    monkeypatch.setattr(run, "load", lambda name, rows: tiny)
    results = tmp_path / "results"
    run.main(["--pairs", "qqp-mrpc", "--seeds", "0", "1", "--work_dir", str(tmp_path), "--results_dir", str(results)])
    methods = json.loads((results / "qqp-mrpc.json").read_text())["methods"]
    assert {method["label"]: method["status"] for method in methods} == dict.fromkeys(run.load_variants(), "ok")
    lines = (results / "table.md").read_text().splitlines()
    assert all(any(f"| `{label}`: `" in line for line in lines) for label in list(run.load_variants())[1:])
    (results / "table.md").unlink()
    table.main(results)
    assert (results / "table.md").read_text().splitlines() == lines


def test_lines_that_were_not_run_are_not_in_the_table(ablations):
    groups = {"one": {"a": {"rho": 1}, "b": {"rho": 2}}, "two": {"c": {"rho": 3}}}
    scores = {"pair": {"merlin": {0: 0.5, 1: 0.5}, "b": {0: 0.6, 1: 0.7}}}
    text = ablations["table"].render(scores, scores, groups)
    assert "*one*" in text and "*two*" not in text and "rho=1" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("| `b`")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "`b`: `rho=2`",
        "65.0",
        "+15.0 [-48.5, +78.5]",
        "0.65",
    ]
