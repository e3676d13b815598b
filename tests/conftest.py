import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings


# Nothing in the tests may reach for a hub, and two threads on two cores slow each other down.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples in every run: a red test is then red for everyone.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


# Folders of which every test is slow: they run examples, documents or benchmarks, or several processes.
SLOW_FOLDERS = {"benchmarks", "distributed", "docs", "examples"}


def pytest_collection_finish():
    """Take what the libraries have loaded out of the collection of garbage, which trainers ask for often."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests of these folders as slow."""
    root = Path(__file__).parent
    for item in items:
        if item.path.relative_to(root).parts[0] in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
