"""The results of ranking sources."""

import dataclasses
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import rankdata

from ..comparison.statistics import mean_and_spread


# In the order of tables, with what they are called there. All rank by "higher is better".
MEASURES = {
    "alignment": "alignment",
    "leep": "LEEP",
}


@dataclass
class SourceScore:
    """
    A candidate and its measured numbers.

    Attributes:
        name (`str`): as it was given.
        pool_rows (`int`): labelled rows that it has.
        num_labels (`int`): classes, or 1.
        rows (`int`): of the source, in each draw.
        values (`dict[str, list[float]]`): of each measure, one number for each seed; empty where it is not defined.
        contributions (`list[list[float]]`): of each seed, what each meta gradient adds to the alignment.
        inner_products (`list[float]`): of the gradients, for each seed; their sizes too, not only their angle.
        head_accuracy (`list[float]`): of a source head on rows that it was not fit on; empty for real labels.
        largest_class (`list[float]`): its share of the rows, the accuracy of a head that has learned nothing.
        seconds (`float`): for all seeds.
        has_target_labels (`bool`): its classes have the names of the target's.
        source_name (`str`): what to call it among several sources.
        ranks (`dict[str, float]`): 1 for the best by each measure that is defined for all candidates; equals share
            theirs.
    """

    name: str
    pool_rows: int
    num_labels: int
    rows: int = 0
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})
    contributions: list[list[float]] = field(default_factory=list)
    inner_products: list[float] = field(default_factory=list)
    head_accuracy: list[float] = field(default_factory=list)
    largest_class: list[float] = field(default_factory=list)
    seconds: float = 0.0
    has_target_labels: bool = False
    source_name: str = ""
    ranks: dict[str, float] = field(default_factory=dict)

    def mean(self, measure: str) -> float | None:
        """Return the mean over seeds; `None` where the measure is not defined."""
        return mean_and_spread(self.values[measure])[0] if self.values[measure] else None

    def spread(self, measure: str) -> float | None:
        """
        Return the sample standard deviation over seeds; `None` where there is one number.

        Of the alignment with one seed it is that over meta gradients, which are of the same rows.
        """
        values = self.values[measure]
        if measure == "alignment" and len(values) == 1:
            values = self.contributions[0]
        return mean_and_spread(values)[1] if len(values) > 1 else None

    @property
    def head_is_at_chance(self) -> bool:
        """Whether the source head's accuracy is within two standard errors of the largest class's share, or lower."""
        if not self.head_accuracy:
            return False
        share = min(max(statistics.mean(self.largest_class), 0.01), 0.99)
        error = math.sqrt(share * (1 - share) / (self.rows * len(self.head_accuracy)))
        return statistics.mean(self.head_accuracy) < share + 2 * error

    @property
    def mean_rank(self) -> float:
        """The mean rank over the measures that are defined for all candidates."""
        return statistics.mean(self.ranks.values())

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            **dataclasses.asdict(self),
            "mean_rank": self.mean_rank,
            "head_is_at_chance": self.head_is_at_chance,
            "means": {name: self.mean(name) for name in MEASURES},
            "spreads": {name: self.spread(name) for name in MEASURES},
        }


@dataclass
class SourceRanking:
    """
    Candidates for a target, best first.

    Attributes:
        target (`str`): as it was given.
        target_rows (`int`): in each draw.
        target_seconds (`float`): spent on the target alone, once for all candidates.
        sources (`list[SourceScore]`): by mean rank; the alignment decides between equals.
        baselines (`dict[str, list[float]]`): what each measure is for a source that says nothing, for each seed.
        settings (`dict`): all that was given.
        warnings (`list[str]`): what makes the numbers say less than they seem to.
    """

    target: str
    target_rows: int = 0
    target_seconds: float = 0.0
    sources: list[SourceScore] = field(default_factory=list)
    baselines: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def best(self) -> str:
        """The name of the best candidate."""
        return self.sources[0].name

    @property
    def measures(self) -> list[str]:
        """The measures that are defined for all candidates, by which they are ranked."""
        return list(self.sources[0].ranks)

    def order(self, measure: str) -> list[str]:
        """Return names of the candidates by one measure, best first."""
        return [score.name for score in sorted(self.sources, key=lambda score: score.ranks[measure])]

    def baseline(self, measure: str) -> float:
        """Return what a measure is for a source that says nothing, over seeds."""
        return mean_and_spread(self.baselines[measure])[0]

    @property
    def mix(self) -> dict[str, float]:
        """
        Weights for training on several of the candidates, as the option `source_mix` takes them; they add up to 1.

        They are in proportion to the alignment; a candidate without a positive one is left out. The alignment is the
        cosine of a source's gradient with that of the meta loss, so that a small step on a source lowers the meta loss
        in proportion to it. That is a heuristic, about the first step alone: how well a mix trains is not measured.
        """
        gains = {score.source_name: score.mean("alignment") or 0.0 for score in self.sources}
        total = sum(gain for gain in gains.values() if gain > 0)
        return {name: gain / total for name, gain in gains.items() if gain > 0}

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            **dataclasses.asdict(self),
            "sources": [score.to_dict() for score in self.sources],
            "measures": self.measures,
            "mix": self.mix,
        }


def rank(scores: list[SourceScore]) -> list[SourceScore]:
    """Fill in `ranks`, and sort by their mean."""
    defined = [name for name in MEASURES if all(score.values[name] for score in scores)]
    for name in defined:
        places = rankdata([-mean_and_spread(score.values[name])[0] for score in scores])
        for score, place in zip(scores, places.tolist(), strict=True):
            score.ranks[name] = place
    return sorted(
        scores, key=lambda score: (round(score.mean_rank, 9), -mean_and_spread(score.values["alignment"])[0])
    )
