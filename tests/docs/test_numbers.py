"""Numbers of README and of the pages are those of the files in benchmarks/."""

import json
import re

from merlin_hf.comparison.statistics import mean_and_spread, paired_difference
from tests.docs.conftest import DOCS, ROOT


FOLDER = ROOT / "benchmarks" / "compare"
METHODS = {one["label"]: one for one in json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))["methods"]}
TABLE = (FOLDER / "table.md").read_text(encoding="utf-8")
PACKED = (ROOT / "benchmarks" / "transfer" / "results" / "results.jsonl").read_text(encoding="utf-8")
PAIRS = {line["file"]: line["content"] for line in map(json.loads, PACKED.splitlines())}
EDITORIALS = {one["label"]: one for one in PAIRS["sst2-vader_nyt/100/results.json"]["methods"]}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def accuracy(label: str, methods=METHODS) -> str:
    mean, spread = mean_and_spread(list(methods[label]["scores"].values()))
    return f"{mean:.4f} ± {spread:.4f}"


def difference(label: str, methods=METHODS) -> str:
    found, others = (list(methods[one]["scores"].values()) for one in (label, "merlin"))
    found = paired_difference(found, others)
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def log_loss(label: str, methods=METHODS) -> str:
    runs = methods[label]["runs"].values()
    return f"{sum(run['metrics']['log_loss'] for run in runs) / len(runs):.4f}"


def test_the_tables_of_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| method \| accuracy \| difference .+\n\|[ :|-]+\|\n((?:\|.+\n)+)", text, re.MULTILINE)
    for rows, methods in zip(tables, (EDITORIALS, METHODS), strict=True):
        for name, *numbers in map(cells, rows.splitlines()):
            label = re.findall(r"`(\w+)`", name)[0] if "`" in name else "merlin"
            others = "" if label == "merlin" else difference(label, methods)
            assert numbers == [accuracy(label, methods), others, log_loss(label, methods)], name
    assert len(EDITORIALS) == len(tables[0].splitlines()), "all methods that were measured"
    after = text.split(tables[1])[1].split("\n\n")[0]
    assert {accuracy("merlin_paper")[:6], log_loss("merlin_paper")} == set(re.findall(r"0\.\d{4}", after))


def test_the_claim_of_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (given,) = re.findall(r"MeRLin is (.+) points more accurate .+ \(interval (.+) to (.+)\)", text)
    usual = [label for label in METHODS if not label.startswith("merlin")]
    means = {label: mean_and_spread(list(METHODS[label]["scores"].values()))[0] for label in usual}
    assert max(means, key=means.get) == "sequential"
    found = paired_difference(*(list(METHODS[one]["scores"].values()) for one in ("merlin", "sequential")))
    assert given == tuple(f"{100 * value:.1f}" for value in (found.mean, found.low, found.high))


def test_the_table_of_the_methods():
    rows = re.findall(
        r"^\| \[`(\w+)`\].+\| (.+) \|$", (DOCS / "methods" / "index.md").read_text(encoding="utf-8"), re.M
    )
    assert {name: found for name, found in rows if found != "not measured"} == {
        name: accuracy(name) for name in METHODS if name != "merlin_paper"
    }


def test_the_table_of_the_guide_to_compare():
    text = (DOCS / "howto" / "compare.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:merlin|embeddings|finetune|sequential|joint|l2_sp)\w* .+", text, re.MULTILINE)
    ours = [row for row in rows if " ± " in row]
    assert ours and {tuple(cells(row)) for row in ours} <= {tuple(cells(row)) for row in TABLE.splitlines() if row}
    advice = re.search(r"\*\*Advice\.\*\* (.+)", TABLE)[1]
    assert advice in " ".join(text.replace("\n> ", " ").split())
