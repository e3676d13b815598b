"""
Run the ten lines of the README; a test compares them with the README word for word.

    python examples/quickstart.py                                              # BERT and GLUE from the Hub
    MERLIN_DATA_ROOT=FOLDER python examples/quickstart.py --model_name_or_path FOLDER --max_steps 20  # no network

`MERLIN_DATA_ROOT` names a folder with the data sets `rte` and `mnli` in it. `--push_to_hub` needs `hf auth login`
first.
"""

import argparse

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from merlin_hf import MerlinTrainer, MerlinTrainingArguments
from merlin_hf.data import load_dataset  # that of datasets, which first looks into MERLIN_DATA_ROOT


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default="google-bert/bert-base-uncased")
    parser.add_argument("--max_steps", type=int, default=2000)
    parser.add_argument("--output_dir", default="rte-merlin")
    parser.add_argument("--push_to_hub", action="store_true", help="publish the model; it is only saved otherwise")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)

    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    rte = load_dataset("nyu-mll/glue", "rte").map(lambda x: tokenizer(x["sentence1"], x["sentence2"], truncation=True))
    mnli = load_dataset("nyu-mll/glue", "mnli").map(
        lambda x: tokenizer(x["premise"], x["hypothesis"], truncation=True)
    )

    trainer = MerlinTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(args.model_name_or_path, num_labels=2),
        args=MerlinTrainingArguments(args.output_dir, max_steps=args.max_steps, per_device_train_batch_size=32),
        train_dataset=rte["train"],  # the small target: evaluate, predict, save and push are about it
        source_dataset=mnli["train"],  # the large source, with its own labels: the one new argument
        eval_dataset=rte["validation"],
        processing_class=tokenizer,
    )
    trainer.train()
    print(trainer.evaluate())
    trainer.save_model()  # loads with AutoModelForSequenceClassification, without merlin_hf
    if args.push_to_hub:
        trainer.push_to_hub()


if __name__ == "__main__":
    main()
