"""The notebooks run from top to bottom on tiny data, and what is committed of them is clean."""

import json
import re
import sys

import datasets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import transformers
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from transformers import AutoModelForImageClassification

from tests.examples.conftest import ROOT
from tests.examples.test_demo import cache  # noqa: F401  (a fixture)
from tests.tiny import TINY_CLASSIFIERS, tiny_sentence_encoder, tiny_texts


FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What is not as a reader would run it; each must still be there.
SMALLER = {
    "texts": {"max_steps=42": "max_steps=3", "range(500)": "range(40)", "range(5000)": "range(60)"},
    "photographs": {"max_steps=84": "max_steps=3", "logging_steps=6": "logging_steps=1", "range(5000)": "range(60)",
                    '": 96': '": 32'},
    "several_sources": {"max_steps=42": "max_steps=4", "logging_steps=3": "logging_steps=1", ", 500": ", 40",
                        "_rows=100": "_rows=20"},
    "compare": {"max_steps: 14": "max_steps: 2", "test_rows: 300": "test_rows: 40", "rows: 100": "rows: 24",
                "rows=100": "rows=24", "freeze_layers: 5": "freeze_layers: 1"},
}  # fmt: skip
NOISE = re.compile(r"/home/|/root/|/work/|/tmp/|site-packages|Traceback|Warning|WARNING|it/s|\d%\||█|\x1b")


def write_tweets(folder):
    """`tweet_eval` as a folder, with three of its configurations."""
    configs = []
    for name, labels in {"emotion": 4, "offensive": 2, "irony": 2}.items():
        for split, rows in {"train": 120, "test": 48}.items():
            tiny_texts(rows, labels, seed=rows).to_parquet(folder / name / f"{split}.parquet")
        configs.append({"config_name": name, "data_dir": name})
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")


def write_photographs(folder):
    """Ants and bees, in folders as the archive has them, and CIFAR-10."""
    draw = np.random.default_rng(0)

    def photograph(label):
        return Image.fromarray((draw.random((40, 36, 3)) * 100 + 40 * label).astype(np.uint8))

    for split, count in {"train": 30, "val": 10}.items():
        for label, name in enumerate(("ants", "bees")):
            (folder / "hymenoptera_data" / split / name).mkdir(parents=True)
            for number in range(count):
                photograph(label).save(folder / "hymenoptera_data" / split / name / f"{number}.jpg")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list("abcd"))})
    rows = {"img": [photograph(row % 4) for row in range(80)], "label": [row % 4 for row in range(80)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "uoft-cs" / "cifar10" / "train.parquet")
    TINY_CLASSIFIERS["resnet"]().save_pretrained(folder / "efficientnet-lite0")


@pytest.fixture
def run(tmp_path, monkeypatch, cache):  # noqa: F811
    """Run the code of a notebook in a folder with stand-ins for what it loads; give its variables."""
    verbosity, had_bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plt, "show", plt.close)
    tiny_sentence_encoder().save(str(tmp_path / "sentence-transformers/all-MiniLM-L6-v2"), create_model_card=False)
    tiny_texts(120, 2).rename_column("text", "sentence").to_parquet(
        tmp_path / "stanfordnlp" / "sst2" / "train.parquet"
    )
    write_tweets(tmp_path / "cardiffnlp" / "tweet_eval")
    write_photographs(tmp_path)

    def run(name):
        shell = InteractiveShell()
        smaller = dict(SMALLER[name])
        for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                for given, less in SMALLER[name].items():
                    if given in cell.source:
                        smaller.pop(given, None)
                        cell.source = cell.source.replace(given, less)
                shell.run_cell(cell.source).raise_error()
        assert not smaller, "not in the notebook any more"
        return shell.user_ns

    yield run
    transformers.logging.set_verbosity(verbosity)
    if had_bars:
        transformers.logging.enable_progress_bar()
    datasets.enable_progress_bars()


def test_texts(run):
    found = run("texts")
    assert set(found["scores"]) == {"embeddings", "MeRLin"}
    assert {"model.safetensors", "modules.json", "README.md"} <= set(found["plan"].files)


def test_photographs(run):
    found = run("photographs")
    assert AutoModelForImageClassification.from_pretrained("insects-merlin").config.id2label == {0: "ants", 1: "bees"}
    assert found["merlin"].branches.mix is not None


def test_several_sources(run):
    found = run("several_sources")
    assert set(found["ranking"].mix) <= set(found["sources"]) == {"films", "offensive", "irony"}
    assert list(found["losses"].columns) == ["films", "offensive", "irony"]


def test_compare(run):
    found = run("compare")
    labels = [method["label"] for method in found["result"].summary["methods"]]
    assert sorted(labels) == ["embeddings", "finetune", "merlin", "source_probe"] and not found["result"].failed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_whole_small_and_clean(path):
    text = path.read_text()
    assert len(text) < 200_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert f"{path.name}" in notebook.cells[0].source and 8 <= len(notebook.cells) <= 20
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom"
    assert max(len(line) for cell in code for line in cell.source.splitlines()) <= 80
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"display_data", "execute_result", "stream"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    kinds = {kind: value for output in outputs for kind, value in output.get("data", {}).items()}
    assert "image/png" in kinds and {"text/html", "text/markdown"} & set(kinds)
    for output in outputs:
        for kind, shown in output.get("data", {"text/plain": output.get("text", "")}).items():
            assert kind == "image/png" or not NOISE.search(shown), NOISE.search(shown)
