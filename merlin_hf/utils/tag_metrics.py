"""Score tags of tokens: spans by seqeval, as CoNLL does, and other tags one by one."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.metrics import f1_score


SPAN_TAG = re.compile(r"O|[BIESLU]-.+")
IGNORED = -100


def make_tag_metrics(names: Sequence[str]) -> Callable:
    """
    Return the `compute_metrics` of [`~transformers.Trainer`] for tags of tokens; the label -100 is left out.

    Spans (`O`, `B-PER`, `I-PER` and so on) are scored by seqeval, as CoNLL does: `precision`, `recall` and `f1` of
    whole spans, `f1_PER` of each kind, their mean `macro_f1`, and the `accuracy` of tokens. Other tags have the
    `accuracy` and `macro_f1` of tokens.

    Args:
        names (`Sequence[str]`): the tags in the order of their ids.

    Raises:
        ImportError: there are spans, and seqeval is missing.
    """
    is_of_spans = all(SPAN_TAG.fullmatch(name) for name in names)
    if is_of_spans:
        try:
            from seqeval.metrics import classification_report
        except ImportError as error:
            raise ImportError(
                "The tags are those of spans, whose metrics need seqeval: `pip install merlin-hf[seqeval]`."
            ) from error

    def compute_metrics(output):
        logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        predictions = logits.argmax(-1) if logits.ndim == 3 else logits  # of `preprocess_logits_for_metrics`
        references = np.asarray(output.label_ids)
        counted = references != IGNORED
        accuracy = {"accuracy": float(np.mean(predictions[counted] == references[counted]))}
        if not is_of_spans:
            macro_f1 = f1_score(references[counted], predictions[counted], average="macro", zero_division=0)
            return {**accuracy, "macro_f1": float(macro_f1)}
        tags = [
            [[names[tag] for tag in row[kept]] for row, kept in zip(ids, counted, strict=True)]
            for ids in (references, predictions)
        ]
        found = classification_report(*tags, output_dict=True, zero_division=0)
        whole = found["micro avg"]
        scores = {"precision": whole["precision"], "recall": whole["recall"], "f1": whole["f1-score"]}
        scores["macro_f1"] = found["macro avg"]["f1-score"]
        kinds = {f"f1_{kind}": one["f1-score"] for kind, one in found.items() if not kind.endswith(" avg")}
        return {name: float(value) for name, value in {**scores, **kinds, **accuracy}.items()}

    return compute_metrics
