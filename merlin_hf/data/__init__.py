"""Load data sets, find their columns and labels, and encode texts, images and recordings for a model."""

from .load import DATA_ROOT, FILE_TYPES, data_root, file_type, load_dataset


__all__ = ["DATA_ROOT", "FILE_TYPES", "data_root", "file_type", "load_dataset"]
