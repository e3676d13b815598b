"""Reading result files, and the report that is written of them."""

import json
import re
import sys

import numpy as np
import pytest
from scipy import stats

from merlin_hf.report import cost_figure, learning_curve_figure, read_comparisons, write_report
from merlin_hf.report.ranks import balanced, compared_with_reference, mean_ranks, win_counts
from merlin_hf.report.write import comparison_summary, ranks_summary
from merlin_hf.utils.validation import ConfigError
from tests.report.support import draw_scores, write_results


LABELS = ["finetune", "joint", "merlin"]


@pytest.fixture
def root(tmp_path):
    """Five pairs with two numbers of rows each."""
    for pair in range(5):
        for rows in (50, 200):
            scores = draw_scores(LABELS, seeds=4, seed=10 * pair + rows)
            target = {"path": "nyu-mll/glue", "name": f"task{pair}"}
            write_results(tmp_path / "runs" / f"{pair}" / f"{rows}", f"owner/source{pair}", target, rows, scores)
    return tmp_path / "runs"


def cells(table):
    """A Markdown table as rows of cells."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def section(text, title):
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_reads_nested_files_in_order(root):
    comparisons, skipped = read_comparisons([root])
    assert [(c.pair, c.rows) for c in comparisons[:3]] == [
        ("source0 → task0", 50),
        ("source0 → task0", 200),
        ("source1 → task1", 50),
    ]
    assert len(comparisons) == 10 and not skipped
    assert comparisons[0].files == ["runs/0/50/results.json"]
    again, _ = read_comparisons([root, root / "0", root / "0" / "50" / "results.json"])
    assert len(again) == 10, "a file counts once, however it is named"


def test_names_of_pairs_stay_different(tmp_path):
    scores = {"merlin": [0.5, 0.6]}
    write_results(tmp_path / "a", "one/mnli", {"path": "rte"}, 10, scores)
    write_results(tmp_path / "b", "two/mnli", {"path": "rte"}, 10, scores)
    write_results(tmp_path / "c", None, {"path": "/home/somebody/data/mine.csv"}, 10, scores)
    pairs = [comparison.pair for comparison in read_comparisons([tmp_path])[0]]
    assert pairs == ["mine.csv", "one/mnli → rte", "two/mnli → rte"]
    other = {"model": "hub/other", "target": {"path": "rte"}, "source": {"path": "one/mnli"}}
    write_results(tmp_path / "d", "one/mnli", {"path": "rte"}, 10, scores, config=other)
    pairs = [comparison.pair for comparison in read_comparisons([tmp_path / "a", tmp_path / "d"])[0]]
    assert pairs == ["mnli → rte (minilm)", "mnli → rte (other)"]


def test_files_about_the_same_data_are_put_together(tmp_path):
    write_results(tmp_path / "a", "s", {"path": "t"}, 10, {"merlin": [0.5, 0.6]})
    write_results(tmp_path / "b", "s", {"path": "t"}, 10, {"joint": [0.4, 0.5]})
    (comparison,), _ = read_comparisons([tmp_path])
    assert set(comparison.methods) == {"merlin", "joint"} and len(comparison.files) == 2
    write_results(tmp_path / "c", "s", {"path": "t"}, 10, {"joint": [0.4, 0.5]})
    with pytest.raises(ConfigError, match="both have 'joint' on s → t with 10 rows: leave one out"):
        read_comparisons([tmp_path])


def test_other_metrics_with_the_best_bold(tmp_path):
    metrics = {"merlin": {"log_loss": 0.4, "macro_f1": 0.5}, "joint": {"log_loss": 0.7, "macro_f1": 0.6}}
    scores = {"merlin": [0.5, 0.6], "joint": [0.4, 0.5]}
    write_results(tmp_path / "a", "s", {"path": "t"}, 10, {"merlin": [0.9], "joint": [0.8]})  # of an earlier version
    write_results(tmp_path / "b", "s", {"path": "t"}, 20, scores, metrics=metrics)
    comparisons, _ = read_comparisons([tmp_path])
    text = write_report(comparisons)
    table = cells(section(text, "Other metrics"))
    assert table[0] == ["20 rows", "macro_f1", "log_loss"]
    assert table[2:] == [["merlin", "0.5000", "**0.4000**"], ["joint", "**0.6000**", "0.7000"]]
    assert comparison_summary(comparisons[1])["methods"]["merlin"]["means"] == metrics["merlin"]
    assert "Other metrics" not in write_report(comparisons[:1]), "nothing is known of them"
    by_loss = {"metric": "log_loss", "lower_is_better": True}
    scores = {"merlin": [0.4, 0.4], "joint": [0.7, 0.7]}
    write_results(tmp_path / "c", "s", {"path": "u"}, 20, scores, metrics=metrics, **by_loss)
    (comparison,), _ = read_comparisons([tmp_path / "c"])
    text = write_report([comparison])
    assert "**0.4000 ± 0.0000**" in text and "(log_loss: the lower the better)" in text
    assert win_counts([comparison], ["merlin", "joint"])[0].tolist() == [[0, 1], [0, 0]]
    assert list(mean_ranks([comparison])) == ["merlin", "joint"]
    metrics["joint"]["ece"] = 1.5
    write_results(tmp_path / "c", "s", {"path": "u"}, 20, scores, metrics=metrics, **by_loss)
    with pytest.raises(ConfigError, match="ece of joint, seed 0, cannot be 1.5"):
        read_comparisons([tmp_path / "c"])


def test_other_files_are_left_out_or_refused(tmp_path, root):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "results.json"
    other.write_text('{"args": {}, "results": []}')
    assert read_comparisons([root, tmp_path / "other"])[1] == ["other/results.json"]
    with pytest.raises(ConfigError, match="No file is of a comparison"):
        read_comparisons([other])
    other.write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_comparisons([other])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no results.json"):
        read_comparisons([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_comparisons([tmp_path / "nowhere"])


def test_the_report_says_what_the_files_say(root, tmp_path):
    comparisons, _ = read_comparisons([root])
    text = write_report(comparisons, tmp_path / "out")
    assert text == (tmp_path / "out" / "results.md").read_text()
    assert "/home/somebody" not in text and str(tmp_path) not in text

    headings, _, *rows = cells(section(text, "source0 → task0"))
    assert headings == ["accuracy", "50 rows", "200 rows"] and {row[0] for row in rows} == set(LABELS)
    for row in rows:
        for column, size in ((1, 50), (2, 200)):
            summary = json.loads((root / "0" / f"{size}" / "results.json").read_text())
            by_label = {method["label"]: list(method["scores"].values()) for method in summary["methods"]}
            scores = by_label[row[0]]
            assert f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}" in row[column]
            best = max(by_label, key=lambda label: np.mean(by_label[label]))
            assert row[column].startswith("**") == (row[0] == best)

    ranks = cells(section(text, "Ranks"))
    assert ranks[0][:3] == ["method", "mean rank", "source0 → task0"]
    sums = [float(row[1]) for row in ranks[2:]]
    assert sum(sums) == pytest.approx(6, abs=0.02) and sums == sorted(sums)
    wins = cells(section(text, "Wins"))
    counts = {
        (row[0], label): int(cell.split()[0])
        for row in wins[2:]
        for label, cell in zip(wins[0][1:], row[1:], strict=True)
        if cell
    }
    assert all(counts[one, other] + counts[other, one] == 10 for one, other in counts)
    assert "Over 5 pairs, by Wilcoxon" in text and "`runs/4/200/results.json`" in text
    for link in re.findall(r"\]\((\w+\.\w+)\)", text):
        assert (tmp_path / "out" / link).stat().st_size > 0
    assert len(list((tmp_path / "out").iterdir())) == 1 + 2 * 2


def test_the_report_is_the_same_each_time(root, tmp_path):
    comparisons, _ = read_comparisons([root / "0", root / "1"])
    for folder in ("one", "other"):
        write_report(comparisons, tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def test_one_comparison_alone(tmp_path):
    write_results(tmp_path / "in", "s", {"path": "t"}, 10, {"merlin": [0.5], "joint": [0.4], "l2_sp": "no | source"})
    comparisons, _ = read_comparisons([tmp_path / "in"])
    text = write_report(comparisons)
    assert "## Ranks" not in text and "![" not in text
    assert "- s → t, 10 rows: l2_sp is not applicable: no | source" in text
    assert ["l2_sp", "not applicable"] in cells(text)
    assert learning_curve_figure(comparisons) is None


def test_a_pair_alone_has_advice(tmp_path):
    scores = {"merlin": [0.9, 0.91, 0.93, 0.9, 0.92], "joint": [0.5, 0.52, 0.5, 0.5, 0.51]}
    path = write_results(tmp_path / "a", "s", {"path": "t"}, 10, scores)
    found = json.loads(path.read_text())
    assert "With 10 labelled rows: merlin has the best accuracy, 0.9120 (mean of 5 seeds)." in write_report(
        read_comparisons([tmp_path])[0]
    )
    found["methods"][1]["use_source"] = False
    found["methods"][0]["use_source"] = True
    path.write_text(json.dumps(found))
    assert "The source helps: joint, the best without it" in write_report(read_comparisons([tmp_path])[0])
    found["methods"][1]["scores"].pop("4")
    found["methods"][1]["runs"].pop("4")
    path.write_text(json.dumps(found))
    assert "labelled rows:" not in write_report(read_comparisons([tmp_path])[0]), "other seeds"


def test_figures_show_the_scores(root):
    comparisons, _ = read_comparisons([root / "2"])
    (axes,) = learning_curve_figure(comparisons).axes
    lines = {container.get_label(): container.lines for container in axes.containers}
    assert axes.get_xscale() == "log" and set(lines) == set(LABELS)
    line, _, (bars,) = lines["joint"]
    assert line.get_xdata() == pytest.approx([50, 200], rel=0.05)
    of_joint = [comparison.methods["joint"] for comparison in comparisons]
    assert line.get_ydata() == pytest.approx([method.mean for method in of_joint])
    for method, segment in zip(of_joint, bars.get_segments(), strict=True):
        values = list(method.scores.values())
        wanted = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert segment[:, 1] == pytest.approx(list(wanted))

    (axes,) = cost_figure(comparisons).axes
    assert {text.get_text() for text in axes.texts} == set(LABELS) and "200 rows" in axes.get_title()
    assert {text.xy[0] for text in axes.texts} == {1.0, 2.0, 3.0}


def test_pyplot_is_left_alone(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is an error now
    comparisons, _ = read_comparisons([root])
    for draw in (learning_curve_figure, cost_figure):
        assert draw(comparisons) is not None


def test_comparisons_with_other_training_or_search_are_not_put_together(tmp_path):
    def write_one(folder, method, **changes):
        config = {
            "model": "tiny",
            "target": {"path": "t"},
            "source": {"path": "s"},
            "training": {"max_steps": 10},
            **changes,
        }
        write_results(tmp_path / folder, "s", {"path": "t"}, 10, {method: [0.5, 0.6]}, config=config)

    write_one("a", "merlin", seeds=[0, 1])
    write_one("b", "joint", seeds=[0, 1, 2], output_dir="elsewhere", workers=2)
    write_one("c", "finetune", training={"max_steps": 3000})
    found, _ = read_comparisons([tmp_path])
    root = tmp_path.name
    assert [(c.pair, set(c.methods)) for c in found] == [
        (f"s → t ({root}/a)", {"merlin", "joint"}),
        (f"s → t ({root}/c)", {"finetune"}),
    ]
    write_one("d", "l2_sp", search={"trials": 3})
    with pytest.raises(ConfigError, match="chose settings by other searches.*leave one out"):
        read_comparisons([tmp_path])


def test_sizes_of_a_pair_are_one_pair_though_they_were_searched_in_other_ways(tmp_path):
    for rows, draws in ((50, 4), (300, 1)):
        config = {"model": "tiny", "target": {"path": "t", "rows": rows}, "search": {"seeds": list(range(draws))}}
        write_results(tmp_path / str(rows), None, {"path": "t"}, rows, {"merlin": [0.5, 0.6]}, config=config)
    assert [(c.pair, c.rows) for c in read_comparisons([tmp_path])[0]] == [("t", 50), ("t", 300)]


def test_sizes_of_a_pair_are_one_pair_though_they_were_trained_in_other_ways(tmp_path):
    def write_one(folder, rows, steps):
        config = {"model": "tiny", "target": {"path": "t"}, "training": {"max_steps": steps}}
        write_results(tmp_path / folder / "out", None, {"path": "t"}, rows, {"merlin": [0.5, 0.6]}, config=config)

    write_one("a", 50, 100)
    write_one("b", 100, 200)
    assert [(c.pair, c.rows) for c in read_comparisons([tmp_path])[0]] == [("t", 50), ("t", 100)]
    write_one("c", 100, 100)  # the same rows again, by another training
    folders = [tmp_path / name / "out" for name in "abc"]
    assert [(c.pair, c.rows) for c in read_comparisons(folders)[0]] == [
        ("t (out)", 50),
        ("t (out)", 100),
        ("t (out), 2", 100),
    ]
    (one, other) = read_comparisons([folder / "results.json" for folder in folders[1:]])[0]
    assert one.pair != other.pair


def test_a_difference_is_over_the_seeds_that_both_have(tmp_path):
    write_results(tmp_path / "a", "s", {"path": "t"}, 10, {"merlin": [0.5, 0.6]})
    write_results(tmp_path / "b", "s", {"path": "t"}, 10, {"joint": [0.4, 0.5, 0.9]})
    (comparison,), _ = read_comparisons([tmp_path])
    assert compared_with_reference(comparison)["joint"]["difference"] == pytest.approx(-0.1)


def test_ranks_are_of_the_numbers_of_rows_that_every_pair_has(tmp_path):
    for pair, rows, scores in (("a", 50, (0.9, 0.1)), ("a", 100, (0.2, 0.8)), ("b", 100, (0.2, 0.8))):
        methods = {label: [score, score] for label, score in zip(("merlin", "joint"), scores, strict=True)}
        write_results(tmp_path / pair / str(rows), "s", {"path": pair}, rows, methods)
    comparisons = read_comparisons([tmp_path])[0]
    text = section(write_report(comparisons), "Ranks")
    assert cells(text)[2][:2] == ["joint", "1.00"] and cells(text)[3][:2] == ["merlin", "2.00"]
    assert "of 100 rows alone" in write_report(comparisons) and len(balanced(comparisons)) == 2
    assert balanced(comparisons[:1] + comparisons[2:]) == comparisons[:1] + comparisons[2:], "none in common"


@pytest.mark.parametrize(
    ("complete", "incomplete", "left_out"),
    [
        (5, 1, True),
        (9, 2, True),
        (4, 1, False),
        (9, 4, False),  # a quarter may go
        (5, 5, False),
    ],
)
def test_few_pairs_with_few_rows_are_left_out_of_the_ranks_of_many(tmp_path, complete, incomplete, left_out):
    for number in range(complete + incomplete):
        for rows in (100,) if number < incomplete else (50, 100):
            methods = {"merlin": [0.5, 0.5], "joint": [0.4, 0.4]}
            write_results(tmp_path / f"p{number}" / str(rows), "s", {"path": f"p{number}"}, rows, methods)
    comparisons = read_comparisons([tmp_path])[0]
    found, text = balanced(comparisons), write_report(comparisons)
    if left_out:
        assert len(found) == 2 * complete and {comparison.rows for comparison in found} == {50, 100}
        assert "Ranks and tests are of 50, 100 rows alone, and without what has not been run with them: s → p0" in text
        assert f"then over {complete} pairs" in text
    else:
        assert len(found) == complete + incomplete and {comparison.rows for comparison in found} == {100}
        assert "Ranks and tests are of 100 rows alone, which every pair has been run with." in text


def test_numbers_of_rows_that_no_pair_has_alone_may_be_common_to_many(tmp_path):
    sizes = [(50, 100, 300)] * 3 + [(100, 300, 1000)] * 3 + [(20,)]
    for number, rows in enumerate(sizes):
        for of_pair in rows:
            methods = {"merlin": [0.5, 0.5]}
            write_results(tmp_path / f"p{number}" / str(of_pair), "s", {"path": f"p{number}"}, of_pair, methods)
    comparisons = read_comparisons([tmp_path])[0]
    assert ranks_summary(comparisons)["ranked"] == {
        "pairs": [f"s → p{number}" for number in range(6)],
        "rows": [100, 300],
    }
    assert ranks_summary(comparisons[:1]) == {"ranks": None, "ranked": None}
