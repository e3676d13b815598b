"""A script as users write them: trains, pushes while training and at the end, and says what the model answers."""

import json
import os
import sys

from transformers import pipeline

from tests.hub.conftest import text_trainer


if __name__ == "__main__":
    output_dir, repo_id, result = sys.argv[1:]
    trainer = text_trainer(
        output_dir, push_to_hub=True, hub_model_id=repo_id, hub_token=os.environ["MY_TOKEN"],
        save_strategy="steps", save_steps=1, log_level="debug",
    )  # fmt: skip
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub()
    texts = [f"the film w{i} is {word}" for i, word in enumerate(["good", "bad", "plain", "not"])]
    classify = pipeline("text-classification", model=trainer.model, tokenizer=trainer.processing_class, top_k=None)
    tokenizer, model = trainer.processing_class, trainer.model.eval()
    logits = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in texts]
    with open(result, "w") as file:
        json.dump({"texts": texts, "answers": classify(texts), "logits": logits}, file)
