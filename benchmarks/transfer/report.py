"""
Write tables and figures of the pairs that have been run: `python benchmarks/transfer/report.py`.

It reads `results/<pair>/<rows>/results.json` of `run.py`, `setfit.json` of `setfit_peer.py` and `results/cost.json` of
`cost.py`, as many as there are, and writes `results/results.md`, `results/gains.png` and `results/learning_curve.png`.
"""

import argparse
import statistics
import sys
from pathlib import Path

import yaml

from merlin_hf.comparison.learning_curve import draw_curves
from merlin_hf.comparison.statistics import PairedDifference, paired_difference
from merlin_hf.utils.figures import new_figure, write_figure
from merlin_hf.utils.files import write_text


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from stored import difference_by_draw, files, markdown  # noqa: E402


MERLIN = "merlin"
PERCENT = {"accuracy": "accuracy (%)", "macro_f1": "macro-F1 (%)", "ece": "calibration error (%)"}
METRICS = {**PERCENT, "log_loss": "log loss"}
# Okabe and Ito's colours, which people who are blind to some can tell apart; markers differ too.
SERIES = {
    MERLIN: ("MeRLin", "#d55e00", "o"),
    "sequential": ("sequential", "#0072b2", "s"),
    "source_probe": ("source, then a probe", "#009e73", "^"),
    "joint": ("joint training", "#cc79a7", "D"),
    "setfit": ("SetFit", "#555555", "v"),
}
CURVES = {**{label: SERIES[label][0] for label in list(SERIES)[:4]}, "finetune": "fine-tuning"}
OURS = (MERLIN, "merlin_paper")
CROSS_ENTROPY = ("finetune", "lp_ft", "sequential", "joint", "l2_sp", "bi_tuning", "co_tuning", "wise_ft")
TWO_POINTS = ("finetune", "sequential", "joint", "setfit", "embeddings")
AHEAD = ("source_probe", "l2_sp", "pooled")
UNRELATED = ("ag_news-trec", "fashion_mnist-mnist", "fashion_mnist-usps")  # also with a pretrained model
NOT_MEASURED = "not measured"

Scores = dict[str, dict[str, dict[int, float]]]  # by pair, method and draw


def read(folder: Path) -> dict[int, dict[str, Scores]]:
    """Return the scores by labelled rows, metric, pair, method and draw; diverged runs are left out."""
    found: dict[int, dict[str, Scores]] = {}
    for name, content in files(folder).items():
        pair, _, rest = name.partition("/")
        rows, _, kind = rest.partition("/")
        if kind == "results.json":
            runs = {one["label"]: one["runs"] for one in content["methods"] if one["status"] == "ok"}
        elif kind == "setfit.json":
            labels = {"defaults": "setfit", "same rows": "setfit_same_rows"}
            runs = {labels[setting]: of_setting for setting, of_setting in content.items()}
        else:
            continue
        for metric in METRICS:
            of_pair = found.setdefault(int(rows), {}).setdefault(metric, {}).setdefault(pair, {})
            for label, of_method in runs.items():
                scores = {int(draw): run["metrics"].get(metric) for draw, run in of_method.items()}
                scores = {draw: score for draw, score in scores.items() if score is not None}
                if scores:
                    of_pair[label] = scores
    return dict(sorted(found.items()))


def both(scores: Scores, *labels: str) -> Scores:
    """Return the pairs that have scores of all these methods."""
    return {pair: of_pair for pair, of_pair in scores.items() if all(label in of_pair for label in labels)}


def mean(scores: Scores, label: str) -> float:
    """Return the mean over pairs of the means over draws."""
    return statistics.fmean(statistics.fmean(of_pair[label].values()) for of_pair in both(scores, label).values())


def gain(scores: Scores, label: str, other: str) -> PairedDifference | None:
    """Return the points of a method over another, averaged over pairs, with the interval over draws."""
    found = difference_by_draw(scores, label, other)
    if found is None:
        return None
    return PairedDifference(*(None if one is None else 100 * one for one in (found.mean, found.low, found.high)))


def gain_over_pairs(scores: Scores, label: str, other: str) -> PairedDifference:
    """Return the same with the interval over pairs."""
    means = [
        [100 * statistics.fmean(of_pair[name].values()) for of_pair in both(scores, label, other).values()]
        for name in (label, other)
    ]
    return paired_difference(*means)


