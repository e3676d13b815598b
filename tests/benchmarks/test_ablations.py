"""The ablations: what is compared with what, and how the differences are summed up."""

import dataclasses
import json
import shutil

import pytest
import yaml

from merlin_hf import get_method
from merlin_hf.comparison import compare, load_config
from tests.benchmarks.modules import BENCHMARKS, benchmark_modules
from tests.comparison.conftest import cache, config, read, same_generators, texts  # noqa: F401
from tests.examples.conftest import model_path  # noqa: F401


BENCHMARK = BENCHMARKS / "ablations"


@pytest.fixture(scope="module")
def ablations():
    """The benchmark's modules by name."""
    with benchmark_modules(
        "ablations", "run", "table", others=("transfer", "transfer.run", "transfer.restore")
    ) as modules:
        yield modules


def test_every_variant_differs_from_the_defaults_and_from_the_others(ablations):
    groups = yaml.safe_load((BENCHMARK / "variants.yaml").read_text())["groups"]
    variants = {label: options for group in groups.values() for label, options in group.items()}
    assert {"merlin", *variants} == set(ablations["run"].load_variants())
    pair = ablations["run"].load_pair("mnist-usps", 100)
    seen = [("merlin", {})]
    for label, options in variants.items():
        options = dict(options)
        method = options.pop("method", "merlin")
        fields = dataclasses.fields(get_method(method).training_args_class)
        defaults = {field.name: field.default for field in fields} | pair["training"]
        defaults |= ablations["run"].BASE
        same = [name for name, value in options.items() if defaults[name] == value]
        assert not same, f"{label}: {same} are the defaults already"
        assert (method, options) not in seen
        seen.append((method, options))


def test_variants_are_a_comparison_that_sees_no_test_rows(ablations, monkeypatch, tmp_path):
    run, given = ablations["run"], []

    class Enough(Exception):
        pass

    def keep(given_config, **overrides):
        given.append(load_config(given_config, **overrides))
        raise Enough

    monkeypatch.setattr(run.merlin_hf, "compare", keep)
    folders = ["--work_dir", str(tmp_path), "--results_dir", str(tmp_path)]
    for pair in run.PAIRS:
        with pytest.raises(Enough):
            run.main(["--pairs", pair, *folders])
    with pytest.raises(Enough):
        run.main(["--pairs", run.PAIRS[0], "--rows", "300", *folders])
    more = given.pop()
    assert (more.target.rows, given[0].target.rows) == (300, 100)
    assert more.output_dir == str(tmp_path / "300" / run.PAIRS[0]) != given[0].output_dir
    assert len(given) == len(run.PAIRS)
    for pair, of_pair in zip(run.PAIRS, given, strict=True):
        apart = pair == "tweet_sentiment-tweet_emotion"
        splits = ("train", "validation") if apart else ("train[:50%]", "train[50%:]")
        assert (of_pair.target.train_split, of_pair.target.test_split) == splits
        assert of_pair.reference == "merlin" and of_pair.search.trials == 0 and len(of_pair.seeds) == 5
        assert [method.name for method in of_pair.methods] == list(run.load_variants())


def test_differences_are_averaged_over_pairs_before_seeds(ablations):
    scores = {
        "a": {"merlin": {0: 0.50, 1: 0.60}, "other": {0: 0.53, 1: 0.60}},
        "b": {"merlin": {0: 0.70, 1: 0.70}, "other": {0: 0.71, 1: 0.74}},
    }
    found = ablations["table"].difference(scores, "other")
    # 2 points with either seed: 3 and 1, 0 and 4. Over single runs they would spread.
    assert found.mean == pytest.approx(2) and found.low is None
    scores["b"]["other"][1] = 0.76
    found = ablations["table"].difference(scores, "other")
    assert found.mean == pytest.approx(2.5)
    assert (found.low, found.high) == pytest.approx((2.5 - 12.706 * 0.5, 2.5 + 12.706 * 0.5), rel=1e-3)
    del scores["b"]["other"]  # not run on this pair
    found = ablations["table"].difference(scores, "other")
    assert found.mean == pytest.approx(1.5)
    del scores["a"]["other"]
    assert ablations["table"].difference(scores, "other") is None


@pytest.mark.parametrize(
    ("folder", "without"),
    [
        ("results", set()),
        ("results/300", set()),
        ("results/1000", {"amazon_books-amazon_kitchen"}),  # which has fewer rows in a half
    ],
)
def test_the_table_is_that_of_the_result_files(ablations, folder, without):
    folder = BENCHMARK / folder
    table = ablations["table"]
    groups = table.load_groups()
    scores = table.read(folder)
    assert set(scores) == set(ablations["run"].PAIRS) - without
    assert table.render(scores, groups) == (folder / "table.md").read_text()


def test_what_the_result_files_hold_is_not_run_again(ablations, config, tmp_path):  # noqa: F811
    config |= {"seeds": 1, "search": {"trials": 0}}
    first = json.loads(json.dumps(compare(read(config), show_progress=False, methods=["finetune", "merlin"]).summary))
    runs = tmp_path / "out" / "runs"
    done = {path.relative_to(runs) for path in runs.glob("*/*.json")}
    assert {path.parent.name for path in done} == {"finetune", "merlin"}
    shutil.rmtree(tmp_path / "out")
    # A new line is added to those that there are, in the order of the configuration.
    assert ablations["run"].restored(config, first, ["joint"]) == ["finetune", "joint", "merlin"]
    assert {path.relative_to(runs) for path in runs.glob("*/*.json")} == done
    assert ablations["run"].restored(config, first, None) is None  # all lines
    written = {path: path.stat().st_mtime_ns for path in runs.glob("*/*.json")}
    again = compare(read(config), show_progress=False, methods=["finetune", "joint", "merlin"]).summary
    assert [method["label"] for method in again["methods"] if method["label"] == "joint"]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    with pytest.raises(SystemExit, match="Not in variants.yaml: jiont"):
        ablations["run"].restored(config, first, ["jiont"])
    with pytest.raises(SystemExit):
        ablations["run"].main(["--restore", "--seeds", "0"])


def test_lines_that_were_not_run_are_not_in_the_table(ablations):
    groups = {"one": {"a": {"rho": 1.0}, "b": {"rho": 2.0}}, "two": {"c": {"rho": 3.0}}}
    scores = {"pair": {"merlin": {0: 0.5}, "b": {0: 0.6}}}
    text = ablations["table"].render(scores, groups)
    assert "*one*" in text and "`rho=2.0`" in text
    assert not any(line in text for line in ("*two*", "`rho=1.0`", "`rho=3.0`"))


def test_what_the_readme_says_of_the_reference_of_balancing_is_in_the_files(ablations):
    scores, readme = ablations["table"].read(BENCHMARK / "results"), (BENCHMARK / "README.md").read_text()
    for label, other in (
        ("centroid_chance", "centroid_class_frequencies"),
        ("centroid_source_first_chance", "centroid_source_first_class_frequencies"),
        ("centroid_rho_1_chance", "centroid_chance"),
    ):
        found = ablations["table"].difference(scores, label, other)
        assert len([pair for pair in scores if scores[pair].get(label)]) == 6
        interval = f"{found.low:.1f} to {found.high:.1f}"
        assert (
            f"{found.mean:+.1f} points ({interval})" in readme
            or f"{found.mean:+.1f} ({interval})" in readme
            or (f"{found.mean:+.1f}, {interval}" in readme)
        )
