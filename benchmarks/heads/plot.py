"""The plot of results/batch-<device>.json."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot, ticker  # noqa: E402


def plot(results: Path, device: str) -> None:
    """Fastest time against n, d and C, and against the error of the gradient; writes heads-<device>.png."""
    path = results / f"batch-{device}.json"
    if not path.exists():
        return
    rows = json.loads(path.read_text())["results"]
    names = list(rows[0]["methods"])
    colours = dict(zip(names, pyplot.get_cmap("tab20").colors, strict=False))
    sweeps = [
        ("n", "rows n (d = 768, C = 3)", [r for r in rows if r["d"] == 768 and r["C"] == 3]),
        ("C", "classes C (n = 64, d = 768)", [r for r in rows if r["n"] == 64 and r["d"] == 768]),
        ("d", "features d (n = 64, C = 3)", [r for r in rows if r["n"] == 64 and r["C"] == 3]),
    ]
    figure, axes = pyplot.subplots(2, 2, figsize=(13, 9))
    for axis, (key, label, sweep) in zip(axes.flat, sweeps, strict=False):
        sweep = sorted(sweep, key=lambda row: row[key])
        for name in names:
            line = "-" if name.startswith("ours") else "--"
            times = [row["methods"][name]["fastest"] * 1e3 for row in sweep]
            axis.loglog([row[key] for row in sweep], times, line, marker="o", ms=3, color=colours[name], label=name)
        axis.set(xlabel=label, ylabel="fit + backward, ms (fastest)")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    last = axes.flat[3]
    base = next(row for row in rows if (row["n"], row["d"], row["C"]) == (64, 768, 3))
    for name in names:
        method = base["methods"][name]
        if method["gradient_error"] is None:  # another objective
            continue
        point = method["gradient_error"], method["fastest"] * 1e3
        last.loglog(*point, "o", color=colours[name])
        last.annotate(name, point, fontsize=7)
    last.set(xlabel="relative error of the gradient (n = 64, d = 768, C = 3)", ylabel="fit + backward, ms (fastest)")
    last.set_xlim(right=10)
    axes.flat[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(results / f"heads-{device}.png", dpi=110)
