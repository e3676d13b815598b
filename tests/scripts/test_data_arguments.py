"""Arguments that name a target and one or several sources."""

import json

import pytest
import yaml

from merlin_hf.scripts.arguments import named_method, read_file
from merlin_hf.scripts.data_arguments import AudioDataArguments, ImageDataArguments, TextDataArguments


def specs(sources, cls=TextDataArguments, **more):
    return cls(dataset_name="target", sources=sources, **more).source_specs()


def test_each_source_has_its_own_arguments():
    found = specs(
        {
            "mnli": {"task_name": "MNLI", "max_samples": 50},
            "stars": {
                "train_file": "a.csv",
                "text_columns": ["title", "body"],
                "label_column": "stars",
                "problem_type": "regression",
            },
            "other": {"dataset_name": "org/data", "dataset_config_name": "small", "split": "train[:10%]"},
        },
        max_source_samples=7,
    )
    assert {name: limit for name, (_, limit) in found.items()} == {"mnli": 50, "stars": 7, "other": 7}
    mnli, stars, other = (spec for spec, _ in found.values())
    assert (mnli.path, mnli.name, mnli.options.text_columns) == ("nyu-mll/glue", "mnli", ("premise", "hypothesis"))
    assert (
        dict(stars.files) == {"train": "a.csv"} and stars.path is None and stars.argument == "sources.stars.train_file"
    )
    assert stars.options.text_columns == ["title", "body"] and stars.options.problem_type == "regression"
    assert stars.options.name_of("label_column") == "sources.stars.label_column"
    assert (other.path, other.name, other.split_names) == ("org/data", "small", {"train": "train[:10%]"})
    assert other.options.text_columns is None and other.split_options == {"train": "sources.other.split"}


@pytest.mark.parametrize(("cls", "column"), [(ImageDataArguments, "image"), (AudioDataArguments, "audio")])
def test_sources_of_media(cls, column):
    sections = {
        "a": {"train_dir": "shapes", "max_samples": 3},
        "b": {"dataset_name": "x", f"{column}_column_name": "z"},
    }
    (folder, limit), (named, _) = specs(sections, cls).values()
    assert dict(folder.folders) == {"train": "shapes"} and limit == 3 and folder.held_out == 0
    assert named.options.media_column == "z"
    assert named.options.name_of("media_column") == f"sources.b.{column}_column_name"


def test_the_short_names_of_flags_hold_for_sources():
    (spec, _), _ = specs(
        {"a": {"dataset_name": "x", "label_column": "y"}, "b": {"train_dir": "z"}}, ImageDataArguments
    ).values()
    assert spec.options.label_column == "y"


def test_a_list_is_named_by_configurations_and_files():
    sections = [
        {"dataset_name": "nyu-mll/glue", "dataset_config_name": "mnli"},
        {"train_file": "data/my reviews.csv"},
        {"dataset_name": "stanfordnlp/sst2"},
        {"dataset_name": "other/sst2"},
        {"dataset_name": "data/2024"},
        {"dataset_name": "data/items"},
    ]
    names = ["mnli", "my_reviews", "sst2", "sst2_2", "source_2024", "source_items"]
    assert list(specs(sections)) == names
    as_json = dict(zip(names, sections, strict=True))
    assert specs(json.dumps(as_json)) == specs(sections)


def test_one_source_in_sources_is_a_single_source():
    assert list(specs({"mnli": {"task_name": "mnli"}})) == [None]


def test_paths_beside_the_file_are_found(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n")
    values = {"sources": {"a": {"train_file": "a.csv"}, "b": {"train_file": "missing.csv"}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    found = read_file(str(tmp_path / "run.yaml"))
    assert found["sources"] == {"a": {"train_file": str(tmp_path / "a.csv")}, "b": {"train_file": "missing.csv"}}
    assert named_method(found) == "merlin"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "`sources` must be one or more sources"),
        ([], "`sources` must be one or more sources"),
        (["mnli"], "`sources` must be a mapping of names to values, got 'mnli'"),
        ({"mnli": "mnli"}, "`sources.mnli` must be a mapping of names to values"),
        ({"mnli": {}}, "`sources.mnli` names no data set: give `task_name`, `dataset_name` or `train_file`"),
        ({"a.b": {"task_name": "mnli"}}, "`sources` has the name 'a.b'"),
        ({"a": {"task": "mnli"}}, r"`sources.a.task` is unknown. Did you mean 'task_name'\?"),
        ({"a": {"task_name": "mnly"}}, "`sources.a.task_name` must be a GLUE task"),
        ({"a": {"task_name": "mnli", "train_file": "a.csv"}}, "only one of `sources.a.task_name`, `so"),
        ({"a": {"task_name": "mnli", "problem_type": "ordinal"}}, "`sources.a.problem_type` must be single_label"),
        ({"a": {"task_name": "mnli", "max_samples": 0}}, "`sources.a.max_samples` must be"),
        ({"a": {"train_file": "a.csv", "split": "test"}}, "`sources.a.split` is for a data set with splits, and `so"),
        ({"a": {"task_name": "mnli", "text_columns": "x"}}, "`sources.a.text_columns` must be a list"),
        ("[1]", "`sources` must be a mapping, or JSON of one or list or null"),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_are_refused(sources, message):
    with pytest.raises(ValueError, match=message):
        specs(sources)


def test_arguments_of_a_single_source_are_not_those_of_several():
    with pytest.raises(ValueError, match="`source_label_column` is of a single source: give it in `sources`, as"):
        specs({"mnli": {"task_name": "mnli"}}, source_label_column="x")
