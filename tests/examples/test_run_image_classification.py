"""The program for images, on folders and parquet files of tiny images and a tiny ViT."""

import json
import re
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import run_image_classification
import torch
import transformers
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTModel, pipeline

from merlin_hf.cli.arguments import detect_task
from merlin_hf.cli.main import main
from merlin_hf.data import media
from merlin_hf.data.encoding import encode_media
from merlin_hf.data.images import IMAGES, EncodeImages
from merlin_hf.data.media import find_media_column
from merlin_hf.data.tasks import load_task, make_task
from merlin_hf.scripts import image_classification, program
from merlin_hf.scripts.arguments import parse_args
from merlin_hf.scripts.data_arguments import ImageDataArguments
from tests.tiny import TEXT, VISION


SIZE = VISION["image_size"]
ANIMALS = ["ant", "bee", "cat"]


def picture(label, classes, draw):
    """A noisy grey image; the brighter band of rows tells the label."""
    pixels = draw.normal(110, 50, (20 + draw.integers(9), 24))
    band = len(pixels) // classes
    pixels[label * band : (label + 1) * band] += 60
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def folders(root, names, count, seed):
    """A folder of images for each class."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        label = number % len(names)
        (root / names[label]).mkdir(parents=True, exist_ok=True)
        picture(label, len(names), draw).save(root / names[label] / f"{number}.png")
    return str(root)


def table(names, count, seed, columns=("image", "label"), labels=None):
    """The same as a data set, with a column that tells nothing."""
    draw = np.random.default_rng(seed)
    ids = [number % len(names) for number in range(count)]
    kind = datasets.ClassLabel(names=names) if labels is None else datasets.Value("string")
    return datasets.Dataset.from_dict(
        {
            "number": list(range(count)),
            columns[0]: [picture(id, len(names), draw) for id in ids],
            columns[1]: ids if labels is None else [labels[id] for id in ids],
        },
        features=datasets.Features(
            {"number": datasets.Value("int32"), columns[0]: datasets.Image(), columns[1]: kind}
        ),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders with target and source, the source also as parquet files, and a tiny ViT without a head."""
    if getattr(AutoImageProcessor, "is_dummy", False):
        pytest.skip("AutoImageProcessor of transformers 5.10 needs torchvision")
    root = tmp_path_factory.mktemp("images")
    folders(root / "target" / "train", ANIMALS, 30, seed=1)
    folders(root / "target" / "validation", ANIMALS, 45, seed=2)
    source = table(list("abcde"), 60, seed=3, columns=("img", "fine_label"))
    source.to_parquet(root / "source" / "data" / "train-00000-of-00001.parquet")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(**{name: value for name, value in TEXT.items() if name != "vocab_size"}, **VISION)
        ViTModel(config, add_pooling_layer=False).save_pretrained(root / "vit")
    transformers.ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(root / "vit")
    return root


def options(root, output_dir, *more):
    return [
        *("--model_name_or_path", str(root / "vit"), "--output_dir", str(output_dir), "--use_cpu"),
        *("--per_device_train_batch_size", "10", "--learning_rate", "2e-3", "--logging_steps", "1"),
        *("--report_to", "none", "--disable_tqdm", "True", "--max_steps", "8", *more),
    ]


def target(root):
    return "--train_dir", str(root / "target" / "train"), "--validation_dir", str(root / "target" / "validation")


def results(output_dir, name="all"):
    return json.loads((output_dir / f"{name}_results.json").read_text())


def history(output_dir):
    return json.loads((output_dir / "trainer_state.json").read_text())["log_history"]


def test_folders_as_a_program(root, tmp_path):
    output = tmp_path / "out"
    given = [*options(root, output), *target(root), "--test_dir", str(root / "target" / "validation")]
    given += ["--source_dataset_name", str(root / "source"), "--do_train", "--do_eval", "--do_predict"]
    run_image_classification.main(given)

    found = results(output)
    assert (found["train_samples"], found["source_samples"], found["eval_samples"]) == (30, 60, 45)
    assert found["eval_accuracy"] > 0.5, "three classes"
    assert found["predict_accuracy"] == found["eval_accuracy"]
    assert {"meta_loss", "source_loss"} <= {name for entry in history(output) for name in entry}

    model = AutoModelForImageClassification.from_pretrained(output)
    assert type(model) is transformers.ViTForImageClassification
    assert model.config.id2label == dict(enumerate(ANIMALS))
    # Rows are in the order of file names, class by class.
    lines = (output / "predict_results.txt").read_text().splitlines()[1:]
    paths = [path for name in ANIMALS for path in sorted((root / "target" / "validation" / name).iterdir())]
    assert len(lines) == len(paths) == 45
    classify = pipeline("image-classification", model=str(output), device="cpu")
    answers = classify([Image.open(path).convert("RGB") for path in paths], top_k=1)
    assert [line.split("\t")[1] for line in lines] == [answer[0]["label"] for answer in answers]


