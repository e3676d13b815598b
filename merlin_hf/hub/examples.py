"""A few texts of the target for each label, for the card and the widget of the Hub."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import datasets


TEXT_COLUMNS = (
    "text", "sentence", "content", "review", "comment", "utterance", "tweet", "document", "headline", "title",
)  # fmt: skip
PAIRS = (
    ("text", "text_pair"), ("premise", "hypothesis"), ("question", "sentence"), ("question1", "question2"),
    ("sentence1", "sentence2"),
)  # fmt: skip
LABEL_COLUMNS = ("label", "labels")
SCANNED_ROWS = 1000
LONGEST_TEXT = 300


class Example(NamedTuple):
    """A text, or two that belong together, and what they are an example of."""

    label: str
    text: str
    text_pair: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or both."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)


def examples_of(dataset: Any, id2label: dict[int, str], per_label: int) -> list[Example]:
    """
    The first texts of each label.

    Args:
        dataset (`Any`): examples are found in a `datasets.Dataset` with one or two columns of raw texts and one of classes.
        id2label (`dict[int, str]`): the model's labels.
        per_label (`int`): how many of each.

    Returns:
        `list[Example]`: by label, in the order of the labels; empty where there are no texts or no classes.
    """
    if per_label <= 0 or not isinstance(dataset, datasets.Dataset):
        return []
    columns = text_columns_of(dataset)
    label_column = next((name for name in LABEL_COLUMNS if name in dataset.column_names), None)
    if not columns or label_column is None:
        return []
    names = _label_names(dataset.features[label_column], id2label)
    found: dict[str, list[Example]] = {name: [] for name in names.values()}
    for row in _scanned(dataset, (*columns, label_column)):
        texts = [_one_line(row[name]) for name in columns]
        for label in _labels(row[label_column], names):
            if all(texts) and len(found.setdefault(label, [])) < per_label:
                found[label].append(Example(label, *texts))
        if all(len(examples) == per_label for examples in found.values()):
            break
    return [example for examples in found.values() for example in examples]


def text_columns_of(dataset: Any) -> tuple[str, ...]:
    """The column of raw texts of a `datasets.Dataset`, or the two that a model takes together; none for anything else."""
    if not isinstance(dataset, datasets.Dataset):
        return ()
    texts = [name for name, feature in dataset.features.items() if _is_text(feature)]
    pair = next((pair for pair in PAIRS if set(pair) <= set(texts)), None)
    return pair or tuple(name for name in TEXT_COLUMNS if name in texts)[:1]


def first_texts(dataset: Any) -> tuple[str, ...]:
    """What the columns of [`text_columns_of`] have in the first row that leaves none of them empty."""
    columns = text_columns_of(dataset)
    for row in _scanned(dataset, columns) if columns else ():
        texts = tuple(_one_line(row[name]) for name in columns)
        if all(texts):
            return texts
    return ()


def _scanned(dataset: datasets.Dataset, columns: Iterable[str]) -> datasets.Dataset:
    # Without the user's transform, which may return anything.
    rows = dataset.with_format(None).select_columns(list(columns))
    return rows.select(range(min(len(rows), SCANNED_ROWS)))


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _label_names(feature: Any, id2label: dict[int, str]) -> dict[int, str]:
    names = {int(id): str(name) for id, name in id2label.items()}
    if isinstance(feature, datasets.ClassLabel) and all(name == f"LABEL_{id}" for id, name in names.items()):
        return dict(enumerate(feature.names))
    return names


def _labels(value: Any, names: dict[int, str]) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool | int):
        return [names[value]] if int(value) in names else []
    if isinstance(value, list) and len(value) == len(names):  # several labels, as zeros and ones
        return [names[id] for id, is_set in enumerate(value) if id in names and is_set]
    return []


def _one_line(text: Any) -> str:
    line = " ".join(str(text or "").split())
    line = line.encode("utf-8", "replace").decode("utf-8")
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1].rstrip()}…"
