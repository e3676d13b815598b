"""Sentiment of film reviews and of newspaper editorials: real data from the package index, for demos without a hub."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value


# Its source distribution holds sentences rated by 20 people each, under the MIT licence (Hutto and Gilbert, ICWSM
# 2014).
PACKAGE = "vaderSentiment==3.3.2"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {"films": "movieReviewSnippets_GroundTruth.txt", "editorials": "nytEditorialSnippets_GroundTruth.txt"}
FEATURES = Features(
    {"text": Value("string"), "label": ClassLabel(names=["negative", "positive"]), "group": Value("string")}
)


def load_sentences(domain: str, cache_dir: str | os.PathLike | None = None) -> Dataset:
    """
    All rated sentences of a domain, repeated texts and ratings of exactly 0 left out.

    Args:
        domain (`str`): `"films"` or `"editorials"`.
        cache_dir (`str`, *optional*): where the download is kept; `~/.cache/merlin_hf` if not given.

    Returns:
        `datasets.Dataset`: columns `text`, `label` (the sign of the mean rating) and `group` (the article that an
        editorial sentence stands in).
    """
    with tarfile.open(fetch(cache_dir)) as outer:
        member = next(name for name in outer.getnames() if name.endswith(ARCHIVE))
        with tarfile.open(fileobj=io.BytesIO(outer.extractfile(member).read())) as inner:
            name = next(name for name in inner.getnames() if name.endswith(FILES[domain]))
            lines = inner.extractfile(name).read().decode("utf-8", errors="replace").splitlines()
    rows, seen = [], set()
    for line in lines:
        number, rating, text = line.split("\t", 2)
        if float(rating) != 0 and text not in seen:
            seen.add(text)
            rows.append({"text": text, "label": int(float(rating) > 0), "group": number.split("_")[0]})
    return Dataset.from_list(rows, features=FEATURES)


def fetch(cache_dir: str | os.PathLike | None = None) -> Path:
    """The source distribution, from the cache or by pip from the package index."""
    folder = Path(cache_dir or os.path.join(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "merlin_hf"))
    found = sorted(folder.glob("vader*entiment-*.tar.gz"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--no-binary", ":all:", "--dest", str(folder), PACKAGE], check=True)
        found = sorted(folder.glob("vader*entiment-*.tar.gz"))
    return found[0]


def split_by_group(dataset: Dataset, rows: int, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """
    Some labelled rows to train on, rows to choose settings by, and rows to test on.

    The articles of the test rows are the same whatever the other arguments are, and no article is on both sides.

    Args:
        rows (`int`): rows to train on, half of each class.
        seed (`int`): which rows of the training articles are drawn.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset, datasets.Dataset]`: the drawn rows, the other rows of the training
        articles, and the rows of the test articles.
    """
    groups = sorted(set(dataset["group"]))
    for_training = set(Dataset.from_dict({"group": groups}).shuffle(seed=0)["group"][: len(groups) // 2])
    inside = [group in for_training for group in dataset["group"]]
    pool = dataset.select([i for i, yes in enumerate(inside) if yes]).shuffle(seed=seed)
    test = dataset.select([i for i, yes in enumerate(inside) if not yes])
    labels = pool["label"][:]
    drawn = [i for label in (0, 1) for i in [j for j, one in enumerate(labels) if one == label][: rows // 2]]
    others = sorted(set(range(len(pool))) - set(drawn))
    return pool.select(drawn).shuffle(seed=seed), pool.select(others), test
