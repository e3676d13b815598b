"""A Hub, a connection to it, and a small text task."""

import os
from pathlib import Path

import pytest
import transformers.utils.hub
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Value
from huggingface_hub import constants
from huggingface_hub.utils import _http
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast, Trainer

from merlin_hf import MerlinTrainer, MerlinTrainingArguments
from merlin_hf.hub import ModelCardMixin
from tests.hub.server import Account, HubServer
from tests.tiny import tiny_bert


# Long and unlike anything else, so that it is found wherever it is.
TOKEN = "hf_QmVyLXNlY3JldC10b2tlbi0wMTIz"
READ_TOKEN = "hf_cmVhZC1vbmx5LXRva2VuLTQ1Njc4"
ACCOUNTS = {TOKEN: Account("ada"), READ_TOKEN: Account("bob", role="read")}

ROOT = Path(__file__).parents[2]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["good", "bad", "plain", "film", "book", "the", "a", "is", "very", "not", *(f"w{i}" for i in range(40))]


@pytest.fixture
def hub():
    with HubServer(dict(ACCOUNTS)) as server:
        yield server


@pytest.fixture
def online(hub, monkeypatch, tmp_path):
    """`huggingface_hub` in this process talks to the test's Hub, without a token of its own and without waiting."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return hub


def environment(hub, home, **more):
    """For a process that talks to the test's Hub."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE_"))}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": paths,
        **more,
    }


def tiny_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names)


def text_dataset(tokenizer, rows=24, names=("bad", "good", "plain")):
    """Texts whose label is a word in them, tokenized, with the texts beside."""
    labels = [row % len(names) for row in range(rows)]
    texts = [f"the film w{row % 40} is {names[label]}" for row, label in enumerate(labels)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    dataset = Dataset.from_dict({"text": texts, "label": labels}, features=features)
    return dataset.map(lambda batch: tokenizer(batch["text"]), batched=True)


def of_the_hub(dataset, config, split):
    """The rows as if they came from the Hub."""
    dataset.info.download_checksums = {f"hf://datasets/nyu-mll/glue@bcdcba79/{config}/{split}.parquet": {}}
    dataset.info.update(DatasetInfo(dataset_name="glue", builder_name="parquet", config_name=config))
    dataset._split = split
    return dataset


def publishing(trainer_class):
    """The trainer class with the mixin in it; Trainer as it is."""
    if trainer_class is Trainer or issubclass(trainer_class, ModelCardMixin):
        return trainer_class
    return type(trainer_class.__name__, (ModelCardMixin, trainer_class), {"__module__": __name__})


def accuracy(output):
    return {"accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean())}


def text_trainer(output_dir, trainer_class=MerlinTrainer, source=True, args_class=MerlinTrainingArguments, **options):
    tokenizer = tiny_tokenizer()
    target = text_dataset(tokenizer)
    labels = {"id2label": dict(enumerate(target.features["label"].names))}
    labels["label2id"] = {name: id for id, name in labels["id2label"].items()}
    kwargs = options.pop("trainer", {})
    defaults = {
        "per_device_train_batch_size": 8, "max_steps": 2, "learning_rate": 1e-3, "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
    }  # fmt: skip
    if source:
        kwargs.setdefault("source_dataset", text_dataset(tokenizer, rows=40, names=("w", "x", "y", "z")))
    return publishing(trainer_class)(
        model=kwargs.pop("model", None) or tiny_bert(**labels),
        args=args_class(str(output_dir), **{**defaults, **options}),
        train_dataset=kwargs.pop("train_dataset", target),
        eval_dataset=kwargs.pop("eval_dataset", text_dataset(tokenizer, rows=9)),
        processing_class=kwargs.pop("processing_class", tokenizer),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        **kwargs,
    )


def contents(folder):
    """The bytes of all files in a folder, by path."""
    return {
        os.path.relpath(os.path.join(parent, name), folder): Path(parent, name).read_bytes()
        for parent, _, names in os.walk(folder)
        for name in names
    }


def holds(content, token):
    """Whether a token is anywhere in a text or a file."""
    return token.encode() in (content.encode() if isinstance(content, str) else content)
