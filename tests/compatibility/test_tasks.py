"""Kinds of labels on both sides, and kinds of inputs: text pairs, images, audio."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from PIL import Image
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertTokenizerFast,
    DataCollatorWithPadding,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
)

from merlin_hf import JointTrainer, MerlinTrainer
from tests.support import make_args
from tests.tiny import TINY_CLASSIFIERS, tiny_bert, tiny_dataset


KINDS = ("single_label_classification", "multi_label_classification", "regression")


def labelled(kind, num_labels, rows, seed):
    """Tiny rows with labels of a kind that the first token tells."""
    data = tiny_dataset(rows=rows, num_labels=num_labels, seed=seed)
    if kind == "single_label_classification":
        return data
    ids = np.array(data["label"])
    labels = np.eye(num_labels)[ids] + np.eye(num_labels)[(ids + 1) % num_labels] if "multi" in kind else ids / 2.0
    column = Dataset.from_dict(
        {"label": labels.tolist()},
        features=Features({"label": Sequence(Value("float32")) if "multi" in kind else Value("float32")}),
    )
    return data.remove_columns("label").add_column("label", column["label"], feature=column.features["label"])


@pytest.mark.parametrize("trainer_class", [MerlinTrainer, JointTrainer])
@pytest.mark.parametrize("source_kind", KINDS)
@pytest.mark.parametrize("target_kind", KINDS)
def test_every_kind_of_labels_with_every_other(tmp_path, target_kind, source_kind, trainer_class):
    num_labels = 1 if target_kind == "regression" else 3
    trainer = trainer_class(
        model=tiny_bert(num_labels=num_labels, problem_type=target_kind, dropout=0.0),
        args=make_args(tmp_path, max_steps=12, learning_rate=3e-3, per_device_train_batch_size=12, logging_steps=3),
        train_dataset=labelled(target_kind, 3, rows=24, seed=0),
        eval_dataset=labelled(target_kind, 3, rows=24, seed=2),
        source_dataset=labelled(source_kind, 4, rows=40, seed=1),
    )
    assert trainer.transfer_model.source_head.out_features == (1 if source_kind == "regression" else 4)
    trainer.train()
    parts = [entry for entry in trainer.state.log_history if "source_loss" in entry]
    assert parts[-1]["source_loss"] < parts[0]["source_loss"]
    trainer.save_model()
    metrics, predicted = trainer.evaluate(), trainer.predict(trainer.eval_dataset)
    assert np.isfinite(metrics["eval_loss"]) and predicted.predictions.shape == (24, num_labels)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = trainer.data_collator([trainer.eval_dataset[number] for number in range(24)])
    with torch.no_grad():
        output = loaded(**batch)
    np.testing.assert_allclose(output.logits.numpy(), predicted.predictions, rtol=1e-4, atol=1e-5)


def test_text_pairs_with_a_tokenizer_and_padding(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a man eats runs the dog cat sleeps not and".split()]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))

    def pairs(rows, num_labels):
        columns = {
            "premise": [" ".join(words[5 + (i + j) % 10] for j in range(2 + i % 5)) for i in range(rows)],
            "hypothesis": [words[5 + (3 * i) % 10] for i in range(rows)],
            "label": [i % num_labels for i in range(rows)],
        }
        features = Features(
            premise=Value("string"), hypothesis=Value("string"), label=ClassLabel(num_classes=num_labels)
        )
        return Dataset.from_dict(columns, features=features).map(
            lambda row: tokenizer(row["premise"], row["hypothesis"])
        )

    model, seen = tiny_bert(num_labels=2), []
    model.bert.embeddings.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["token_type_ids"]), with_kwargs=True
    )
    trainer = MerlinTrainer(
        model=model,
        args=make_args(tmp_path / "out"),
        train_dataset=pairs(24, 2),
        eval_dataset=pairs(9, 2),
        source_dataset=pairs(40, 3),
        processing_class=tokenizer,
    )
    assert isinstance(trainer.data_collator, DataCollatorWithPadding)
    trainer.train()
    assert len({ids.shape for ids in seen}) > 1, "batches are padded to their own longest row"
    assert all(ids.max() == 1 for ids in seen), "the second sentence is marked on both sides"
    assert {"tokenizer.json"} <= {path.name for path in (trainer.save_model(), tmp_path / "out")[1].iterdir()}


def noisy_images(rows, num_labels, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (rows, 40, 36, 3), dtype=np.uint8)
    labels = np.arange(rows) % num_labels
    pixels[np.arange(rows), :, :, labels % 3] += 100
    return Dataset.from_dict({"image": [Image.fromarray(p) for p in pixels], "label": labels.tolist()})


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_images_transformed_on_the_fly(tmp_path, name):
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})

    def transform(batch):
        images = [image.convert("RGB") for image in batch["image"]]
        return {**processor(images, return_tensors="pt"), "labels": batch["label"]}

    trainer = MerlinTrainer(
        model=TINY_CLASSIFIERS[name](),
        args=make_args(tmp_path, remove_unused_columns=False, max_steps=6, num_source_labels=2),
        train_dataset=noisy_images(24, 3, 0).with_transform(transform),
        eval_dataset=noisy_images(9, 3, 1).with_transform(transform),
        source_dataset=noisy_images(40, 2, 2).with_transform(transform),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    expected = trainer.predict(trainer.eval_dataset).predictions
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = loaded(transform(noisy_images(9, 3, 1)[:])["pixel_values"]).logits
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_audio_of_different_lengths(tmp_path):
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)

    def sounds(rows, num_labels, seed):
        rng = np.random.default_rng(seed)
        labels = np.arange(rows) % num_labels
        length = 700 + 40 * (np.arange(rows) % 5)
        waves = [
            np.sin(np.arange(n) * 0.1 * (y + 1)) + 0.1 * rng.normal(size=n)
            for n, y in zip(length, labels, strict=True)
        ]
        rows = {"input_values": [wave.astype(np.float32) for wave in waves], "label": labels.tolist()}
        return Dataset.from_dict(rows)

    def collate(rows):
        batch = extractor.pad([{"input_values": row["input_values"]} for row in rows], return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}

    trainer = MerlinTrainer(
        model=TINY_CLASSIFIERS["wav2vec2"](),
        args=make_args(tmp_path, max_steps=4),
        train_dataset=sounds(24, 3, 0),
        eval_dataset=sounds(9, 3, 1),
        source_dataset=sounds(30, 5, 2),
        data_collator=collate,
        processing_class=extractor,
    )
    trainer.train()
    trainer.save_model()
    expected = trainer.predict(trainer.eval_dataset).predictions
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    batches = [collate([trainer.eval_dataset[i] for i in part]) for part in (range(8), range(8, 9))]
    with torch.no_grad():
        logits = torch.cat([loaded(**batch).logits for batch in batches])
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-5)
