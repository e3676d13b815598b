"""The table of the ablations, from the result files: `python benchmarks/ablations/table.py`."""

import json
import statistics
from pathlib import Path

import numpy as np
import yaml
from scipy import stats


HERE = Path(__file__).parent


def read(folder: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Accuracy by pair, variant and seed."""
    scores = {}
    for path in sorted(folder.glob("*.json")):
        methods = json.loads(path.read_text())["methods"]
        scores[path.stem] = {
            method["label"]: {int(seed): score for seed, score in method["scores"].items()}
            for method in methods
            if method["status"] == "ok"
        }
    return scores


def difference(scores: dict, label: str, reference: str = "merlin") -> tuple[float, float] | None:
    """
    Mean over pairs and seeds of the difference to the reference, in points, and half its 95 % interval over seeds.

    Seeds are the independent draws: each one's difference is first averaged over pairs.
    """
    by_seed: dict[int, list[float]] = {}
    for of_pair in scores.values():
        for seed, score in of_pair.get(label, {}).items():
            if seed in of_pair.get(reference, {}):
                by_seed.setdefault(seed, []).append(100 * (score - of_pair[reference][seed]))
    whole = [statistics.fmean(values) for values in by_seed.values() if len(values) == len(scores)]
    if len(whole) < 2:
        return None
    half = stats.t.ppf(0.975, len(whole) - 1) * np.std(whole, ddof=1) / len(whole) ** 0.5
    return statistics.fmean(whole), float(half)


def render(scores: dict, groups: dict[str, dict]) -> str:
    """Markdown: a line for each variant, under the name of its group."""
    pairs = list(scores)
    lines = ["| changed | " + " | ".join(pairs) + " | difference |", "| --- |" + " --- |" * (len(pairs) + 1)]

    def line(label: str, name: str) -> str:
        cells = []
        for pair in pairs:
            values = list(scores[pair].get(label, {}).values())
            spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{100 * statistics.fmean(values):.1f}{spread}" if values else "")
        found = difference(scores, label)
        cells.append(
            ""
            if label == "merlin" or found is None
            else f"{found[0]:+.1f} [{found[0] - found[1]:+.1f}, {found[0] + found[1]:+.1f}]"
        )
        return f"| {name} | " + " | ".join(cells) + " |"

    lines.append(line("merlin", "**nothing: the defaults**"))
    for group, variants in groups.items():
        lines.append(f"| *{group}* |" + " |" * (len(pairs) + 1))
        for label, options in variants.items():
            described = ", ".join(f"`{name}={value}`" for name, value in options.items())
            lines.append(line(label, described))
    return "\n".join(lines) + "\n"


def main(results: Path = HERE / "results") -> None:
    groups = yaml.safe_load((HERE / "variants.yaml").read_text())["groups"]
    text = render(read(results), groups)
    (results / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
