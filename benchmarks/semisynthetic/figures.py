"""The tables and the figure of the semisynthetic experiment, from its result files."""

import sys
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np

from merlin_hf.comparison.statistics import mean_and_spread, paired_difference


sys.path.insert(0, str(Path(__file__).parents[1]))

from stored import files  # noqa: E402


NAMES = {
    "finetune": "fine-tuning",
    "sequential": "source, then target",
    "joint": "joint training",
    "merlin": "MeRLin",
    "merlin_chance": "MeRLin, balanced at chance",  # by an option that there is no more; in the result files alone
    "merlin_fixed_rho": "MeRLin, fixed ρ",
    "merlin_ft": "MeRLin-FT",
    "merlin_source_first": "MeRLin, source first",
    "merlin_ft_source_first": "MeRLin-FT, source first",
    "merlin_target_last": "MeRLin, source first, target last",
}
# In the figure: five of all that are in the table, in Okabe and Ito's colours.
SHOWN = {name: NAMES[name] for name in ("finetune", "sequential", "joint", "merlin", "merlin_fixed_rho")}
COLOURS = ("#555555", "#0072b2", "#cc79a7", "#d55e00", "#009e73")
TITLES = {"digits": "scikit-learn's digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}


def load(folder: Path) -> dict[str, list[dict]]:
    """All results by images, in order of ease."""
    found = {images: list(files(folder / images).values()) for images in TITLES}
    return {images: sorted(results, key=itemgetter("ease")) for images, results in found.items() if results}


def scores(result: dict, label: str) -> np.ndarray:
    """Test accuracies of a method, `(seeds,)`; empty where it was not run."""
    found = [method for method in result["methods"] if method["label"] == label and method["status"] == "ok"]
    return np.array(list(found[0]["scores"].values())) if found else np.array([])


def probed(result: dict, label: str, what: str) -> np.ndarray:
    """What the probes read of a method's features, `(seeds,)`."""
    return np.array([probe[what] for probe in result["probes"].get(label, {}).values()])


def lead(reference: str, result: dict, label: str) -> str:
    """Return points of accuracy over a reference on the same draws with their 95 % interval; "" for the reference."""
    found, others = scores(result, label), scores(result, reference)
    if label == reference or not len(found) or len(found) != len(others):
        return ""
    difference = paired_difference(100 * found, 100 * others)
    bounds = "" if difference.low is None else f" [{difference.low:+.1f}, {difference.high:+.1f}]"
    return f"{difference.mean:+.1f}{bounds}"


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds; empty without any."""
    if not len(values):
        return ""
    mean, deviation = mean_and_spread(values)
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


MEASURES: dict[str, Callable[[dict, str], np.ndarray]] = {
    "test accuracy": scores,
    "probe of the label": lambda result, label: probed(result, label, "label"),
    "probe of the signature": lambda result, label: probed(result, label, "signature"),
}


def table(results: list[dict]) -> str:
    """Test accuracy, and what the features hold, of one kind of images, in Markdown."""
    columns = [f"ease {result['ease']}" for result in results]
    parts = {title: rows_of(results, lambda *one, of=values: spread(of(*one))) for title, values in MEASURES.items()}
    accuracy = parts.pop("test accuracy")
    leads = {f"points over {NAMES[one]}": rows_of(results, partial(lead, one)) for one in ("joint", "merlin")}
    parts = {"test accuracy": accuracy, **leads, **parts}
    lines = []
    for title, rows in parts.items():
        if rows:
            lines += ["| " + " | ".join([title, *columns]) + " |", "| --- " * (len(columns) + 1) + "|", *rows, ""]
    return "\n".join(lines)


def rows_of(results: list[dict], cell: Callable[[dict, str], str]) -> list[str]:
    """A row of a table for each method that was run."""
    rows = {name: [cell(result, label) for result in results] for label, name in NAMES.items()}
    return ["| " + " | ".join([name, *row]) + " |" for name, row in rows.items() if any(row)]


def tables(found: dict[str, list[dict]]) -> str:
    """The tables of all images, in Markdown."""
    lines = [
        "Over draws of the labelled target rows: mean ± standard deviation; of differences the mean and its 95 % "
        "interval.",
        "",
    ]
    for images, results in found.items():
        lines += [f"## {TITLES[images]}", "", table(results)]
    return "\n".join(lines)


def save_figures(folder: Path) -> None:
    """Write `table.md` and `semisynthetic.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = load(folder)
    (folder / "table.md").write_text(tables(found))
    # The probe of the label is in the tables alone: it follows the accuracy.
    shown = {title: values for title, values in MEASURES.items() if title != "probe of the label"}
    figure, axes = plt.subplots(len(shown), len(found), figsize=(8, 5.4), layout="constrained", squeeze=False)
    for row, (title, values) in zip(axes, shown.items(), strict=True):
        for axis, (images, results) in zip(row, found.items(), strict=True):
            draw_panel(axis, results, values)
            axis.set_title(TITLES[images], fontsize=10)
        row[0].set_ylabel(f"{title}\n(share of test rows)")
    for axis in axes[-1]:
        axis.axhline(0.1, color="grey", lw=0.8, ls=":")
        axis.set_xlabel("ease of the signature")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    figure.savefig(folder / "semisynthetic.png", dpi=150)
    plt.close(figure)


def draw_panel(axis, results: list[dict], values: Callable[[dict, str], np.ndarray]) -> None:
    """A line with a band for each method that was run at all eases."""
    eases = [result["ease"] for result in results]
    for place, (label, name) in enumerate(SHOWN.items()):
        found = [values(result, label) for result in results]
        if not all(len(one) for one in found):
            continue
        means, deviations = np.array([(mean, deviation or 0) for mean, deviation in map(mean_and_spread, found)]).T
        axis.plot(eases, means, "o-", color=COLOURS[place], label=name, lw=1.8, ms=4)
        axis.fill_between(eases, means - deviations, means + deviations, color=COLOURS[place], alpha=0.12, lw=0)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    save_figures(Path(__file__).parent / "results")
