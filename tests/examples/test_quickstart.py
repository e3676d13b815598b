"""The README's ten lines, run as they stand there, and quickstart.py, which is the same with arguments."""

import ast
import os
import re
import shutil

import datasets
import pytest
import quickstart
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.examples.conftest import ROOT, WORDS


README = (ROOT / "README.md").read_text()
CODE = re.search(r"## Ten lines\n\n```python\n(.*?)```", README, re.DOTALL).group(1)
NLI = ["entailment", "neutral", "contradiction"]


def pairs(columns, names, count):
    """Rows of a GLUE task; the first word of each text tells the label."""
    labels = [number % len(names) for number in range(count)]
    table = {name: [f"w{label} {WORDS[5 + row % 30]}" for row, label in enumerate(labels)] for name in columns}
    features = {name: datasets.Value("string") for name in columns}
    features |= {"label": datasets.ClassLabel(names=names), "idx": datasets.Value("int32")}
    return datasets.Dataset.from_dict(
        {**table, "label": labels, "idx": list(range(count))}, features=datasets.Features(features)
    )


def write(folder):
    """`folder/rte` and `folder/mnli`."""
    rte = pairs(("sentence1", "sentence2"), ["entailment", "not_entailment"], 40)
    rte.to_parquet(folder / "rte" / "train.parquet")
    rte.to_parquet(folder / "rte" / "validation.parquet")
    pairs(("premise", "hypothesis"), NLI, 60).to_parquet(folder / "mnli" / "train.parquet")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, where data sets are kept too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def check_is_plain(folder, words="w0 w7"):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model) is transformers.BertForSequenceClassification and model.config.num_labels == 2
    assert len(AutoTokenizer.from_pretrained(folder)(words)["input_ids"]) == 4


def test_the_readme_runs_word_for_word(here, model_path, monkeypatch):
    """Folders with the names of the Hub stand in for it; the number of steps and the push alone are changed."""
    shutil.copytree(model_path, here / "google-bert" / "bert-base-uncased")
    glue = here / "nyu-mll" / "glue"
    write(glue)
    files = {name: sorted((glue / name).iterdir()) for name in ("rte", "mnli")}
    header = ["---", "configs:"]
    for name, paths in files.items():
        header += [f"- config_name: {name}", "  data_files:"]
        header += [f"  - split: {path.stem}\n    path: {name}/{path.name}" for path in paths]
    (glue / "README.md").write_text("\n".join([*header, "---", ""]))

    pushed = []
    monkeypatch.setattr("merlin_hf.MerlinTrainer.push_to_hub", lambda trainer: pushed.append(trainer))
    assert "max_steps=2000" in CODE
    exec(compile(CODE.replace("max_steps=2000", "max_steps=4"), "README.md", "exec"), {})
    (trainer,) = pushed
    assert trainer.state.global_step == 4 and trainer.transfer_model.source_head.out_features == len(NLI)
    trainer.save_model()
    check_is_plain(here / "rte-merlin")


def statements(code):
    """The code of each statement of a program, imports taken apart; those with statements inside count as these."""
    found = []
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom):
            found += [f"from {node.module} import {name.name}" for name in node.names]
        else:
            found.append(ast.unparse(node))
    return found


class Defaults(ast.NodeTransformer):
    """`args.name` becomes the default of the option `--name`."""

    def __init__(self, args):
        self.args = args

    def visit_Attribute(self, node):
        if isinstance(node.value, ast.Name) and node.value.id == "args":
            return ast.Constant(getattr(self.args, node.attr))
        return self.generic_visit(node)


def test_the_example_is_the_readme_with_arguments():
    with open(quickstart.__file__) as file:
        program = ast.parse(file.read())
    defaults = Defaults(quickstart.parse_args([]))
    body = [node for node in ast.walk(program) if isinstance(node, ast.stmt)]
    has = {text for node in body for text in statements(ast.unparse(defaults.visit(node)))}
    wanted = statements(CODE)
    assert len(wanted) > 8
    # On a machine without a network the example's `load_dataset` finds the data sets; it takes the same arguments.
    has.add("from datasets import load_dataset")
    assert "from merlin_hf.data import load_dataset" in has
    assert [text for text in wanted if text not in has] == []
    order = [
        text for node in program.body if isinstance(node, ast.FunctionDef) for text in map(ast.unparse, node.body)
    ]
    order = [text for text in order if text in wanted]
    assert order == [text for text in wanted if text in order]


def test_the_example_runs_without_a_network(here, model_path, monkeypatch, capsys):
    write(here / "data")
    monkeypatch.setenv("MERLIN_DATA_ROOT", str(here / "data"))
    quickstart.main(["--model_name_or_path", model_path, "--max_steps", "6", "--output_dir", "out"])
    assert "eval_head_train_accuracy" in capsys.readouterr().out
    check_is_plain(here / "out")
    assert {"model.safetensors", "tokenizer.json"} <= set(os.listdir(here / "out"))
