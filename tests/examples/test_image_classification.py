import difflib
import json
import re
import shutil

import datasets
import numpy as np
import pytest
import torch
import transformers
from image_classification import run_image_classification, run_image_classification_merlin
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTModel, pipeline

from merlin_hf.utils.manifest import MANIFEST_NAME
from tests.examples.conftest import ROOT
from tests.tiny import TEXT, VISION


FOLDER = ROOT / "examples" / "image_classification"
PAIR = {"plain": run_image_classification, "merlin": run_image_classification_merlin}
ANIMALS = ["ant", "bee", "cat"]
SIZE = VISION["image_size"]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    verbosity = transformers.logging.get_verbosity(), datasets.logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    transformers.logging.set_verbosity(verbosity[0])
    datasets.logging.set_verbosity(verbosity[1])


def images(count, names, seed, columns=("image", "label")):
    """Noisy grey images of different sizes; the brighter row of squares tells the label, not always clearly."""
    draw = np.random.default_rng(seed)
    table = {columns[0]: [], columns[1]: [number % len(names) for number in range(count)]}
    for label in table[columns[1]]:
        pixels = draw.normal(110, 60, (20 + draw.integers(9), 24))
        band = len(pixels) // len(names)
        pixels[label * band : (label + 1) * band] += 40
        table[columns[0]].append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    features = datasets.Features({columns[0]: datasets.Image(), columns[1]: datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict(table, features=features)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Arguments for a target of three classes, a source of five with other columns, and a tiny ViT without a head."""
    if getattr(AutoImageProcessor, "is_dummy", False):
        pytest.skip("AutoImageProcessor of transformers 5.10 needs torchvision")
    root = tmp_path_factory.mktemp("data")
    images(30, ANIMALS, seed=1).to_parquet(root / "target" / "data" / "train-00000-of-00001.parquet")
    images(45, ANIMALS, seed=2).to_parquet(root / "target" / "data" / "validation-00000-of-00001.parquet")
    source = images(60, list("abcde"), seed=3, columns=("img", "fine_label"))
    source.to_parquet(root / "source" / "data" / "train-00000-of-00001.parquet")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(**{name: value for name, value in TEXT.items() if name != "vocab_size"}, **VISION)
        ViTModel(config, add_pooling_layer=False).save_pretrained(root / "vit")
    transformers.ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(root / "vit")
    return root


def run(kind, root, output_dir, *more, model=None):
    """Run one of the two scripts and return the accuracy that it wrote, if any."""
    arguments = ["--model_name_or_path", str(model or root / "vit"), "--dataset_name", str(root / "target")]
    if kind == "merlin":
        arguments += ["--source_dataset_name", str(root / "source")]
        # The model has random weights, which cannot be mixed.
        arguments += ["--mix_weights", "False", "--balance_gradients", "True", "--rho", "0.3"]
    arguments += ["--output_dir", str(output_dir), "--max_steps", "6", "--per_device_train_batch_size", "10"]
    arguments += ["--learning_rate", "2e-3", "--logging_steps", "1", "--use_cpu", "--report_to", "none"]
    PAIR[kind].main([*arguments, "--disable_tqdm", "True", *more])
    results = output_dir / "eval_results.json"
    return json.loads(results.read_text())["eval_accuracy"] if results.exists() else None


@pytest.fixture(scope="module")
def outputs(folders, tmp_path_factory):
    """What both scripts leave, with a checkpoint in the middle, and the accuracies that they wrote."""
    found = {}
    for kind in PAIR:
        output_dir = tmp_path_factory.mktemp(kind) / "out"
        found[kind] = output_dir, run(kind, folders, output_dir, "--do_train", "--do_eval", "--save_steps", "4")
    return found


def history(output_dir):
    return json.loads((output_dir / "trainer_state.json").read_text())["log_history"]


def test_the_diff_is_at_most_ten_lines_and_the_readme_shows_it():
    names = [f"{module.__name__.split('.')[-1]}.py" for module in PAIR.values()]
    texts = [(FOLDER / name).read_text().splitlines() for name in names]
    diff = list(difflib.unified_diff(*texts, *names, n=0, lineterm=""))
    assert 0 < len([line for line in diff[2:] if line[0] in "+-"]) <= 10
    assert re.findall(r"```diff\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL) == ["\n".join([*diff, ""])]


@pytest.mark.parametrize("kind", PAIR)
def test_the_checkpoint_is_a_plain_model_that_has_the_accuracy_written_down(kind, folders, outputs):
    output_dir, accuracy = outputs[kind]
    model = AutoModelForImageClassification.from_pretrained(output_dir).eval()
    assert type(model) is transformers.ViTForImageClassification
    assert model.config.id2label == dict(enumerate(ANIMALS))
    plain, saved = (load_file(folder / "model.safetensors") for folder in (outputs["plain"][0], output_dir))
    assert set(saved) == set(plain)

    rows = images(45, ANIMALS, seed=2)
    inputs = AutoImageProcessor.from_pretrained(output_dir)([image.convert("RGB") for image in rows["image"]])
    with torch.no_grad():
        said = model(pixel_values=torch.tensor(np.stack(inputs["pixel_values"]))).logits.argmax(-1)
    assert len(said.unique()) > 1
    assert accuracy == pytest.approx((said == torch.tensor(rows["label"][:])).float().mean().item())

    classify = pipeline("image-classification", model=str(output_dir), device="cpu")
    answers = classify([image.convert("RGB") for image in rows["image"][:9]], top_k=1)
    assert [answer[0]["label"] for answer in answers] == [ANIMALS[id] for id in said[:9]]


def test_only_merlin_trains_on_the_source_and_it_learns(outputs):
    logged = {
        kind: {name for entry in history(output_dir) for name in entry} for kind, (output_dir, _) in outputs.items()
    }
    assert {"source_loss", "meta_loss"} <= logged["merlin"]
    assert not {"source_loss", "meta_loss"} & logged["plain"]
    assert outputs["merlin"][1] > 0.5, "three classes"


@pytest.mark.parametrize("named", [False, True], ids=["last", "named"])
@pytest.mark.parametrize("kind", PAIR)
def test_resumes_from_a_checkpoint(kind, named, folders, outputs, tmp_path):
    output_dir, _ = outputs[kind]
    checkpoint = (tmp_path / "elsewhere" if named else tmp_path / "out") / "checkpoint-4"
    shutil.copytree(output_dir / "checkpoint-4", checkpoint)
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["log_history"].append({"copied": True, "step": 4})
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint / MANIFEST_NAME).unlink(missing_ok=True)  # or it would be a damaged checkpoint

    more = ["--resume_from_checkpoint", str(checkpoint)] if named else []
    run(kind, folders, tmp_path / "out", "--do_train", "--save_strategy", "no", *more)
    steps = [entry["step"] for entry in history(tmp_path / "out") if "loss" in entry]
    assert {"copied": True, "step": 4} in history(tmp_path / "out") and steps == [1, 2, 3, 4, 5, 6]
    resumed, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", output_dir))
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("kind", PAIR)
def test_evaluates_a_trained_model_without_training(kind, folders, outputs, tmp_path):
    output_dir, accuracy = outputs[kind]
    assert run(kind, folders, tmp_path / "out", "--do_eval", model=output_dir) == accuracy
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_arguments_from_a_file(folders, outputs, tmp_path):
    output_dir, accuracy = outputs["plain"]
    arguments = {"model_name_or_path": str(output_dir), "dataset_name": str(folders / "target"), "do_eval": True}
    arguments |= {"output_dir": str(tmp_path / "out"), "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    (tmp_path / "run.json").write_text(json.dumps(arguments))
    run_image_classification.main([str(tmp_path / "run.json")])
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_accuracy"] == accuracy


def test_another_number_of_labels_must_be_accepted(folders, outputs, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(
        outputs["plain"][0], num_labels=7, ignore_mismatched_sizes=True
    )
    model.save_pretrained(tmp_path / "seven")
    shutil.copy(folders / "vit" / "preprocessor_config.json", tmp_path / "seven")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        run("merlin", folders, tmp_path / "out", "--do_eval", model=tmp_path / "seven")
    more = ["--do_train", "--do_eval", "--ignore_mismatched_sizes"]
    assert run("merlin", folders, tmp_path / "out", *more, model=tmp_path / "seven") > 0.5


def test_a_split_has_the_rows_asked_for_under_the_names_that_models_take(folders):
    processor = AutoImageProcessor.from_pretrained(folders / "vit", backend="pil")
    source = run_image_classification.load_split(str(folders / "source"), "train", processor)
    assert source.column_names == ["image", "label"] and source.features["label"].names == list("abcde")
    batch = run_image_classification.collate_fn(source.__getitems__(range(7)))
    assert batch["pixel_values"].shape == (7, 3, SIZE, SIZE) and batch["labels"].tolist() == [0, 1, 2, 3, 4, 0, 1]

    def drawn(count, seed):
        rows = run_image_classification.load_split(str(folders / "source"), "train", processor, count, seed)
        return [row["labels"] for row in rows]

    assert len(drawn(9, 0)) == 9 and drawn(9, 0) == drawn(9, 0) != drawn(9, 1)
    assert len(drawn(99, 0)) == 60


def test_errors_say_what_is_missing(folders, tmp_path):
    with pytest.raises(ValueError, match="give `--do_train`, `--do_eval` or both"):
        run("plain", folders, tmp_path / "out")
    datasets.Dataset.from_dict({"image": [0], "label": [1]}).to_parquet(tmp_path / "numbers" / "train.parquet")
    with pytest.raises(ValueError, match="has no column of type Image"):
        run("plain", folders, tmp_path / "out", "--do_train", "--dataset_name", str(tmp_path / "numbers"))
