"""Tiny models from a configuration and tiny data sets; nothing is downloaded."""

import tempfile

import torch
import transformers as t
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from safetensors.torch import save_file


NUM_LABELS = 3
VOCAB = 64
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
}
VISION = {"num_channels": 3, "image_size": 32, "patch_size": 8}
CONV = {"num_channels": 3, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}


def as_trained(model):
    """The model, with normalisation layers that no longer are as they were initialised, as in any trained model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(".weight") and value.ndim == 1:
                value += 0.02 * torch.rand(value.shape, generator=generator)
    return model


def tiny_bert(num_labels: int = NUM_LABELS, seed: int = 0, dropout: float = 0.1, **kwargs):
    """A two-layer BertForSequenceClassification, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = t.BertConfig(
            **TEXT, num_labels=num_labels, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **kwargs
        )
        return as_trained(t.BertForSequenceClassification(config))


def _text(config_class, model_class, **kwargs):
    options = {**TEXT, "num_labels": NUM_LABELS, "pad_token_id": 0, **kwargs}
    return lambda: as_trained(model_class(config_class(**options)))


def _image(config_class, model_class, **kwargs):
    return lambda: as_trained(model_class(config_class(num_labels=NUM_LABELS, **kwargs)))


TINY_CLASSIFIERS = {
    "bert": tiny_bert,
    "roberta": _text(t.RobertaConfig, t.RobertaForSequenceClassification),
    "distilbert": lambda: t.DistilBertForSequenceClassification(
        t.DistilBertConfig(vocab_size=VOCAB, dim=32, n_layers=2, n_heads=2, hidden_dim=37, num_labels=NUM_LABELS)
    ),
    "deberta_v2": _text(t.DebertaV2Config, t.DebertaV2ForSequenceClassification),
    "modernbert": _text(t.ModernBertConfig, t.ModernBertForSequenceClassification),
    "gpt2": lambda: t.GPT2ForSequenceClassification(
        t.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, num_labels=NUM_LABELS, pad_token_id=0)
    ),
    "llama": _text(t.LlamaConfig, t.LlamaForSequenceClassification),
    "t5": lambda: t.T5ForSequenceClassification(
        t.T5Config(vocab_size=VOCAB, d_model=32, d_kv=16, d_ff=37, num_layers=2, num_heads=2, num_labels=NUM_LABELS,
                   decoder_start_token_id=0)
    ),
    "vit": _image(
        t.ViTConfig, t.ViTForImageClassification, **{**TEXT, **VISION}
    ),
    "swin": _image(
        t.SwinConfig, t.SwinForImageClassification, image_size=32, patch_size=4, embed_dim=8, depths=[1, 1],
        num_heads=[1, 2], window_size=4,
    ),
    "dinov2": _image(
        t.Dinov2Config, t.Dinov2ForImageClassification, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        **VISION,
    ),
    "resnet": _image(t.ResNetConfig, t.ResNetForImageClassification, embedding_size=8, **CONV),
    "convnext": _image(t.ConvNextConfig, t.ConvNextForImageClassification, **CONV),
    "wav2vec2": _image(
        t.Wav2Vec2Config, t.Wav2Vec2ForSequenceClassification, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=37, conv_dim=(16, 16), conv_stride=(5, 4), conv_kernel=(10, 8),
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, classifier_proj_size=24,
        mask_time_prob=0.0, mask_feature_prob=0.0,
    ),
}  # fmt: skip


def tiny_inputs(model, rows: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch that the model's forward takes, without labels; text rows have different lengths."""
    generator = torch.Generator().manual_seed(seed)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(rows, 3, 32, 32, generator=generator)}
    if model.main_input_name == "input_values":
        return {"input_values": torch.randn(rows, 800, generator=generator)}
    input_ids = torch.randint(2, VOCAB, (rows, 12), generator=generator)
    lengths = torch.arange(rows) % 5 + 8
    mask = (torch.arange(12) < lengths[:, None]).long()
    input_ids = input_ids * mask
    if model.config.model_type == "t5":
        input_ids[torch.arange(rows), lengths - 1] = model.config.eos_token_id
    return {"input_ids": input_ids, "attention_mask": mask}


def tiny_dataset(rows: int = 24, num_labels: int = NUM_LABELS, seed: int = 0) -> Dataset:
    """Token rows of equal length whose label can be learned: it is written in the first token."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % num_labels
    input_ids = torch.randint(16, VOCAB, (rows, 8), generator=generator)
    input_ids[:, 0] = 4 + labels
    features = Features(
        {
            "input_ids": Sequence(Value("int64")),
            "attention_mask": Sequence(Value("int64")),
            "label": ClassLabel(names=[f"class{i}" for i in range(num_labels)]),
        }
    )
    return Dataset.from_dict(
        {
            "input_ids": input_ids.tolist(),
            "attention_mask": torch.ones_like(input_ids).tolist(),
            "label": labels.tolist(),
        },
        features=features,
    )


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tiny_tokenizer(**kwargs):
    """Words `w4` to `w63`, whose numbers are their ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names, **kwargs)