@pytest.mark.parametrize("method", ["finetune", "joint", "l2_sp"])
def test_other_methods_and_a_part_of_the_rows_for_evaluation(method, root, tmp_path):
    more = ["--train_dir", str(root / "target" / "train"), "--train_val_split", "0.2", "--method", method]
    more += ["--source_dataset_name", str(root / "source"), "--max_source_samples", "20", "--max_train_samples", "12"]
    image_classification.main([*options(root, tmp_path / "out", *more), "--do_train", "--do_eval", "--max_steps", "3"])
    found = results(tmp_path / "out")
    assert (found["train_samples"], found["eval_samples"]) == (12, 6)
    assert found.get("source_samples") == (None if method == "finetune" else 20)


def test_augmented_runs_resume_from_the_last_checkpoint_as_if_never_stopped(root, tmp_path, caplog):
    more = [*target(root), "--source_dataset_name", str(root / "source"), "--do_train", "--save_steps", "3"]
    more += ["--random_resized_crop", "--horizontal_flip", "--lr_scheduler_type", "constant", "--no_mix_weights"]
    image_classification.main([*options(root, tmp_path / "whole", *more), "--max_steps", "5"])
    image_classification.main([*options(root, tmp_path / "parts", *more), "--max_steps", "3"])
    assert "Resuming" not in caplog.text
    image_classification.main([*options(root, tmp_path / "parts", *more), "--max_steps", "5"])
    assert f"Resuming from {tmp_path / 'parts' / 'checkpoint-3'}" in caplog.text
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=0, msg=name)


def test_a_trained_model_is_evaluated_by_its_own_order_of_labels(root, tmp_path):
    config = ViTConfig.from_pretrained(root / "vit", id2label={0: "cat", 1: "ant", 2: "bee"})
    config.label2id = {name: id for id, name in config.id2label.items()}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(
        (root / "vit" / "preprocessor_config.json").read_text()
    )
    rows = table(["cat", "bee", "ant"], 12, seed=4, labels=["cat", "bee", "ant"], columns=("image", "class"))
    rows.to_parquet(tmp_path / "data" / "test.parquet")
    arguments = ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", str(tmp_path / "data")]
    arguments += ["--output_dir", str(tmp_path / "out"), "--use_cpu", "--report_to", "none", "--do_predict"]
    image_classification.main([*arguments, "--disable_tqdm", "True"])
    lines = [line.split("\t")[1] for line in (tmp_path / "out" / "predict_results.txt").read_text().splitlines()[1:]]
    right = np.mean([said == true for said, true in zip(lines, rows["class"], strict=True)])
    assert results(tmp_path / "out", "predict")["predict_accuracy"] == pytest.approx(right)


def test_pushes_when_asked(root, tmp_path, monkeypatch):
    pushed = {}
    trainer = SimpleNamespace(
        args=SimpleNamespace(push_to_hub=True), push_to_hub=lambda **kwargs: pushed.update(kwargs)
    )
    model_args = image_classification.ModelArguments("google/vit")
    assert model_args.trust_remote_code is False
    program.publish(trainer, model_args, ImageDataArguments("flwrlabs/usps"), "image-classification")
    assert pushed == {
        "tasks": "image-classification",
        "finetuned_from": "google/vit",
        "dataset": "flwrlabs/usps",
        "dataset_tags": "flwrlabs/usps",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "target is missing: give `dataset_name` or `train_dir`"),
        (["--dataset_name", "a", "--train_dir", "b"], "only one of `dataset_name`, `train_dir`"),
        (["--train_dir", "nowhere"], "`train_dir='nowhere'` is not a folder"),
        (
            ["--dataset_name", "SOURCE", "--image_column_name", "pixels"],
            r"`image_column_name` must be one of the columns of images \['img'\], got 'pixels'",
        ),
        (["--dataset_name", "SOURCE", "--train_split_name", "main"], "`train_split_name='main'` is not a split"),
        (["--dataset_name", "SOURCE", "--train_val_split", "0", "--do_eval"], "no validation split, only train. Give"),
        (["--dataset_name", "SOURCE", "--train_val_split", "1"], "`train_val_split` must be"),
        (["--dataset_name", "SOURCE", "--do_train", "--method", "merlin"], "`method='merlin'` trains on a source"),
    ],
)
def test_errors_name_the_argument(arguments, message, root, tmp_path, refused):
    arguments = [str(root / "source") if argument == "SOURCE" else argument for argument in arguments]
    refused(image_classification.main, [*options(root, tmp_path / "out"), *arguments], message)


