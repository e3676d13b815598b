"""The plot of what run.py measured; `python benchmarks/speed/plot.py` draws it again from results.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from measure import ratios  # noqa: E402


# Label and colour, of Okabe and Ito, by what is divided by what.
PAIRS = {
    ("merlin", "joint"): ("MeRLin / joint training", "#d55e00"),
    ("joint, again", "joint"): ("joint training / itself (noise)", "#555555"),
    ("merlin", "bare loop"): ("MeRLin / a plain loop", "#0072b2"),
}


def plot(results: dict, path: Path) -> None:
    """Ratios of the times of a step: medians with quartiles, one colour for each pair."""
    rows = results["steps"]
    figure, axis = pyplot.subplots(figsize=(8, 1.4 + 0.42 * len(rows)), layout="constrained")
    for number, ((name, other), (label, colour)) in enumerate(PAIRS.items()):
        found = [ratios(row["methods"][name]["times"], row["methods"][other]["times"]) for row in rows]
        medians = [value["median"] for value in found]
        errors = [
            [value["median"] - value["lower"] for value in found],
            [value["upper"] - value["median"] for value in found],
        ]
        places = [place + 0.22 * (number - 1) for place in range(len(rows))]
        axis.errorbar(medians, places, xerr=errors, fmt="o", ms=4, capsize=2, color=colour, label=label)
    axis.axvline(1, color="black", lw=0.8)
    axis.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlabel("ratio of the times of a step (median and quartiles)")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    given = [Path(one) for one in sys.argv[1:]]
    for directory in given or sorted(path.parent for path in Path(__file__).parent.glob("results/*/results.json")):
        plot(json.loads((directory / "results.json").read_text()), directory / "speed.png")