def shown(difference: PairedDifference | None, decimals: int = 1) -> str:
    """Return a difference with its interval."""
    if difference is None:
        return NOT_MEASURED
    interval = "" if difference.low is None else f" [{difference.low:+.{decimals}f}, {difference.high:+.{decimals}f}]"
    return f"{difference.mean:+.{decimals}f}{interval}"


def methods_of(scores: Scores) -> list[str]:
    """Return the methods that have scores, MeRLin's lines first, then by the mean over pairs of accuracy."""
    labels = {label for of_pair in scores.values() for label in of_pair}
    return sorted(labels, key=lambda label: (label != MERLIN, label not in OURS, -mean(scores, label)))


def wins(scores: Scores, label: str, other: str) -> tuple[int, int]:
    """Return on how many pairs a method has more right rows than another, and of how many."""
    pairs = both(scores, label, other).values()
    won = [statistics.fmean(one[label].values()) > statistics.fmean(one[other].values()) + 1e-9 for one in pairs]
    return sum(won), len(won)


def best_on(scores: Scores) -> tuple[int, int]:
    """Return on how many pairs MeRLin has more right rows than every other method, and of how many."""
    pairs = both(scores, MERLIN).values()
    means = [
        {label: statistics.fmean(of_draws.values()) for label, of_draws in one.items() if label not in OURS[1:]}
        for one in pairs
    ]
    return sum(max(one, key=lambda label: (one[label], label != MERLIN)) == MERLIN for one in means), len(means)


def best_rival(scores: Scores) -> str | None:
    """Return the method with the best mean accuracy of those that have all pairs of MeRLin, which is left out."""
    pairs = both(scores, MERLIN)
    rivals = [name for name in methods_of(pairs) if name not in OURS and len(both(pairs, name)) == len(pairs)]
    return max(rivals, key=lambda label: mean(pairs, label), default=None)


def method_table(of_rows: dict[str, Scores]) -> str:
    """Return a line for each method: four measures, MeRLin's gain, and the pairs it wins."""
    accuracy, lines = of_rows["accuracy"], []
    for label in methods_of(accuracy):
        measures = []
        for metric in METRICS:
            there = bool(both(of_rows[metric], label))
            value = mean(of_rows[metric], label) if there else 0.0
            shown_value = f"{100 * value:.1f}" if metric in PERCENT else f"{value:.2f}"
            measures.append(shown_value if there else "")
        if label == MERLIN or not both(accuracy, MERLIN, label):
            compared = ("", "", "")
        else:
            won, of = wins(accuracy, MERLIN, label)
            compared = (
                shown(gain(accuracy, MERLIN, label)),
                shown(gain_over_pairs(accuracy, MERLIN, label)),
                f"{won} of {of}",
            )
        lines.append((f"`{label}`", f"{len(both(accuracy, label))}", *measures, *compared))
    head = ("method", "pairs", *METRICS.values(), "MeRLin's gain, over draws", "over pairs", "MeRLin wins")
    return markdown(head, lines)


def pair_table(scores: Scores) -> str:
    """Return a line for each pair: accuracy of MeRLin, fine-tuning and the best of all others."""
    lines = []
    for pair, of_pair in scores.items():
        means = {label: 100 * statistics.fmean(of_draws.values()) for label, of_draws in of_pair.items()}
        others = [label for label in means if label not in OURS]
        best = max(others, key=lambda label: means[label], default=None)
        cells = [f"{means[label]:.1f}" if label in means else "" for label in (MERLIN, "finetune")]
        lines.append((pair, *cells, f"{means[best]:.1f} (`{best}`)" if best else ""))
    return markdown(("pair", "MeRLin", "fine-tuning", "best other method"), lines)


# What was to be shown


def answer(holds: list[bool | None]) -> str:
    """Return yes, no, or that a part was not measured; one no is enough."""
    if False in holds:
        return "no"
    return NOT_MEASURED if not holds or None in holds else "yes"


def of_gains(scores: Scores, labels: tuple[str | None, ...], least: float, above_0: bool = False) -> tuple[str, str]:
    """Return whether MeRLin gains at least so many points over each of some methods, and the gains."""
    holds: list[bool | None] = []
    parts = []
    for label in labels:
        found = gain(scores, MERLIN, label) if label else None
        holds.append(None if found is None else found.mean >= least)
        if found is not None and above_0:
            holds.append(None if found.low is None else found.low > 0)
        parts.append(f"`{label or 'best rival'}` {shown(found)}")
    return answer(holds), "; ".join(parts)


