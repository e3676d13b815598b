"""
A page for each method, from its docstring and its options: `python docs/method_pages.py` writes `docs/methods/*.md`.

`--check` says which pages are not what the code says, and fails if any is.
"""

import argparse
import dataclasses
import inspect
import sys
from pathlib import Path

from transformers import TrainingArguments

from merlin_hf import METHODS


FOLDER = Path(__file__).parent / "methods"
HEADER = "<!-- Written by docs/method_pages.py from the docstring of {name}. -->\n\n"


def body(text: str) -> str:
    """A docstring as Markdown: indented formulas become blocks, references to classes their names."""
    lines, is_block = [], False
    for line in text.split("\n## ")[0].splitlines():
        is_formula = line.startswith("    ")
        if is_formula != is_block and (is_formula or line):
            lines.append("```text" if is_formula else "```")
            is_block = is_formula
            if not is_formula and lines[-2:-1] == [""]:  # the blank line belongs after the block
                lines[-2:] = ["```", ""]
        lines.append(line[4:] if is_formula else line)
    if is_block:
        lines.append("```")
    return "\n".join(lines).replace("[`~", "[`").replace("[`", "`").replace("`]", "`")


def source(trainer) -> str:
    """Whether it takes a source."""
    if not trainer.takes_source:
        return "none: it trains on the target alone"
    if trainer.needs_source:
        return "required"
    if trainer.trains_without_source:
        return "optional: trained on first, where it is given"
    return "required; without one it is plain `Trainer`"


def options(trainer) -> list[dataclasses.Field]:
    """The options that `TrainingArguments` does not have."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    return [field for field in dataclasses.fields(trainer.training_args_class) if field.name not in known]


def page(name: str) -> str:
    """The page of a method."""
    trainer = METHODS[name]
    text, _, _ = inspect.getdoc(trainer).partition("\nArgs:")
    rows = [f"| `{field.name}` | `{field.default!r}` | {field.metadata['help']} |" for field in options(trainer)]
    searched = [f"`{option}` in {', '.join(map(str, values))}" for option, values in trainer.search_space.items()]
    return "\n".join(
        [
            HEADER.format(name=trainer.__name__) + f"# `{name}`",
            "",
            f"`merlin_hf.get_method({name!r})` is `{trainer.__module__}.{trainer.__name__}`.",
            "",
            body(text.strip()),
            "",
            f"**Source**: {source(trainer)}.",
            "",
            f"**Searched by `merlin-hf compare`**: the learning rate{''.join(', ' + one for one in searched)}."
            if name not in ("linear_probe", "embeddings")
            else "**Searched by `merlin-hf compare`**: nothing; its regulariser is chosen by cross-validation.",
            "",
            f"## Options of `{trainer.training_args_class.__name__}`",
            "",
            "Besides those of `TrainingArguments`.",
            "",
            "| option | default | |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


def index() -> str:
    """The list of all pages."""
    rows = []
    for name, trainer in METHODS.items():
        summary = inspect.getdoc(trainer).split("\n\n")[0].replace("\n", " ").replace("[`~", "`").replace("`]", "`")
        rows.append(f"| [`{name}`]({name}.md) | {summary} | {source(trainer).split(':')[0].split(';')[0]} |")
    head = ["# Methods", "", "`merlin_hf.METHODS`, each a `Trainer` class.", ""]
    return "\n".join(
        [HEADER.format(name="each class"), *head, "| name | what it is | source |", "| --- | --- | --- |", *rows, ""]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    pages = {FOLDER / f"{name}.md": page(name) for name in METHODS}
    pages[FOLDER / "index.md"] = index()
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    if check and stale:
        sys.exit(f"Not what the code says: {', '.join(path.name for path in stale)}. Run python docs/method_pages.py.")
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(pages[path])


if __name__ == "__main__":
    main()
