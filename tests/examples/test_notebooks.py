"""The notebooks run from top to bottom, with fewer steps, and what is committed of them is clean."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from transformers import AutoImageProcessor, AutoModelForImageClassification, AutoModelForSequenceClassification

from tests.examples.conftest import ROOT
from tests.examples.test_demo import cache  # noqa: F401  (a fixture)


FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def run(name, check, monkeypatch, tmp_path, **environment):
    """Execute a notebook, and a cell after the last."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment |= {"PYTHONPATH": paths, "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    environment |= {"MERLIN_NOTEBOOK_OUTPUT": str(tmp_path / "out"), "MPLBACKEND": "agg"}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(FOLDER)}}).execute()


def test_vision(monkeypatch, tmp_path):
    if getattr(AutoImageProcessor, "is_dummy", False):
        pytest.skip("AutoImageProcessor of transformers 5.10 needs torchvision")
    check = "assert len(scores) == 4 and scores['MeRLin'] > 0.5, scores\nassert len(logs) == 10 and len(probes) == 4"
    run("vision", check, monkeypatch, tmp_path, MERLIN_NOTEBOOK_STEPS="30")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "merlin-0.3")
    assert model.config.id2label[7] == "7"


def test_text(cache, model_path, monkeypatch, tmp_path):  # noqa: F811
    check = "assert set(scores) == {'fine-tuning', 'MeRLin'}, scores\nassert probes.shape == (4, 3)"
    settings = {"MERLIN_NOTEBOOK_STEPS": "8", "MERLIN_NOTEBOOK_ROWS": "24", "MERLIN_NOTEBOOK_MODEL": model_path}
    run("text", check, monkeypatch, tmp_path, **settings)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "merlin")
    assert model.config.id2label == {0: "negative", 1: "positive"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_committed_is_whole_small_and_of_no_machine(name):
    path = FOLDER / f"{name}.ipynb"
    text = path.read_text()
    assert len(text) < 150_000
    assert not [word for word in ("/home/", "/root/", "/work/", "/tmp/", "site-packages") if word in text]
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert f"examples/notebooks/{name}.ipynb" in notebook.cells[0].source
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom"
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"display_data", "execute_result", "stream"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
