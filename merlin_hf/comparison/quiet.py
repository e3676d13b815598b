"""Silence for what would be said again with every run."""

import contextlib
from collections.abc import Iterator

import datasets
import transformers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the messages and bars of transformers and datasets, which repeat with every run."""
    transformers_level, datasets_level = transformers.logging.get_verbosity(), datasets.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled(), not datasets.utils.are_progress_bars_disabled()
    transformers.logging.set_verbosity_error()
    datasets.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(transformers_level)
        datasets.logging.set_verbosity(datasets_level)
        if bars[0]:
            transformers.logging.enable_progress_bar()
        if bars[1]:
            datasets.enable_progress_bars()