def test_a_file_that_proves_damaged_in_the_run_is_named(root, tmp_path, monkeypatch, capfd):
    """Of a large set only headers are read before the first step."""
    monkeypatch.setattr(media, "CHECKED_ROWS", 1)
    folder = folders(tmp_path / "train", ANIMALS, 12, seed=1)
    file = tmp_path / "train" / "bee" / "4.png"
    file.write_bytes(file.read_bytes()[:-60])
    more = ["--train_dir", folder, "--do_train", "--task", "image", "--train_val_split", "0"]
    with pytest.raises(SystemExit) as end:
        main(["train", *options(root, tmp_path / "out", *more)])
    said = capfd.readouterr().err
    assert end.value.code == 2 and "Traceback" not in said
    assert re.search(r"merlin-hf train: `train_dir=\S*`: \S*bee/4.png cannot be read: .* Replace or remove it", said)


def test_arrays_of_numbers_are_images(tmp_path):
    features = datasets.Features(
        {"pixels": datasets.Array3D((3, 8, 9), "uint8"), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 9), dtype=np.uint8)
    rows = datasets.Dataset.from_dict({"pixels": list(pixels), "label": [0, 1] * 2}, features=features)
    rows.to_parquet(tmp_path / "train.parquet")
    assert detect_task({"dataset_name": str(tmp_path)}) == "image"
    args = ImageDataArguments(dataset_name=str(tmp_path), train_val_split=0.0)
    shown = []
    encode = EncodeImages(lambda images, **_: shown.extend(images) or {"pixel_values": [0] * len(images)})
    read = encode_media(load_task(args.spec()), "train", encode)[:]
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in shown]), pixels.transpose(0, 2, 3, 1))
    assert read["labels"] == [0, 1] * 2


def test_two_columns_of_images_must_be_told_apart():
    rows = table(ANIMALS, 3, seed=0, columns=("before", "label"))
    after = rows.select_columns("before").rename_column("before", "after")
    rows = datasets.concatenate_datasets([rows, after], axis=1)
    origins = {"train": "`dataset_name`"}
    for split in (rows, rows.remove_columns("label")):
        data_args = ImageDataArguments("x")
        with pytest.raises(
            ValueError, match="`dataset_name` has the columns .*give one of images by `image_column_name`"
        ):
            find_media_column(split, IMAGES, data_args.spec().options, "`dataset_name`")
        data_args.image_column_name = "after"
        assert find_media_column(split, IMAGES, data_args.spec().options, "`dataset_name`") == "after"
    data_args.image_column_name = "label"
    with pytest.raises(ValueError, match="`image_column_name` must be one of the columns of images"):
        make_task({"train": rows}, origins, data_args.spec())
    data_args.image_column_name = "after"
    assert make_task({"train": rows}, origins, data_args.spec()).columns == ["after"]


def test_arguments_from_a_file(root, tmp_path):
    arguments = {
        "model_name_or_path": "m",
        "train_dir": "d",
        "output_dir": "o",
        "method": "joint",
        "batch_mix": "equal",
    }
    (tmp_path / "run.yaml").write_text(yaml.dump(arguments))
    model_args, data_args, args = parse_args(
        [str(tmp_path / "run.yaml")], image_classification.ModelArguments, ImageDataArguments
    )
    assert (model_args.method, data_args.train_dir, args.batch_mix) == ("joint", "d", "equal")
