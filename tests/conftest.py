import os

from hypothesis import settings


# Nothing in the tests may reach for a hub, and two threads on two cores slow each other down.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples in every run: a red test is then red for everyone.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")
