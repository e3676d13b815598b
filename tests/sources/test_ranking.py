"""Ranking data sets of which it is known which ones help."""

import json
import math

import datasets
import pytest
import torch
import transformers

from merlin_hf.comparison import ConfigError
from merlin_hf.comparison.config import SourceConfig
from merlin_hf.sources import rank_sources
from merlin_hf.sources.data import parse_data_set
from merlin_hf.sources.figure import save_figure
from merlin_hf.sources.report import table
from merlin_hf.sources.results import MEASURES, SourceRanking, SourceScore, rank
from merlin_hf.training_args import parse_mix
from merlin_hf.utils.files import to_json
from tests.sources.conftest import COLUMNS, save, sentences
from tests.tiny import CONV, tiny_sentence_encoder, tiny_texts


SMALL = {"max_seq_length": 16, "batch_size": 64}


def candidates(tasks):
    return {name: path for name, path in tasks.items() if name != "target"}


def test_the_source_of_the_same_task_is_first_by_every_measure(tasks, model_path, tmp_path):
    said = []
    ranking = rank_sources(tasks["target"], candidates(tasks), model_path, seeds=2, progress=said.append, **SMALL)
    assert ranking.best == "same" and ranking.measures == list(MEASURES)
    assert all(ranking.order(name)[0] == "same" for name in MEASURES)
    by_name = {score.name: score for score in ranking.sources}
    same, other, random = by_name["same"], by_name["other"], by_name["random"]
    assert same.mean("alignment") > 0.3 and max(abs(s.mean("alignment")) for s in (other, random)) < 0.15
    # The labels' entropy is what is left by a source that says nothing.
    assert same.mean("leep") > -0.1 and random.mean("leep") == pytest.approx(-math.log(2), abs=0.02)
    for name in MEASURES:
        assert random.mean(name) == pytest.approx(ranking.baseline(name), abs=0.1) and same.mean(
            name
        ) > ranking.baseline(name)
    assert [len(of_seed) for of_seed in same.contributions] == [4, 4]
    assert min(same.head_accuracy) > 0.95 and not same.head_is_at_chance and random.head_is_at_chance
    assert any("hardly learns random" in warning for warning in ranking.warnings)
    assert (ranking.target_rows, same.rows, same.pool_rows, same.num_labels) == (120, 200, 200, 2)
    assert len(said) == 6 and said[0].startswith("same, seed 0: alignment +0.")

    plain = json.loads(to_json(ranking.to_dict()))
    assert [source["name"] for source in plain["sources"]][0] == "same" and plain["settings"]["seeds"] == [0, 1]
    text = table(ranking)
    assert text.splitlines()[2].startswith("same ") and "over 2 draws of rows" in text and "Warning: On the" in text
    assert "With the labels of the target, so that `zero_shot` and `pooled` can use them: same, " in text
    save_figure(ranking, tmp_path / "new" / "ranking.png")
    assert (tmp_path / "new" / "ranking.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_call_gives_the_same_numbers_whatever_else_was_drawn(tasks, model_path):
    found = []
    for batch_size in (64, 7):
        torch.rand(3)
        state = torch.random.get_rng_state()
        ranking = rank_sources(
            tasks["target"], [tasks["same"]], model_path, source_rows=40, target_rows=30, max_seq_length=16,
            batch_size=batch_size, num_splits=2,
        )  # fmt: skip
        assert torch.equal(torch.random.get_rng_state(), state)
        found.append(ranking.sources[0].values)
    for name in MEASURES:
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-3)


def test_images(images, tmp_path):
    config = transformers.ResNetConfig(**{**CONV, "num_channels": 1, "embedding_size": 8}, layer_type="basic")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.ResNetModel(config).save_pretrained(tmp_path)
    ranking = rank_sources(
        images["target"],
        {name: images[name] for name in ("random", "same")},
        str(tmp_path),
        image_size=16,
        batch_size=32,
    )
    assert ranking.best == "same" and ranking.order("alignment")[0] == "same"


