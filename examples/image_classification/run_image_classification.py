"""Train an image classifier on a data set of the Hub or of a local folder; README.md has the commands."""

import os
import sys
from dataclasses import dataclass, field

import datasets
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint


@dataclass
class ModelArguments:
    """Which model to train."""

    model_name_or_path: str = field(metadata={"help": "Path of a pretrained model, or its name on the Hub."})
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Accept a pretrained model whose last layer has another number of labels."}
    )


@dataclass
class DataArguments:
    """Which images to train on."""

    dataset_name: str = field(metadata={"help": "Name of a data set on the Hub, or a local folder."})
    train_split_name: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split_name: str = field(default="validation", metadata={"help": "Split to evaluate on."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on this many rows, drawn at random."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on this many rows."})


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image with 8 bits in each channel, transparent parts on white."""
    if image.mode[0] in "IF":
        raise ValueError(
            f"An image has more than 8 bits a channel (mode {image.mode}), which RGB would clip: rescale it."
        )
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def load_split(name: str, split: str, processor, max_samples: int | None = None, seed: int = 0) -> datasets.Dataset:
    """A split whose rows come as `pixel_values` and `labels`, whatever its columns are called."""
    dataset = datasets.load_dataset(name, split=split)
    columns = {}
    for new_name, kind in (("image", datasets.Image), ("label", datasets.ClassLabel)):
        found = [column for column, feature in dataset.features.items() if isinstance(feature, kind)]
        if not found:
            raise ValueError(f"The data set {name!r} has no column of type {kind.__name__}: {dataset.features}")
        columns[found[0]] = new_name
    dataset = dataset.select_columns(list(columns)).rename_columns(columns)
    if max_samples is not None:
        dataset = dataset.shuffle(seed=seed).select(range(min(max_samples, len(dataset))))

    def transform(rows: dict) -> dict:
        images = [to_rgb(image) for image in rows["image"]]
        return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"], "labels": rows["label"]}

    return dataset.with_transform(transform)


def collate_fn(rows: list[dict]) -> dict[str, torch.Tensor]:
    """A batch of rows."""
    pixel_values = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixel_values, "labels": torch.tensor([row["labels"] for row in rows])}


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """The share of rows whose largest logit is that of the label."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(argv: list[str] | None = None) -> None:
    """Train and evaluate as the arguments say, from the last checkpoint in `output_dir` where there is one."""
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    if len(argv) == 1 and argv[0].endswith(".json"):
        model_args, data_args, training_args = parser.parse_json_file(argv[0])
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)
    if not (training_args.do_train or training_args.do_eval):
        raise ValueError("Nothing to do: give `--do_train`, `--do_eval` or both.")
    training_args.remove_unused_columns = False  # the transform reads columns that the model does not take
    set_seed(training_args.seed)

    # Data. The PIL backend needs no torchvision, and gives the same pixels with and without it.
    name, seed = data_args.dataset_name, training_args.seed
    processor = AutoImageProcessor.from_pretrained(
        model_args.model_name_or_path, backend="pil", trust_remote_code=False
    )
    train_dataset = eval_dataset = None
    if training_args.do_train:
        train_dataset = load_split(name, data_args.train_split_name, processor, data_args.max_train_samples, seed)
    if training_args.do_eval:
        eval_dataset = load_split(name, data_args.eval_split_name, processor, data_args.max_eval_samples, seed)

    # Model, from the checkpoint if there is one: on resuming, Trainer skips weights that have a new name in
    # transformers 5, such as those of a ViT (huggingface/transformers#43701).
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint is None and training_args.do_train and os.path.isdir(training_args.output_dir):
        checkpoint = get_last_checkpoint(training_args.output_dir)
    labels = (train_dataset if training_args.do_train else eval_dataset).features["label"].names
    model = AutoModelForImageClassification.from_pretrained(
        checkpoint or model_args.model_name_or_path,
        trust_remote_code=False,
        id2label=dict(enumerate(labels)),
        label2id={label: id for id, label in enumerate(labels)},
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
    )

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        data_collator=collate_fn,
        compute_metrics=compute_metrics,
        processing_class=processor,
    )
    if training_args.do_train:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        trainer.save_model()
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()
    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    dataset = {} if os.path.isdir(name) else {"dataset": name, "dataset_tags": name}
    publish = trainer.push_to_hub if training_args.push_to_hub else trainer.create_model_card
    publish(tasks="image-classification", **dataset)


if __name__ == "__main__":
    main()
