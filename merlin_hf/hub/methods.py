"""How a card speaks of the method that a model was trained with."""

import inspect
import re
from typing import NamedTuple


class MethodDescription(NamedTuple):
    """
    Args:
        name (`str`): the method's name.
        summary (`str`): what it does, in a sentence or two.
        citation (`str`, *optional*): the BibTeX entry of its paper.
    """

    name: str
    summary: str
    citation: str | None = None


MERLIN_CITATION = """\
@article{liu2020merlin,
  title   = {Meta-learning Transferable Representations with a Single Target Domain},
  author  = {Hong Liu and Jeff Z. HaoChen and Colin Wei and Tengyu Ma},
  journal = {arXiv preprint arXiv:2011.01418},
  year    = {2020}
}"""

# By the name of the trainer class, as this package knows nothing of trainers.
DESCRIPTIONS = {
    "MerlinTrainer": MethodDescription(
        "MeRLin",
        "[MeRLin](https://arxiv.org/abs/2011.01418) trains the backbone on the source and, through a head that is fit in "
        "closed form on a part of each target batch, for what that head does on the rest of it. The head in this model was "
        "fit on all rows of the target with the final backbone.",
        MERLIN_CITATION,
    ),
    "JointTrainer": MethodDescription(
        "joint training",
        "Joint training minimises the sum of the losses on source and target, with one backbone and a head for each. The "
        "head in this model is the target's.",
    ),
    "FinetuneTrainer": MethodDescription("fine-tuning", "All weights were trained on the target alone."),
}


def describe_method(trainer_class: type) -> MethodDescription:
    """
    What a card says about a trainer's method.

    The nearest of these in the inheritance of the class: its attribute `method_description`, a method of this package with a
    text here, any other method of this package by the first paragraph of its docstring. What builds on a method with a
    citation has it too.
    """
    for parent in trainer_class.__mro__:
        found = _own_description(parent)
        if found is not None:
            break
    else:
        found = _from_docstring(trainer_class)
    cited = [_own_description(parent) for parent in trainer_class.__mro__]
    citation = next((description.citation for description in cited if description and description.citation), None)
    return found._replace(citation=found.citation or citation)


def _own_description(trainer_class: type) -> MethodDescription | None:
    if trainer_class.__dict__.get("method_description") is not None:
        return trainer_class.__dict__["method_description"]
    if trainer_class.__name__ in DESCRIPTIONS:
        return DESCRIPTIONS[trainer_class.__name__]
    if trainer_class.__module__.startswith("merlin_hf.methods.") and trainer_class.__name__.endswith("Trainer"):
        return _from_docstring(trainer_class)
    return None


def _from_docstring(trainer_class: type) -> MethodDescription:
    paragraph = inspect.cleandoc(trainer_class.__dict__.get("__doc__") or "").split("\n\n")[0]
    paragraph = re.sub(r"\[`~?(?:\w+\.)*(\w+)`\]", r"`\1`", " ".join(paragraph.split()))
    # The name of a method stands before its authors: "L2-SP (Li, Grandvalet and Davoine 2018): ..."
    named = re.match(r"([^:.(`]{1,40}) \(", paragraph)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", trainer_class.__name__.removesuffix("Trainer") or "Trainer")
    linked = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paragraph)
    return MethodDescription(named[1] if named else words.capitalize(), linked)