def test_labels_that_are_real_numbers(tasks, model_path, tmp_path):
    columns = sentences(80, 0, seed=9)
    columns["label"] = [label + 0.01 * row for row, label in enumerate(columns["label"])]
    features = datasets.Features({**COLUMNS, "label": datasets.Value("float32")})
    scores = save(tmp_path / "scores", columns, features)
    ranking = rank_sources(scores, {"same": tasks["same"], "random": tasks["random"]}, model_path, **SMALL)
    assert ranking.best == "same" and ranking.measures == ["alignment"]
    assert "Not ranked by LEEP" in table(ranking)
    ranking = rank_sources(tasks["target"], {"real": scores, "random": tasks["random"]}, model_path, **SMALL)
    assert ranking.best == "real" and ranking.measures == ["alignment"]
    assert ranking.sources[0].head_accuracy == [] and " real " in table(ranking)


def test_rows_that_stand_in_both_are_told(tasks, model_path):
    ranking = rank_sources(
        tasks["target"], {"itself": tasks["target"]}, model_path, source_rows=30, target_rows=20, num_splits=1, **SMALL
    )
    assert any(warning.startswith("120 of 120 rows") for warning in ranking.warnings)


# Results


def test_the_order_is_by_the_mean_of_the_ranks_and_the_alignment_decides_between_equals():
    values = {"a": (1, 0), "b": (0, 1), "c": (-1, -1), "d": (-1, -2)}
    scores = [
        SourceScore(name, 10, 2, values={measure: [float(v)] for measure, v in zip(MEASURES, of_one, strict=True)})
        for name, of_one in values.items()
    ]
    ranked = rank(scores)
    assert {score.name: score.mean_rank for score in ranked} == {"a": 1.5, "b": 1.5, "c": 3.25, "d": 3.75}
    assert [score.name for score in ranked] == ["a", "b", "c", "d"]
    without = [SourceScore(name, 10, 2, values={"alignment": [v], "leep": []}) for name, v in (("x", 0.1), ("y", 0.2))]
    assert [score.name for score in rank(without)] == ["y", "x"] and without[0].mean_rank == 2


@pytest.mark.parametrize(
    ("alignments", "mix"),
    [
        ({"a": 0.3, "b": 0.1, "c": -0.2}, {"a": 0.75, "b": 0.25}),
        ({"a": 0.02, "b": 0.0}, {"a": 1.0}),
        ({"a": -0.1, "b": -0.2}, {}),
    ],
)
def test_the_mix_is_in_proportion_to_alignments_above_0(alignments, mix):
    scores = [
        SourceScore(
            f"me/{name}", 10, 2, source_name=name, values={"alignment": [value - 0.01, value + 0.01], "leep": []}
        )
        for name, value in alignments.items()
    ]
    ranking = SourceRanking("target", sources=rank(scores), settings={"seeds": [0, 1]}, baselines={"alignment": [0.0]})
    assert ranking.mix == pytest.approx(mix) and ranking.to_dict()["mix"] == ranking.mix
    text = table(ranking, with_mix=True)
    if mix:
        last = text.splitlines()[-1]
        assert last.startswith("source_mix: a=") and "a (me/a)" in text and "heuristic" in text
        assert parse_mix(last.removeprefix("source_mix: ")) == pytest.approx(mix)
    else:
        assert text.endswith("No source has an alignment above 0: there are no weights for a mix.\n")
    assert ("Left out, with an alignment of 0 or less: me/" in text) == (0 < len(mix) < len(alignments))
    assert "source_mix" not in table(ranking)


# Data sets by name


@pytest.mark.parametrize(
    "given, expected",
    [
        ("sst2", {"path": "sst2"}),
        ("nyu-mll/glue:rte", {"path": "nyu-mll/glue", "name": "rte"}),
        ("sst2@validation", {"path": "sst2", "split": "validation"}),
        ("nyu-mll/glue:rte@train[:80%]", {"path": "nyu-mll/glue", "name": "rte", "split": "train[:80%]"}),
    ],
)
def test_a_data_set_in_one_word(given, expected):
    assert parse_data_set(given) == expected


def test_a_path_may_have_signs_in_it(tmp_path):
    folder = tmp_path / "a:b@c"
    folder.mkdir()
    assert parse_data_set(str(folder)) == {"path": str(folder)}
    assert parse_data_set(f"{folder}@test") == {"path": str(folder), "split": "test"}
    for wrong in ("", ":rte", "glue:", "glue@", "glue:@train"):
        with pytest.raises(ConfigError, match="must be `path`"):
            parse_data_set(wrong)


