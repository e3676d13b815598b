"""A user of the model, on a machine where this package cannot be imported."""

import importlib.abc
import json
import sys


class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "merlin_hf":
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Blocked())

from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline  # noqa: E402


if __name__ == "__main__":
    repo_id, texts, result = sys.argv[1:]
    texts = json.loads(texts)
    answers = pipeline("text-classification", model=repo_id, top_k=None)(texts)
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(repo_id),
        AutoTokenizer.from_pretrained(repo_id),
    )
    logits = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in texts]
    with open(result, "w") as file:
        json.dump({"answers": answers, "logits": logits, "class": type(model).__name__}, file)
    assert not any(name.split(".")[0] == "merlin_hf" for name in sys.modules)