def of_log_losses(scores: Scores, labels: tuple[str, ...], most: float) -> tuple[str, str]:
    """Return whether MeRLin's mean log loss is at most a share of that of each method, and the shares."""
    holds: list[bool | None] = []
    parts = []
    for label in labels:
        pairs = both(scores, MERLIN, label)
        ratio = mean(pairs, MERLIN) / mean(pairs, label) if pairs else None
        holds.append(None if ratio is None else ratio <= most)
        parts.append(f"`{label}` {NOT_MEASURED if ratio is None else f'× {ratio:.2f}'}")
    return answer(holds), "; ".join(parts)


def verdicts(found: dict[int, dict[str, Scores]], costs: dict) -> str:
    """Return a line for each thing that was to be shown, with the numbers that answer it."""
    nothing: dict[str, Scores] = {metric: {} for metric in METRICS}
    at_100 = found.get(100, nothing)
    accuracy, losses = at_100["accuracy"], at_100["log_loss"]
    rivals = (*TWO_POINTS, *AHEAD, "best rival")
    best, of = best_on(accuracy)
    unrelated = {pair: one for pair, one in accuracy.items() if pair.removeprefix("pretrained-") in UNRELATED}
    lines = [
        ("100 rows: at least 2 points ahead, interval above 0", *of_gains(accuracy, TWO_POINTS, 2.0, True)),
        ("100 rows: ahead", *of_gains(accuracy, (*AHEAD, best_rival(accuracy)), 1e-9)),
        ("100 rows: log loss at most 0.7 of", *of_log_losses(losses, CROSS_ENTROPY, 0.7)),
        ("100 rows: log loss no higher than", *of_log_losses(losses, ("setfit", "source_probe"), 1.0)),
        ("100 rows: best on half of the pairs", answer([2 * best >= of] if of else []), f"{best} of {of}"),
    ]
    for rows in (50, 300):
        scores = found.get(rows, nothing)["accuracy"]
        labels = (*rivals[:-1], best_rival(scores))
        lines.append((f"{rows} rows: ahead", *of_gains(scores, labels, 1e-9)))
    at_1000 = found.get(1000, nothing)["accuracy"]
    lines.append(("1,000 rows: no loss", *of_gains(at_1000, ("finetune", "sequential"), 0.0)))
    lines.append(("unrelated source, 100 rows: no loss", *of_gains(unrelated, ("finetune",), 0.0)))
    ratios = clock_ratios(costs)
    told = "; ".join(f"{name} × {ratio:.2f}" for name, ratio in ratios.items())
    lines.append(("at most 1.1 × the time of `joint`", answer([one <= 1.1 for one in ratios.values()]), told))
    return markdown(("to be shown", "holds", "numbers"), lines)


def clock_ratios(costs: dict) -> dict[str, float]:
    """Return the median ratio of MeRLin's time to that of joint training in the same turn, by what was measured."""
    return {
        name: statistics.median(
            own / joint
            for own, joint in zip(of["seconds"][MERLIN]["clock"], of["seconds"]["joint"]["clock"], strict=True)
        )
        for name, of in costs.items()
        if {MERLIN, "joint"} <= of["seconds"].keys()
    }


def planned() -> dict[str, list[int]]:
    """Return the numbers of rows that each pair is to be run with."""
    read_pairs = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((HERE / "pairs").glob("*.yaml"))}
    return {name: pair.get("sizes", [100]) for name, pair in read_pairs.items()}


def missing(found: dict[int, dict[str, Scores]]) -> list[str]:
    """Return the pairs and numbers of rows that have not been run."""
    there = {(pair, rows) for rows, of_rows in found.items() for pair in both(of_rows["accuracy"], MERLIN)}
    return [f"{name} ({rows})" for name, sizes in planned().items() for rows in sizes if (name, rows) not in there]


def set_up(folder: Path) -> str:
    """Return in which type of numbers the pairs were trained, and the pairs that nothing was searched on."""
    runs = {name: content["config"] for name, content in files(folder).items() if name.endswith("/results.json")}
    used = {"bfloat16" if config["training"].get("bf16") else "float32" for config in runs.values()}
    fixed = [name.removesuffix("/results.json") for name, config in runs.items() if config["search"]["trials"] < 2]
    line = f"Trained in {' and '.join(sorted(used))}."
    if fixed:
        line += f" Nothing was searched on {', '.join(sorted(fixed))}: all methods have the set-up's learning rate."
    return line


# Figures


