"""Comparisons with several sources: each with its own rows and columns, all or some of them for a method."""

import datasets
import pytest
import yaml

from merlin_hf import METHODS
from merlin_hf.comparison import ConfigError, compare, dry_run, load_config
from merlin_hf.comparison.experiment import Experiment
from merlin_hf.comparison.runner import plan_methods
from merlin_hf.comparison.store import FINAL
from merlin_hf.report.comparisons import read_comparisons
from tests.comparison.conftest import NAMES, SOURCE_WORDS, read, save, sentences


@pytest.fixture(scope="module")
def sources(texts, tmp_path_factory):
    """Three sources: topics of single texts, pairs with real labels, and the target's labels."""
    root = tmp_path_factory.mktemp("sources")
    string = datasets.Value("string")
    first, labels = sentences(60, SOURCE_WORDS, seed=5)
    second, _ = sentences(60, SOURCE_WORDS, seed=6)
    columns = {"left": first, "right": second, "score": [label + 0.25 * (row % 2) for row, label in enumerate(labels)]}
    save(root / "pairs", "train", columns, {"left": string, "right": string, "score": datasets.Value("float32")})
    save(
        root / "same",
        "train",
        {"text": second, "label": labels},
        {"text": string, "label": datasets.ClassLabel(names=NAMES)},
    )
    return {
        "topics": {"path": str(texts / "source"), "label_column": "topic", "rows": 50},
        "pairs": {"path": str(root / "pairs"), "label_column": "score"},
        "same": {"path": str(root / "same"), "rows": 30},
    }


def runs_of(config, label):
    """The final runs of a method with its defaults."""
    experiment = Experiment(config)
    (method,) = (method for method in config.methods if method.name == label)
    return [experiment.make_run(method, FINAL, seed, {}) for seed in config.seeds]


def test_methods_get_all_sources_or_some(config, sources, monkeypatch):
    given = {}
    build_trainer = Experiment.build_trainer

    def spied(self, method, run):
        trainer, eval_rows = build_trainer(self, method, run)
        given.setdefault(method.name, []).append(trainer)
        return trainer, eval_rows

    monkeypatch.setattr(Experiment, "build_trainer", spied)
    methods = {
        "merlin": None,
        "without_same": {"method": "joint", "use_source": ["pairs", "topics"]},
        "one": {"method": "sequential", "use_source": ["same"]},
        "l2_sp": {"use_source": False},
        "finetune": None,
        "lwf": None,
        "zero_shot": None,
    }
    training = {**config["training"], "source_mix": "topics=1,pairs=2,same=1", "logging_steps": 1}
    settings = {"methods": methods, "training": training, "source": sources, "seeds": 1, "search": {"trials": 0}}
    result = compare(read(config, **settings), show_progress=False)
    by_label = {method["label"]: method for method in result.summary["methods"]}
    statuses = {label: method["status"] for label, method in by_label.items()}
    assert statuses == {**dict.fromkeys(methods, "ok"), "lwf": "not applicable", "zero_shot": "not applicable"}
    table = result.table.replace("\\", "")
    assert "lwf is not applicable: it takes one source, as `use_source: [topics]` gives it" in table

    merlin, pair, one = (given[label][-1] for label in ("merlin", "without_same", "one"))
    assert {name: len(rows) for name, rows in merlin.source_dataset.items()} == {"topics": 50, "pairs": 60, "same": 30}
    heads = {name: head.out_features for name, head in merlin.transfer_model.source_head.items()}
    assert heads == {"topics": 3, "pairs": 1, "same": 2} and merlin.args.source_mix == "topics=1.0,pairs=2.0,same=1.0"
    assert list(pair.source_dataset) == ["topics", "pairs"] and pair.args.source_mix == "topics=1.0,pairs=2.0"
    assert len(one.source_dataset) == 30 and one.args.num_source_labels == 2
    assert all(given[label][-1].source_dataset is None for label in ("l2_sp", "finetune"))
    losses = {name for entry in merlin.state.log_history for name in entry if name.startswith("source_loss_")}
    assert losses <= {"source_loss_topics", "source_loss_pairs", "source_loss_same"} and losses

    assert by_label["without_same"]["use_source"] == ["topics", "pairs"] and by_label["merlin"]["use_source"] is True
    assert "use_source topics+pairs" in table and "Sources: topics, " in table
    assert {name: one["rows"] for name, one in result.summary["data"]["source"].items()} == {
        "topics": 50,
        "pairs": 60,
        "same": 30,
    }
    line = "The source same and the target have the same labels, no, yes: one uses this."
    assert result.summary["shared_labels"] == line and line in result.table
    ((comparison,), _) = read_comparisons([result.output_dir])
    assert comparison.pair.count(" + ") == 2 and "target" in comparison.pair

    monkeypatch.setattr(Experiment, "train_and_score", None)
    again = compare(read(result.summary["config"]), show_progress=False)
    assert {method["label"]: method["status"] for method in again.summary["methods"]} == statuses
    plan = dry_run(read(config, **settings))
    for text in ("source  topics: ", "without_same  topics+pairs", "\nlwf is not applicable: it takes one source"):
        assert text in plan.text
    assert "\n0 runs to do" in plan.text


