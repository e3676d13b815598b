"""The configurations run as their first line says, on tiny models and data, and README lists what there is."""

import ast
import json
import re
import shutil

import datasets
import pytest
import run_audio_classification
import yaml
from transformers import AutoConfig, AutoImageProcessor

from merlin_hf.cli.main import main as merlin_hf
from tests.examples import test_quickstart, test_run_audio_classification, test_run_image_classification
from tests.examples.conftest import ROOT


EXAMPLES = ROOT / "examples"
CONFIGS = sorted((EXAMPLES / "configs").glob("*.yaml"))
image_root = test_run_image_classification.root
audio_root = test_run_audio_classification.root


@pytest.fixture(autouse=True)
def data_root(surroundings, tmp_path, monkeypatch):
    monkeypatch.setenv("MERLIN_DATA_ROOT", str(tmp_path / "data"))


def write_texts(folder):
    """RTE, MNLI and STS-B."""
    nli = ["entailment", "neutral", "contradiction"]
    for split in ("train", "validation"):
        test_quickstart.pairs(("sentence1", "sentence2"), nli[:2], 40).to_parquet(folder / "rte" / f"{split}.parquet")
    test_quickstart.pairs(("premise", "hypothesis"), nli, 60).to_parquet(folder / "mnli" / "train.parquet")
    scores = test_quickstart.pairs(("sentence1", "sentence2"), list("abc"), 30)
    scores = scores.cast_column("label", datasets.Value("float32"))
    for split in ("train", "validation"):
        scores.to_parquet(folder / "stsb" / f"{split}.parquet")


def write_images(folder):
    digits = [str(digit) for digit in range(10)]
    for name, count in {"usps": 60, "mnist": 80}.items():
        for split in ("train", "test"):
            rows = test_run_image_classification.table(digits, count, seed=5)
            rows.to_parquet(folder / name / f"{split}.parquet")


def write_audio(folder, wav_files):
    """MInDS-14 has two columns of classes."""
    for name in ("fr-FR", "en-US"):
        shutil.copytree(wav_files, folder / name / "files")
        column = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        test_run_audio_classification.parquet(
            folder / name, lambda samples: {"bytes": test_run_audio_classification.wav(samples), "path": "x"}, column
        )
        shutil.rmtree(folder / name / "files")
        rows = datasets.load_dataset(str(folder / name), split="train").rename_column("label", "intent_class")
        rows = rows.add_column("lang_id", [0] * len(rows), feature=datasets.ClassLabel(names=["fr", "en"]))
        rows.to_parquet(folder / name / "train.parquet")


def run(program, path):
    """Run a command of the first line of a configuration with another file."""
    if program == "merlin-hf train":
        try:
            merlin_hf(["train", path])
        except SystemExit as end:
            assert not end.code
    else:
        assert program == "python examples/run_audio_classification.py"
        run_audio_classification.main([path])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_runs_as_its_first_line_says(path, model_path, tmp_path, request):
    command = path.read_text().splitlines()[0].removeprefix("# ")
    program, name = command.rsplit(" ", 1)
    assert ROOT / name == path
    folder = tmp_path / "data"
    if path.stem.endswith("_mnli"):
        write_texts(folder)
    elif path.stem == "usps_from_mnist":
        if getattr(AutoImageProcessor, "is_dummy", False):
            pytest.skip("AutoImageProcessor of transformers 5.10 needs torchvision")
        write_images(folder)
        model_path = str(request.getfixturevalue("image_root") / "vit")
    else:
        audio_root = request.getfixturevalue("audio_root")
        write_audio(folder, audio_root / "train")
        model_path = str(audio_root / "model")

    options = yaml.safe_load(path.read_text())
    assert "/" in options["model_name_or_path"] and options["output_dir"].startswith("runs/")
    options |= {"model_name_or_path": model_path, "output_dir": str(tmp_path / "out"), "max_steps": 2}
    options |= {name: 2 for name in ("eval_steps", "save_steps") if name in options}
    options |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    (tmp_path / "run.yaml").write_text(yaml.dump(options))
    run(program, str(tmp_path / "run.yaml"))

    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert "eval_loss" in results and results["source_samples"] > 0
    assert AutoConfig.from_pretrained(tmp_path / "out").architectures[0].endswith("Classification")
    if path.stem == "stsb_from_mnli":
        assert "eval_combined_score" in results


def examples():
    """Every file that a user may run or read, but for helpers within folders of their own."""
    for path in sorted(EXAMPLES.rglob("*")):
        within = path.relative_to(EXAMPLES)
        if path.suffix in (".py", ".ipynb", ".yaml") and within.parts[0] not in ("image_classification", "compare"):
            if ".ipynb_checkpoints" not in within.parts:
                yield within.as_posix()


def test_readme_lists_every_example_with_a_command_that_is_there():
    text = (EXAMPLES / "README.md").read_text()
    links = set(re.findall(r"\]\(([^)#]+)\)", text))
    assert set(examples()) <= links
    assert all((EXAMPLES / link).exists() for link in links)
    named = re.findall(r"`[^`]*?(examples/[\w/.]+)[^`]*`", text)
    assert named and all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize("name", [name for name in examples() if name.endswith(".py")])
def test_programs_start_with_their_command(name):
    docstring = ast.get_docstring(ast.parse((EXAMPLES / name).read_text()))
    if name in ("editorials.py", "editorials_task.py"):
        assert docstring
    else:
        assert f"examples/{name}" in docstring
