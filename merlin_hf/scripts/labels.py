"""Labels of a task; see [`merlin_hf.data.labels`]."""

from ..data.labels import (
    HIDDEN_LABEL,
    LabelledTask,
    Labels,
    element_of,
    find_labels,
    join_label_columns,
    several_labels,
)


__all__ = [
    "HIDDEN_LABEL",
    "LabelledTask",
    "Labels",
    "element_of",
    "find_labels",
    "join_label_columns",
    "several_labels",
]
