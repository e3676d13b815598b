"""The benchmark of pairs: its configurations, and its report on scores whose answer is known."""

import json
import re
from types import SimpleNamespace

import pytest

from tests.benchmarks.modules import benchmark_modules


@pytest.fixture(scope="module")
def modules():
    """The benchmark's modules that run something, by name."""
    with benchmark_modules("transfer", "run", "cost", "report") as found:
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

    def measured(name, rows, turns, methods, max_steps):
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
    cost.main([*both, "--pairs", "qqp-mrpc", "--turns", "2"])
    text = (tmp_path / "cost.md").read_text()
    assert "`cost.py --pairs mnist-usps --rows 50 --turns 2 --methods joint merlin`" in text
    assert "`cost.py --pairs qqp-mrpc --rows 100 --turns 2 --methods joint merlin`" in text
    assert list(json.loads((tmp_path / "cost.json").read_text())) == ["mnist-usps", "qqp-mrpc"]


def test_what_the_costs_cannot_be_measured_with_is_told(modules, capsys):
    for arguments, told in (
        (["--methods", "merlin"], "--methods must have joint"),
        (["--turns", "1"], "at least 2"),
        (["--pairs", "cifar10-hymenoptera", "--rows", "300"], "--rows must be one of 50, 100 for cifar10-hymenoptera"),
    ):
        with pytest.raises(SystemExit):
            modules["cost"].main(arguments)
        assert told in capsys.readouterr().err


def test_a_pair_is_run_with_as_many_rows_as_it_has(modules, monkeypatch):
    run, done = modules["run"], []
    monkeypatch.setattr(run, "run", lambda name, rows, args: done.append((name, rows)))
    run.main(["--pairs", "cifar10-hymenoptera", "mnist-usps", "--rows", "100", "300"])
    assert done == [("cifar10-hymenoptera", 100), ("mnist-usps", 100), ("mnist-usps", 300)]
    assert run.sizes("cifar10-hymenoptera") == (50, 100) and run.sizes("mnist-usps") == run.ROWS
    assert run.sizes("usps-mnist") == (100,)


def test_all_pairs_have_the_sizes_of_the_protocol(modules):
    run = modules["run"]
    texts = [name for name in run.PAIRS if "max_seq_length" in run.load_pair(name, 100)]
    for of_kind, few, many in ((texts, 6, 3), ([name for name in run.PAIRS if name not in texts], 3, 1)):
        sized = {rows: sum(rows in run.sizes(name) for name in of_kind) for rows in run.ROWS}
        assert sized[100] == len(of_kind) and sized[300] == few and sized[50] >= few and sized[1000] == many
    assert sum(run.load_pair(name, 100)["model"].endswith("efficientnet-lite0") for name in run.PAIRS) >= 5


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


# The report


def write(folder, pair, rows, methods, log_loss=1.0):
    """A result file with the accuracy of each draw of each method; MeRLin has half the log loss of the others."""
    content = []
    for label, scores in methods.items():
        loss = log_loss / 2 if label == "merlin" else log_loss
        runs = {
            str(draw): {"metrics": {"accuracy": score, "macro_f1": score / 2, "ece": 0.1, "log_loss": loss}}
            for draw, score in enumerate(scores)
        }
        content.append({"label": label, "status": "ok" if scores else "failed", "runs": runs})
    path = folder / pair / str(rows) / "results.json"
    path.parent.mkdir(parents=True)
    config = {"training": {"bf16": False}, "search": {"trials": 1 if rows == 300 else 3}}
    path.write_text(json.dumps({"methods": content, "config": config}))


