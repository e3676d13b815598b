"""The pages of docs/, and stand-ins for what they load from the Hub."""

import importlib.util
import sys
from pathlib import Path

import datasets

from tests.examples.conftest import WORDS, model_path  # noqa: F401


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def load(name):
    """A module of docs/, which is in no package."""
    module = f"docs_{name}"
    if module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, DOCS / f"{name}.py")
        sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module])
    return sys.modules[module]


pages = load("pages")
# The pages that people write; those of the methods are made of docstrings.
WRITTEN = sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "methods")


def pairs(columns, names, count):
    """Rows of a GLUE task; the first word of each text tells the label."""
    labels = [number % max(len(names), 2) for number in range(count)]
    table = {name: [f"w{label} {WORDS[5 + row % 30]}" for row, label in enumerate(labels)] for name in columns}
    features = {name: datasets.Value("string") for name in columns}
    label = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
    columns = {**table, "label": labels if names else [float(one) for one in labels]}
    return datasets.Dataset.from_dict(columns, features=datasets.Features({**features, "label": label}))


def write_glue(folder):
    """`nyu-mll/glue` as a folder, with three of its configurations."""
    nli = ["entailment", "neutral", "contradiction"]
    two = ("sentence1", "sentence2")
    files = {
        "rte": {"train": pairs(two, nli[:2], 500), "validation": pairs(two, nli[:2], 40)},
        "mnli": {"train": pairs(("premise", "hypothesis"), nli, 90)},
        "stsb": {"train": pairs(two, [], 60)},
    }
    header = ["---", "configs:"]
    for name, splits in files.items():
        header += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            rows.to_parquet(folder / name / f"{split}.parquet")
            header += [f"  - split: {split}\n    path: {name}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*header, "---", ""]))


def write_tags(folder):
    """`tweets.jsonl` and `news.jsonl`, sentences of words that tell their tags."""
    tags = ["B-PER", "B-LOC", "O", "O"]
    for name, count in (("tweets", 40), ("news", 60)):
        places = [[(row + 3 * at) % 16 for at in range(row % 4 + 3)] for row in range(count)]
        rows = {"tokens": [[WORDS[place] for place in row] for row in places]}
        rows["tags"] = [[tags[place // 4] for place in row] for row in places]
        datasets.Dataset.from_dict(rows).to_json(folder / f"{name}.jsonl")
