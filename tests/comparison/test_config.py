"""What a configuration may be, and what is said of those that may not."""

import copy
import dataclasses
import re

import pytest
import yaml
from transformers import TrainingArguments

from merlin_hf import MerlinTrainingArguments
from merlin_hf.comparison import CompareConfig, ConfigError, load_config
from merlin_hf.comparison.config import read_methods


GOOD = {
    "model": "some/model",
    "target": {"path": "some/target", "rows": 100},
    "source": {"path": "some/source"},
    "methods": ["finetune", "merlin"],
    "training": {"max_steps": 10},
}


def changed(path, value):
    config = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    section = config
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("modle", "x", r"`modle` is unknown\. Did you mean 'model'\? Known here: model, target"),
        ("model", None, "`model` is missing"),
        ("model", 3, "`model` must be text that is not empty, got 3"),
        ("target", None, "`target` is missing"),
        ("target", "rte", "`target` must be a mapping of names to values, got 'rte'"),
        ("target.path", None, r"`target\.path` is missing"),
        ("target.test_spilt", "x", r"`target\.test_spilt` is unknown\. Did you mean 'test_split'"),
        ("target.rows", "many", r"`target\.rows` must be a whole number of at least 4 or null, got 'many'"),
        ("target.rows", True, r"`target\.rows` must be a whole number of at least 4 or null, got True"),
        ("target.rows", 1, r"`target\.rows` must be a whole number of at least 4 or null, got 1"),
        ("target.test_split", "train", "is the split that is trained on.*train_split: train"),
        (
            "target.text_columns",
            [1],
            r"`target\.text_columns` must be a list \(each text\) or text or null, got \[1\]",
        ),
        ("source.test_split", "x", r"`source\.test_split` is unknown\."),
        ("seeds", 0, "`seeds` must be a whole number from 1 to 1000, got 0"),
        ("seeds", [0, 0], "`seeds` must be different seeds"),
        (
            "seeds",
            [-1],
            r"`seeds` must be a number of seeds or a list of seeds such as \[0, 1, 2\], up to 1000.*, got \[-1\]",
        ),
        ("reference", "merln", r"`reference` must be one of finetune, merlin, got 'merln'\. Did you mean 'merlin'"),
        ("metric", "acuracy", r"`metric` must be one of .*, got 'acuracy'\. Did you mean 'accuracy'"),
        ("budget", "flops", "`budget` must be one of rows, steps, got 'flops'"),
        ("search.trials", -1, r"`search\.trials` must be a whole number from 0 to 1000, got -1"),
        ("search.trails", 1, r"`search\.trails` is unknown\. Did you mean 'trials'"),
        (
            "search.validation_fraction",
            1.0,
            r"`search\.validation_fraction` must be a number more than 0 and less than 1, got 1\.0",
        ),
        (
            "search.learning_rates",
            [0],
            r"`search\.learning_rates` must be a list \(each a positive number\), got \[0\]",
        ),
        (
            "search.learning_rates",
            ["fast"],
            r"`search\.learning_rates` must be a list \(each a positive number\), got \['fast'\]",
        ),
        ("training", {}, r"`training\.max_steps` must be at least 1, got None"),
        ("training.max_steps", 1.5, r"`training\.max_steps` must be a whole number of at least -1, got 1\.5"),
        (
            "training.num_train_epochs",
            3,
            r"`training\.num_train_epochs` cannot be given: all methods get the same budget",
        ),
        ("training.seed", 3, r"`training\.seed` cannot be given: the seeds of a comparison are its `seeds`"),
        ("training.load_best_model_at_end", True, "evaluated once, on the test rows, after its training"),
        (
            "training.rho",
            0.5,
            r"`training\.rho` is an option of .*merlin.*: give it there, `methods: \{merlin: \{rho: 0\.5\}\}`",
        ),
        ("training.learnig_rate", 0.5, r"`training\.learnig_rate` is unknown\. Did you mean 'learning_rate'"),
        ("training.bf16", "yes please", r"`training\.bf16` must be true or false, got 'yes please'"),
        ("methods", [], r"`methods` must be a list of names or a mapping"),
        ("methods", ["merln"], r"`methods\.merln`: `method='merln'` is unknown\. Did you mean 'merlin'"),
        ("methods", ["merlin", "merlin"], r"has a name twice.*`merlin_2: \{method: merlin\}`"),
        ("methods", {"../x": {"method": "merlin"}}, "letters, digits and"),
        ("methods", {"finetune": {"rho": 1.0}}, r"`methods\.finetune\.rho` is unknown"),
        ("methods", {"merlin": {"rh": 1.0}}, r"`methods\.merlin\.rh` is unknown\. Did you mean 'rho'"),
        ("methods", {"merlin": {"head_l": 1.0}}, r"Did you mean 'head_l2', .+ or '\w+'\? Known here: method, search"),
        ("methods", {"merlin": {"search": {"rh": [1.0]}}}, r"`methods\.merlin\.search\.rh` is unknown\..+ 'rho'"),
        ("methods", {"merlin": {"rho": "big"}}, r"`methods\.merlin\.rho` must be a number of at least 0, got 'big'"),
        ("methods", {"merlin": {"max_steps": 5}}, r"`methods\.merlin\.max_steps` cannot be given: all methods"),
        (
            "methods",
            {"merlin": {"search": {"rho": 0.1}}},
            r"`methods\.merlin\.search\.rho` must be a list of values to try",
        ),
        (
            "methods",
            {"merlin": {"search": {"rho": ["a"]}}},
            r"`methods\.merlin\.search\.rho` must be a number of at least 0, got 'a'",
        ),
        ("methods", {"merlin": {"rho": 0.1, "search": {"rho": [0.1]}}}, "is fixed to 0.1 as well"),
        (
            "methods",
            {"merlin": {"use_source": False}},
            r"`methods\.merlin` trains on a source: leave `use_source` out",
        ),
        ("methods", {"finetune": {"use_source": True}}, "the method trains on the target alone"),
        ("methods", {"l2_sp": {"use_source": "no"}}, r"`methods\.l2_sp\.use_source` must be true or false, got 'no'"),
        ("source", None, r"`methods\.merlin` trains on a source: give `source`"),
        ("image_size", 0, "`image_size` must be a whole number from 1 to 100000 or null, got 0"),
    ],
)
def test_bad_values_are_errors_that_say_what_would_work(path, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config(changed(path, value))


def test_frozen_layers_of_random_weights():
    with pytest.raises(ConfigError, match="`freeze_layers` would keep random weights"):
        load_config({**GOOD, "from_scratch": True, "freeze_layers": 2})


def test_defaults():
    config = load_config(GOOD)
    assert config.seeds == [0, 1, 2] and config.search_seeds == [0] and config.reference == "merlin"
    assert config.default_learning_rate == 5e-5, "the middle of those that are tried"
    assert [method.use_source for method in config.methods] == [False, True]
    assert load_config({**GOOD, "methods": ["joint", "finetune"]}).reference == "joint"
    assert load_config(changed("training.learning_rate", 1e-3)).default_learning_rate == 1e-3


def test_a_file_may_write_numbers_without_a_dot(tmp_path):
    """YAML 1.1 reads 1e-4 as text."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: m\ntarget: {path: t, text_columns: question}\nsource: {path: s}\n"
        "methods: {merlin: {search: {rho: [1e-1]}}}\n"
        "training: {max_steps: 1, learning_rate: 1e-4}\nsearch: {learning_rates: [1e-5, 3e-5]}\n"
    )
    config = load_config(path)
    assert config.training["learning_rate"] == 1e-4 and config.search.learning_rates == [1e-5, 3e-5]
    assert config.methods[0].search == {"rho": [0.1]} and config.target.text_columns == ["question"]


def test_one_method_under_two_labels():
    config = load_config({**GOOD, "methods": {"merlin": None, "merlin_rho0": {"method": "merlin", "rho": 0}}})
    assert [(one.name, one.method, one.options) for one in config.methods] == [
        ("merlin", "merlin", {}),
        ("merlin_rho0", "merlin", {"rho": 0}),
    ]


def test_regularised_fine_tuning_may_go_without_the_source():
    methods = load_config({**GOOD, "methods": {"l2_sp": {"use_source": False}, "bss": {}}}).methods
    assert [method.use_source for method in methods] == [False, True]
    config = load_config({**GOOD, "source": None, "methods": ["finetune", "l2_sp"]})
    assert [method.use_source for method in config.methods] == [False, False]


def test_paths_are_looked_for_beside_the_file(tmp_path, monkeypatch):
    (tmp_path / "configs" / "tiny").mkdir(parents=True)
    (tmp_path / "configs" / "mine.csv").touch()
    (tmp_path / "configs" / "config.yaml").write_text(
        yaml.safe_dump({**GOOD, "model": "tiny", "target": {"path": "mine.csv"}, "source": {"path": "some/source"}})
    )
    monkeypatch.chdir(tmp_path)
    config = load_config("configs/config.yaml")
    assert config.model == "configs/tiny" and config.target.path == "configs/mine.csv"
    assert config.source.path == "some/source"


def test_overrides():
    config = load_config(
        {**GOOD, "reference": "merlin", "methods": {"merlin": {"rho": 0.1}, "joint": None}},
        seeds=[7],
        methods=["joint", "finetune"],
        output_dir=None,
    )
    assert config.seeds == [7] and config.output_dir == "comparison"
    assert [method.name for method in config.methods] == ["joint", "finetune"] and config.reference == "joint"
    again = load_config(config, seeds=[8])
    assert again.seeds == [8] and again.methods == config.methods


def test_a_configuration_survives_its_own_form():
    given = {
        **GOOD,
        "methods": {"merlin": {"rho": 0.1, "search": {"head": ["ridge", "centroid"]}}, "l2_sp": {"use_source": False}},
    }
    config = load_config(given)
    assert load_config(config, seeds=config.seeds) == config
    assert load_config(config) is config and load_config(config.to_dict()) == config
    assert CompareConfig(**given) == config


def test_what_is_no_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no configuration 'none.yaml'"):
        load_config("none.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="must be a mapping of names to values"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "code.yaml").write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(tmp_path / "code.yaml")
    with pytest.raises(ConfigError, match="A configuration must be a mapping, got 3"):
        load_config(3)


def test_a_token_is_not_taken_into_results():
    with pytest.raises(ConfigError, match="hub_token") as error:
        load_config({**GOOD, "training": {"max_steps": 10, "hub_token": "hf_secret"}})
    assert "hf_secret" not in str(error.value)


def test_an_unknown_option_is_told_in_a_few_lines(tmp_path):
    with pytest.raises(ConfigError) as raised:
        read_methods({"mine": {"method": "merlin", "num_split": 3}}, [None])
    said = str(raised.value)
    suggested = re.findall(r"'(\w+)'", said.split("Known here")[0])
    assert suggested[0] == "num_splits" and len(set(suggested)) == len(suggested) <= 3
    listed = said.split("Known here: ")[1].split(", and the training")[0].split(", ")
    options = {field.name for field in dataclasses.fields(MerlinTrainingArguments)}
    own = options - {field.name for field in dataclasses.fields(TrainingArguments)} - {"num_source_labels"}
    assert set(listed) == own | {"method", "search", "use_source"}
    assert "`merlin-hf train --method merlin --help_all` lists all" in said and len(said) < 800
