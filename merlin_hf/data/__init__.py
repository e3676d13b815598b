"""Data: sets under their names on the Hub, columns and labels, and what a model takes of texts, images and recordings."""

from .load import DATA_ROOT, FILE_TYPES, data_root, file_type, load_dataset


__all__ = ["DATA_ROOT", "FILE_TYPES", "data_root", "file_type", "load_dataset"]