def gains_figure(found: dict[int, dict[str, Scores]], path: Path) -> None:
    """Draw the gain over fine-tuning against labelled rows; bars are 95 % intervals over draws."""
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    axes.axhline(0, color="black", linewidth=0.8)
    for place, (label, (name, color, marker)) in enumerate(SERIES.items()):
        gains = {rows: gain(of["accuracy"], label, "finetune") for rows, of in found.items()}
        gains = {rows: one for rows, one in gains.items() if one is not None}
        if not gains:
            continue
        bars = [[0 if one.low is None else one.mean - one.low for one in gains.values()]]
        bars.append([0 if one.high is None else one.high - one.mean for one in gains.values()])
        beside = [rows * 1.03 ** (place - 2) for rows in gains]  # so that bars do not cover one another
        means = [one.mean for one in gains.values()]
        axes.errorbar(beside, means, bars, label=name, color=color, marker=marker, capsize=3, linewidth=1.8)
    counts = {rows: len(both(of["accuracy"], "finetune")) for rows, of in found.items()}
    axes.set_title("Gain over fine-tuning; bars: 95 % intervals over draws", fontsize="medium")
    axes.set_ylabel("gain in accuracy (points)")
    finish(figure, axes, [f"{rows:,}\n{plural(counts[rows])}" for rows in found], list(found), path)


def learning_curve(found: dict[int, dict[str, Scores]], path: Path) -> bool:
    """Draw the accuracy against labelled rows, of pairs that have all sizes; return whether there are any."""
    complete = [set(both(of["accuracy"], *CURVES)) for of in found.values()]
    pairs = set.intersection(*complete) if len(complete) > 1 else set()
    if not pairs:
        return False
    curves = {
        name: [(rows, by_draw([of["accuracy"][pair][label] for pair in pairs])) for rows, of in found.items()]
        for label, name in CURVES.items()
    }
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    draw_curves(axes, curves, "accuracy (%)")
    axes.set_title(f"Accuracy, mean over {plural(len(pairs))} that have all sizes", fontsize="medium")
    axes.legend(frameon=False)
    write_figure(figure, path)
    return True


def by_draw(of_pairs: list[dict[int, float]]) -> list[float]:
    """Return the mean over pairs in percent of each draw that all of them have."""
    draws = sorted(set.intersection(*(set(scores) for scores in of_pairs)))
    return [100 * statistics.fmean(scores[draw] for scores in of_pairs) for draw in draws]


def finish(figure, axes, names: list[str], rows: list[int], path: Path) -> None:
    """Name the axes, and write the figure."""
    axes.set_xscale("log")
    axes.set_xlim(min(rows) / 1.6, max(rows) * 1.6)
    axes.set_xticks(rows, names)
    axes.minorticks_off()
    axes.set_xlabel("labelled target rows")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    write_figure(figure, path)


def plural(pairs: int) -> str:
    return "1 pair" if pairs == 1 else f"{pairs} pairs"


def text(found: dict[int, dict[str, Scores]], costs: dict, trained: str) -> str:
    """Return the tables as Markdown; the first section is of 100 rows where there are results of them."""
    parts = ["# Pairs of real data sets"]
    for rows in sorted(found, key=lambda rows: (rows != 100, rows)):
        scores = found[rows]["accuracy"]
        best, of = best_on(scores)
        rival = best_rival(scores)
        alone = f"The best single rival is `{rival}`. MeRLin is the best of all on {best} of {plural(of)}."
        parts += [
            f"## {rows:,} labelled rows, {plural(len(scores))}",
            method_table(found[rows]),
            *([alone] if rival else []),
        ]
    parts += [
        "Each cell is a mean over pairs, and over draws of the labelled rows. Gains are in points of accuracy, of the "
        f"same draws, with 95 % intervals over draws or over pairs. {trained}",
        "## What was to be shown",
        verdicts(found, costs),
    ]
    for rows in found:
        parts += [f"## Accuracy (%) on each pair, {rows:,} rows", pair_table(found[rows]["accuracy"])]
    left = missing(found)
    parts += ["## Not run", ", ".join(left) + "." if left else "All pairs have been run with all sizes."]
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Write the tables and figures of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results_dir", type=Path, default=HERE / "results")
    folder = parser.parse_args(argv).results_dir
    found = read(folder)
    if not found:
        print(f"{folder} has no results yet: run benchmarks/transfer/run.py first.")
        return
    costs = files(folder).get("cost.json", {})
    written = text(found, costs, set_up(folder))
    write_text(folder / "results.md", written)
    gains_figure(found, folder / "gains.png")
    learning_curve(found, folder / "learning_curve.png")
    print(written)


if __name__ == "__main__":
    main()
