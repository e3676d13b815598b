"""
Run the quickstart of the README; a test compares them word for word.

    python examples/quickstart.py                                              # MiniLM, tweets and SST-2 from the Hub
    MERLIN_DATA_ROOT=FOLDER python examples/quickstart.py --model_name_or_path FOLDER --max_steps 20  # no network

`MERLIN_DATA_ROOT` names a folder with the data sets `sentiment` and `sst2` in it. `--push_to_hub` needs
`hf auth login` first.
"""

import argparse

from sentence_transformers import SentenceTransformer

from merlin_hf import MerlinTrainer, MerlinTrainingArguments
from merlin_hf.data import load_dataset  # that of datasets, which first looks into MERLIN_DATA_ROOT
from merlin_hf.data.sentence_encoders import SentenceTokenizer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--max_steps", type=int, default=280)
    parser.add_argument("--output_dir", default="tweets-merlin")
    parser.add_argument("--push_to_hub", action="store_true", help="publish the model; it is only saved otherwise")
    return parser.parse_args(argv)


def accuracy(output):
    right = output.predictions.argmax(-1) == output.label_ids
    return {"accuracy": right.mean().item()}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)

    encoder = SentenceTransformer(args.model_name_or_path)
    tokenize = SentenceTokenizer(encoder)
    tweets = load_dataset("cardiffnlp/tweet_eval", "sentiment")
    tweets = tweets.map(lambda row: tokenize(row["text"], truncation=True))
    films = load_dataset("stanfordnlp/sst2", split="train")
    films = films.map(lambda row: tokenize(row["sentence"], truncation=True))

    trainer = MerlinTrainer(
        model=encoder,
        args=MerlinTrainingArguments(
            args.output_dir,
            max_steps=args.max_steps,
            per_device_train_batch_size=32,
            learning_rate=1e-4,
        ),
        train_dataset=tweets["train"].shuffle(seed=0).select(range(100)),  # target
        source_dataset=films,  # the source: the one new argument
        eval_dataset=tweets["validation"],
        compute_metrics=accuracy,
    )
    trainer.train()
    print(trainer.evaluate())
    trainer.save_model()  # loads with sentence-transformers, without merlin_hf
    if args.push_to_hub:
        trainer.push_to_hub()


if __name__ == "__main__":
    main()
