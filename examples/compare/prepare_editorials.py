"""
Write the target of `editorials.yaml` as a folder of parquet files, under the folder that MERLIN_DATA_ROOT will name.

    python examples/compare/prepare_editorials.py data    # data/vader_nyt

No newspaper article has sentences on both sides. The data come from the package index (see `examples/editorials.py`).
"""

import argparse
import sys
from pathlib import Path

from datasets import concatenate_datasets


sys.path.insert(0, str(Path(__file__).parents[1]))

from editorials import load_sentences, split_by_group  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder that MERLIN_DATA_ROOT will name")
    folder = parser.parse_args(argv).root / "vader_nyt" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    drawn, others, test = split_by_group(load_sentences("editorials"), rows=0, seed=0)
    for split, rows in (("train", concatenate_datasets([drawn, others])), ("test", test)):
        rows.remove_columns("group").to_parquet(folder / f"{split}-00000-of-00001.parquet")
        print(f"{len(rows)} rows in {folder / split}-00000-of-00001.parquet")


if __name__ == "__main__":
    main()