def tiny_sentence_encoder(
    seed=0, dropout=0.1, pooling="mean", more=("Normalize",), include_prompt=True, model=None, **kwargs
):
    """
    A SentenceTransformer on a two-layer BERT, the same for the same seed.

    Args:
        pooling: of its Pooling.
        more: names of modules after it.
        model: a body in place of BERT's.
        kwargs: of SentenceTransformer, such as prompts.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        if model is None:
            config = t.BertConfig(**TEXT, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
            model = as_trained(t.BertModel(config))
        # Not `save_pretrained`, which writes in the first process of several alone.
        model.config.save_pretrained(folder)
        save_file(model.state_dict(), f"{folder}/model.safetensors", {"format": "pt"})
        tiny_tokenizer().save_pretrained(folder)
        first = modules.Transformer(folder)
        first.config._name_or_path = first.model.name_or_path = ""
        parts = [first, modules.Pooling(first.get_embedding_dimension(), pooling, include_prompt=include_prompt)]
        for name in more:
            sizes = {"Dense": (32, 24), "LayerNorm": (24 if "Dense" in more else 32,)}.get(name, ())
            parts.append(getattr(modules, name)(*sizes))
        return SentenceTransformer(modules=parts, device="cpu", **kwargs)


def tiny_texts(rows: int = 24, num_labels: int = NUM_LABELS, seed: int = 0, pairs: bool = False) -> Dataset:
    """Rows of words of different lengths, in `text` and with `pairs` in `second`, whose label is in the first word."""
    generator = torch.Generator().manual_seed(seed)

    def words(count):
        return " ".join(f"w{id}" for id in torch.randint(16, VOCAB, (count,), generator=generator).tolist())

    labels = [row % num_labels for row in range(rows)]
    columns = {"text": [f"w{4 + label} {words(3 + row % 4)}" for row, label in enumerate(labels)]}
    if pairs:
        columns["second"] = [f"w{8 + label} {words(2 + row % 5)}" for row, label in enumerate(labels)]
    features = {name: Value("string") for name in columns}
    features["label"] = ClassLabel(names=[f"class{i}" for i in range(num_labels)])
    return Dataset.from_dict({**columns, "label": labels}, features=Features(features))


def tokenized(encoder, dataset: Dataset) -> Dataset:
    """Rows of `tiny_texts` as a sentence encoder reads them."""
    from merlin_hf.data.sentence_encoders import SentenceTokenizer

    tokenizer = SentenceTokenizer(encoder)
    columns = [name for name in ("text", "second") if name in dataset.column_names]
    return dataset.map(lambda rows: tokenizer(*(rows[name] for name in columns)), batched=True)


def tiny_token_bert(num_labels: int = NUM_LABELS, seed: int = 0, dropout: float = 0.1):
    """A two-layer BertForTokenClassification, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = t.BertConfig(
            **TEXT, num_labels=num_labels, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        )
        return as_trained(t.BertForTokenClassification(config))


def tagged_dataset(rows: int = 24, num_labels: int = NUM_LABELS, seed: int = 0, longest: int = 9) -> Dataset:
    """
    Sentences of different lengths whose tags can be learned from the tokens, as a tokenizer would leave them.

    Every third token is a piece of a word, and the first and last are special: these have the label -100.
    """
    generator = torch.Generator().manual_seed(seed)
    names = ["O", *(f"{part}-{kind}" for kind in ("PER", "LOC", "ORG") for part in "BI")][:num_labels]
    columns = {"input_ids": [], "attention_mask": [], "labels": []}
    for _ in range(rows):
        length = int(torch.randint(4, longest + 1, (1,), generator=generator))
        ids = torch.randint(16, VOCAB, (length,), generator=generator)
        labels = ids % num_labels
        labels[2::3] = -100
        columns["input_ids"].append([2, *ids.tolist(), 3])
        columns["attention_mask"].append([1] * (length + 2))
        columns["labels"].append([-100, *labels.tolist(), -100])
    numbers = Sequence(Value("int64"))
    features = {"input_ids": numbers, "attention_mask": numbers, "labels": Sequence(ClassLabel(names=names))}
    return Dataset.from_dict(columns, features=Features(features))


def pad_tagged(rows) -> dict[str, torch.Tensor]:
    """A collator for tagged rows: pads to the longest, labels with -100."""
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: torch.tensor([[*row[name], *[value] * (longest - len(row[name]))] for row in rows])
        for name, value in fill.items()
        if name in rows[0]
    }