def test_a_run_on_one_of_the_sources_is_that_of_a_comparison_with_this_one(config, sources):
    """Also with weights for all of them, and whatever it is called."""
    training = {**config["training"], "source_mix": "topics=1,pairs=2,same=1"}
    methods = {"joint": {"use_source": ["topics"]}, "both": {"method": "joint", "use_source": ["topics", "same"]}}
    several = read(config, source=sources, methods=methods, training=training)
    alone = read(config, source=sources["topics"], methods=["joint"])
    keys = [[run.key for run in runs_of(each, "joint")] for each in (several, alone)]
    assert keys[0] == keys[1]
    turned = read(config, source=dict(reversed(sources.items())), methods=methods, training=training)
    assert runs_of(several, "both")[0].key != runs_of(turned, "both")[0].key, "the first wins ties"
    assert runs_of(several, "joint")[0].key == runs_of(turned, "joint")[0].key


def test_what_determines_a_run_with_one_source_is_as_it_was(config):
    fingerprint = runs_of(read(config), "merlin")[0].fingerprint
    assert isinstance(fingerprint["source_rows"], str) and fingerprint["columns"] == [["text"], ["sentence"]]
    assert "source_mix" not in fingerprint["options"] and "shared_labels" not in fingerprint
    fingerprint = runs_of(read(config, source=None, methods=["finetune"]), "finetune")[0].fingerprint
    assert fingerprint["source_rows"] is None and fingerprint["columns"] == [["text"], None]


def test_a_list_is_named_by_the_paths_and_found_beside_the_file(config, sources, tmp_path):
    values = {**config, "source": [{**sources["pairs"], "path": "pairs"}, sources["same"]]}
    (tmp_path / "pairs").symlink_to(sources["pairs"]["path"])
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(values))
    found = load_config(tmp_path / "compare.yaml")
    assert list(found.sources) == ["pairs", "same"] and found.sources["pairs"].path == str(tmp_path / "pairs")


def test_sources_of_images(config, images):
    changes = {
        "model": str(images / "resnet"),
        "from_scratch": True,
        "image_size": 16,
        "target": {"path": str(images / "target")},
        "source": {"first": {"path": str(images / "source")}, "second": {"path": str(images / "source"), "rows": 10}},
        "methods": ["joint"],
        "seeds": 1,
        "search": {"trials": 1},
    }
    summary = compare(read(config, **changes), show_progress=False).summary
    assert summary["methods"][0]["status"] == "ok", summary["methods"][0]["reason"]
    assert [one["rows"] for one in summary["data"]["source"].values()] == [40, 10]
    with pytest.raises(ConfigError, match="The source first has images and the target texts"):
        dry_run(read(config, source=changes["source"]))


@pytest.mark.parametrize("mixed", ["proportional", "equal"])
def test_mixes_by_name_hold_for_any_sources(config, sources, mixed):
    training = {**config["training"], "source_mix": mixed}
    methods = {"joint": {"use_source": ["topics", "same"]}}
    experiment = Experiment(read(config, source=sources, methods=methods, training=training))
    (plan,) = plan_methods(experiment)
    assert experiment.training_args(plan.method, {}).source_mix == mixed


def test_every_method_takes_several_sources_or_says_that_it_takes_one():
    one = {name for name, cls in METHODS.items() if cls.takes_source and not cls.takes_several_sources}
    assert one == {"co_tuning", "lwf", "zero_shot", "pooled"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": []}, "`source` must be a data set or several of them"),
        ({"source": {"a.b": {"path": "x"}}}, "`source` has the name 'a.b'"),
        ({"source": {"a": {"path": "x"}, "b": None}}, "`source.b.path` is missing"),
        ({"source": {"a": {"path": "x", "row": 3}}}, "`source.a.row` is unknown. Did you mean 'rows'"),
        ({"source": {"a": {"path": "x", "rows": 1}}}, "`source.a.rows` must be a whole number of at least 2"),
        ({"methods": {"joint": {"use_source": ["topic"]}}}, "must be true, false or a list of some of topics, pairs"),
        ({"methods": {"joint": {"use_source": []}}}, "`methods.joint.use_source` must be true, false or a list"),
        ({"methods": {"joint": {"use_source": ["same", "same"]}}}, "must be true, false or a list"),
        ({"methods": {"finetune": {"use_source": ["same"]}}}, r"use_source` cannot be \['same'\]: the m"),
        ({"methods": {"joint": {"source_mix": "topics=1,same=1"}}}, "`source_mix` has weights for topics, same"),
        ({"methods": {"joint": {"source_mix": "half"}}}, "`source_mix` must be 'proportional', 'equal' or"),
        ({"methods": {"joint": {"search": {"source_mix": ["equal", "x=1"]}}}}, "`source_mix` has weights for x"),
        ({"training": {"max_steps": 1, "source_mix": "x=1,topics=1,pairs=1,same=1"}}, "weights for x, topics"),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_are_refused(config, sources, changes, message):
    with pytest.raises(ConfigError, match=message):
        read(config, **{"source": sources, "methods": ["joint"], **changes})


def test_names_of_one_source_without_a_name_are_refused(config):
    with pytest.raises(ConfigError, match=r"`methods.joint.use_source` must be true or false, got \['source'\]"):
        read(config, methods={"joint": {"use_source": ["source"]}})
