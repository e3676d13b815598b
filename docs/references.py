"""
Make links of references in docstrings, as transformers writes them.

[`~merlin_hf.MerlinTrainer.train`] is a link called `train`.

A griffe extension, which rewrites docstrings once the package is read, and the same for pages. What a reference names
is looked up as Python would in that place; if there is nothing, the build says so and, being strict, fails.
"""

import functools
import logging
import re
import sys
from pathlib import Path

import griffe


sys.path.insert(0, str(Path(__file__).parent))

import pages  # noqa: E402


logger = logging.getLogger("mkdocs.plugins.references")

REFERENCE = re.compile(r"\[`(~?)([A-Za-z_][\w.]*)`\](?![\[(])")
# "name (`int`, *optional*): text", as in transformers; griffe reads "name (int, optional): text".
ARGUMENT = re.compile(r"^(\s*[\w, *]+ )\((.+?)\): ", re.MULTILINE)
BARE_ARGUMENT = re.compile(r"^(\s+[\w, *]+) \(((?:\[?`).+)\)\.$", re.MULTILINE)  # nothing is said but the type
RESULT = re.compile(r"^(\s*)`([^`]+)`(?:, [\w ]+)?: ", re.MULTILINE)

TRANSFORMERS = "https://huggingface.co/docs/transformers/"
# Packages that are not installed where the site is built, and what of them is named.
ELSEWHERE = {
    "transformers.BaseImageProcessor": f"{TRANSFORMERS}main_classes/image_processor",
    "transformers.DataCollatorWithPadding": f"{TRANSFORMERS}main_classes/data_collator",
    "transformers.PreTrainedModel": f"{TRANSFORMERS}main_classes/model#transformers.PreTrainedModel",
    "transformers.SequenceFeatureExtractor": (
        f"{TRANSFORMERS}main_classes/feature_extractor#transformers.SequenceFeatureExtractor"
    ),
    "transformers.Trainer": f"{TRANSFORMERS}main_classes/trainer#transformers.Trainer",
    "transformers.TrainerState": f"{TRANSFORMERS}main_classes/callback#transformers.TrainerState",
    "transformers.TrainingArguments": f"{TRANSFORMERS}main_classes/trainer#transformers.TrainingArguments",
    "transformers.trainer_pt_utils.LabelSmoother": f"{TRANSFORMERS}internal/trainer_utils",
    "transformers.trainer_utils.rotate_checkpoints": f"{TRANSFORMERS}internal/trainer_utils",
    "datasets.load_dataset": "https://huggingface.co/docs/datasets/package_reference/loading_methods#datasets.load_dataset",
    "huggingface_hub.CommitInfo": "https://huggingface.co/docs/huggingface_hub/package_reference/hf_api#huggingface_hub.CommitInfo",
    "accelerate.Accelerator.end_training": "https://huggingface.co/docs/accelerate/package_reference/accelerator",
}


@functools.cache
def rendered() -> set[str]:
    """Names that have a place in the site."""
    return pages.documented()


def elsewhere(name: str) -> str | None:
    """The page about a name of another package; that of a class also serves its methods."""
    owner, _, method = name.rpartition(".")
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    if ELSEWHERE.get(owner, "").endswith(f"#{owner}"):
        return f"{ELSEWHERE[owner]}.{method}"
    return None


def linked(text: str, resolve, where: str) -> str:
    """
    Return the text with its references as links.

    `resolve` gives the full name of one within the package, `None` if there is none, and "" for what has no place
    to link to.
    """

    def change(match: re.Match) -> str:
        tilde, name = match.groups()
        shown = name.rpartition(".")[2] if tilde else name
        address = elsewhere(name)
        if address is not None:
            return f"[`{shown}`]({address})"
        full = resolve(name)
        if full is None and not name.isupper():  # constants have no place of their own
            logger.warning("%s: the reference [`%s`] leads nowhere", where, name)
        return f"[`{shown}`][{full}]" if full else f"`{shown}`"

    return REFERENCE.sub(change, text)


class References(griffe.Extension):
    """Rewrites the docstrings of a package."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs) -> None:
        """Called when all modules are there."""
        self.loader = loader
        self.rewrite(pkg, set())

    def rewrite(self, obj: griffe.Object, seen: set[str]) -> None:
        """The docstring of an object and of its members."""
        if obj.path in seen:
            return
        seen.add(obj.path)
        if obj.docstring is not None:
            text = readable(obj.docstring.value)
            obj.docstring.value = linked(text, lambda name: self.resolve(obj, name), obj.path)
        for member in list(obj.members.values()):
            if not member.is_alias:
                self.rewrite(member, seen)

    def resolve(self, obj: griffe.Object, name: str) -> str | None:
        """The path at which what `name` means in the place of `obj` is documented; empty where it is not."""
        first, _, rest = name.partition(".")
        candidates = [name]
        try:
            candidates.insert(0, ".".join(filter(None, [obj.resolve(first), rest])))
        except griffe.NameResolutionError:
            pass
        return next((path for path in map(self.documented, candidates) if path is not None), None)

    def documented(self, path: str) -> str | None:
        """The canonical path of an object, also of an inherited one; empty where the site has no place for it."""
        owner, _, name = path.rpartition(".")
        try:
            found = self.loader.modules_collection[path]
        except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
            try:
                found = self.loader.modules_collection[owner].all_members[name]
            except (KeyError, ValueError, griffe.AliasResolutionError, griffe.CyclicAliasError):
                return None
        shown = rendered()
        parts = found.canonical_path.split(".")
        is_shown = any(".".join(parts[:number]) in shown for number in range(len(parts), 0, -1))
        return found.canonical_path if found.has_docstring and is_shown else ""


def readable(text: str) -> str:
    """A docstring in the words that griffe knows."""
    text = text.replace("Class attributes of a method:", "Attributes:")
    text = BARE_ARGUMENT.sub(r"\1: \2.", text)

    def argument(match: re.Match) -> str:
        kind = re.sub(r"\[`~?([\w.]+)`\]", lambda m: m[1], match[2])
        return f"{match[1]}({kind.replace('`', '').replace('*optional*', 'optional')}): "

    return RESULT.sub(r"\1\2: ", ARGUMENT.sub(argument, text))
