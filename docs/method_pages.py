"""
Pages that are made of the package: `python docs/method_pages.py` writes `docs/methods/*.md` and `docs/api/cli.md`.

A method's page has its docstring, its options, and what docs/methods.yaml says of it. `--check` names the pages that
are not up to date, and fails if there are any.
"""

import argparse
import dataclasses
import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import yaml
from transformers import TrainingArguments

from merlin_hf import METHODS, TransferTrainingArguments
from merlin_hf.cli.main import COMMANDS


DOCS = Path(__file__).parent
MEASURED = DOCS.parent / "benchmarks" / "compare" / "results.json"
TEXTS = yaml.safe_load((DOCS / "methods.yaml").read_text(encoding="utf-8"))
HEADER = "<!-- Written by docs/method_pages.py from {name}. -->\n\n"
# Names in docstrings as a page writes them.
LETTERS = {
    r"phi_([012])": lambda m: "φ" + "₀₁₂"[int(m[1])],
    r"theta_([0st])": lambda m: "θ" + {"0": "₀", "s": "ₛ", "t": "ₜ"}[m[1]],
    r"phi_source": "φₛ",
    r"phi": "φ",
    r"theta": "θ",
    r"alpha": "α",
    r"beta": "β",
    r"sigma_\{-i\}": "σ₋ᵢ",
}


def paragraphs(name: str) -> list[str]:
    """Return the docstring of a method's class in paragraphs, without its arguments."""
    text, _, _ = inspect.getdoc(METHODS[name]).partition("\nArgs:")
    text = re.sub(r"\[`~?(?:[\w.]+\.)?(\w+)`\]", r"`\1`", text)
    return [part for part in text.strip().split("\n\n") if part.strip()]


