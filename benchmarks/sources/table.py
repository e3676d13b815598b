"""The tables of README.md from results/*.json, between its two marks."""

import json
import statistics
from pathlib import Path

from merlin_hf.utils.files import write_text


START, END = "<!-- tables: written by run.py -->", "<!-- end of tables -->"
NAMES = {"alignment": "alignment", "logme": "LogME", "h_score": "H-score", "leep": "LEEP", "mean_rank": "mean rank"}
DECIMALS = {"alignment": 3, "logme": 4, "h_score": 4, "leep": 4}


def write_tables(folder: Path) -> None:
    """Replace what is between the marks."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    found = []
    for path in sorted((folder / "results").glob("*-rank.json")):
        trained = path.with_name(path.name.replace("-rank", "-train"))
        scores = json.loads(trained.read_text())["scores"] if trained.exists() else {}
        found.append({**json.loads(path.read_text()), "training": scores})
    tables = [verdicts(found), *(table(of_pair) for of_pair in found)]
    write_text(readme, f"{before}{START}\n\n" + "\n\n".join(tables) + f"\n\n{END}{after}")


def markdown(rows: list[list[str]]) -> str:
    """A table of cells, the first row being its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])


def verdicts(found: list[dict]) -> str:
    """Which measure has all related sources before all others."""
    rows = [["pair", *NAMES.values()]]
    for of_pair in found:
        rows.append([of_pair["pair"], *(of_pair["right"].get(name, "") for name in NAMES)])
    return markdown(rows)


def table(found: dict) -> str:
    """The measures of each candidate, and what training with it gave."""
    ranking, training = found["ranking"], found["training"]
    methods = sorted({method for of_source in training.values() for method in of_source} - {"finetune"})
    measures = [name for name in DECIMALS if name in ranking["measures"]]
    rows = [["source", *(NAMES[name] for name in measures), "mean rank", *methods]]
    for source in ranking["sources"]:
        cells = [f"**{source['name']}**" if source["name"] in found["expected"] else source["name"]]
        for name in measures:
            decimals = DECIMALS[name]
            mean, spread = source["means"][name], source["spreads"][name]
            cells.append(f"{mean:+.{decimals}f} ± {spread:.{decimals}f} ({source['ranks'][name]:g})")
        cells.append(f"{source['mean_rank']:.2f}")
        cells += [score(training.get(source["name"], {}).get(method)) for method in methods]
        rows.append(cells)
    settings = ranking["settings"]
    seconds = statistics.mean(source["seconds"] for source in ranking["sources"]) / len(settings["seeds"])
    title = (
        f"### {found['pair']}: {ranking['target']}\n\n{ranking['target_rows']} rows of the target, "
        f"{settings['source_rows']} of each source, {len(settings['seeds'])} draws; {seconds:.0f} s a draw and source."
        " In bold: related by their task."
    )
    alone = next((of_source["finetune"] for of_source in training.values() if "finetune" in of_source), None)
    if alone:
        title += f" Training on the target alone (finetune): {score(alone)}."
    return f"{title}\n\n{markdown(rows)}\n\n![bars](results/{found['pair']}.png)"


def score(scores: list[float] | None) -> str:
    """Mean and standard deviation of accuracies."""
    if not scores:
        return "not trained"
    return f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}"


if __name__ == "__main__":
    write_tables(Path(__file__).parent)
