"""What programs do with a pretrained model that has a head of its own."""

import pytest
from transformers import AutoTokenizer

from merlin_hf.data.labels import Labels
from merlin_hf.scripts.program import load_config, load_model
from merlin_hf.scripts.text_classification import ModelArguments
from merlin_hf.utils.validation import ConfigError
from tests.cli.test_evaluate import with_labels
from tests.examples.conftest import model_path  # noqa: F401
from tests.tiny import tiny_bert


@pytest.fixture
def saved(model_path, tmp_path):  # noqa: F811
    """A classifier of three named classes."""
    with_labels(tiny_bert(num_labels=3), ["neg", "neutral", "pos"]).save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(model_path).save_pretrained(tmp_path / "saved")
    return str(tmp_path / "saved")


def test_a_head_keeps_the_outputs_of_its_classes(saved):
    labels = Labels(["pos", "neg", "neutral"])
    config = load_config(ModelArguments(saved), labels)
    assert labels.ids == [2, 0, 1] and config.id2label == {0: "neg", 1: "neutral", 2: "pos"}
    model = load_model(ModelArguments(saved), config)
    assert model.classifier.weight.equal(tiny_bert(num_labels=3).classifier.weight)


def test_a_head_that_knows_some_of_the_classes_is_refused(saved):
    with pytest.raises(
        ConfigError, match=r"\['neg', 'pos', 'mixed'\].*\['neg', 'neutral', 'pos'\].*ignore_mismatched_sizes"
    ):
        load_config(ModelArguments(saved), Labels(["neg", "pos", "mixed"]))


def test_a_head_of_another_size_is_replaced_where_the_user_says_so(saved):
    config = load_config(ModelArguments(saved), Labels(["neg", "pos"]))
    with pytest.raises(
        ConfigError, match="last layer for another number of labels than the 2 of the data: `--ignore_mis"
    ):
        load_model(ModelArguments(saved), config)
    assert load_model(ModelArguments(saved, ignore_mismatched_sizes=True), config).num_labels == 2


def test_a_model_that_is_only_judged_keeps_its_labels(saved):
    labels = Labels(["pos", "neg"])
    config = load_config(ModelArguments(saved), labels, is_trained=False)
    assert labels.ids == [2, 0] and config.num_labels == 3
    with pytest.raises(ConfigError, match="--labels_by_number"):
        load_config(ModelArguments(saved), Labels(["no", "yes"]), is_trained=False)
    labels = Labels(["no", "yes"])
    load_config(ModelArguments(saved), labels, is_trained=False, by_number=True)
    assert labels.ids == [0, 1]