def test_data_sets_as_mappings_and_objects(tasks, model_path):
    small = {"source_rows": 20, "target_rows": 20, "num_splits": 1, **SMALL}
    ranking = rank_sources(
        {"path": tasks["target"], "text_columns": "text"}, [SourceConfig(tasks["same"]), {"path": tasks["other"]}],
        model_path, **small,
    )  # fmt: skip
    assert {score.name for score in ranking.sources} == {tasks["same"], tasks["other"]}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"target": "nowhere"}, "`target='nowhere'` is not a file or folder"),
        ({"target": 3}, "`target` must be the name of a data set or a mapping"),
        ({"candidates": []}, "`candidates` must be at least one"),
        ({"candidates": ["a", "a"]}, "`candidates` has a data set twice"),
        ({"candidates": {"a": {"path": "a", "spilt": "b"}}}, "`candidates.spilt` is unknown. Did you mean 'split'"),
        ({"split": "nope"}, "`split='nope'` is not a split of `candidates="),
        ({"columns": {"nothing": {}}}, "Columns are given for 'nothing'"),
        ({"columns": {"same": {"label_column": "text_"}}}, "`label_column='text_'` is not a column"),
        ({"columns": {"same": {"text_columns": ["words"]}}}, "`text_columns` must be one or two"),
        ({"model": "nowhere/nothing"}, "`model='nowhere/nothing'` cannot be loaded"),
        ({"layers": 3}, "`layers` must be from 1 to 2"),
        ({"layers": 0}, "`layers` must be a whole number from 1 to 10000"),
        ({"seeds": [1, 1]}, "`seeds` must be different"),
        ({"target_rows": 3}, "`target_rows` must be a whole number of at least 4"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
    ],
)
def test_what_is_refused_and_how(tasks, model_path, changes, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = {"target": tasks["target"], "candidates": {"same": tasks["same"]}, "model": model_path, **SMALL, **changes}
    split = given.pop("split", None)
    if split:
        given["candidates"] = {"same": f"{tasks['same']}@{split}"}
    with pytest.raises((ConfigError, FileNotFoundError)) as raised:
        rank_sources(**given)
    assert message in str(raised.value)


def test_kinds_and_classes_that_do_not_fit(tasks, images, model_path, tmp_path):
    with pytest.raises(ConfigError, match="'same' has images and the target texts"):
        rank_sources(tasks["target"], {"same": images["same"]}, model_path, **SMALL)
    columns = sentences(20, 0, seed=9)
    one = save(tmp_path / "one", {**columns, "label": [1] * 20})
    with pytest.raises(ConfigError, match="all labels of 'one' are the same"):
        rank_sources(tasks["target"], {"one": one}, model_path, **SMALL)
    with pytest.raises(ConfigError, match="`target` has rows of one class"):
        rank_sources(one, {"same": tasks["same"]}, model_path, **SMALL)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.Value("int64")})
    each = save(tmp_path / "each", {**columns, "label": list(range(20))}, features)
    with pytest.raises(ConfigError, match="`source_rows` must be at least 20, one for each class"):
        rank_sources(tasks["target"], {"each": each}, model_path, source_rows=10, **SMALL)
    with pytest.raises(ConfigError, match="`target_rows`: no class has two rows among the 20"):
        rank_sources(each, {"same": tasks["same"]}, model_path, **SMALL)


def test_sentence_encoders_rank_pairs_of_texts_and_single_texts(tmp_path):
    """By the alignment alone, as a head of the one cannot read features of the other."""
    tiny_sentence_encoder().save(str(tmp_path / "encoder"), create_model_card=False)
    pairs = tiny_texts(24, num_labels=2, pairs=True)
    (tmp_path / "pairs" / "data").mkdir(parents=True)
    pairs.to_parquet(tmp_path / "pairs" / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "texts" / "data").mkdir(parents=True)
    tiny_texts(24, num_labels=2, seed=1).to_parquet(tmp_path / "texts" / "data" / "train-00000-of-00001.parquet")
    target, sources = str(tmp_path / "pairs"), {"single": str(tmp_path / "texts"), "same": str(tmp_path / "pairs")}
    columns = {name: {"text_columns": ["text", "second"]} for name in (target, "same")}
    ranking = rank_sources(target, sources, str(tmp_path / "encoder"), num_splits=1, columns=columns)
    found = {source.name: source for source in ranking.sources}
    assert len(found["same"].values["leep"]) == 1 and not found["single"].values.get("leep")
    assert all(len(source.values["alignment"]) == 1 for source in found.values())
    assert [source.name for source in ranking.sources][0] == "same"