def section(text, heading):
    return re.search(rf"^## {heading}[^\n]*\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def cells(text, first):
    (line,) = [line for line in text.splitlines() if re.match(rf"\| +{re.escape(first)} +\|", line)]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_report_of_several_pairs_and_sizes(modules, tmp_path):
    report = modules["report"]
    others = {"sequential": [0.70, 0.72], "joint": [0.70, 0.70], "embeddings": [0.6, 0.6], "l2_sp": [0.7, 0.7]}
    first = {"merlin": [0.80, 0.84], "merlin_paper": [0.9, 0.9], "finetune": [0.70, 0.72], "source_probe": [0.8, 0.8]}
    write(tmp_path, "sst2-vader_nyt", 100, {**first, **others})
    second = {"merlin": [0.60, 0.60], "finetune": [0.60, 0.64], "source_probe": [0.59, 0.59]}
    write(tmp_path, "ag_news-trec", 100, {**second, **others})
    write(tmp_path, "sst2-vader_nyt", 300, {**first, **others, "lp_ft": []})
    setfit = {str(draw): {"metrics": {"accuracy": 0.5, "log_loss": 0.4}} for draw in (0, 1)}
    (tmp_path / "sst2-vader_nyt" / "100" / "setfit.json").write_text(
        json.dumps({"defaults": setfit, "same rows": setfit})
    )
    seconds = {"joint": {"clock": [10.0, 20.0]}, "merlin": {"clock": [10.5, 21.0]}}
    (tmp_path / "cost.json").write_text(json.dumps({"sst2-vader_nyt": {"seconds": seconds}}))
    report.main(["--results_dir", str(tmp_path)])
    text = (tmp_path / "results.md").read_text()
    assert text.index("## 100 labelled rows, 2 pairs") < text.index("## 300 labelled rows, 1 pair\n")
    at_100 = section(text, "100 labelled rows")
    # 10 and 0 points in the first draw, 12 and -4 in the second: 5 and 4 on average over pairs.
    gain = cells(at_100, "`finetune`")
    assert gain[:2] == ["2", "66.5"] and gain[3:5] == ["10.0", "1.00"]
    assert gain[5].startswith("+4.5 [-1.9, +10.9]") and gain[6].startswith("+4.5 [") and gain[7] == "1 of 2"
    assert cells(at_100, "`merlin`") == ["2", "71.0", "35.5", "10.0", "0.50", "", "", ""]
    assert cells(at_100, "`setfit`")[:5] == ["1", "50.0", "", "", "0.40"], "its own metrics, and no others"
    assert "lp_ft" not in section(text, "300 labelled rows"), "it has no scores"
    assert "best single rival is `sequential`. MeRLin is the best of all on 1 of 2 pairs" in at_100
    shown = section(text, "What was to be shown")
    holds = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in shown.splitlines() if "|" in line}
    assert holds["100 rows: at least 2 points ahead, interval above 0"] == "no"
    assert holds["100 rows: log loss at most 0.7 of"] == "not measured", "not all methods were run"
    assert holds["100 rows: log loss no higher than"] == "no"
    assert holds["100 rows: best on half of the pairs"] == "yes"
    assert holds["50 rows: ahead"] == holds["1,000 rows: no loss"] == "not measured"
    assert holds["unrelated source, 100 rows: no loss"] == "no"
    assert holds["at most 1.1 × the time of `joint`"] == "yes" and "sst2-vader_nyt × 1.05" in shown
    left = section(text, "Not run")
    assert "sst2-vader_nyt (50)" in left and "sst2-vader_nyt (100)" not in left and "usps-mnist (100)" in left
    assert "Trained in float32. Nothing was searched on sst2-vader_nyt/300:" in text
    for name in ("gains", "learning_curve"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_the_report_of_one_draw_of_one_pair(modules, tmp_path):
    write(tmp_path, "qqp-mrpc", 50, {"merlin": [0.8], "finetune": [0.7]})
    modules["report"].main(["--results_dir", str(tmp_path)])
    text = (tmp_path / "results.md").read_text()
    assert cells(section(text, "50 labelled rows"), "`finetune`")[5:] == ["+10.0", "+10.0", "1 of 1"]
    assert (tmp_path / "gains.png").is_file() and not (tmp_path / "learning_curve.png").exists()


def test_the_report_without_results_says_so(modules, tmp_path, capsys):
    modules["report"].main(["--results_dir", str(tmp_path)])
    assert "no results yet" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_methods_are_compared_on_pairs_and_draws_that_both_have(modules):
    scores = {
        "a": {"merlin": {0: 0.50, 1: 0.60}, "other": {0: 0.53, 1: 0.60}},
        "b": {"merlin": {0: 0.70, 1: 0.70}, "other": {0: 0.71, 1: 0.74, 2: 0.9}},
        "c": {"merlin": {0: 0.1}},
    }
    found = modules["report"].gain(scores, "other", "merlin")
    assert found.mean == pytest.approx(2) and found.low is None, "two points with either draw"
    scores["b"]["other"][1] = 0.76
    found = modules["report"].gain(scores, "other", "merlin")
    assert (found.low, found.high) == pytest.approx((2.5 - 12.706 * 0.5, 2.5 + 12.706 * 0.5), rel=1e-3)
    assert modules["report"].gain(scores, "other", "missing") is None
