"""
What benchmarks share: results in one file, tables, and differences of methods.

A benchmark writes a file of JSON for each of its parts, so that one which was interrupted goes on. Kept are these
files as lines of `results.jsonl`: `python benchmarks/stored.py pack FOLDER` packs them, `unpack` lays them out again.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from merlin_hf.comparison.statistics import PairedDifference, paired_difference
from merlin_hf.utils.files import write_text
from merlin_hf.utils.markdown import Markdown
from merlin_hf.utils.tables import markdown_table


PACKED = "results.jsonl"


def pack(folder: Path) -> None:
    """Put all files of JSON at any depth of a folder into its `results.jsonl`; they replace lines of the same name."""
    paths = sorted(folder.rglob("*.json"))
    found = files(folder)
    lines = [json.dumps({"file": name, "content": found[name]}, separators=(",", ":")) for name in sorted(found)]
    write_text(folder / PACKED, "\n".join(lines) + "\n")
    for path in paths:
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def files(folder: Path) -> dict[str, Any]:
    """
    Return the content of all files of JSON at any depth of a folder, by name.

    They are those that lie there, and those that the `results.jsonl` of the folder or of one above it has beside them.
    """
    folder, found = folder.resolve(), {}
    packed = next((one / PACKED for one in (folder, *folder.parents) if (one / PACKED).is_file()), None)
    if packed is not None:
        above = f"{folder.relative_to(packed.parent).as_posix()}/" if folder != packed.parent else ""
        for line in map(json.loads, packed.read_text(encoding="utf-8").splitlines()):
            if line["file"].startswith(above):
                found[line["file"].removeprefix(above)] = line["content"]
    found |= {path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in folder.rglob("*.json")}
    return dict(sorted(found.items()))


def unpack(folder: Path, into: Path | None = None) -> None:
    """Lay out the files of a folder, there or into another one."""
    for name, content in files(folder).items():
        path = (folder if into is None else into) / name
        if not path.exists():
            write_text(path, json.dumps(content, indent=1) + "\n")


@contextlib.contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """Give a temporary folder of the same name with all files of a benchmark's results, packed or not."""
    with tempfile.TemporaryDirectory() as temporary:
        into = Path(temporary, folder.resolve().name)
        unpack(folder, into)
        yield into


@contextlib.contextmanager
def repacked(folder: Path) -> Iterator[None]:
    """Lay out the files of a folder that are packed, and pack them again; after an error they stay as they are."""
    is_packed = (folder / PACKED).is_file()
    if is_packed:
        unpack(folder)
    yield
    if is_packed:
        pack(folder)


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown."""
    return markdown_table([Markdown(one) for one in headings], [[Markdown(one) for one in row] for row in rows])


def difference_by_draw(scores: dict, label: str, reference: str) -> PairedDifference | None:
    """
    Return the difference of two methods, averaged over the pairs that have both, or `None` if none has.

    Draws are what is independent: each one's scores are first averaged over pairs, so that the interval is over draws.

    Args:
        scores (`dict`): by pair, method and draw.
    """
    pairs = [of_pair for of_pair in scores.values() if of_pair.get(label) and of_pair.get(reference)]
    draws = (
        sorted(set.intersection(*(set(of_pair[name]) for of_pair in pairs for name in (label, reference))))
        if pairs
        else []
    )
    if not draws:
        return None
    means = [[statistics.fmean(one[name][draw] for one in pairs) for draw in draws] for name in (label, reference)]
    return paired_difference(*means)


def main(argv: list[str] | None = None) -> None:
    """Pack or unpack results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("pack", "unpack"))
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args(argv)
    for folder in arguments.folders:
        {"pack": pack, "unpack": unpack}[arguments.do](folder)


if __name__ == "__main__":
    main()
