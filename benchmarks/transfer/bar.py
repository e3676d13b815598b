"""
What the pairs say together: `python benchmarks/transfer/bar.py` reads `results/` and writes `results/bar.md`.

The question is the one somebody asks who has a target and a source: MeRLin in whichever of its two variants did better on the
validation rows, against all other methods.
"""

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merlin_hf.comparison.runs import write_text
from merlin_hf.comparison.statistics import paired_difference
from merlin_hf.report.ranks import average_ranks


HERE = Path(__file__).parent
VARIANTS = ("merlin", "merlin_ft")
CHOSEN = "MeRLin, either variant"


@dataclass
class Cell:
    """The results on one pair with one number of labelled rows, the two variants of MeRLin replaced by the one that was chosen."""

    pair: str
    rows: int
    scores: dict[str, dict[str, float]]
    chosen: str

    @property
    def means(self) -> dict[str, float]:
        """Mean accuracy by method."""
        return {label: statistics.fmean(scores.values()) for label, scores in self.scores.items()}


def read(path: Path) -> Cell:
    """A result file, as one cell."""
    methods = {m["label"]: m for m in json.loads(path.read_text())["methods"] if m["status"] == "ok"}
    missing = [label for label in (*VARIANTS, "finetune", "joint") if label not in methods]
    if missing:
        raise SystemExit(f"{path} has no scores of {', '.join(missing)}: run all methods first.")
    chosen = max(VARIANTS, key=lambda label: max((t["score"] for t in methods[label]["trials"]), default=0.0))
    scores = {label: m["scores"] for label, m in methods.items() if label not in VARIANTS}
    scores[CHOSEN] = methods[chosen]["scores"]
    return Cell(path.parts[-3], int(path.parts[-2]), scores, chosen)


def mean_ranks(cells: list[Cell]) -> dict[str, float]:
    """The mean rank over cells, best first, of the methods that took part in all of them: others' ranks are out of other numbers."""
    labels = sorted(set.intersection(*(set(cell.means) for cell in cells)))
    ranks = np.mean([average_ranks([cell.means[label] for label in labels]) for cell in cells], axis=0)
    return dict(sorted(zip(labels, ranks.tolist(), strict=True), key=lambda item: item[1]))


def gain(cells: list[Cell], label: str) -> str:
    """Points of MeRLin over a method, averaged over cells, with the interval over cells."""
    both = [(100 * cell.means[CHOSEN], 100 * cell.means[label]) for cell in cells if label in cell.scores]
    found = paired_difference(*(list(column) for column in zip(*both, strict=True)))
    interval = "" if found.low is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.mean:+.1f}{interval}"


def summary_of(cells: list[Cell]) -> str:
    """Ranks and differences over all cells with so many labelled rows."""
    lines = ["| method | mean rank | pairs | MeRLin is better by | pairs won by MeRLin |"]
    lines.append("| --- | --- | --- | --- | --- |")
    ranks = mean_ranks(cells)
    for label in [*ranks, *sorted({label for cell in cells for label in cell.scores} - set(ranks))]:
        took_part = [cell for cell in cells if label in cell.scores]
        won = sum(cell.means[CHOSEN] > cell.means[label] for cell in took_part)
        others = ("", "") if label == CHOSEN else (gain(took_part, label), f"{won} of {len(took_part)}")
        rank = f"{ranks[label]:.1f}" if label in ranks else ""
        name = f"**{label}**" if label == CHOSEN else f"`{label}`"
        lines.append(f"| {name} | {rank} | {len(took_part)} | {others[0]} | {others[1]} |")
    return "\n".join(lines)


def pairs_of(cells: list[Cell]) -> str:
    """A line for each pair: MeRLin, fine-tuning, joint training and the best of all other methods."""
    lines = [
        "| pair | chosen | MeRLin | fine-tuning | joint | best other method |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for cell in sorted(cells, key=lambda cell: cell.pair):
        others = {label: mean for label, mean in cell.means.items() if label != CHOSEN}
        best = max(others, key=lambda label: others[label])
        values = [cell.scores[label] for label in (CHOSEN, "finetune", "joint", best)]
        shown = [
            f"{100 * np.mean(list(v.values())):.1f} ± {100 * np.std(list(v.values()), ddof=1):.1f}" for v in values
        ]
        lines.append(f"| {cell.pair} | `{cell.chosen}` | {' | '.join(shown)} (`{best}`) |")
    return "\n".join(lines)


def verdict(cells: list[Cell]) -> str:
    """The three things that were to be shown, each with what was found."""
    ranks = mean_ranks(cells)
    best = next(iter(ranks))
    won = sum(cell.means[CHOSEN] >= max(cell.means.values()) for cell in cells)
    over = statistics.fmean(100 * (cell.means[CHOSEN] - cell.means["finetune"]) for cell in cells)
    return "\n".join(
        [
            f"- the best mean rank: **{'yes' if best == CHOSEN else 'no'}** ({ranks[CHOSEN]:.1f}"
            + ("" if best == CHOSEN else f"; `{best}` has {ranks[best]:.1f}")
            + ")",
            f"- at least 3 points over fine-tuning on average: **{'yes' if over >= 3 else 'no'}** ({gain(cells, 'finetune')})",
            f"- better than the best other method of each pair on most pairs: **{'yes' if 2 * won > len(cells) else 'no'}** "
            f"({won} of {len(cells)})",
        ]
    )


def main(results: Path = HERE / "results", output: Path | None = None) -> None:
    """Write and print the summary, into `results` unless told otherwise."""
    cells = [read(path) for path in sorted(results.glob("*/*/results.json"))]
    if not cells:
        sys.exit(f"There are no results in {results}.")
    parts = ["# What the pairs say together"]
    for rows in sorted({cell.rows for cell in cells}):
        of_rows = [cell for cell in cells if cell.rows == rows]
        parts += [
            f"## {rows} labelled rows, {len(of_rows)} pairs",
            verdict(of_rows),
            summary_of(of_rows),
            pairs_of(of_rows),
        ]
    parts.append(
        "MeRLin stands for the one of `merlin` and `merlin_ft` with the better validation score on the pair. Intervals are 95 % over pairs. The "
        "best other method of a pair is picked by its test scores, which favours it. Times of runs are not compared here, as runs share a "
        "machine; see benchmarks/speed."
    )
    text = "\n\n".join(parts) + "\n"
    write_text(output or results / "bar.md", text)
    print(text)


if __name__ == "__main__":
    main()
