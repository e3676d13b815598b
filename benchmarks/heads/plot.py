"""The plot of results/batch-<device>.json."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot, ticker  # noqa: E402


HERE = Path(__file__).resolve().parent
# At most five lines: colours of Okabe and Ito.
LINES = {
    "ours ridge": ("ours, ridge", "#d55e00", "o"),
    "ours logistic, float32": ("ours, logistic, float32", "#0072b2", "s"),
    "autograd through solve": ("autograd through a solve", "#009e73", "^"),
    "torchopt implicit": ("torchopt, implicit", "#cc79a7", "D"),
    "torch.func unrolled 5": ("five unrolled steps", "#555555", "v"),
}


def plot(results: Path, device: str) -> None:
    """Draw the fastest time against rows, classes and features; writes heads-<device>.png."""
    path = results / f"batch-{device}.json"
    if not path.exists():
        return
    rows = json.loads(path.read_text())["results"]
    sweeps = [
        ("n", "rows", [r for r in rows if r["d"] == 768 and r["C"] == 3]),
        ("C", "classes", [r for r in rows if r["n"] == 64 and r["d"] == 768]),
        ("d", "features", [r for r in rows if r["n"] == 64 and r["C"] == 3]),
    ]
    figure, axes = pyplot.subplots(1, 3, figsize=(8, 3.6), layout="constrained", sharey=True)
    for axis, (key, label, sweep) in zip(axes, sweeps, strict=True):
        sweep = sorted(sweep, key=lambda row: row[key])
        for name, (shown, colour, marker) in LINES.items():
            if name in sweep[0]["methods"]:
                times = [row["methods"][name]["fastest"] * 1e3 for row in sweep]
                axis.loglog([row[key] for row in sweep], times, marker=marker, color=colour, label=shown)
        axis.set(xlabel=label)
        axis.set_xticks([row[key] for row in sweep], [str(row[key]) for row in sweep])
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0].set_ylabel("fit and gradient (ms, fastest)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(results / f"heads-{device}.png", dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    for one in ("cpu", "cuda"):
        plot(HERE / "results", one)
