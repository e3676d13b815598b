"""The README's quickstart, run as it stands there, and quickstart.py, which is the same with arguments."""

import ast
import re

import datasets
import pytest
import quickstart
from sentence_transformers import SentenceTransformer

from tests.examples.conftest import ROOT, WORDS
from tests.tiny import tiny_sentence_encoder


README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.search(r"## Quickstart\n.*?```python\n(.*?)```", README, re.DOTALL).group(1)
MOODS = ["negative", "neutral", "positive"]


def pairs(columns, names, count):
    """Rows of labelled texts; the first word of each text tells the label."""
    labels = [number % len(names) for number in range(count)]
    table = {name: [f"w{label} {WORDS[5 + row % 30]}" for row, label in enumerate(labels)] for name in columns}
    features = {name: datasets.Value("string") for name in columns}
    features |= {"label": datasets.ClassLabel(names=names), "idx": datasets.Value("int32")}
    return datasets.Dataset.from_dict(
        {**table, "label": labels, "idx": list(range(count))}, features=datasets.Features(features)
    )


def write(folder):
    """`folder/sentiment` and `folder/sst2`."""
    for split, count in (("train", 120), ("validation", 40)):
        pairs(["text"], MOODS, count).to_parquet(folder / "sentiment" / f"{split}.parquet")
    pairs(["sentence"], MOODS[::2], 60).to_parquet(folder / "sst2" / "train.parquet")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_is_plain(folder):
    """The folder is an encoder of sentence-transformers, with the classes of the target."""
    model = SentenceTransformer(str(folder))
    assert list(model[0].model.config.id2label.values()) == MOODS
    assert model.encode(["w0 w7"], output_value="logits")[0].shape == (len(MOODS),)


def test_the_readme_runs_word_for_word(here, monkeypatch):
    """Folders with the names of the Hub stand in for it; the number of steps and the push alone are changed."""
    tiny_sentence_encoder().save(str(here / "sentence-transformers" / "all-MiniLM-L6-v2"), create_model_card=False)
    write(here / "data")
    (here / "stanfordnlp").mkdir()
    (here / "data" / "sst2").rename(here / "stanfordnlp" / "sst2")
    tweets = here / "cardiffnlp" / "tweet_eval"
    tweets.parent.mkdir()
    (here / "data").rename(tweets)
    files = sorted((tweets / "sentiment").iterdir())
    header = ["---", "configs:", "- config_name: sentiment", "  data_files:"]
    header += [f"  - split: {path.stem}\n    path: sentiment/{path.name}" for path in files]
    (tweets / "README.md").write_text("\n".join([*header, "---", ""]))

    pushed = []
    monkeypatch.setattr("merlin_hf.MerlinTrainer.push_to_hub", lambda trainer: pushed.append(trainer))
    assert "max_steps=280" in CODE
    exec(compile(CODE.replace("max_steps=280", "max_steps=14"), "README.md", "exec"), {})
    (trainer,) = pushed
    assert trainer.state.global_step == 14 and trainer.transfer_model.source_head.out_features == 2
    assert trainer.branches.mix is not None and len(trainer.train_dataset) == 100
    trainer.save_model()
    check_is_plain(here / "tweets-merlin")


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


def test_the_example_runs_without_a_network(here, monkeypatch, capsys):
    encoder = here / "encoder"
    tiny_sentence_encoder().save(str(encoder), create_model_card=False)
    write(here / "data")
    monkeypatch.setenv("MERLIN_DATA_ROOT", str(here / "data"))
    quickstart.main(["--model_name_or_path", str(encoder), "--max_steps", "6", "--output_dir", "out"])
    assert "eval_accuracy" in capsys.readouterr().out
    check_is_plain(here / "out")
