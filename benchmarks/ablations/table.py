"""
Write the table of the ablations from the result files.

`python benchmarks/ablations/table.py`, with a folder if it is not `results`.
"""

import statistics
import sys
from pathlib import Path

import yaml

from merlin_hf.comparison.statistics import PairedDifference, paired_difference
from merlin_hf.utils.files import write_text


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from stored import files  # noqa: E402


def read(folder: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Accuracy by pair, variant and seed."""
    scores = {}
    for name, content in files(folder).items():
        if "/" in name:  # of other numbers of rows
            continue
        methods = content["methods"]
        scores[name.removesuffix(".json")] = {
            method["label"]: {int(seed): score for seed, score in method["scores"].items()}
            for method in methods
            if method["status"] == "ok"
        }
    return scores


def difference(scores: dict, label: str, reference: str = "merlin") -> PairedDifference | None:
    """
    Return the difference to the reference in points, averaged over the pairs that have it, or `None` if none has.

    With its interval over seeds.

    Seeds are the independent draws: each one's scores are first averaged over pairs.
    """
    scores = {pair: of_pair for pair, of_pair in scores.items() if of_pair.get(label)}
    lines = [of_pair.get(name, {}) for of_pair in scores.values() for name in (label, reference)]
    seeds = sorted(set.intersection(*(set(line) for line in lines))) if lines else []
    if not seeds:
        return None
    of_label, of_reference = (
        [100 * statistics.fmean(of_pair[name][seed] for of_pair in scores.values()) for seed in seeds]
        for name in (label, reference)
    )
    return paired_difference(of_label, of_reference)


def render(scores: dict, groups: dict[str, dict]) -> str:
    """Markdown: a line for each variant that was run, under the name of its group."""
    pairs = list(scores)
    lines = ["| changed | " + " | ".join(pairs) + " | difference |", "| --- |" + " --- |" * (len(pairs) + 1)]

    def line(label: str, name: str) -> str:
        cells = []
        for pair in pairs:
            values = list(scores[pair].get(label, {}).values())
            spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{100 * statistics.fmean(values):.1f}{spread}" if values else "")
        found = None if label == "merlin" else difference(scores, label)
        interval = "" if found is None or found.low is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
        cells.append("" if found is None else f"{found.mean:+.1f}{interval}")
        return f"| {name} | " + " | ".join(cells) + " |"

    lines.append(line("merlin", "**nothing: MeRLin with ridge**"))
    for group, variants in groups.items():
        of_group = {
            label: options for label, options in variants.items() if any(scores[pair].get(label) for pair in pairs)
        }
        if of_group:
            lines.append(f"| *{group}* |" + " |" * (len(pairs) + 1))
        for label, options in of_group.items():
            described = ", ".join(f"`{name}={value}`" for name, value in options.items())
            lines.append(line(label, described))
    return "\n".join(lines) + "\n"


def load_groups() -> dict[str, dict]:
    """The lines of the table by group; those that cannot be run any more at the end."""
    variants = yaml.safe_load((HERE / "variants.yaml").read_text())
    return {**variants["groups"], "an option that has been removed": variants["removed"]}


def main(results: Path = HERE / "results") -> None:
    """Write and print the table."""
    text = render(read(results), load_groups())
    write_text(results / "table.md", text)
    print(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