def with_letters(text: str) -> str:
    """Return a text with Greek letters for their names, outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    for name, letter in LETTERS.items():
        parts[::2] = [re.sub(rf"\b{name}(?!\w)" if name[-1] != "}" else name, letter, part) for part in parts[::2]]
    return "".join(parts)


def body(name: str) -> str:
    """Return the docstring as Markdown, with formulas for a browser in the place of those for a terminal."""
    formulas = iter(TEXTS[name]["formulas"])
    blocks = []
    for part in paragraphs(name)[1:]:
        if part.startswith("    "):
            blocks += [f"$$\n{line.strip()}\n$$" for line in re.split(r"^;$", next(formulas), flags=re.MULTILINE)]
        else:
            blocks.append(with_letters(part))
    if next(formulas, None) is not None:
        raise ValueError(f"docs/methods.yaml has more formulas for {name} than its docstring.")
    symbols = TEXTS[name].get("symbols", {})
    fields = {field.name: field.default for field in dataclasses.fields(METHODS[name].training_args_class)}
    said = [f"{letter} is `{option}`, by default {fields[option]}" for letter, option in symbols.items()]
    if said:
        blocks.append(f"{'; '.join(said)}.")
    return "\n\n".join(blocks)


def source(trainer) -> str:
    """Whether a method takes a source."""
    if not trainer.takes_source:
        return "none"
    if trainer.needs_source:
        return "required"
    return "optional" if trainer.trains_without_source else "required"


def own_options(trainer) -> list[dataclasses.Field]:
    """The options that neither `TrainingArguments` nor every method with a source has."""
    known = {field.name for field in dataclasses.fields(TransferTrainingArguments)}
    return [field for field in dataclasses.fields(trainer.training_args_class) if field.name not in known]


def table(fields: list[dataclasses.Field]) -> list[str]:
    """Options as a table."""
    rows = [f"| `{field.name}` | `{field.default!r}` | {field.metadata['help']} |" for field in fields]
    return ["| option | default | |", "| --- | --- | --- |", *rows]


def example(name: str) -> list[str]:
    """A few lines that train by a method."""
    trainer = METHODS[name]
    lines = [f'    "out-{name}",', "    max_steps=280,", "    per_device_train_batch_size=32,"]
    if "example" in TEXTS[name]:
        lines.append(f"    {TEXTS[name]['example']},")
    arguments = ["    model=model,", "    args=args,", "    train_dataset=target,"]
    if trainer.takes_source:
        arguments.append("    source_dataset=source,")
    return [
        "```python",
        "from merlin_hf import get_method",
        "",
        f'method = get_method("{name}")',
        "args = method.training_args_class(",
        *lines,
        ")",
        "trainer = method(",
        *arguments,
        ")",
        "trainer.train()",
        "```",
    ]


def page(name: str) -> str:
    """The page of a method."""
    trainer = METHODS[name]
    searched = [f"`{option}` in `{', '.join(map(str, values))}`" for option, values in trainer.search_space.items()]
    searches = "nothing" if name in ("linear_probe", "embeddings") else "the learning rate"
    options = own_options(trainer)
    # What references to the class lead to; that of MerlinTrainer is on a page of the API.
    anchor = f"[](){{ #{trainer.__module__}.{trainer.__name__} }}\n\n" if name != "merlin" else ""
    parts = [
        HEADER.format(name=f"the docstring of {trainer.__name__} and docs/methods.yaml") + anchor + f"# `{name}`",
        paragraphs(name)[0],
        f"**When to use it**: {TEXTS[name]['use']}",
        "## Objective",
        body(name),
        "## Example",
        "`model`, `target` and `source` are those of the [quickstart](../quickstart.md).",
        "\n".join(example(name)),
        "## Options",
        f"A source is {source(trainer)}. `merlin-hf compare` searches {' and '.join([searches, *searched])}.",
    ]
    if options:
        parts += [
            f"`{trainer.training_args_class.__name__}` has, besides [those of every method]"
            "(index.md#options-of-every-method):",
            "\n".join(table(options)),
        ]
    else:
        parts.append("It has the [options of every method](index.md#options-of-every-method) and no other.")
    return "\n\n".join(parts) + "\n"


def costs(name: str) -> str:
    """What a step costs, from the docstring."""
    text = " ".join(" ".join(paragraphs(name)).split())
    found = re.search(r"A step costs (.*?)\.(?: |$)", text)
    return found[1] if found else "one pass over the target, no steps"


def measured() -> dict[str, str]:
    """The accuracies of the comparison of digits, by method."""
    methods = json.loads(MEASURED.read_text(encoding="utf-8"))["methods"]
    return {one["label"]: f"{one['mean']:.4f} ± {one['spread']:.4f}" for one in methods if one["status"] == "ok"}


def index() -> str:
    """The comparison of all methods, and the options that they share."""
    found = measured()
    rows = [
        f"| [`{name}`]({name}.md) | {TEXTS[name]['use']} | {source(trainer)} | {costs(name)} | "
        f"{found.get(name, 'not measured')} |"
        for name, trainer in METHODS.items()
    ]
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    shared = [field for field in dataclasses.fields(TransferTrainingArguments) if field.name not in known]
    return "\n".join(
        [
            HEADER.format(name="the methods and docs/methods.yaml") + "# Methods",
            "",
            "Each method is a `Trainer` class in `merlin_hf.METHODS`. Not sure which? See [Which method and settings?]"
            "(../howto/options.md)",
            "",
            "| method | when to use it | source | a step costs | accuracy on postal digits |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            "The accuracies are of [one pair](../../benchmarks/compare/README.md), 100 labelled images without a "
            "pretrained model: mean ± standard deviation over draws. [Results](../results/index.md) has the other "
            "benchmarks.",
            "",
            "## Options of every method",
            "",
            "`TransferTrainingArguments` has, besides those of `TrainingArguments`:",
            "",
            *table(shared),
            "",
        ]
    )


# The command line


def flags(parser: argparse.ArgumentParser) -> list[str]:
    """The arguments of a command as a table."""
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        names = [flag for flag in action.option_strings if "-" not in flag.lstrip("-")] or [action.dest.upper()]
        values = action.metavar if isinstance(action.metavar, str) else "".join(action.metavar or ())
        shown = " ".join(filter(None, [names[-1], values if action.option_strings and action.nargs != 0 else ""]))
        text = " ".join((action.help or "").split()) % {"default": action.default, "prog": parser.prog}
        rows.append(f"| `{shown}` | {text.replace('|', chr(92) + '|')} |")
    return ["| argument | |", "| --- | --- |", *rows]


def command_line() -> str:
    """The reference of `merlin-hf`, from the parsers behind `--help`."""
    parts = [
        HEADER.format(name="the parsers of merlin_hf.cli") + "# Command line",
        "What `merlin-hf COMMAND --help` prints. [How to use the commands](../howto/command_line.md)",
    ]
    for name, text in COMMANDS.items():
        module = importlib.import_module(f"merlin_hf.cli.{name}")
        parser = getattr(module, f"add_{name}_parser")(argparse.ArgumentParser(prog="merlin-hf").add_subparsers())
        parts += [f"## `merlin-hf {name}`", f"{text[0].upper()}{text[1:]}.", "\n".join(flags(parser))]
        if name == "train":
            parts += ["More flags, which are also keys of a file:", f"```text\n{parser.epilog.strip()}\n```"]
            parts.append(
                "All options of `TrainingArguments` and of the [method](../methods/index.md) are flags: `--help_all`."
            )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    pages = {DOCS / "methods" / f"{name}.md": page(name) for name in METHODS}
    pages[DOCS / "methods" / "index.md"] = index()
    pages[DOCS / "api" / "cli.md"] = command_line()
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        sys.exit(f"Not up to date: {', '.join(path.name for path in stale)}. Run python docs/method_pages.py.")
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(pages[path], encoding="utf-8")


if __name__ == "__main__":
    main()
