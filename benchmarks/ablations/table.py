"""
Write the table of the ablations from the result files.

`python benchmarks/ablations/table.py`, with a folder if it is not `results`.
"""

import statistics
import sys
from pathlib import Path

import yaml

from merlin_hf.utils.files import write_text


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from stored import difference_by_draw, files, markdown  # noqa: E402


RECIPE = "merlin"


def read(folder: Path, metric: str) -> dict[str, dict[str, dict[int, float]]]:
    """Return scores by pair, variant and draw."""
    return {
        name.removesuffix(".json"): {
            method["label"]: {int(draw): run["metrics"][metric] for draw, run in method["runs"].items()}
            for method in content["methods"]
            if method["status"] == "ok"
        }
        for name, content in files(folder).items()
    }


def render(accuracy: dict, log_loss: dict, groups: dict[str, dict]) -> str:
    """Return Markdown: a line for each variant that was run, under the name of its group."""
    pairs = list(accuracy)
    rows = []

    def line(label: str, name: str) -> list[str]:
        cells = [
            f"{100 * statistics.fmean(accuracy[pair][label].values()):.1f}" if accuracy[pair].get(label) else ""
            for pair in pairs
        ]
        found = None if label == RECIPE else difference_by_draw(accuracy, label, RECIPE)
        interval = "" if found is None or found.low is None else f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        losses = [statistics.fmean(log_loss[pair][label].values()) for pair in pairs if log_loss[pair].get(label)]
        difference = "" if found is None else f"{100 * found.mean:+.1f}{interval}"
        return [name, *cells, difference, f"{statistics.fmean(losses):.2f}"]

    rows.append(line(RECIPE, "**nothing: MeRLin by default**"))
    for group, variants in groups.items():
        there = [label for label in variants if any(accuracy[pair].get(label) for pair in pairs)]
        if there:
            rows.append([f"*{group}*", *[""] * (len(pairs) + 2)])
        for label in there:
            options = ", ".join(f"{name}={value}" for name, value in variants[label].items())
            rows.append(line(label, f"`{label}`: `{options}`"))
    return markdown(("changed", *pairs, "difference", "log loss"), rows) + "\n"


def main(results: Path = HERE / "results") -> None:
    """Write and print the table, if there are results."""
    accuracy, log_loss = read(results, "accuracy"), read(results, "log_loss")
    if not any(RECIPE in of_pair for of_pair in accuracy.values()):
        print(f"{results} has no results yet: run benchmarks/ablations/run.py first.")
        return
    text = render(accuracy, log_loss, yaml.safe_load((HERE / "variants.yaml").read_text()))
    write_text(results / "table.md", text)
    print(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
