"""The example configurations and what prepares their data."""

import importlib.util
from pathlib import Path

import datasets
import pytest

from merlin_hf.comparison import load_config
from tests.examples.conftest import ROOT


FOLDER = ROOT / "examples" / "compare"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations(path):
    config = load_config(path)
    assert "merlin" in [method.name for method in config.methods] and config.source is not None
    assert not config.from_scratch or Path(config.model).is_dir()


def test_editorials_are_divided_by_article(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("prepare_editorials", FOLDER / "prepare_editorials.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = [{"text": f"sentence {row}", "label": row % 2, "group": str(row // 5)} for row in range(40)]
    monkeypatch.setattr(module, "load_sentences", lambda domain: datasets.Dataset.from_list(rows))
    module.main([str(tmp_path)])
    read = datasets.load_dataset(str(tmp_path / "vader_nyt"))
    articles = {split: {int(text.split()[1]) // 5 for text in read[split]["text"]} for split in ("train", "test")}
    assert len(read["train"]) + len(read["test"]) == 40 and not articles["train"] & articles["test"]
    assert read["train"].column_names == ["text", "label"]
