"""The table and the figure of the semisynthetic experiment, from its result files."""

import json
from pathlib import Path

import numpy as np


NAMES = {
    "finetune": "fine-tuning",
    "sequential": "source, then target",
    "joint": "joint training",
    "merlin": "MeRLin",
    "merlin_fixed_rho": "MeRLin, fixed ρ",
    "merlin_ft": "MeRLin-FT",
    "merlin_source_first": "MeRLin, source first",
    "merlin_ft_source_first": "MeRLin-FT, source first",
    "merlin_target_last": "MeRLin, source first, target last",
}


def load(folder: Path) -> list[dict]:
    """All results, by ease."""
    return sorted((json.loads(path.read_text()) for path in folder.glob("ease-*.json")), key=lambda r: r["ease"])


def scores(result: dict, label: str) -> np.ndarray:
    """Test accuracies of a method, `(seeds,)`; empty where it was not run."""
    found = [method for method in result["methods"] if method["label"] == label and method["status"] == "ok"]
    return np.array(list(found[0]["scores"].values())) if found else np.array([])


def probed(result: dict, label: str, what: str) -> np.ndarray:
    """What the probes read of a method's features, `(seeds,)`."""
    return np.array([probe[what] for probe in result["probes"].get(label, {}).values()])


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds."""
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" if len(values) > 1 else f"{values.mean():.3f}"


def table(results: list[dict]) -> str:
    """Test accuracy, and what the features hold, in Markdown."""
    labels = [label for label in NAMES if any(len(scores(result, label)) for result in results)]
    columns = [f"ease {result['ease']}" for result in results]
    lines = []
    for title, values in (
        ("test accuracy", scores),
        ("probe of the digit", lambda result, label: probed(result, label, "digit")),
        ("probe of the signature", lambda result, label: probed(result, label, "signature")),
    ):
        lines += ["| " + " | ".join([title, *columns]) + " |", "| --- " * (len(columns) + 1) + "|"]
        for label in labels:
            lines.append("| " + " | ".join([NAMES[label], *(spread(values(r, label)) for r in results)]) + " |")
        lines.append("")
    seeds = len(results[0]["seeds"])
    lines.append(f"Mean ± standard deviation over {seeds} draws of 60 labelled target rows.")
    return "\n".join(lines) + "\n"


def save_figures(folder: Path) -> None:
    """Write `table.md` and `semisynthetic.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = load(folder)
    (folder / "table.md").write_text(table(results))
    eases = [result["ease"] for result in results]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained", sharex=True)
    panels = (
        ("target test accuracy", scores),
        ("digit, read by a linear probe", lambda result, label: probed(result, label, "digit")),
        ("signature, read by a linear probe", lambda result, label: probed(result, label, "signature")),
    )
    for axis, (title, values) in zip(axes, panels, strict=True):
        for place, (label, name) in enumerate(NAMES.items()):
            found = [values(result, label) for result in results]
            if not all(len(one) for one in found):
                continue
            means, deviations = [one.mean() for one in found], [one.std() for one in found]
            color = f"C{place}"
            axis.plot(eases, means, "o-", color=color, label=name, lw=2.2 if label == "merlin" else 1.3, ms=4)
            low, high = np.subtract(means, deviations), np.add(means, deviations)
            axis.fill_between(eases, low, high, color=color, alpha=0.12, lw=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("ease of the source's signature")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].axhline(0.1, color="grey", lw=0.8, ls=":")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(folder / "semisynthetic.png", dpi=130)
    plt.close(figure)
