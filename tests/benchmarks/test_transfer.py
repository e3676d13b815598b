"""What the summary of the pairs says, on scores whose answer is known."""

import importlib.util
import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmarks.modules import benchmark_modules


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "transfer"


@pytest.fixture(scope="module")
def summary():
    """The benchmark's module `summary.py`."""
    spec = importlib.util.spec_from_file_location("transfer_summary", BENCHMARK / "summary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder, pair, methods, seeds=("0",), learning_rates=(1e-3,)):
    """A result file with `(validation score, test scores)` of each method, and what it was searched with."""
    path = folder / pair / "100" / "results.json"
    path.parent.mkdir(parents=True)
    content = [
        {
            "label": label,
            "status": "ok" if scores else "failed",
            "trials": [
                {"score": score, "setting": {"learning_rate": rate}, "scores": dict.fromkeys(seeds, score)}
                for rate in learning_rates
                for score in (validation, validation - 0.1)
            ],
            "scores": {str(seed): score for seed, score in enumerate(scores)},
        }
        for label, (validation, scores) in methods.items()
    ]
    data = {"target": {"train_rows": 100}}
    config = {
        "model": "tiny",
        "source": {"path": "source"},
        "target": {"path": pair},
        "search": {"learning_rates": learning_rates},
    }
    head = {"metric": "accuracy", "lower_is_better": False, "reference": "merlin", "data": data, "config": config}
    path.write_text(json.dumps({**head, "methods": content}))
    return path


def test_the_variant_is_chosen_on_validation_rows_though_the_other_does_better_on_test_rows(summary, tmp_path):
    others = {"finetune": (0.9, [0.5, 0.6]), "joint": (0.9, [0.6, 0.7]), "sequential": (0.9, [0.5, 0.5])}
    others |= {"merlin": (0.95, [0.95, 0.95]), "merlin_ft": (0.1, [0.3, 0.3])}
    variants = {"merlin_source_first": (0.7, [0.9, 0.9]), "merlin_target_last": (0.8, [0.8, 0.6])}
    comparison, chosen = summary.read(write(tmp_path, "a", {**variants, **others}))
    assert chosen == "merlin_target_last"
    found = summary.standing_for_merlin(comparison, chosen)
    assert found.methods[summary.CHOSEN].label == chosen and found.gain(summary.CHOSEN) == pytest.approx(0.7)
    assert set(found.methods) == {summary.CHOSEN, "finetune", "joint", "sequential"}
    assert (found.pair, found.rows) == ("a", 100)


def test_of_equal_validation_scores_the_first_is_chosen_whatever_the_last_digit(summary):
    equal, larger = sum(right / 15 for right in (9, 13, 12, 12)) / 4, sum(right / 15 for right in (10, 11, 12, 13)) / 4
    assert equal < larger
    assert summary.choose(("a", "b"), {"a": equal, "b": larger}) == "a"
    assert summary.choose(("a", "b"), {"a": equal, "b": larger + 1 / 60}) == "b"


def test_ranks_wins_and_differences(summary, tmp_path):
    def methods(merlin, **others):
        variants = {"merlin_target_last": 0.0, "merlin": merlin - 0.2, "merlin_ft": 0.0}
        scores = {"merlin_source_first": merlin, "sequential": 0.1, **variants, **others}
        return {label: (score, [score, score]) for label, score in scores.items()}

    first = write(tmp_path, "a", methods(0.80, finetune=0.70, joint=0.75, stochnorm=0.9))
    second = write(tmp_path, "b", methods(0.60, finetune=0.50, joint=0.63))
    comparisons = [summary.standing_for_merlin(*summary.read(path)) for path in (first, second)]
    assert summary.mean_ranks(comparisons) == {
        summary.CHOSEN: 1.5,
        "joint": 1.5,
        "finetune": 3.0,
        "sequential": 4.0,
    }, "stochnorm is not in all"
    assert (
        summary.difference(comparisons, "finetune").startswith("+10.0")
        and summary.difference(comparisons[:1], "stochnorm") == "-10.0"
    )
    verdict = summary.verdict(comparisons)
    assert "at least 3 points over fine-tuning on average: **yes**" in verdict
    assert "on most pairs: **no** (0 of 2)" in verdict
    summary.main(tmp_path)
    text = (tmp_path / "summary.md").read_text()
    rows = {
        cells[0]: cells[1:]
        for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
        if cells
    }
    assert rows["`stochnorm`"] == ["", "1", "-10.0", "0 of 1"] and rows["`joint`"][:2] == ["1.5", "2"]
    assert rows["`merlin_source_first`"][-1] == "2, 0" and rows["`merlin_ft`"][-1] == "0, 2"
    assert rows["`merlin`"][-1] == "", "it is compared with itself"
    alone = [cell.split()[0] for cell in rows["`merlin`"][:-1]]
    assert alone == ["3.0", "1.0", "-10.0", "-19.0", "+40.0"], "it is compared as if there were no other variant"
    headline = (tmp_path / "headline.md").read_text().splitlines()
    cells = [cell.strip().split(" [")[0] for cell in headline[-1].split("|")[1:-1]]
    assert len(headline) == 3 and cells[:4] == ["100", "2", "1.5", "1.5 (`joint`)"]
    assert cells[4:] == ["+1.0", "+10.0", "+1.0", "0 of 2"], "a method without a rank is the best of one pair"
    variants = [cell.strip() for cell in (tmp_path / "variants.md").read_text().splitlines()[-1].split("|")[1:-1]]
    assert variants[1] == "1.5; 1.5 (`joint`)"
    assert variants[3].startswith("3.0; 1.0")
    assert variants[5:] == ["2, 0", "0, 2"]
    assert rows["a"] == ["`merlin_source_first`", "80.0 ± 0.0", "70.0 ± 0.0", "75.0 ± 0.0", "90.0 ± 0.0 (`stochnorm`)"]


def test_results_without_all_that_is_compared_are_refused(summary, tmp_path):
    methods = {
        "merlin": (0.7, [0.9]),
        "merlin_source_first": (0.8, []),
        "sequential": (0.9, [0.5]),
        "finetune": (0.9, [0.5]),
    }
    path = write(tmp_path, "a", methods)
    with pytest.raises(SystemExit, match="no scores of merlin_source_first, merlin_target_last, merlin_ft, joint"):
        summary.read(path)


def test_pairs_that_were_searched_otherwise_do_not_stand_in_one_summary(summary, tmp_path):
    labels = [*summary.VARIANTS, *summary.WITHOUT_SOURCE_PHASE, "finetune", "joint", "sequential"]
    methods = dict.fromkeys(labels, (0.5, [0.5]))
    write(tmp_path, "a", methods, seeds=["0", "1"])
    write(tmp_path, "b", methods, seeds=["0", "1"], learning_rates=[1e-4, 1e-3])
    summary.main(tmp_path)  # another kind of model has other rates
    write(tmp_path, "c", methods)
    with pytest.raises(SystemExit, match="With 100 rows `.*` did not try the same settings.* on a; .* on c. Run"):
        summary.main(tmp_path)


def test_summary_and_tables_are_those_of_the_result_files(summary, tmp_path):
    summary.main(BENCHMARK / "results", tmp_path)
    written = {name: (tmp_path / f"{name}.md").read_text() for name in ("summary", "headline", "variants", "choices")}
    for name, text in written.items():
        assert text == (BENCHMARK / "results" / f"{name}.md").read_text()
    beside = (BENCHMARK / "README.md").read_text()
    assert written["headline"] in beside
    assert written["variants"] in beside and written["choices"] in beside


def test_joint_training_with_six_trials_is_that_of_the_result_files(summary):
    import stored  # which the summary has put on the path

    readme, leads = (BENCHMARK / "README.md").read_text(), []
    six_trials = stored.files(BENCHMARK / "six_trials")
    with stored.unpacked(BENCHMARK / "results") as results:
        for name, content in six_trials.items():
            (method,) = content["methods"]
            six = 100 * statistics.fmean(method["scores"].values())
            comparison = summary.standing_for_merlin(*summary.read(results / name))
            assert len(method["trials"]) == 6 and len(method["scores"]) == 5 and f"{six:.1f} from" in readme
            leads.append(
                [100 * comparison.gain(summary.CHOSEN) - other for other in (six, 100 * comparison.gain("joint"))]
            )
    now, before = (statistics.fmean(of_pairs) for of_pairs in zip(*leads, strict=True))
    assert len(six_trials) == 4 and f"{now:.1f} points ahead there in place of {before:.1f}" in readme
    assert f"{before - now:.1f} points more on average" in readme


@pytest.fixture(scope="module")
def modules():
    """The benchmark's modules that run something, by name."""
    with benchmark_modules("transfer", "run", "cost") as found:
        yield found


@pytest.mark.parametrize(("rows", "draws"), [(50, 4), (100, 2), (300, 2), (1000, 1)])
def test_settings_are_judged_on_sixty_rows_and_two_draws_at_least(modules, rows, draws):
    for pair in ("mnist-usps", "qqp-mrpc"):
        search = modules["run"].load_pair(pair, rows)["search"]
        assert search["seeds"] == draws and draws * rows * search["validation_fraction"] >= 60


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_for_machines_that_are_fast_at_it(modules, monkeypatch, fast):
    monkeypatch.setattr(modules["run"], "bfloat16_is_fast", lambda: fast)
    assert modules["run"].load_pair("qqp-mrpc", 100)["training"]["bf16"] is fast
    assert "bf16" not in modules["run"].load_pair("mnist-usps", 100)["training"]


def test_costs_are_ratios_within_a_turn(modules):
    joint, other = [10.0, 20.0, 40.0], [5.0, 20.0, 60.0]  # half, the same, one and a half
    measured = {
        "rows": 100,
        "steps": {"joint": 3, "merlin": 4},
        "seconds": {
            "joint": {"clock": joint, "processor": joint},
            "merlin": {"clock": other, "processor": [2 * taken for taken in joint]},
        },
        "environment": {"device": "cpu", "threads": 1, "torch": "0", "transformers": "0"},
        "load": 1.0,
    }
    (line,) = [line for line in modules["cost"].table("a-b", measured).splitlines() if "`merlin`" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["`merlin`", "4", "20.0", "1.00 (0.75 to 1.25)", "2.00 (2.00 to 2.00)"]


def test_costs_are_measured_of_one_layer_and_of_the_whole_model(modules):
    cost = modules["cost"]
    pairs, again = ["qqp-mrpc", "mnist-usps"], f"qqp-mrpc{cost.WHOLE_MODEL}"
    assert cost.sections(pairs, ["as_in_pair", "all"]) == [*pairs, again]
    assert cost.sections(pairs, ["as_in_pair"]) == pairs and cost.sections(pairs, ["all"]) == [again]
    whole, part = cost.load(f"qqp-mrpc{cost.WHOLE_MODEL}", 100), cost.load("qqp-mrpc", 100)
    assert (part["freeze_layers"], whole["freeze_layers"]) == (5, 0)
    assert whole["training"]["max_steps"] == cost.WHOLE_MODEL_STEPS < part["training"]["max_steps"]
    same = set(part) - {"freeze_layers", "training"}
    assert {name: whole[name] for name in same} == {name: part[name] for name in same}


def test_all_rows_of_source_and_target_are_read_once(modules):
    read = {"source": [], "pool": []}

    class Encoded:
        def __init__(self, name):
            self.name = name

        def __len__(self):
            return 600

        def __getitem__(self, places):
            read[self.name].extend(range(600)[places])

    pair = SimpleNamespace(sources={None: "source"}, pool="pool")
    modules["cost"].read_once(SimpleNamespace(pair=pair, encode=Encoded))
    assert read == {"source": list(range(600)), "pool": list(range(600))}


def test_costs_that_are_not_measured_anew_stay(modules, tmp_path, monkeypatch):
    cost, seconds = modules["cost"], {"clock": [1.0, 2.0], "processor": [1.0, 2.0]}

    def measured(name, rows, turns, methods):
        environment = {"device": "cpu", "threads": 1, "torch": "0", "transformers": "0"}
        of_methods = dict.fromkeys(methods, seconds)
        return {
            "rows": rows,
            "steps": dict.fromkeys(methods, 1),
            "seconds": of_methods,
            "environment": environment,
            "load": 1.0,
        }

    monkeypatch.setattr(cost, "measure", measured)
    both = ["--results_dir", str(tmp_path), "--methods", "joint", "merlin"]
    cost.main([*both, "--pairs", "mnist-usps", "--rows", "50"])
    cost.main([*both, "--pairs", "qqp-mrpc", "--layers", "all", "--turns", "2"])
    text = (tmp_path / "cost.md").read_text()
    assert "`cost.py --pairs mnist-usps --layers as_in_pair --rows 50 --turns 2 --methods joint merlin`" in text
    assert "`cost.py --pairs qqp-mrpc --layers all --rows 100 --turns 2 --methods joint merlin`" in text
    assert list(json.loads((tmp_path / "cost.json").read_text())) == ["mnist-usps", f"qqp-mrpc{cost.WHOLE_MODEL}"]


def test_what_the_costs_cannot_be_measured_with_is_told(modules, capsys):
    for arguments, told in (
        (["--methods", "merlin"], "--methods must have joint"),
        (["--turns", "1"], "at least 2"),
        (["--pairs", "cifar10-hymenoptera", "--rows", "300"], "--rows must be one of 50, 100 for cifar10-hymenoptera"),
    ):
        with pytest.raises(SystemExit):
            modules["cost"].main(arguments)
        assert told in capsys.readouterr().err


def test_others_have_the_same_choice_by_validation_rows(summary, tmp_path):
    """`l2_sp` and `bss` are each better where validation rows say so, and each other's equal elsewhere."""
    fixed = {"merlin": (0.1, [0.1, 0.1]), "merlin_ft": (0.1, [0.1, 0.1]), "merlin_target_last": (0.2, [0.0, 0.0])}
    fixed |= {label: (0.1, [0.3, 0.3]) for label in ("finetune", "joint", "sequential")}
    of = {
        "a": {"merlin_source_first": (0.9, [0.8, 0.8]), "l2_sp": (0.9, [0.7, 0.7]), "bss": (0.5, [0.6, 0.6])},
        "b": {"merlin_source_first": (0.9, [0.8, 0.8]), "l2_sp": (0.5, [0.6, 0.6]), "bss": (0.9, [0.9, 0.9])},
    }
    paths = [write(tmp_path, pair, {**fixed, **methods}) for pair, methods in of.items()]
    comparisons = [summary.standing_for_merlin(*summary.read(path)) for path in paths]
    rows = summary.given_the_choice(comparisons, [summary.validation_scores(path) for path in paths])
    assert [row[0] for row in rows] == ["`bss` or `l2_sp`", "all"]
    assert all(row[1].startswith("-0.0") or row[1].startswith("+0.0") for row in rows), "10 points ahead, 10 behind"
    assert all(row[2] == "1 of 2" for row in rows)


def test_a_pair_is_run_with_as_many_rows_as_it_has(modules, monkeypatch):
    run, done = modules["run"], []
    monkeypatch.setattr(run, "run", lambda name, rows, args: done.append((name, rows)))
    run.main(["--pairs", "cifar10-hymenoptera", "mnist-usps", "--rows", "100", "300"])
    assert done == [("cifar10-hymenoptera", 100), ("mnist-usps", 100), ("mnist-usps", 300)]
    assert run.sizes("cifar10-hymenoptera") == (50, 100) and run.sizes("mnist-usps") == run.ROWS


def test_a_model_that_is_made_is_made_where_it_is_not_there(modules, monkeypatch, tmp_path):
    run, folder, made = modules["run"], tmp_path / "efficientnet-lite0", []
    monkeypatch.setattr(run, "efficientnet", SimpleNamespace(NAME=folder.name, PACKAGE="json", write=made.append))
    run.make_model(run.load_pair("mnist-usps", 100))
    assert made == []
    run.make_model({"model": str(folder)})
    assert made == [folder]
    run.efficientnet.PACKAGE = "not_installed_anywhere"
    with pytest.raises(SystemExit, match="pip install -r benchmarks/transfer/requirements.txt"):
        run.make_model({"model": str(folder)})
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    run.make_model({"model": str(folder)})
    assert made == [folder]
